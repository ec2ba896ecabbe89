"""How well the shipped nets of control maps agree with their teachers, on photos and clips that none of them has seen.

    python benchmarks/controls.py PHOTOS --clips CLIPS --hed hed.safetensors --depth depth.onnx --person person.onnx

Edges: F-score of the pixels above a threshold against those where HED is above 0.5, of all photos together, at the one threshold
that suits them best; strictly, and where a pixel also counts that has its match among its eight neighbours. Depth: Spearman's
rank correlation with the teacher, mean over photos; flicker is the mean change from frame to frame over the
standard deviation within the clip. People: overlap (intersection over union) of the masks above 0.5, over photos in which the
teacher sees somebody. Regions: share of pixels whose region stays when the photo is mirrored, reduced to three quarters, or recoloured.
The ONNX teachers need `pip install onnxruntime`; a teacher that is not given is left out.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
import torch
from control_teachers import KINDS, Teacher, open_teacher
from hicast.controls.compact_depth import CompactDepth, load_compact_depth
from hicast.controls.person import PersonMask, load_person
from hicast.controls.regions import Regions, load_regions
from hicast.controls.soft import SoftEdges, load_soft
from hicast.io.files import VIDEOS, find_images
from hicast.io.images import load_picture, to_tensor
from hicast.io.video_read import VideoReader
from PIL import Image
from torch.nn import functional

EDGE = 0.5
"""Where HED sees an edge."""

THRESHOLDS = np.arange(0.2, 0.81, 0.02).round(2).tolist()
"""Where a map may be taken to show an edge; one of them serves all photos."""

PHOTO_SHARE = 0.01
"""Share of a photo that people must take for it to count."""

RECOLOURING = ((0.6, 0.3, 0.1), (0.1, 0.7, 0.2), (0.3, 0.1, 0.6))


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--hed", type=Path)
    parser.add_argument("--depth", type=Path)
    parser.add_argument("--person", type=Path)
    parser.add_argument("--weights", type=Path, help="folder of nets to measure in place of the shipped ones")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    photos = [load_picture(file).pixels for file in find_images(given.photos)]
    clips = [clip_frames(file) for file in find_images(given.clips, VIDEOS)] if given.clips else []
    found = {}
    with torch.inference_mode():
        if given.hed:
            found["soft"] = edge_scores(load_soft(place(given, "soft")), open_teacher("soft", given.hed), photos)
        if given.depth:
            net = load_compact_depth(place(given, "compact_depth"))
            found["compact"] = depth_scores(net, open_teacher("depth", given.depth), photos, clips)
        if given.person:
            found["person"] = person_scores(load_person(place(given, "person")), open_teacher("person", given.person), photos)
        found["regions"] = region_scores(load_regions(place(given, "regions")), photos)
    print(json.dumps(found, indent=2))


def place(given: argparse.Namespace, name: str) -> Path | None:
    """The file of a net that is not the shipped one."""
    return given.weights / f"{name}.safetensors" if given.weights else None


def edge_scores(net: SoftEdges, teacher: Teacher, photos: Sequence[np.ndarray]) -> dict[str, float]:
    """F-scores at the best common threshold, strictly and within a pixel, and milliseconds at the photos' sizes."""
    begun = perf_counter()
    found = [net(to_tensor(photo))[0, 0].numpy() for photo in photos]
    taken = (perf_counter() - begun) / len(photos)
    wanted = [teacher(photo) > EDGE for photo in photos]
    scores = {"milliseconds": 1000 * taken}
    for name, reach in (("f_strict", 0), ("f_within_one_pixel", 1)):
        counts = sum(edge_counts(values, mask, reach) for values, mask in zip(found, wanted, strict=True))
        scores[name], scores[f"{name}_threshold"] = best_f_score(counts)
    return scores


def edge_counts(found: np.ndarray, wanted: np.ndarray, reach: int, thresholds: Sequence[float] = THRESHOLDS) -> np.ndarray:
    """Pixels (thresholds, 4) of a photo, to be added up over photos: drawn ones within `reach` of wanted ones, all drawn ones, wanted
    ones within `reach` of drawn ones, all wanted ones. `found` are values and `wanted` is a mask, both (height, width).
    """
    near, rows = grown(wanted, reach), []
    for threshold in thresholds:
        edges = found > threshold
        rows.append(((edges & near).sum(), edges.sum(), (wanted & grown(edges, reach)).sum(), wanted.sum()))
    return np.array(rows)


def f_scores(counts: np.ndarray) -> np.ndarray:
    """F-score at each threshold, the harmonic mean of precision and recall, of the sum of `edge_counts`."""
    precision, recall = (counts[:, [0, 2]] / counts[:, [1, 3]].clip(1)).T
    return 2 * precision * recall / (precision + recall).clip(1e-9)


def best_f_score(counts: np.ndarray) -> tuple[float, float]:
    """The highest of the `f_scores` at `THRESHOLDS`, and the threshold where it is."""
    return max(zip(f_scores(counts).tolist(), THRESHOLDS, strict=True))


def grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """The mask with all pixels within a square of `reach`."""
    if not reach:
        return mask
    return functional.max_pool2d(torch.from_numpy(mask)[None, None].float(), 2 * reach + 1, 1, reach)[0, 0].numpy() > 0


def depth_scores(net: CompactDepth, teacher: Teacher, photos: Sequence[np.ndarray], clips: Sequence[list[np.ndarray]]) -> dict[str, float]:
    """Rank correlations with the teacher, and the flicker of both over the clips."""

    def student(picture: np.ndarray) -> np.ndarray:
        return net.depth(to_tensor(picture))[0].numpy()

    seen = [stretched(photo, KINDS["depth"].size) for photo in photos]
    ranks = [spearman(student(picture), teacher(picture)) for picture in seen]
    scores = {"spearman_mean": float(np.mean(ranks)), "spearman_least": min(ranks)}
    for name, draw in (("flicker", student), ("flicker_of_teacher", teacher)):
        each = [flicker([draw(stretched(frame, KINDS["depth"].size)) for frame in frames]) for frames in clips]
        if each:
            scores |= {name: float(np.mean(each)), f"{name}_of_clips": each}
    return scores


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of the ranks of two maps."""
    ranks = [values.ravel().argsort().argsort() for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def flicker(maps: Sequence[np.ndarray]) -> float:
    """Mean change from frame to frame over the standard deviation within the clip."""
    clip = np.stack(maps).astype(np.float64)
    return float(np.abs(np.diff(clip, axis=0)).mean() / clip.std())


def person_scores(net: PersonMask, teacher: Teacher, photos: Sequence[np.ndarray]) -> dict[str, float]:
    """Overlap of the masks, how many photos it is of, and the mean difference over all photos."""
    overlaps, differences = [], []
    for photo in photos:
        picture = stretched(photo, KINDS["person"].size)
        mask, wanted = net(to_tensor(picture))[0, 0].numpy(), teacher(picture)
        differences.append(float(np.abs(mask - wanted).mean()))
        if (wanted > 0.5).mean() > PHOTO_SHARE:
            overlaps.append(float(((mask > 0.5) & (wanted > 0.5)).sum() / ((mask > 0.5) | (wanted > 0.5)).sum()))
    return {"overlap": float(np.mean(overlaps)), "photos_with_people": len(overlaps), "difference": float(np.mean(differences))}


def region_scores(net: Regions, photos: Sequence[np.ndarray]) -> dict[str, float]:
    """Shares of pixels whose region stays, regions in a photo, and milliseconds."""
    same: dict[str, list[float]] = {"mirrored": [], "reduced": [], "recoloured": []}
    counts, taken = [], 0.0
    for photo in photos:
        image = to_tensor(photo)
        begun = perf_counter()
        labels = net.labels(image)
        taken += perf_counter() - begun
        counts.append(int(((labels.flatten().bincount() / labels.numel()) > PHOTO_SHARE).sum()))
        small = functional.interpolate(image, scale_factor=0.75, mode="bilinear", antialias=True)
        coarse = net.labels(small)[:, None].float()
        others = {
            "mirrored": net.labels(image.flip(-1)).flip(-1),
            "reduced": functional.interpolate(coarse, size=labels.shape[-2:], mode="nearest")[:, 0].long(),
            "recoloured": net.labels(torch.einsum("ij,bjhw->bihw", torch.tensor(RECOLOURING), image)),
        }
        for name, other in others.items():
            same[name].append((labels == other).float().mean().item())
    means = {f"same_when_{name}": float(np.mean(values)) for name, values in same.items()}
    return {**means, "regions_in_a_photo": float(np.mean(counts)), "milliseconds": 1000 * taken / len(photos)}


def clip_frames(file: Path) -> list[np.ndarray]:
    """All frames of a clip."""
    reader = VideoReader(file)
    return [reader.pixels(frame) for frame in reader.frames()]


def stretched(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture at a teacher's size (height, width)."""
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC, reducing_gap=3.0))


if __name__ == "__main__":
    main()

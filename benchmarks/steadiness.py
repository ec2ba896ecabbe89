"""How steady stylized clips are: temporal layers against the same net frame by frame, and against Magenta's network.

    python benchmarks/steadiness.py CLIPS PAINTINGS --stills PHOTOS [--model compact] [--frames 24] [--json FILE]

Four parts, each a table: the clips of a folder with a painting each, followed by optical flow; clips of a camera moving over
photos, whose every pixel's way is known; a loop of 300 frames over one photo, whose ends see the same; and warping errors at the
borders of windows against those inside. Clips that are not enough for a share of the paintings begin them again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
import torch
from PIL import Image
from rivals import MAGENTA_SIZE, MAGENTA_STYLE_SIZE, magenta_networks

from hicast.config.stylize import resolve_stylize, stylize_layers
from hicast.evaluation.clips import read_clip
from hicast.evaluation.eye import open_eye
from hicast.evaluation.flow import Correspondence
from hicast.evaluation.sight import Sight, squared
from hicast.evaluation.style import global_effects, local_patterns, statistics_distance
from hicast.evaluation.temporal import SourceMotion
from hicast.io.images import load_picture, to_pixels, to_tensor
from hicast.pipeline import HiCastPipeline
from hicast.training.moving_stills import Camera, moving_still

SIDE = 256
"""Short side of clips, and side of the square ones, in pixels."""

LOOP = 300
"""Frames of the loop."""

ONE_NOISE, OWN_NOISE, TEMPORAL, MAGENTA = "frame by frame, one noise", "frame by frame, own noise", "temporal layers", "Magenta's network"

Frames = list[np.ndarray]


class Painters:
    """All methods as functions of frames, uint8 (height, width, 3), and a painting's pixels."""

    def __init__(self, model: str, preset: str, threads: int) -> None:
        """Load `model` and, where it is installed, Magenta's network."""
        self.pipeline = HiCastPipeline.from_pretrained(model, "cpu")
        self.layers = self.pipeline.temporal
        self.settings = resolve_stylize(stylize_layers("stylize-video", preset)[1], self.pipeline.defaults)
        self.networks = magenta_networks(threads)

    @property
    def names(self) -> list[str]:
        """The methods that can be had."""
        own_noise = [OWN_NOISE] if self.pipeline.noise_scale else []
        return [*own_noise, ONE_NOISE, *([TEMPORAL] if self.layers is not None else []), *([MAGENTA] if self.networks else [])]

    @property
    def step(self) -> int:
        """Frames of a window that are new: those of a clip begin at its multiples."""
        return self.settings.video.window - self.settings.video.overlap

    def paint(self, name: str, frames: Frames, painting: np.ndarray) -> Frames:
        """The stylized frames."""
        if name == MAGENTA:
            return self._magenta(frames, painting)
        pipeline, settings, video = self.pipeline, self.settings, self.settings.video
        pipeline.temporal = self.layers if name == TEMPORAL else None
        painted = pipeline.stylize_video(
            (to_tensor(pixels) for pixels in frames), [(to_tensor(painting), 1.0)], style_scale=settings.style_scale,
            content_scale=settings.content_scale, steps=settings.steps, window=video.window, overlap=video.overlap if name == TEMPORAL else 0,
            shared_noise=0.0 if name == OWN_NOISE else 1.0, size=min(frames[0].shape[:2]),
        )  # fmt: skip
        return [to_pixels(image) for image in painted]

    def _magenta(self, frames: Frames, painting: np.ndarray) -> Frames:
        """Frame by frame, at the size that the network is fixed to."""
        predict, transfer = self.networks
        code = predict(_resized(painting, (MAGENTA_STYLE_SIZE,) * 2)[None].astype(np.float32) / 255)
        results = []
        for pixels in frames:
            small = _resized(pixels, (MAGENTA_SIZE,) * 2)[None].astype(np.float32) / 255
            made = (transfer(small, code)[0] * 255).round().clip(0, 255).astype(np.uint8)
            results.append(_resized(made, pixels.shape[1::-1]))
        return results


def main() -> None:
    """Measure all parts and print their tables."""
    options = parse()
    torch.set_num_threads(options.threads)
    painters, eye = Painters(options.model, options.preset, options.threads), open_eye()
    paintings = [load_picture(path).pixels[..., :3] for path in _files(options.paintings)]
    clips = {path.stem: read_clip(path, SIDE)[: options.frames] for path in _files(options.clips)}
    rows = list(followed(painters, eye, {name: (clip, SourceMotion(clip)) for name, clip in clips.items()}, paintings, "clip"))
    photos = [load_picture(path).pixels[..., :3] for path in _files(options.stills)[: options.still_count]]
    rows += followed(painters, eye, {f"still {at}": moving(photo, options.frames, at) for at, photo in enumerate(photos)}, paintings, "known motion")
    result: dict[str, Any] = {"rows": rows}
    if not options.no_loop:
        result |= loop(painters, eye, photos[0], paintings[0])
    print("\n".join(lines(result)))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


def parse() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of clips")
    parser.add_argument("paintings", type=Path, help="folder of paintings, taken in the order of their names")
    parser.add_argument("--stills", type=Path, required=True, metavar="FOLDER", help="photos that a camera moves over")
    parser.add_argument("--still-count", type=int, default=4, metavar="N", help="how many of them (default: 4)")
    parser.add_argument("--model", default="compact", help="default: compact")
    parser.add_argument("--preset", default="balanced", help="default: balanced")
    parser.add_argument("--frames", type=int, default=24, metavar="N", help="frames of each clip (default: 24)")
    parser.add_argument("--no-loop", action="store_true", help="leave the long loop out")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    return parser.parse_args()


def moving(photo: np.ndarray, frames: int, seed: int) -> tuple[Frames, SourceMotion]:
    """A camera's way over `photo` and its exact motion from each frame to the next."""
    clip = moving_still(photo, frames, SIDE, (0.5, 0.8), np.random.default_rng(seed))
    places = (clip.places[: frames - 1] + 1) / 2 * SIDE - 0.5
    known = {frames - 1 - at: Correspondence(*np.moveaxis(places[at - 1].astype(np.float32), -1, 0), clip.seen[at - 1]) for at in range(1, frames)}
    backwards = list(clip.frames[::-1])
    return backwards, SourceMotion(backwards, known=known)


def followed(painters: Painters, eye: Any, clips: dict[str, tuple[Frames, SourceMotion]], paintings: Sequence[np.ndarray], kind: str) -> Iterator[dict[str, Any]]:
    """Figures of every method on every clip."""
    for number, (name, (frames, motion)) in enumerate(clips.items()):
        painting = paintings[number % len(paintings)]
        style, middle = Sight(squared(painting, SIDE), eye), len(frames) // 2
        for method in painters.names:
            painted = painters.paint(method, frames, painting)
            found, sight = motion.measure(painted), Sight(squared(painted[middle], SIDE), eye)
            yield {
                "kind": kind, "clip": name, "method": method, "short": found.excess_short, "long": found.excess_long, "sharp": found.sharp,
                "ge": global_effects(sight, style), "lp": local_patterns(sight, style),
            }  # fmt: skip


def loop(painters: Painters, eye: Any, photo: np.ndarray, painting: np.ndarray) -> dict[str, Any]:
    """By method: how far equal views at both ends differ, in style distance (share) and in pixels, and errors at borders of windows over those inside."""
    height, width = photo.shape[:2]
    room = min(height, width) / 2
    turns = np.linspace(0, 2 * np.pi, LOOP)
    path = [Camera(width / 2 + 0.3 * room * np.cos(turn), height / 2 + 0.3 * room * np.sin(turn), 1.2 * room, 0.0) for turn in turns]
    picture = Image.fromarray(photo)
    views = [
        np.asarray(picture.transform((SIDE, SIDE), Image.Transform.AFFINE, camera.matrix(SIDE)[:2].flatten(), Image.Resampling.BICUBIC)) for camera in path
    ]
    motion, style, result = SourceMotion(views), Sight(squared(painting, SIDE), eye), {}
    for method in [name for name in painters.names if name != MAGENTA]:
        painted = painters.paint(method, views, painting)
        first, last = (statistics_distance(Sight(painted[at], eye), style) for at in (0, -1))
        errors = motion.over_time(painted)
        borders, inside = ([error for at, error in enumerate(errors, 1) if bool(at % painters.step) != border] for border in (True, False))
        apart = np.sqrt(np.mean(np.square((painted[0].astype(np.float32) - painted[-1]) / 255)))
        result[method] = {"style_drift": abs(last / first - 1), "pixels_apart": float(apart), "seams": float(np.mean(borders) / np.mean(inside))}
    return {"loop": result}


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Markdown tables of all figures."""
    yield "| motion | clip | method | excess short | excess long | GE | LP | sharp |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in result["rows"]:
        yield f"| {row['kind']} | {row['clip']} | {row['method']} | " + " | ".join(f"{row[key]:.3f}" for key in ("short", "long", "ge", "lp", "sharp")) + " |"
    for kind in dict.fromkeys(row["kind"] for row in result["rows"]):
        for method in dict.fromkeys(row["method"] for row in result["rows"]):
            chosen = [row for row in result["rows"] if (row["kind"], row["method"]) == (kind, method)]
            means = (np.mean([row[key] for row in chosen]) for key in ("short", "long", "ge", "lp", "sharp"))
            yield f"| {kind} | mean | {method} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |"
    if "loop" in result:
        yield f"\n| loop of {LOOP} frames | style distance, first to last | RMS difference, first to last | error at borders of windows over inside |"
        yield "| --- | --- | --- | --- |"
        for method, row in result["loop"].items():
            yield f"| {method} | {row['style_drift']:.1%} (bar 5 %) | {row['pixels_apart']:.4f} | {row['seams']:.3f} (bar 1.1) |"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


if __name__ == "__main__":
    main()

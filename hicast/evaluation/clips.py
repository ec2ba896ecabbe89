"""Clips judged: steadiness and motion, and how content and style stand at their beginning, middle and end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hicast.errors import InputError, UsageError
from hicast.evaluation.anchors import ANCHORS, recolored
from hicast.evaluation.eye import Eye
from hicast.evaluation.ground_flow import known_motion
from hicast.evaluation.metrics import SET_METRICS, Metric
from hicast.evaluation.pairing import Pair, Pairing
from hicast.evaluation.runner import Column, Evaluation, check_size
from hicast.evaluation.sight import Sight, look_at, squared
from hicast.evaluation.style import statistics_of
from hicast.evaluation.temporal import GAP, SourceMotion
from hicast.io.images import load_picture

CLIP_COLUMNS = tuple(
    Column(name, label, higher, "time")
    for name, label, higher in (
        ("short", "warp short", False), ("long", "warp long", False), ("raw-short", "warp short, raw", False),
        ("raw-long", "warp long, raw", False), ("rel-short", "warp short, relative", False), ("rel-long", "warp long, relative", False),
        ("excess-short", "warp short over source", False), ("excess-long", "warp long over source", False),
        ("motion", "frame difference", False), ("drift", "style drift over source", False), ("sharp", "sharpness", True),
    )
)  # fmt: skip
"""Figures of time: per visible pixel, over all pixels (raw), over the clip's own gradient, and that less the source's own."""

LEAST_SIDE = 12
"""Pixels a side that optical flow needs."""

OnProgress = Callable[[int, int], None]


@dataclass
class ClipEvaluation:
    """Figures as for pictures, `series` of the short warping error over time by pair and method, and `stills`: the middle frames
    by method and pair.
    """

    done: Evaluation
    series: dict[str, dict[str, list[float]]]
    stills: dict[str, dict[str, np.ndarray]]
    resized: dict[str, list[int]] = field(default_factory=dict)
    """By method, how many results have another size than their clip, and of how many."""

    def still(self, method: str, pair: Pair) -> np.ndarray | None:
        """The middle frame of a method's clip for a pair; None where there is none."""
        return self.stills.get(method, {}).get(pair.key)


def check_clip_metrics(names: Sequence[str] | None) -> None:
    """Raise UsageError for metrics of whole sets of pictures among `names`."""
    for name in names or ():
        if name in SET_METRICS:
            raise UsageError(f"--metrics {name}: expected metrics of single pictures for clips, found one of whole sets; leave {name} out")


def read_clip(path: Path, short_side: int, size: tuple[int, int] | None = None) -> list[np.ndarray]:
    """All frames, uint8 (height, width, 3), of `size` (height, width), else at most `short_side` pixels on the short side.

    Raises InputError for what is no video, and for frames too small to follow motion in.
    """
    import cv2

    from hicast.io.video_read import VideoReader

    reader, frames = VideoReader(path), []
    for frame in reader.frames():
        pixels = reader.pixels(frame)[..., :3]
        if pixels.dtype == np.uint16:
            pixels = np.round(pixels / 257).astype(np.uint8)
        if size is None:
            scale = min(1.0, short_side / min(pixels.shape[:2]))
            size = round(pixels.shape[0] * scale), round(pixels.shape[1] * scale)
        if pixels.shape[:2] != tuple(size):
            pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)
        frames.append(np.ascontiguousarray(pixels))
    if not frames:
        raise InputError(f"{path}: expected a video, found no frame in it; get it again")
    if min(frames[0].shape[:2]) < LEAST_SIDE:
        found = f"{frames[0].shape[1]} x {frames[0].shape[0]}"
        raise InputError(f"{path}: expected frames of {LEAST_SIDE} pixels a side or more, found {found}; take a larger clip")
    return frames


def frame_size(path: Path) -> tuple[int, int]:
    """Height and width of a clip's frames as they are shown; raises InputError for what is no video."""
    from hicast.io.video_read import VideoReader

    info = VideoReader(path).info
    return info.height, info.width


def evaluate_clips(
    pairing: Pairing, metrics: Sequence[Metric], eye: Eye, *, size: int = 256, flow: Path | None = None, gap: int = GAP,
    on_progress: OnProgress = lambda done, total: None,
) -> ClipEvaluation:
    """Every method of `pairing` and the anchors on every clip, by `CLIP_COLUMNS` and, at three frames, by `metrics`.

    Clips are compared at the size of their source, at most `size` pixels on the short side, stills at `size` x `size`.
    `flow` is a folder with a folder of `.flo` files for each source, by its stem. Broken clips, and those of another length than
    their source, are kept in `failed`. Raises InputError where nothing is left.
    """
    check_size(size)
    columns = [*CLIP_COLUMNS, *(Column(m.name, m.label, m.higher, m.aspect) for m in metrics)]
    methods, count = [*ANCHORS, *pairing.results], len(pairing.pairs)
    scores = {method: {column.name: [float("nan")] * count for column in columns} for method in methods}
    done = Evaluation(columns, pairing.pairs, scores, pairing.results, notes=pairing.notes(), size=size, net=eye.name)
    result = ClipEvaluation(done, {}, {method: {} for method in methods})
    for at, pair in enumerate(pairing.pairs):
        try:
            _judge_pair(result, at, pair, metrics, eye, size, flow, gap)
        except InputError as error:
            done.failed.append({"file": str(pair.content), "error": str(error)})
        on_progress(at + 1, count)
    done.notes += [f"{method}: {odd} of {of} results have another size than their clip; all are compared at that of the clip, at most {size} pixels on the short side"
                   for method, (odd, of) in result.resized.items() if odd]  # fmt: skip
    if len(done.failed) and not any(result.stills.values()):
        raise InputError(f"pairs: expected at least one whose clip and painting can be read, found none: {done.failed[0]['error']}")
    return result


def _judge_pair(result: ClipEvaluation, at: int, pair: Pair, metrics: Sequence[Metric], eye: Eye, size: int, flow: Path | None, gap: int) -> None:
    source, painting = read_clip(pair.content, size), load_picture(pair.style).pixels
    known = known_motion(flow / pair.content.stem, len(source), source[0].shape[:2]) if flow else None
    motion = SourceMotion(source, gap, known)
    places = looks(len(source))
    photos = [Sight(squared(source[place], size), eye) for place in places]
    style = Sight(squared(painting, size), eye)
    look_at([*photos, style], 4)
    own_drift = drift(photos)
    for method, clip in _clips(result, pair, source, squared(painting, size)):
        sights = photos if method == "content" else [Sight(squared(clip[place], size), eye) for place in places]
        row = figures(motion, clip) | {"drift": drift(sights) - own_drift}
        for metric in metrics:
            row[metric.name] = float(np.mean([metric.score(sight, photo, style) for sight, photo in zip(sights, photos, strict=True)]))
        for name, value in row.items():
            result.done.scores[method][name][at] = value
        result.stills[method][pair.key] = clip[places[1]]
        result.series.setdefault(pair.label, {})[method] = motion.over_time(clip)


def _clips(result: ClipEvaluation, pair: Pair, source: list[np.ndarray], painting: np.ndarray) -> Iterable[tuple[str, list[np.ndarray]]]:
    """Each method's clip in turn, anchors first; what is broken or of another length goes to `failed`."""
    import cv2

    size = source[0].shape[:2]
    still = cv2.resize(painting, size[::-1], interpolation=cv2.INTER_AREA)
    yield "content", source
    yield "style", [still] * len(source)
    yield "color", [recolored(frame, painting) for frame in source]
    for method, files in result.done.files.items():
        if pair.key not in files:
            continue
        try:
            clip = read_clip(files[pair.key], 0, size)
            if len(clip) != len(source):
                raise InputError(f"{files[pair.key]}: expected {len(source)} frames like {pair.content.name}, found {len(clip)}; give the whole clip")
        except InputError as error:
            result.done.failed.append({"file": str(files[pair.key]), "error": str(error)})
            continue
        counts = result.resized.setdefault(method, [0, 0])
        counts[0] += frame_size(files[pair.key]) != frame_size(pair.content)
        counts[1] += 1
        yield method, clip


def figures(motion: SourceMotion, clip: Sequence[np.ndarray]) -> dict[str, float]:
    """The figures of time of one clip but the drift, by the names of `CLIP_COLUMNS`."""
    found, (raw_short, raw_long) = motion.measure(clip), motion.raw(clip)
    return {
        "short": found.short, "long": found.long, "raw-short": raw_short, "raw-long": raw_long, "rel-short": found.rel_short,
        "rel-long": found.rel_long, "excess-short": found.excess_short, "excess-long": found.excess_long,
        "motion": found.difference, "sharp": found.sharp,
    }  # fmt: skip


def looks(frames: int) -> list[int]:
    """Numbers of the frames that are looked at: first, middle and last."""
    return [0, frames // 2, frames - 1]


def drift(sights: Sequence[Sight]) -> float:
    """How far style statistics move from the first of `sights` to the last: mean over taps of |s_last - s_first| / |s_first|; 0 is
    steady.
    """
    pairs = zip(statistics_of(sights[0]), statistics_of(sights[-1]), strict=True)
    return float(np.mean([((last - first).norm() / first.norm().clamp_min(1e-6)).item() for first, last in pairs]))

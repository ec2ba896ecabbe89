"""What stands between a request and the runner: pairs and results found, nets opened, pictures at hand for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hicast.errors import InputError
from hicast.evaluation.anchors import recolored
from hicast.evaluation.eye import Eye, load_tensors, open_eye
from hicast.evaluation.frechet import Inception, check_number
from hicast.evaluation.metrics import SET_METRICS, Metric, open_metrics
from hicast.evaluation.pairing import Pair, Pairing, all_pairs, check_sources, match, match_by_name, read_pairs
from hicast.evaluation.runner import Evaluation
from hicast.io.files import IMAGES, FileKind
from hicast.io.images import load_picture
from hicast.models.device import pick_device


@dataclass(frozen=True)
class Scene:
    """Nets and metrics, opened; `sets` are the metrics of all results together."""

    eye: Eye
    metrics: list[Metric]
    inception: Inception | None
    sets: list[str]


def check_sets(names: Sequence[str] | None, count: int) -> None:
    """Raise UsageError where `count` pairs are too few for a metric of whole sets among `names`."""
    for name in SET_METRICS:
        if name in (names or ()):
            check_number(count, name)


def open_scene(names: Sequence[str] | None, weights: Mapping[str, Path], extractors: Mapping[str, str], device: str,
               on_note: Callable[[str], None]) -> Scene:
    """Open what the metrics called `names` need (None: all but those of whole sets); raises UsageError and ModelError."""
    place = pick_device(device)
    sets = [name for name in SET_METRICS if name in (names or ())]
    wanted = None if names is None else [name for name in names if name not in SET_METRICS]
    if wanted is not None and "artfid" in sets and "lpips" not in wanted:
        wanted.append("lpips")
    eye = open_eye(weights.get("vgg19"), place)
    metrics = open_metrics(eye, wanted, weights=weights, extractors=extractors, on_note=on_note)
    inception = Inception(load_tensors(weights["inception"]), place) if sets else None
    return Scene(eye, metrics, inception, sets)


def pair_up(content: Path | None, style: Path | None, pairs: Path | None, folders: Mapping[str, Path],
            kind: FileKind = IMAGES) -> Pairing:
    """Pairs by the file `pairs`, else by the names of results, else every photo with a painting; raises InputError, UsageError."""
    if pairs is not None:
        return match(read_pairs(pairs, content, style), folders, kind)
    check_sources(content, style, pairs)
    if folders:
        return match_by_name(content, style, folders, kind)
    return Pairing(all_pairs(content, style, kind), {})


def pictures_of(done: Evaluation) -> Callable[[str, Pair], np.ndarray | None]:
    """The picture of a method for a pair, read from its file; None where it cannot be read."""

    def picture(method: str, pair: Pair) -> np.ndarray | None:
        try:
            if method == "color":
                return recolored(load_picture(pair.content).pixels, load_picture(pair.style).pixels)
            files = {"content": pair.content, "style": pair.style}
            path = files.get(method) or done.files.get(method, {}).get(pair.key)
            return load_picture(path).pixels if path else None
        except InputError:
            return None

    return picture

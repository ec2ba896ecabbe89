"""Scoring: every method and every anchor on every pair, one pair at a time, broken files counted and passed over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hicast.errors import InputError, UsageError
from hicast.evaluation.anchors import ANCHORS, recolored
from hicast.evaluation.eye import Eye
from hicast.evaluation.frechet import LEAST, Inception, art_fid, check_number, frechet_distance
from hicast.evaluation.metrics import Metric
from hicast.evaluation.pairing import Pair, Pairing
from hicast.evaluation.sight import Sight, look_at, squared
from hicast.evaluation.summary import Estimate, bootstrap, extremes
from hicast.io.images import load_picture, to_tensor

LEAST_SIZE = 32
LEADING = ("excess-short", "qs3")
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Column:
    """A column of the tables: a metric without its function."""

    name: str
    label: str
    higher: bool
    aspect: str


@dataclass
class Evaluation:
    """What came out: `scores[method][metric]` has a figure for each of `pairs`, NaN where there is none.

    `whole` are figures of all results of a method together, `failed` files that could not be read, `notes` what else is to
    be known, `files` the result of each method by the pair's key.
    """

    columns: list[Column]
    pairs: list[Pair]
    scores: dict[str, dict[str, list[float]]]
    files: dict[str, dict[str, Path]] = field(default_factory=dict)
    whole: dict[str, dict[str, float]] = field(default_factory=dict)
    failed: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    size: int = 0
    net: str = ""

    @property
    def methods(self) -> list[str]:
        """Anchors first, then methods as they were given."""
        return list(self.scores)

    @property
    def leading(self) -> str:
        """The metric that pairs are ranked by: steadiness of clips, else QS3, else the first."""
        names = [column.name for column in self.columns]
        return next((name for name in LEADING if name in names), names[0])

    def estimate(self, method: str, metric: str, among: Sequence[int] | None = None) -> Estimate:
        """Mean and interval of a metric, over all pairs or those at the places `among`."""
        values = self.scores[method][metric]
        return bootstrap(values if among is None else [values[at] for at in among])

    def extremes(self, method: str, metric: str, count: int) -> tuple[list[int], list[int]]:
        """Places of the best and worst pairs of a method by a metric."""
        column = next(column for column in self.columns if column.name == metric)
        return extremes(self.scores[method][metric], column.higher, count)

    def kinds(self) -> dict[str, list[int]]:
        """Places of pairs by the kind of their painting; empty where no kinds are given."""
        found: dict[str, list[int]] = {}
        for at, pair in enumerate(self.pairs):
            if pair.kind:
                found.setdefault(pair.kind, []).append(at)
        return found


def check_methods(names: Sequence[str]) -> None:
    """Raise UsageError for methods named like an anchor or like each other."""
    for name in names:
        if name in ANCHORS:
            raise UsageError(f"--peers {name}: expected another name, found that of an anchor ({', '.join(ANCHORS)}); rename it")
        if list(names).count(name) > 1:
            raise UsageError(f"--peers {name}: expected each name once, found it twice; rename one")


def check_size(size: int) -> None:
    """Raise UsageError for a `size` in pixels at which the nets of the metrics see nothing."""
    if size < LEAST_SIZE:
        raise UsageError(f"--size: expected {LEAST_SIZE} or more, found {size}; raise it")


def evaluate(
    pairing: Pairing, metrics: Sequence[Metric], eye: Eye, *, size: int = 256, batch: int = 8, inception: Inception | None = None,
    set_metrics: Sequence[str] = (), max_megapixels: float = 100.0, on_progress: OnProgress = lambda done, total: None,
) -> Evaluation:
    """Scores of every method of `pairing`, and of the anchors, by `metrics`, all pictures resampled to `size` x `size`.

    `batch` pictures pass the net together. With `inception` the `set_metrics` (fid, artfid) are worked out as well. Broken
    files are kept in `failed`; a pair whose photo or painting is broken counts for nobody. Raises InputError where no pair
    is left, UsageError for a set that is too small.
    """
    check_size(size)
    for name in set_metrics:
        check_number(len(pairing.pairs), name)
    methods = [*ANCHORS, *pairing.results]
    done = Evaluation([Column(m.name, m.label, m.higher, m.aspect) for m in metrics], pairing.pairs,
                      {method: {m.name: [float("nan")] * len(pairing.pairs) for m in metrics} for method in methods},
                      pairing.results, notes=pairing.notes(), size=size, net=eye.name)  # fmt: skip
    reader = _Reader(done, max_megapixels)
    features: dict[str, dict[int, np.ndarray]] = {}
    scored = 0
    for at, pair in enumerate(pairing.pairs):
        sights = _sights(pair, pairing.results, eye, size, reader)
        if sights:
            scored += 1
            look_at(list(sights.values()), batch)
            for method, sight in sights.items():
                for metric in metrics:
                    done.scores[method][metric.name][at] = metric.score(sight, sights["content"], sights["style"])
                if inception:
                    features.setdefault(method, {})[at] = inception([to_tensor(sight.original)])[0]
        on_progress(at + 1, len(pairing.pairs))
    if not scored:
        raise InputError(f"pairs: expected at least one whose photo and painting can be read, found none: {done.failed[0]['error']}")
    done.notes += reader.notes()
    if inception:
        _whole_sets(done, features, set_metrics)
    return done


class _Reader:
    """Reads pictures, keeps account of those that are broken, and of results of another size than their photo."""

    def __init__(self, done: Evaluation, max_megapixels: float) -> None:
        self._done, self._most = done, max_megapixels
        self._resized: dict[str, list[int]] = {}

    def read(self, path: Path) -> np.ndarray | None:
        """Pixels of a file, or None where it is broken."""
        try:
            return load_picture(path, self._most).pixels
        except InputError as error:
            if not any(entry["file"] == str(path) for entry in self._done.failed):
                self._done.failed.append({"file": str(path), "error": str(error)})
            return None

    def compare(self, method: str, result: np.ndarray, photo: np.ndarray) -> None:
        """Count a result that is not as large as its photo."""
        counts = self._resized.setdefault(method, [0, 0])
        counts[0] += result.shape != photo.shape
        counts[1] += 1

    def notes(self) -> list[str]:
        """A line for each method with results of another size."""
        where = f"all are compared at {self._done.size} x {self._done.size}"
        return [f"{method}: {odd} of {of} results have another size than their photo; {where}" for method, (odd, of) in self._resized.items() if odd]


def _sights(pair: Pair, results: Mapping[str, Mapping[str, Path]], eye: Eye, size: int, reader: _Reader) -> dict[str, Sight]:
    """All pictures of a pair by method, anchors first; none where photo or painting is broken."""
    photo, painting = reader.read(pair.content), reader.read(pair.style)
    if photo is None or painting is None:
        return {}
    small, style = squared(photo, size), squared(painting, size)
    sights = {"content": Sight(small, eye, photo), "style": Sight(style, eye, painting), "color": Sight(recolored(small, style), eye)}
    for method, files in results.items():
        pixels = reader.read(files[pair.key]) if pair.key in files else None
        if pixels is not None:
            reader.compare(method, pixels, photo)
            sights[method] = Sight(squared(pixels, size), eye, pixels)
    return sights


def _whole_sets(done: Evaluation, features: Mapping[str, Mapping[int, np.ndarray]], names: Sequence[str]) -> None:
    """FID of each method's results to the paintings of the same pairs, and ArtFID with its mean LPIPS; a method with too few results
    has neither, which is noted.
    """
    for method, rows in features.items():
        if len(rows) < LEAST:
            done.notes.append(f"{method}: {len(rows)} results are too few for {' and '.join(names)}, which need {LEAST}")
            done.whole[method] = dict.fromkeys(names, float("nan"))
            continue
        fid = frechet_distance(np.stack(list(rows.values())), np.stack([features["style"][at] for at in rows]))
        figures = {"fid": fid}
        if "artfid" in names:
            figures["artfid"] = art_fid(fid, done.estimate(method, "lpips").mean)
        done.whole[method] = {name: figures[name] for name in names}

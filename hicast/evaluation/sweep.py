"""How settings act together: many looks of one model over a set of pairs, scored, kept as they come and found again."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hicast.config.layers import merge
from hicast.config.problems import validate
from hicast.config.stylize import StylizeSettings
from hicast.errors import InputError, UsageError
from hicast.evaluation.eye import Eye
from hicast.evaluation.metrics import Metric
from hicast.evaluation.pairing import Pair
from hicast.evaluation.painted import look_of, stamp
from hicast.evaluation.painter import Painter
from hicast.evaluation.sight import Sight, squared
from hicast.evaluation.summary import bootstrap, pareto
from hicast.io.files import atomic_path
from hicast.io.images import load_picture

SWEPT = ("style_scale", "content_scale", "texture", "steps", "size")
"""Settings that may be swept beside `adapters.NAME`."""

RULES = ("knee", "content", "style", "qs3")
"""Ways to choose a point of the front: the best balance, or the best of one figure."""

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Axis:
    """A setting by its key with the values of a grid, or with the `bounds` that random values lie between."""

    key: str
    values: tuple[float, ...] = ()
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Point:
    """One look: values by key, and its mean figures by metric; `failed` are pairs that could not be stylized."""

    values: dict[str, float]
    means: dict[str, float]
    failed: tuple[str, ...] = ()


def parse_axis(word: str) -> Axis:
    """`KEY=V1,V2,...` or `KEY=LOW..HIGH`; raises UsageError for other words and other keys."""
    key, equals, text = word.partition("=")
    if not (key in SWEPT or (key.startswith("adapters.") and key.partition(".")[2])) or not equals:
        raise UsageError(f"--sweep {word}: expected KEY=V1,V2 or KEY=LOW..HIGH with KEY {', '.join(SWEPT)} or adapters.NAME, found {word}; write for example style_scale=0.5,1")
    low, dots, high = text.partition("..")
    try:
        numbers = (float(low), float(high)) if dots else tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)) or (dots and numbers[0] >= numbers[1]):
        raise UsageError(f"--sweep {word}: expected numbers, found {text or 'none'}; write for example {key}=0.5,1 or {key}=0.5..1.5")
    return Axis(key, bounds=numbers) if dots else Axis(key, tuple(dict.fromkeys(numbers)))


def plan(axes: Sequence[Axis], samples: int | None, seed: int = 0) -> list[dict[str, float]]:
    """The looks of a grid over all axes, or `samples` random ones, the same for a seed; raises UsageError for a mixture.

    More samples of a seed begin with those of fewer, so that a search can be prolonged. In a random search an axis with
    values draws one of them.
    """
    if not axes:
        raise UsageError("--sweep: expected at least one setting, found none; write for example --sweep style_scale=0.5,1,1.5")
    keys = [axis.key for axis in axes]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise UsageError(f"--sweep {twice[0]}: expected each setting once, found it twice; list all its values in one")
    if samples is None:
        ranges = [axis.key for axis in axes if axis.bounds]
        if ranges:
            raise UsageError(f"--sweep {ranges[0]}: expected values for a grid, found a range; list values, or add --samples N")
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]
    random = np.random.default_rng(seed)
    return [{axis.key: _draw(axis, random) for axis in axes} for _ in range(samples)]


def _draw(axis: Axis, random: np.random.Generator) -> float:
    share = float(random.random())
    if axis.bounds is None:
        return axis.values[int(share * len(axis.values))]
    value = axis.bounds[0] + share * (axis.bounds[1] - axis.bounds[0])
    return round(value) if axis.key in ("steps", "size") else round(value, 3)


def settings_at(base: StylizeSettings, values: Mapping[str, float]) -> StylizeSettings:
    """`base` with the values of a point; raises SettingsError for those that are out of range."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        first, _, name = key.partition(".")
        number = int(value) if first in ("steps", "size") and float(value).is_integer() else value
        nested = merge(nested, {first: {name: number}} if name else {first: number})
    return validate(merge(base.model_dump(), nested), StylizeSettings, "--sweep")


def run_sweep(
    painter: Painter, pairs: Sequence[Pair], base: StylizeSettings, looks: Sequence[Mapping[str, float]], metrics: Sequence[Metric], eye: Eye,
    folder: Path, *, size: int = 256, on_progress: OnProgress = lambda done, total: None,
) -> list[Point]:
    """The figures of every look; those that lie in `folder` already, from the same model, pairs and metrics, are taken from there."""
    every = [settings_at(base, values) for values in looks]
    for settings in every:
        painter.check(settings)
    points = []
    for at, (values, settings) in enumerate(zip(looks, every, strict=True)):
        record = {"look": look_of(settings, base.model), "pairs": [stamp(pair) for pair in pairs],
                  "metrics": [m.label for m in metrics], "size": size}  # fmt: skip
        path = folder / f"{hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]}.json"
        found = _kept(path)
        if found is None:
            scores, failed = score_look(painter, pairs, settings, metrics, eye, size)
            found = {"values": dict(values), "means": {name: bootstrap(row).mean for name, row in scores.items()}, "failed": failed, "record": record}
            with atomic_path(path, overwrite=True) as draft:
                draft.write_text(json.dumps(found, indent=1), encoding="utf-8")
        points.append(Point(dict(values), found["means"], tuple(found["failed"])))
        on_progress(at + 1, len(looks))
    return points


def _kept(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def score_look(painter: Painter, pairs: Sequence[Pair], settings: StylizeSettings, metrics: Sequence[Metric], eye: Eye,
               size: int) -> tuple[dict[str, list[float]], list[str]]:
    """Figures of one look by metric, a value for each pair (NaN where it failed), and what went wrong."""
    scores: dict[str, list[float]] = {metric.name: [] for metric in metrics}
    failed: list[str] = []
    for pair in pairs:
        try:
            image = painter.image(pair, settings)
            photo, painting = (squared(load_picture(path).pixels, size) for path in (pair.content, pair.style))
        except InputError as error:
            failed.append(str(error))
            for row in scores.values():
                row.append(float("nan"))
            continue
        sights = [Sight(squared(image, size), eye, image), Sight(photo, eye), Sight(painting, eye)]
        for metric in metrics:
            scores[metric.name].append(metric.score(*sights))
    if len(failed) == len(pairs):
        raise InputError(f"pairs: expected at least one that can be stylized, found none: {failed[0]}")
    return scores, failed


def style_of(means: Mapping[str, float]) -> float:
    """The figure of style that sweeps are read by: the mean of GE and LP."""
    return (means["ge"] + means["lp"]) / 2


def front(points: Sequence[Point]) -> list[int]:
    """Places of the points that no other one beats in content (CF) and style."""
    return pareto([(point.means["cf"], style_of(point.means)) for point in points])


def check_choice(rule: str, count: int) -> None:
    """Raise UsageError for what chooses none of `count` points: neither one of `RULES` nor a number."""
    if rule not in RULES and not (rule.isdecimal() and int(rule) < count):
        raise UsageError(f"--choose: expected {', '.join(RULES)} or a number below {count}, found {rule}; take one of these")


def choose(points: Sequence[Point], rule: str) -> int:
    """The place of a point: its number, or by a rule of `RULES`; raises UsageError for anything else.

    `knee` is the point of the front that lies farthest above the line between its ends.
    """
    check_choice(rule, len(points))
    if rule.isdecimal():
        return int(rule)
    figures = {"content": lambda p: p.means["cf"], "style": lambda p: style_of(p.means), "qs3": lambda p: sum(p.means[k] for k in ("cf", "ge", "lp"))}
    if rule in figures:
        return max(range(len(points)), key=lambda at: figures[rule](points[at]))
    places = front(points)
    (x0, y0), (x1, y1) = ((points[at].means["cf"], style_of(points[at].means)) for at in (places[0], places[-1]))
    return max(places, key=lambda at: (points[at].means["cf"] - x0) * (y0 - y1) + (style_of(points[at].means) - y0) * (x1 - x0))

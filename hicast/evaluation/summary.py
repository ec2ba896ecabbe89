"""Figures of many pairs in few: means with bootstrap intervals, and the pairs in which a method is best and worst."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` values and the bounds of its interval."""

    mean: float
    low: float
    high: float
    count: int


def bootstrap(
    values: Sequence[float], statistic: Callable[[np.ndarray], np.ndarray] | None = None, *, seed: int = 0,
    resamples: int = RESAMPLES, level: float = LEVEL,
) -> Estimate:
    """Mean of `values` with the percentile interval of the means of as many values drawn from them with replacement.

    `statistic` maps (resamples, count) to (resamples,) in place of the mean. NaN are left out, and the order of values does
    not matter; of fewer than two the interval is the value itself. Source: Efron 1979, doi 10.1214/aos/1176344552.
    """
    kept = np.sort(np.asarray(values, dtype=np.float64))
    kept = kept[~np.isnan(kept)]
    take = statistic or (lambda rows: rows.mean(1))
    if not len(kept):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    middle = float(take(kept[None])[0])
    if len(kept) < 2:
        return Estimate(middle, middle, middle, len(kept))
    drawn = kept[np.random.default_rng(seed).integers(0, len(kept), (resamples, len(kept)))]
    low, high = np.quantile(take(drawn), ((1 - level) / 2, (1 + level) / 2))
    return Estimate(middle, float(low), float(high), len(kept))


def extremes(values: Sequence[float], higher: bool, count: int) -> tuple[list[int], list[int]]:
    """Places of the `count` best and of the `count` worst of `values`, the outermost first; NaN are neither.

    Where there are fewer than twice `count`, no place is in both.
    """
    numbers = np.asarray(values, dtype=np.float64)
    order = [int(at) for at in np.argsort(-numbers if higher else numbers, kind="stable") if not np.isnan(numbers[at])]
    best = order[: min(count, -(-len(order) // 2))]
    worst = order[::-1][: min(count, len(order) - len(best))]
    return best, worst


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points (both coordinates: more is better) that no other one beats in one and equals in the other, by the first."""
    front = [
        at for at, (x, y) in enumerate(points)
        if not any(u >= x and v >= y and (u > x or v > y) for u, v in points)
    ]  # fmt: skip
    return sorted(front, key=lambda at: points[at])

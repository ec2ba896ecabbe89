"""Fair clocks: runs that take turns, and the seconds that a pipeline spends in its nets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hicast.pipeline import HiCastPipeline

Name = tuple[str, int]
"""Who works, and the side of the picture in pixels."""

_WARM_UP = 1


def interleaved(runs: Mapping[Name, Callable[[], Any]], repeats: int) -> tuple[dict[Name, list[float]], dict[Name, Any]]:
    """Seconds of every run in `repeats` rounds, and its last result; every other round goes backwards.

    Whatever else the machine does thus falls on all runs alike. Each run is done twice in a row and the second time counts,
    so that none profits from caches and memory that another one of its size has left. A round before is not counted.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    results = {}
    for number in range(-_WARM_UP, repeats):
        for name in reversed(runs) if number % 2 else runs:
            runs[name]()
            start = perf_counter()
            results[name] = runs[name]()
            if number >= 0:
                seconds[name].append(perf_counter() - start)
    return seconds, results


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of our seconds over theirs, round by round: below 1 we are faster."""
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))


class NetTimer:
    """Seconds in U-Net, content projection, autoencoder, adapters, VGG-16 and the net for subjects, on a device that works while it is asked (a CPU)."""

    def __init__(self, pipeline: HiCastPipeline) -> None:
        """Wraps the methods through which the engine enters the nets of `pipeline`."""
        self._seconds: dict[str, float] = {}
        self._wrap("unet", pipeline.model.unet, "forward")
        self._wrap("content_projection", pipeline.model.content_projection, "modulate", "refine")
        self._wrap("autoencoder", pipeline.autoencoder, "encode", "decode")
        self._wrap("adapters", pipeline.adapters, "features")
        self._wrap("vgg16", pipeline.style_encoder.vgg, "forward")
        if pipeline.model.subject is not None:
            self._wrap("subject", pipeline.model.subject, "forward")

    @property
    def total(self) -> float:
        """Seconds in all nets so far."""
        return sum(self._seconds.values())

    def watch(self, run: Callable[[], Any], rounds: list[dict[str, float]]) -> Any:
        """The result of `run`; the seconds in each net meanwhile are appended to `rounds`."""
        before = dict(self._seconds)
        result = run()
        rounds.append({name: seconds - before[name] for name, seconds in self._seconds.items()})
        return result

    def _wrap(self, name: str, net: Any, *methods: str) -> None:
        self._seconds[name] = 0.0
        for method in methods:
            setattr(net, method, self._timed(name, getattr(net, method)))

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            start = perf_counter()
            result = method(*arguments, **named)
            self._seconds[name] += perf_counter() - start
            return result

        return timed

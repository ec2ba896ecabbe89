"""The metrics by name: what each is called, which way is better, and how it is worked out for one result of one pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from hicast.config.problems import name_advice
from hicast.controls import CONTROLS, find_extractor
from hicast.errors import ModelError, UsageError
from hicast.evaluation import content, style
from hicast.evaluation.eye import Eye, load_tensors
from hicast.evaluation.lattice import lattice
from hicast.evaluation.perceptual import Lpips
from hicast.evaluation.sight import Sight

Aspect = Literal["content", "style", "both", "flaw", "time"]
Measure = Callable[[Sight, Sight, Sight], float]
"""A figure of a result, given its content and its style."""

PARTS_OF_QS3 = ("cf", "ge", "lp")
SET_METRICS = ("fid", "artfid")
"""Metrics of all results of a method together."""

NETS = ("vgg19", "lpips", "inception")
"""Nets that metrics look through with weights of the user's."""


@dataclass(frozen=True)
class Metric:
    """A metric under its `label` in tables; `higher` is whether more is better, `aspect` what it looks at."""

    name: str
    label: str
    higher: bool
    aspect: Aspect
    measure: Measure

    def score(self, result: Sight, photo: Sight, painting: Sight) -> float:
        """The figure of `result`, worked out once for a pair."""
        return result.once(("score", self.name), lambda: self.measure(result, photo, painting))


_TABLE: dict[str, tuple[str, bool, Aspect, bool, Measure]] = {
    "cf": ("CF", True, "content", True, lambda r, c, s: content.content_fidelity(r, c)),
    "ge": ("GE", True, "style", True, lambda r, c, s: style.global_effects(r, s)),
    "lp": ("LP", True, "style", True, lambda r, c, s: style.local_patterns(r, s)),
    "ssim": ("SSIM", True, "content", False, lambda r, c, s: content.structure(r, c)),
    "cfsd": ("CFSD", False, "content", True, lambda r, c, s: content.structural_distance(r, c)),
    "gram": ("Gram (training form)", False, "style", True, lambda r, c, s: style.gram_training(r, s)),
    "gram-published": ("Gram (metric form)", False, "style", True, lambda r, c, s: style.gram_published(r, s)),
    "statistics": ("statistics", False, "style", True, lambda r, c, s: style.statistics_distance(r, s)),
    "colors": ("colours", False, "style", False, lambda r, c, s: style.histogram_distance(r, s)),
    "lattice": ("lattice", False, "flaw", False, lambda r, c, s: lattice(r.original)),
}
"""Label, whether more is better, aspect, whether the net shows in the label, and the measure."""


def metric_names() -> list[str]:
    """Every name that `--metrics` takes."""
    return [*_TABLE, "qs3", "lpips", *CONTROLS, *SET_METRICS]


def check_metrics(names: Sequence[str] | None, weights: Mapping[str, Path], extractors: Mapping[str, str] | None = None) -> None:
    """Raise UsageError for unknown `names` or none, for those that need weights which are not given, for `weights` that nothing
    reads, and for `extractors` of unknown controls or names.
    """
    if names is not None and not names:
        raise UsageError("--metrics: expected names of metrics apart by commas, found none; name some, or leave --metrics out for all")
    for name in names or ():
        if name not in metric_names():
            raise UsageError(f"--metrics: expected names of metrics, found {name}; {name_advice(name, metric_names())}")
    needed = {"lpips": ("lpips",), "fid": ("inception",), "artfid": ("inception", "lpips")}
    for name in names or ():
        lacking = [key for key in needed.get(name, ()) if key not in weights]
        if lacking:
            place = "FOLDER" if lacking[0] == "lpips" else "FILE"
            raise UsageError(f"--metrics {name}: expected its weights, found none; add --weights {lacking[0]}={place} or leave {name} out")
    known = [*NETS, *(name for control in CONTROLS.values() for name in control.extractors)]
    for name in weights:
        if name not in known:
            raise UsageError(f"--weights {name}: expected what weights are for, found {name}; {name_advice(name, known)}")
    for control, extractor in (extractors or {}).items():
        if control not in CONTROLS:
            raise UsageError(f"--extractor {control}: expected the name of a control, found {control}; {name_advice(control, CONTROLS)}")
        find_extractor(control, extractor)


def open_metrics(
    eye: Eye, names: Sequence[str] | None = None, *, weights: Mapping[str, Path] | None = None,
    extractors: Mapping[str, str] | None = None, on_note: Callable[[str], None] = lambda text: None,
) -> list[Metric]:
    """The metrics called `names` (None: all that can be had), ready to measure, in the order of the table.

    `weights` are files by `lpips` or the name of an extractor; `extractors` name that of each control. A control whose
    extractor cannot be opened is left out with a note unless it is asked for. Raises UsageError and ModelError.
    """
    weights, extractors = dict(weights or {}), dict(extractors or {})
    check_metrics(names, weights, extractors)
    found = [
        Metric(name, f"{label} ({eye.name})" if net else label, higher, aspect, measure)
        for name, (label, higher, aspect, net, measure) in _TABLE.items()
    ]
    parts = [metric for metric in found if metric.name in PARTS_OF_QS3]
    found.insert(3, Metric("qs3", f"QS3 ({eye.name})", True, "both", lambda r, c, s: sum(part.score(r, c, s) for part in parts)))
    if "lpips" in weights:
        found.append(Metric("lpips", "LPIPS", False, "content", Lpips(load_tensors(weights["lpips"]), eye.device).measure))
    for control in CONTROLS:
        if names is None or control in names or control in extractors:
            metric = _control_metric(control, extractors.get(control), weights, eye, control in (names or extractors), on_note)
            found += [metric] if metric else []
    return [metric for metric in found if names is None or metric.name in names]


def _control_metric(control: str, asked: str | None, weights: Mapping[str, Path], eye: Eye, must: bool,
                    on_note: Callable[[str], None]) -> Metric | None:
    """Fidelity of one control's map, or None where no extractor can be opened and none is asked for."""
    extractor = find_extractor(control, asked)
    if extractor is None:
        if must:
            raise UsageError(f"--metrics {control}: expected an extractor, found no default one; add --extractor {control}=NAME")
        return None
    name, kind = extractor
    try:
        draw = kind.open(weights.get(name), eye.device, torch.float32)
    except ModelError as error:
        if must:
            raise
        on_note(f"{control} is not measured: {error}")
        return None
    return Metric(control, f"{control} ({name})", True, "content",
                  lambda r, c, s: content.control_fidelity(r, c, control, draw))  # fmt: skip

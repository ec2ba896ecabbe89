"""Each part's share: the same pairs painted with and without it, all scored in one table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hicast.config.problems import validate
from hicast.config.stylize import StylizeSettings
from hicast.evaluation.painted import Failed, OnProgress, paint_clip, paint_pairs
from hicast.evaluation.painter import Painter
from hicast.evaluation.pairing import Pair

ALONE, ALL, WITHOUT_SCALE = "image model", "all adapters", "without style scale"
TEMPORAL, PER_FRAME = "temporal layers", "per frame"


@dataclass
class Work:
    """What has been painted, by variant and key, and what could not be."""

    failed: Failed
    pictures: dict[str, dict[str, Path]]
    clips: dict[str, dict[str, Path]]


def variants(settings: StylizeSettings, adapters: Sequence[str], weight: float = 1.0) -> dict[str, StylizeSettings]:
    """Looks by name: the image model alone, with each of the `adapters` at `weight`, with all of them, and the look of
    `settings` itself with and without its style scale, where it has one.

    Scales are 1 but in the last two.
    """
    plain = _with(settings, style_scale=1.0, content_scale=1.0, adapters={})
    found = {ALONE: plain}
    for name in adapters:
        found[f"+ {name}"] = _with(plain, adapters={name: weight})
    if len(adapters) > 1:
        found[ALL] = _with(plain, adapters=dict.fromkeys(adapters, weight))
    if settings.style_scale != 1.0:
        found[f"style scale {settings.style_scale:g}"] = settings
        found[WITHOUT_SCALE] = _with(settings, style_scale=1.0)
    return found


def _with(settings: StylizeSettings, **values: Any) -> StylizeSettings:
    """`settings` with other values, checked; raises SettingsError."""
    return validate(settings.model_dump() | values, StylizeSettings, "ablation")


def paint_variants(
    painter: Painter, pairs: Sequence[Pair], looks: Mapping[str, StylizeSettings], folder: Path, model: str, prefix: str = "", *,
    failed: Failed | None = None, on_progress: OnProgress = lambda done, total: None,
) -> dict[str, dict[str, Path]]:
    """Results by variant and key, each variant in a folder of its own; those that are there already are not made again."""
    found = {}
    for at, (name, settings) in enumerate(looks.items()):
        shift, total = at * len(pairs), len(looks) * len(pairs)
        found[prefix + name] = paint_pairs(painter, pairs, settings, folder / slug(prefix + name), model, failed=failed,
                                           on_progress=lambda done, _, shift=shift: on_progress(shift + done, total))  # fmt: skip
    return found


def paint_clips(painter: Painter, pairs: Sequence[Pair], settings: StylizeSettings, folder: Path, model: str, prefix: str = "", *,
                failed: Failed | None = None, on_progress: OnProgress = lambda done, total: None) -> dict[str, dict[str, Path]]:
    """Clips of `pairs` painted frame by frame, and where the model has them with its temporal layers, by variant and key.

    Those that are there already are not made again.
    """
    names = [PER_FRAME, *([TEMPORAL] if painter.pipeline.temporal is not None else [])]
    found: dict[str, dict[str, Path]] = {prefix + name: {} for name in names}
    for at, (name, pair) in enumerate((name, pair) for name in names for pair in pairs):
        with nullified(painter, name == PER_FRAME):
            found[prefix + name] |= paint_clip(painter, pair, settings, folder / slug(prefix + name), model, failed=failed)
        on_progress(at + 1, len(names) * len(pairs))
    return found


@contextmanager
def nullified(painter: Painter, wanted: bool = True) -> Iterator[None]:
    """Inside, the pipeline has no temporal layers, if so `wanted`."""
    kept = painter.pipeline.temporal
    if wanted:
        painter.pipeline.temporal = None
    try:
        yield
    finally:
        painter.pipeline.temporal = kept


def kinds_from_names(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with the word before the first `-` of the painting's name as its kind; kinds that are given stay."""
    return [pair if pair.kind else replace(pair, kind=pair.style.stem.partition("-")[0]) for pair in pairs]


def slug(name: str) -> str:
    """`name` as the name of a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")

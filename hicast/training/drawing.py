"""Which extractors a run of the stage `adapter` needs: one that draws the maps, and one that results are seen by."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hicast.config.train import AdapterTraining
from hicast.controls import CONTROLS, Extractor, ExtractorKind, find_any_extractor, find_extractor
from hicast.controls.store import drawn_by
from hicast.errors import InputError, UsageError

OWN_MAPS = "maps"
"""What an adapter's metadata says in place of an extractor where the maps came from a folder that does not name theirs."""

NO_GRADIENT_AS_PUBLISHED = ("depth", "seg")
"""Controls whose published control term is computed without gradient (reference, 7.6)."""


@dataclass(frozen=True)
class Drawing:
    """`draw` makes the maps that the adapter is given (None: they are read), `compare` those of results (None: no term).

    `extractor` names what drew the maps. With `same` the map that the adapter is given is what a result's is compared with, else
    `compare` draws the photo as well. `live` says whether a gradient passes through `compare`.
    """

    extractor: str
    draw: Extractor | None
    compare: Extractor | None
    same: bool
    live: bool


def check_drawing(settings: AdapterTraining) -> tuple[str | None, str | None]:
    """Names of the extractors that draw and that compare, both None where not needed; loads nothing.

    Raises UsageError in one line for unknown extractors, for a control without maps, and for a term without gradient.
    """
    control = settings.control
    drawing = find_extractor(control, settings.extractor)
    if drawing is None and settings.maps is None:
        named = " or ".join(f"extractor={name}" for name in CONTROLS[control].extractors)
        raise UsageError(f"control {control}: expected maps, found none; set maps=FOLDER" + (f" or {named}" if named else ""))
    draws = drawing[0] if drawing and (settings.maps is None or settings.extractor) else None
    if not settings.losses.get("control"):
        return draws, None
    if settings.loss_extractor is None and drawing is None:
        raise UsageError(
            f"losses.control: expected an extractor that results are seen by, found none for {control}; set loss_extractor, such as "
            "gradient, or losses.control=0"
        )
    compares = settings.loss_extractor or drawing[0]
    if not find_any_extractor(compares)[1].differentiable and not settings.reference:
        others = ", ".join(name for name, kind in _all_kinds().items() if kind.differentiable)
        raise UsageError(f"losses.control: expected an extractor with a gradient, found {compares}; set loss_extractor to one of {others}")
    return draws, compares


def dead_terms(settings: AdapterTraining) -> frozenset[str]:
    """Terms that have no gradient with these settings: the control term of some published forms, and no other."""
    _, compares = check_drawing(settings)
    if compares is None or not settings.reference:
        return frozenset()
    live = settings.control not in NO_GRADIENT_AS_PUBLISHED and find_any_extractor(compares)[1].differentiable
    return frozenset() if live else frozenset({"control"})


def open_drawing(settings: AdapterTraining, device: torch.device) -> Drawing:
    """Load what `check_drawing` names.

    Raises ModelError where weights are missing, InputError where the folder of maps is, UsageError where no term would train.
    """
    draws, compares = check_drawing(settings)
    if settings.maps is not None and not settings.maps.is_dir():
        raise InputError(f"maps: expected a folder that mirrors the photos, found none at {settings.maps}; check the path")
    dead = dead_terms(settings)
    if not {name for name, weight in settings.losses.items() if weight} - dead:
        raise UsageError(
            f"losses: expected a term with a gradient beside {', '.join(dead)} with reference, found none; give style a weight"
        )
    dtype = getattr(torch, settings.frozen_dtype)
    needed = {name for name in ((draws if settings.maps is None else None), compares) if name}
    opened = {name: _all_kinds()[name].open(settings.extractor_weights.get(name), device, dtype) for name in sorted(needed)}
    same = settings.loss_extractor is None and draws is not None
    return Drawing(draws or _drawn_by(settings) or OWN_MAPS, opened.get(draws) if settings.maps is None else None, opened.get(compares), same, not dead)


def _drawn_by(settings: AdapterTraining) -> str | None:
    """The extractor that the maps of `settings` were drawn with, if their folder names one that the control has."""
    found = None if settings.maps is None else drawn_by(settings.maps)
    return found if found in CONTROLS[settings.control].extractors else None


def _all_kinds() -> dict[str, ExtractorKind]:
    return {name: kind for entry in CONTROLS.values() for name, kind in entry.extractors.items()}

"""Controls: what of a picture may be held, the extractors that draw its map, and how each is opened.

Nothing heavy is loaded before an extractor is opened, so that names can be checked without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hicast.config.problems import name_advice
from hicast.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Weights = str | Path | None
"""A file or folder of weights, a hub id whose files are in the cache, or None for the usual place of the extractor."""


class Extractor(Protocol):
    """A function from pictures to their control maps."""

    def __call__(self, image: Tensor) -> Tensor:
        """Map (batch, 3, height, width) in [0, 1] of `image` (batch, 3, height, width) in [-1, 1], each sample alone."""


@dataclass(frozen=True)
class ExtractorKind:
    """An extractor before it is opened: with which weights, where, and in which precision its net computes.

    `weights` says which it must be given or find (empty: none).
    """

    open: Callable[[Weights, torch.device, torch.dtype], Extractor]
    differentiable: bool = False
    weights: str = ""


@dataclass(frozen=True)
class Control:
    """A kind of map: its extractors by name, and the one that is taken unless another is asked for (None: own maps only)."""

    extractors: dict[str, ExtractorKind]
    default: str | None = None
    offline: str = "maps of your own"
    """What can be had without weights, for messages."""


def _gradient(weights: Weights, device: torch.device, dtype: torch.dtype) -> Extractor:
    from hicast.controls.edge import gradient_edges

    return gradient_edges


def _canny(weights: Weights, device: torch.device, dtype: torch.dtype) -> Extractor:
    from hicast.controls.edge import canny_edges

    return canny_edges


def _canny_aux(weights: Weights, device: torch.device, dtype: torch.dtype) -> Extractor:
    from hicast.controls.edge import open_canny_aux

    return open_canny_aux()


def _soft(weights: Weights, device: torch.device, dtype: torch.dtype) -> Extractor:
    from hicast.controls.soft import load_soft
    from hicast.io.weights import place

    return place(load_soft(weights), device, dtype)


def _hed(weights: Weights, device: torch.device, dtype: torch.dtype) -> Extractor:
    from hicast.controls.hed import load_hed
    from hicast.io.weights import place

    net = place(load_hed(weights), device)
    place(net.vgg, device, dtype)
    return net


def _compact(weights: Weights, device: torch.device, dtype: torch.dtype) -> Extractor:
    from hicast.controls.compact_depth import load_compact_depth
    from hicast.io.weights import place

    return place(load_compact_depth(weights), device, dtype)


def _dpt(weights: Weights, device: torch.device, dtype: torch.dtype) -> Extractor:
    from hicast.controls.depth import load_dpt

    return load_dpt(weights).to(device, dtype)


def _regions(weights: Weights, device: torch.device, dtype: torch.dtype) -> Extractor:
    from hicast.controls.regions import load_regions
    from hicast.io.weights import place

    net = load_regions(weights).to(device)
    place(net.vgg, device, dtype)
    return net


def _person(weights: Weights, device: torch.device, dtype: torch.dtype) -> Extractor:
    from hicast.controls.person import load_person
    from hicast.io.weights import place

    return place(load_person(weights), device, dtype)


def _oneformer(weights: Weights, device: torch.device, dtype: torch.dtype) -> Extractor:
    from hicast.controls.oneformer import load_oneformer

    return load_oneformer(weights).to(device, dtype)


CONTROLS = {
    "edge": Control(
        {
            "soft": ExtractorKind(_soft, differentiable=True),
            "gradient": ExtractorKind(_gradient, differentiable=True),
            "canny": ExtractorKind(_canny),
            "canny-aux": ExtractorKind(_canny_aux),
            "hed": ExtractorKind(_hed, True, "a .safetensors file, or the folder of lllyasviel/Annotators"),
        },
        default="soft",
        offline="soft, gradient or canny, which need none, or maps of your own",
    ),
    "depth": Control(
        {
            "compact": ExtractorKind(_compact, differentiable=True),
            "dpt-hybrid-midas": ExtractorKind(_dpt, True, "the folder of Intel/dpt-hybrid-midas"),
        },
        default="compact",
        offline="compact, which needs none, or maps of your own",
    ),
    "seg": Control(
        {
            "regions": ExtractorKind(_regions, differentiable=True),
            "person": ExtractorKind(_person, True),
            "oneformer-coco": ExtractorKind(_oneformer, False, "the folder of shi-labs/oneformer_coco_swin_large"),
        },
        default="regions",
        offline="regions, which needs none, or maps of your own",
    ),
}
"""Every control. Source of the maps: reference, section 5."""


def find_extractor(control: str, name: str | None = None) -> tuple[str, ExtractorKind] | None:
    """Name and kind of an extractor of `control`, its default without `name`; None where it has no default.

    Raises UsageError for an unknown control or extractor.
    """
    if control not in CONTROLS:
        raise UsageError(f"control: expected the name of one, found {control}; {name_advice(control, CONTROLS)}")
    kinds = CONTROLS[control].extractors
    name = name or CONTROLS[control].default
    if name is None:
        return None
    if name not in kinds:
        advice = name_advice(name, kinds) if kinds else f"it has none: give {CONTROLS[control].offline}"
        raise UsageError(f"extractor of {control}: expected the name of one, found {name}; {advice}")
    return name, kinds[name]


def missing_weights(name: str, weights: Weights) -> ModelError:
    """The error of an extractor whose weights are not where they were looked for; it names what can be had without any."""
    control, kind = find_any_extractor(name)
    found = "none" if weights is None else weights
    return ModelError(f"extractor {name}: expected weights ({kind.weights}), found {found}; give them, or take {CONTROLS[control].offline}")


def find_any_extractor(name: str) -> tuple[str, ExtractorKind]:
    """The control that an extractor belongs to, and its kind; raises UsageError for an unknown name."""
    for control, entry in CONTROLS.items():
        if name in entry.extractors:
            return control, entry.extractors[name]
    known = [name for entry in CONTROLS.values() for name in entry.extractors]
    raise UsageError(f"extractor: expected the name of one, found {name}; {name_advice(name, known)}")

"""Dual guidance: how strongly style and content steer, with no evaluation of the net that does not count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hicast.diffusion.sampling import Denoise

FULL = "full"
NO_STYLE = "no_style"
NO_CONTENT = "no_content"

LARGEST_EMBEDDED_SCALE = 2.0

_NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class Guidance:
    """Which branches to evaluate and how to add them up.

    `coefficients`: branch (`full`, `no_style`, `no_content`) to factor, without zeros. `embedded_scale`: what to tell a
    net that takes the style scale as input, None for any other.
    """

    coefficients: Mapping[str, float]
    embedded_scale: float | None = None


def plan_guidance(style_scale: float = 1.0, content_scale: float = 1.0, embedded: bool = False) -> Guidance:
    """The guidance for two scales, 1 being neutral: above it strengthens, below it weakens.

    e = (a + b - 1) full + (1 - a) no_style + (1 - b) no_content, a = style_scale, b = content_scale. Source: reference,
    section 4, whose published names are swapped: its content_scale is our style_scale and the other way round.

    A net with an `embedded` scale is told scales up to 2 instead (a = 1), and the rest above 2 by a = style_scale / 2;
    at exactly 0 it only evaluates the branch without style.
    """
    told, a = None, style_scale
    if embedded and style_scale >= 0:
        told = min(style_scale, LARGEST_EMBEDDED_SCALE)
        if style_scale == 0:
            return Guidance({NO_STYLE: 1.0}, told)
        a = max(1.0, style_scale / LARGEST_EMBEDDED_SCALE)
    factors = {FULL: a + content_scale - 1, NO_STYLE: 1 - a, NO_CONTENT: 1 - content_scale}
    return Guidance({name: factor for name, factor in factors.items() if abs(factor) > _NEGLIGIBLE}, told)


def combine_branches(predictions: Mapping[str, Tensor], guidance: Guidance) -> Tensor:
    """Sum of the predictions, each times its coefficient; a lone branch of factor 1 is returned as it is."""
    terms = [
        predictions[name] if factor == 1 else factor * predictions[name]
        for name, factor in guidance.coefficients.items()
    ]
    return sum(terms[1:], start=terms[0])


def guide(branches: Mapping[str, Denoise], guidance: Guidance) -> Denoise:
    """One denoise callable from one per branch; only those with a coefficient are called, one after another."""

    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        predictions = {name: branches[name](latents, timestep) for name in guidance.coefficients}
        return combine_branches(predictions, guidance)

    return denoise


def guide_stacked(stacked: Denoise, guidance: Guidance) -> Denoise:
    """One denoise callable from one that evaluates the branches as one batch, in the order of the coefficients."""
    names = tuple(guidance.coefficients)

    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        batch = latents if len(names) == 1 else torch.cat([latents] * len(names))
        predictions = stacked(batch, timestep).chunk(len(names))
        return combine_branches(dict(zip(names, predictions, strict=True)), guidance)

    return denoise

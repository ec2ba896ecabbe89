"""How the neighbourhoods of a painting's latents are distributed along many axes: what predicted latents are matched to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

PASSES, AXES, PART = 20, 48, 3
"""Sets of axes, gone through one after the other; how many each has at most; and into how many parts of all that there are that goes at most."""

CLEAR = 1e-3
"""Share of the squared length of an axis that must not follow from those before it to count in full."""

LEVELS = 128
"""Levels that values along an axis are told apart by."""

SPAN = 4.0
"""Where those levels lie: this many standard deviations of the painting's to either side of their mean. Values beyond count as at the ends."""

SMOOTHING = 1.5
"""Standard deviation, in levels, by which shares are blurred."""


@dataclass(frozen=True)
class Aim:
    """Of every set (batch, count, values) in `axes` how a painting's neighbourhoods are spread along it, and the `variance` (batch, channels) of its latents."""

    axes: tuple[Tensor, ...]
    spreads: tuple[Spread, ...]
    variance: Tensor

    @classmethod
    def of(cls, patches: Tensor, channels: int) -> Aim:
        """That of neighbourhoods `patches` (batch, values, places) of latents with so many `channels`."""
        patches = patches.float()
        axes, inside = axes_of(patches), patches.shape[1] // channels
        spread = Spread.of(axes.flatten(1, 2) @ patches)
        return cls(axes.unbind(1), spread.parts(PASSES), patches[:, inside // 2 :: inside].var(2))


def axes_of(painting: Tensor) -> Tensor:
    """Axes (batch, `PASSES`, count, values) of neighbourhoods `painting` (batch, values, places): some of them less their mean, each made orthogonal
    to those before it in its pass; shorter than 1 where hardly anything is left, so that a flat painting has none."""
    device = torch.device("cpu") if painting.device.type == "mps" else painting.device  # Apple's GPUs lack the factorization
    values = painting.to(device)
    drawn = _drawn(values.shape[2], min(AXES, max(values.shape[1] // PART, 1))).to(device)
    chosen = (values - values.mean(2, keepdim=True))[..., drawn].permute(0, 2, 3, 1)
    chosen = chosen / chosen.norm(dim=3, keepdim=True).clamp_min(1e-6)
    likeness = chosen @ chosen.mT + CLEAR * torch.eye(chosen.shape[2], device=device)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(likeness), chosen, upper=False).to(painting.device)


@cache
def _drawn(places: int, count: int) -> Tensor:
    """Indices (`PASSES`, `count`) of places whose neighbourhoods become axes, always the same, no place twice in a pass while there are enough."""
    generator = torch.Generator().manual_seed(0)
    order = [torch.randperm(places, generator=generator) for _ in range(PASSES)]
    return torch.stack([one.repeat(-(-count // places))[:count] for one in order])


@dataclass(frozen=True)
class Spread:
    """How values are spread along each axis: the lowest level's value and the step between levels (batch, axes, 1), and how much lies
    below each level (batch, axes, `LEVELS`)."""

    low: Tensor
    step: Tensor
    below: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """That of `values` (batch, axes, places), the levels around their own mean."""
        mean = values.mean(2, keepdim=True)
        spread = (values.square().mean(2, keepdim=True) - mean.square()).clamp_min(1e-12).sqrt()
        low, step = mean - SPAN * spread, 2 * SPAN / (LEVELS - 1) * spread
        below = _below(_levels(values, low, step))
        return cls(low, step, below + torch.arange(LEVELS, device=values.device) * 1e-7)  # rises even where nothing is

    def parts(self, count: int) -> tuple[Spread, ...]:
        """That of as many equal parts of the axes, in order."""
        return tuple(Spread(*part) for part in zip(*(values.chunk(count, dim=1) for values in (self.low, self.step, self.below)), strict=True))

    def change(self, values: Tensor, frames: int) -> Tensor:
        """How far `values` (batch, axes, places) have to go along each axis until every `frames` rows are spread like this."""
        at = _levels(values, self.low, self.step)
        ours, theirs = _below(at).unflatten(0, (-1, frames)), self.below.expand(len(at), -1, -1)
        ours = ours.mean(1, keepdim=True).expand_as(ours).flatten(0, 1).contiguous()
        above = torch.searchsorted(theirs.contiguous(), ours).clamp_(1, LEVELS - 1)
        low, high = theirs.gather(2, above - 1), theirs.gather(2, above)
        curve = above - 1 + ((ours - low) / (high - low)).clamp_(0, 1) - torch.arange(LEVELS, device=values.device)
        return (curve * self.step).gather(2, at)


def _levels(values: Tensor, low: Tensor, step: Tensor) -> Tensor:
    """The levels next to `values` (batch, axes, places), indices of the same shape."""
    return ((values.float() - low) / step).clamp_(0, LEVELS - 1).round_().long()


def _below(at: Tensor) -> Tensor:
    """How large a share (batch, axes, `LEVELS`) of places that are `at` levels (batch, axes, places) is below each level, blurred."""
    counts = torch.zeros(*at.shape[:2], LEVELS, device=at.device)
    counts.scatter_add_(2, at, torch.full((), 1 / at.shape[2], device=at.device).expand_as(at))
    return counts @ _blurred_sums().to(at.device)


@cache
def _blurred_sums() -> Tensor:
    """The matrix (`LEVELS`, `LEVELS`) that blurs shares, mirrored at both ends, and sums them up to the middle of each level."""
    levels, wide = torch.arange(LEVELS), torch.arange(-LEVELS, 2 * LEVELS)
    bell = torch.exp(-0.5 * ((wide[None] - levels[:, None]) / SMOOTHING).square())
    before, inside, after = (bell / bell.sum(1, keepdim=True)).split(LEVELS, dim=1)
    blur = inside + before.flip(1) + after.flip(1)
    return blur @ (torch.ones(LEVELS, LEVELS).triu(1) + 0.5 * torch.eye(LEVELS))

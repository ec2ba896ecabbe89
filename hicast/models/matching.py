"""Matching of latents: along many axes in turn, how their values are spread moves towards how those of a painting's latents are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

BASES = 16
"""Bases of axes that are gone through: the channels themselves, then rotations of them."""

LEVELS = 256
"""Levels that values along an axis are told apart by."""

SPAN = 4.0
"""Where those levels lie: this many standard deviations of the painting's latents to either side of their mean. Values beyond count as at the ends."""

SMOOTHING = 3.0
"""Standard deviation, in levels, by which shares are blurred."""

REACH, FAINT = 2, 0.01
"""Of the filter that keeps flat areas flat: its reach in places, and the variance, over the painting's, below which differences are no outlines."""

GRAIN = 0.7
"""Share that stays of what the filter takes away: flat areas get this much of the painting's texture."""

def matched(latents: Tensor, painting: Tensor, strength: Tensor, frames: int = 1,
            loose: Tensor | None = None) -> Tensor:
    """`latents` (batch, channels, height, width) moved by `strength` (batch,) in [0, 1] of the way to the distribution of `painting`.

    `painting` (batch, channels, places) are latents of a painting. Basis by basis, every value goes along each axis to that below which as large a
    share of the painting's lies; every `frames` rows, the frames of a clip, go by what they are together, so that they do not flicker. Where much of a picture has nearly one value that would tear small differences apart, so what is added is made a
    local linear function of the latents, nearly constant where they are, but for `GRAIN` of it, less where `loose` (batch,) is below 1. Computed in float32, whatever the surroundings; its gradient by
    `latents` is 1. Source: iterated one-dimensional transport (Pitié et al. 2007, doi 10.1016/j.cviu.2006.11.011), the gradient that of exact
    feature distribution matching (Zhang et al., arXiv 2203.07740), guided filter (He et al. 2013, doi 10.1109/TPAMI.2012.213).
    """
    surroundings = "cpu" if latents.is_meta else latents.device.type  # autocast knows no meta tensors
    with torch.autocast(surroundings, enabled=False), torch.no_grad():
        one = painting[:1] if not painting.stride(0) else painting  # of frames that share it what is asked of it is computed once
        turns = bases(latents.shape[1]).to(latents.device)
        wanted = [_Spread.of(turn @ one.float()) for turn in turns]
        flat, axes = latents.float().flatten(2), turns[0]
        moved = axes @ flat
        for turn, spread in zip(turns, wanted, strict=True):
            moved = spread.take(turn @ axes.T @ moved, frames)
            axes = turn
        change = (axes.T @ moved - flat).view_as(latents)
        faint = FAINT * one.float().var(2)[..., None, None]
        share = GRAIN * (torch.ones_like(strength) if loose is None else loose).float()
        change = torch.lerp(_guided(change, latents.float(), faint), change, share[:, None, None, None]) * strength.float()[:, None, None, None]
    return latents + change.to(latents.dtype)


@cache
def bases(channels: int) -> Tensor:
    """Orthogonal matrices (`BASES`, channels, channels), always the same; the first is the identity.

    They are found in float64, so that machines agree on them but for signs of axes, which change nothing.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(BASES - 1, channels, channels, dtype=torch.float64, generator=generator)
    return torch.cat([torch.eye(channels)[None], torch.linalg.qr(drawn).Q.float()])


@dataclass(frozen=True)
class _Spread:
    """How values are spread along each axis: the lowest level's value and the step between levels (batch, axes, 1), and how much lies
    below each level (batch, axes, `LEVELS`)."""

    low: Tensor
    step: Tensor
    below: Tensor

    @classmethod
    def of(cls, values: Tensor) -> _Spread:
        """That of `values` (batch, axes, places), the levels around their own mean."""
        spread, mean = torch.std_mean(values, dim=2, keepdim=True)
        spread = spread.clamp_min(1e-6)
        low, step = mean - SPAN * spread, 2 * SPAN / (LEVELS - 1) * spread
        below = _below(((values - low) / step).clamp_(0, LEVELS - 1))
        return cls(low, step, below + torch.arange(LEVELS, device=values.device) * 1e-7)  # rises even where nothing is

    def take(self, values: Tensor, frames: int) -> Tensor:
        """`values` (batch, axes, places) moved along each axis by itself until every `frames` rows are spread like this."""
        at = ((values - self.low) / self.step).clamp_(0, LEVELS - 1)
        ours, theirs = _below(at).unflatten(0, (-1, frames)), self.below.expand(len(at), -1, -1)
        ours = ours.mean(1, keepdim=True).expand_as(ours).flatten(0, 1).contiguous()
        above = torch.searchsorted(theirs.contiguous(), ours).clamp_(1, LEVELS - 1)
        low, high = theirs.gather(2, above - 1), theirs.gather(2, above)
        curve = above - 1 + ((ours - low) / (high - low)).clamp_(0, 1)
        level = at.floor().clamp_(max=LEVELS - 2).long()
        first, second = curve.gather(2, level), curve.gather(2, level + 1)
        return torch.addcmul(values, first.lerp_(second, at - level).sub_(at), self.step)


def _below(at: Tensor) -> Tensor:
    """How large a share (batch, axes, `LEVELS`) of places that lie `at` fractions of levels is below each level, blurred."""
    counts = torch.zeros(*at.shape[:2], LEVELS, device=at.device)
    counts.scatter_add_(2, at.round().long(), torch.full_like(at, 1 / at.shape[2]))
    return counts @ _blurred_sums().to(at.device)


@cache
def _blurred_sums() -> Tensor:
    """The matrix (`LEVELS`, `LEVELS`) that blurs shares, mirrored at both ends, and sums them up to the middle of each level."""
    levels, wide = torch.arange(LEVELS), torch.arange(-LEVELS, 2 * LEVELS)
    bell = torch.exp(-0.5 * ((wide[None] - levels[:, None]) / SMOOTHING).square())
    before, inside, after = (bell / bell.sum(1, keepdim=True)).split(LEVELS, dim=1)
    blur = inside + before.flip(1) + after.flip(1)
    return blur @ (torch.ones(LEVELS, LEVELS).triu(1) + 0.5 * torch.eye(LEVELS))


def _guided(change: Tensor, guide: Tensor, faint: Tensor) -> Tensor:
    """`change` (batch, channels, height, width) as a local linear function of `guide`, flatter where that varies by less than `faint`."""
    mean, average = _box(guide), _box(change)
    slope = (_box(guide * change) - mean * average) / ((_box(guide.square()) - mean.square()).clamp_min(0) + faint + 1e-12)
    return _box(slope) * guide + _box(average - slope * mean)


def _box(values: Tensor) -> Tensor:
    """Means over squares of 2 `REACH` + 1 places, or of what there is."""
    reach = min(REACH, *(side - 1 for side in values.shape[-2:]))
    return functional.avg_pool2d(functional.pad(values, (reach,) * 4, mode="reflect"), 2 * reach + 1, 1)

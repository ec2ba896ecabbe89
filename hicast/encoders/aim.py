"""How the neighbourhoods of a painting's latents are distributed along many axes: what predicted latents are matched to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from hicast.encoders.over_time import over_time
from hicast.encoders.texture import Texture
from hicast.encoders.tones import Tones

COARSE, FINE = 2, 1
SCALES = (*[COARSE] * 4, *[FINE] * 3) * 2
"""The sets of axes, gone through one after the other: those of latents of which so many places to each side are one, or of the latents themselves."""

SIDE = 3
"""Side of a neighbourhood in places."""

PLACES = 640
"""Neighbourhoods of a painting that are looked at on each scale, at most."""

AXES, PART = 48, 3
"""How many axes a set has at most; and into how many parts of all that there are that goes at most."""

CLEAR = 1e-3
"""Share of the squared length of an axis that must not follow from those before it to count in full."""

LEVELS = 64
"""Levels that values along an axis are told apart by."""

SPAN = 4.0
"""Where those levels lie: this many standard deviations of the painting's to either side of their mean. Values beyond count as at the ends."""

ENOUGH = 1024
"""Places of a picture that tell how its values are spread; of much larger pictures every second or third row and column is looked at."""

SMOOTHING = 0.75
"""Standard deviation, in levels, by which shares are blurred."""


@dataclass(frozen=True)
class Aim:
    """Of every set (batch, count, values) in `axes`, one for each of `SCALES`, how a painting's neighbourhoods are spread along it; the `variance`
    (batch, channels) of its latents; its `texture`; and its `tones`."""

    axes: tuple[Tensor, ...]
    spreads: tuple[Spread, ...]
    variance: Tensor
    texture: Texture
    tones: Tones

    @classmethod
    def of(cls, blocks: Tensor, figures: Tensor, colors: Tensor) -> Aim:
        """That of `blocks` (batch, count, channels, side, side) of a painting's latents, which show so much of `figures` (batch, count, side, side) and
        add such `colors` (batch, 3, channels) to their places."""
        blocks = blocks.float()
        sets = {scale: _sets(blocks, scale) for scale in set(SCALES)}
        axes, spreads = zip(*(next(sets[scale]) for scale in SCALES), strict=True)
        places = blocks.transpose(1, 2).flatten(2)
        variance = places.var(2)
        return cls(axes, spreads, variance, Texture.of(blocks, variance, figures), Tones.of(places, colors))


def _sets(blocks: Tensor, scale: int) -> Iterator[tuple[Tensor, Spread]]:
    """The sets of axes on one scale and how neighbourhoods are spread along them."""
    count = SCALES.count(scale)
    flat = blocks.flatten(0, 1)
    patches = neighbourhoods(flat if scale == 1 else functional.avg_pool2d(flat, scale), len(blocks))
    axes = axes_of(patches, count)
    return zip(axes.unbind(1), Spread.of(axes.flatten(1, 2) @ patches).parts(count), strict=True)


def neighbourhoods(blocks: Tensor, batch: int) -> Tensor:
    """Neighbourhoods (batch, channels * `SIDE` ** 2, places) inside `blocks` (batch * count, channels, height, width), spread evenly, at most `PLACES`."""
    every = blocks.unfold(2, SIDE, 1).unfold(3, SIDE, 1).unflatten(0, (batch, -1)).transpose(2, 4)  # batch, count, columns, rows, channels and two sides
    count, columns, rows = every.shape[1:4]
    total = count * rows * columns
    drawn = torch.arange(min(PLACES, total), device=blocks.device) * total // min(PLACES, total)
    block, row, column = drawn // (rows * columns), drawn // columns % rows, drawn % columns
    return every[:, block, column, row].flatten(2).mT.contiguous()


def axes_of(painting: Tensor, passes: int) -> Tensor:
    """Axes (batch, `passes`, count, values) of neighbourhoods `painting` (batch, values, places): some of them less their mean, each made orthogonal
    to those before it in its pass; shorter than 1 where hardly anything is left, so that a flat painting has none."""
    device = torch.device("cpu") if painting.device.type == "mps" else painting.device  # Apple's GPUs lack the factorization
    values = painting.to(device)
    drawn = _drawn(values.shape[2], passes, min(AXES, max(values.shape[1] // PART, 1))).to(device)
    chosen = (values - values.mean(2, keepdim=True))[..., drawn].permute(0, 2, 3, 1)
    chosen = chosen / chosen.norm(dim=3, keepdim=True).clamp_min(1e-6)
    likeness = chosen @ chosen.mT + CLEAR * torch.eye(chosen.shape[2], device=device)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(likeness), chosen, upper=False).contiguous().to(painting.device)


@cache
def _drawn(places: int, passes: int, count: int) -> Tensor:
    """Indices (`passes`, `count`) of places whose neighbourhoods become axes, always the same, no place twice in a pass while there are enough."""
    generator = torch.Generator().manual_seed(0)
    order = [torch.randperm(places, generator=generator) for _ in range(passes)]
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
        below = _below(((values - low) / step).clamp_(0, LEVELS - 1).round_().long())
        return cls(low, step, below + torch.arange(LEVELS, device=values.device) * 1e-7)  # rises even where nothing is

    def parts(self, count: int) -> tuple[Spread, ...]:
        """That of as many equal parts of the axes, in order."""
        return tuple(Spread(*part) for part in zip(*(values.chunk(count, dim=1) for values in (self.low, self.step, self.below)), strict=True))

    def change(self, values: Tensor, frames: int) -> Tensor:
        """How far `values` (batch, height, width, axes) have to go along each axis until they are spread like this, in their dtype; every `frames` rows
        are a clip, in which it follows how values are spread at its beginning and at its end."""
        batch, *sides, axes = values.shape
        level = values.to(torch.float32, copy=True).reshape(batch, -1, axes).mul_(1 / self.step.mT).sub_((self.low / self.step).mT).clamp_(0, LEVELS - 1)
        every = max(round((level.shape[1] / ENOUGH) ** 0.5), 1)
        some = level.view(values.shape)[:, ::every, ::every].flatten(1, 2).mT.round().long()
        ours, theirs = over_time(_below(some).unflatten(0, (-1, frames))).flatten(0, 1).contiguous(), self.below.expand(batch, -1, -1)
        above = torch.searchsorted(theirs.contiguous(), ours).clamp_(1, LEVELS - 1)
        low, high = theirs.gather(2, above - 1), theirs.gather(2, above)
        curve = self.step * (above - 1 + ((ours - low) / (high - low)).clamp_(0, 1) - torch.arange(LEVELS, device=values.device))
        slope = functional.pad(curve.diff(dim=2), (0, 1))
        at = level.int()
        past = level.sub_(at).reshape(-1)
        at = at.add_(LEVELS * torch.arange(batch * axes, dtype=torch.int, device=values.device).view(batch, 1, axes)).reshape(-1)
        return curve.view(-1).index_select(0, at).addcmul_(past, slope.view(-1).index_select(0, at)).to(values.dtype).view(values.shape)


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

"""What a painting's latents are like: their mean and covariance over all places, and blocks of them, with what these show of figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from hicast.encoders.aim import Aim
from hicast.encoders.autoencoder import LatentCodec
from hicast.encoders.over_time import over_time
from hicast.io.images import resize_image, working_size

BLOCK = 8
"""Side of a block in places."""

ROWS = 9
"""Rows and columns of blocks that are kept of a painting, spread evenly over it, so that they overlap."""

KEPT_BLOCKS = ROWS**2


@dataclass(frozen=True)
class LatentMoments:
    """Mean (batch, channels), covariance (batch, channels, channels) and `blocks` (batch, `KEPT_BLOCKS`, channels * `BLOCK` ** 2) of latents, float32;
    how much of a figure there is at each place of these `figures` (batch, `KEPT_BLOCKS`, `BLOCK` ** 2), as `figures.figures_in` tells; and what each
    channel adds to the `colors` of its place (batch, 3, channels), as `LatentCodec.colors`."""

    mean: Tensor
    covariance: Tensor
    blocks: Tensor
    figures: Tensor
    colors: Tensor

    @classmethod
    def of(cls, latents: Tensor, figures: Tensor | None = None, colors: Tensor | None = None) -> LatentMoments:
        """Moments of `latents` (batch, channels, height, width) over their places; of fewer than a block's the last are repeated.

        `figures` (batch, rows, columns) are those of the picture, at whatever resolution; None stands for a picture without any. `colors` (3, channels)
        are zeros where nobody knows them, and then not matched.
        """
        figures = latents.new_zeros(len(latents), 1, 1) if figures is None else figures
        shown = functional.interpolate(figures[:, None].float(), latents.shape[-2:], mode="bilinear")
        colors = latents.new_zeros(3, latents.shape[1]) if colors is None else colors
        return cls(*mean_and_covariance(latents), _blocks(latents), _blocks(shown), colors.float().expand(len(latents), -1, -1))

    def aim(self) -> Aim:
        """What latents are matched to; of a batch that was expanded from one painting that one's."""
        blocks = self.blocks if self.blocks.stride(0) else self.blocks[:1]
        count = len(blocks)
        return Aim.of(blocks.unflatten(2, (-1, BLOCK, BLOCK)), self.figures[:count].unflatten(2, (BLOCK, BLOCK)), self.colors[:count])

    def expand(self, batch: int) -> LatentMoments:
        """The same for a `batch`; these are of that batch or of 1."""
        values = (getattr(self, field.name) for field in fields(self))
        return LatentMoments(*(value.expand(batch, *value.shape[1:]) for value in values))


def mix_moments(moments: Sequence[LatentMoments], shares: Sequence[float]) -> LatentMoments:
    """Moments of a mixture that has `shares` (sum 1) of latents with these `moments`; each gives as large a share of the blocks."""
    mean = torch.stack([share * one.mean for one, share in zip(moments, shares, strict=True)]).sum(0)
    spread = torch.zeros_like(moments[0].covariance)
    for one, share in zip(moments, shares, strict=True):
        away = one.mean - mean
        spread = spread + share * (one.covariance + away[:, :, None] * away[:, None, :])
    bounds = [round(KEPT_BLOCKS * sum(shares[:count])) for count in range(len(shares) + 1)]
    taken = [_spread(KEPT_BLOCKS, stop - start) for start, stop in pairwise(bounds)]
    blocks, figures = (
        torch.cat([getattr(one, name)[:, some] for one, some in zip(moments, taken, strict=True)], dim=1) for name in ("blocks", "figures")
    )
    return LatentMoments(mean, spread, blocks, figures, moments[0].colors)


def stack_moments(parts: Sequence[LatentMoments]) -> LatentMoments:
    """One batch of several, in order."""
    return LatentMoments(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(LatentMoments)))


def painting_moments(codec: LatentCodec, painting: Tensor, side: int, figures: Tensor | None = None) -> LatentMoments:
    """Moments of a `painting` (1, 3, height, width) in [-1, 1] that shows these `figures` (1, rows, columns), encoded by `codec` with its short side at
    `side` pixels or next to it."""
    size = encoded_size(tuple(painting.shape[-2:]), side, codec.factor)
    latents = codec.encode(resize_image(painting, size).to(memory_format=torch.channels_last))
    return LatentMoments.of(latents, figures, codec.colors(latents.device))


def encoded_size(size: tuple[int, int], side: int, factor: int) -> tuple[int, int]:
    """The (height, width) nearest to a painting's `size` with its short side at `side` pixels that an autoencoder of this `factor` takes whole."""
    height, width = (max(round(length / factor), 1) * factor for length in working_size(size, side, 1))
    return height, width


def mean_and_covariance(latents: Tensor, frames: int = 1) -> tuple[Tensor, Tensor]:
    """Mean (batch, channels) and covariance (batch, channels, channels) of `latents` (batch, channels, height, width) over their places; every
    `frames` rows are the frames of a clip, whose moments go from those at its beginning to those at its end."""
    flat = latents.float().flatten(2)
    mean = flat.mean(2)
    centered = flat - mean[..., None]
    covariance = centered @ centered.transpose(1, 2) / flat.shape[2]
    if frames == 1:
        return mean, covariance
    squares = covariance + mean[:, :, None] * mean[:, None]
    mean, squares = (over_time(values.unflatten(0, (-1, frames))).flatten(0, 1) for values in (mean, squares))
    return mean, squares - mean[:, :, None] * mean[:, None]


def _blocks(values: Tensor) -> Tensor:
    """Blocks (batch, `KEPT_BLOCKS`, channels * `BLOCK` ** 2) of `values` (batch, channels, height, width), float32."""
    whole = functional.pad(values.float(), (0, max(BLOCK - values.shape[3], 0), 0, max(BLOCK - values.shape[2], 0)), mode="replicate")
    rows, columns = (torch.linspace(0, side - BLOCK, ROWS).round().long() for side in whole.shape[-2:])
    cuts = whole.unfold(2, BLOCK, 1).unfold(3, BLOCK, 1)[:, :, rows][:, :, :, columns]
    return cuts.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def _spread(places: int, count: int) -> Tensor:
    """`count` indices that are spread evenly over so many `places`; where those are fewer some come again."""
    return torch.arange(count) * places // max(count, 1)

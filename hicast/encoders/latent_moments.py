"""What a painting's latents are like: their mean and covariance over all places, and their neighbourhoods at some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from hicast.encoders.aim import Aim
from hicast.encoders.autoencoder import LatentCodec
from hicast.io.images import resize_image, working_size

PLACES = 1024
"""Places of a painting whose neighbourhoods are kept, spread evenly over it."""

SIDE = 3
"""Side of a neighbourhood in places."""


@dataclass(frozen=True)
class LatentMoments:
    """Mean (batch, channels), covariance (batch, channels, channels) and neighbourhoods `patches` (batch, channels * `SIDE` ** 2, `PLACES`) of
    latents, float32."""

    mean: Tensor
    covariance: Tensor
    patches: Tensor

    @classmethod
    def of(cls, latents: Tensor) -> LatentMoments:
        """Moments of `latents` (batch, channels, height, width) over their places."""
        flat = latents.float().flatten(2)
        mean = flat.mean(2, keepdim=True)
        centered = flat - mean
        patches = functional.unfold(pad_latents(latents.float()), SIDE)[..., _spread(flat.shape[2], PLACES)]
        return cls(mean[..., 0], centered @ centered.transpose(1, 2) / flat.shape[2], patches)

    def together(self, frames: int) -> LatentMoments:
        """The same batch, every `frames` rows of it, the frames of a clip, with the moments that all of those have together; each keeps its neighbourhoods."""
        means, covariances = self.mean.unflatten(0, (-1, frames)), self.covariance.unflatten(0, (-1, frames))
        mean = means.mean(1, keepdim=True)
        away = means - mean
        covariance = covariances.mean(1, keepdim=True) + (away[..., :, None] * away[..., None, :]).mean(1, keepdim=True)
        return LatentMoments(mean.expand_as(means).flatten(0, 1), covariance.expand_as(covariances).flatten(0, 1), self.patches)

    def aim(self) -> Aim:
        """What latents are matched to; of a batch that was expanded from one painting that one's."""
        patches = self.patches if self.patches.stride(0) else self.patches[:1]
        return Aim.of(patches, self.mean.shape[1])

    def expand(self, batch: int) -> LatentMoments:
        """The same for a `batch`; these are of that batch or of 1."""
        return LatentMoments(self.mean.expand(batch, -1), self.covariance.expand(batch, -1, -1), self.patches.expand(batch, -1, -1))


def mix_moments(moments: Sequence[LatentMoments], shares: Sequence[float]) -> LatentMoments:
    """Moments of a mixture that has `shares` (sum 1) of latents with these `moments`; each gives as large a share of the neighbourhoods."""
    mean = torch.stack([share * one.mean for one, share in zip(moments, shares, strict=True)]).sum(0)
    spread = torch.zeros_like(moments[0].covariance)
    for one, share in zip(moments, shares, strict=True):
        away = one.mean - mean
        spread = spread + share * (one.covariance + away[:, :, None] * away[:, None, :])
    bounds = [round(PLACES * sum(shares[:count])) for count in range(len(shares) + 1)]
    patches = [one.patches[..., _spread(PLACES, stop - start)] for one, start, stop in zip(moments, bounds[:-1], bounds[1:], strict=True)]
    return LatentMoments(mean, spread, torch.cat(patches, dim=2))


def stack_moments(parts: Sequence[LatentMoments]) -> LatentMoments:
    """One batch of several, in order."""
    return LatentMoments(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(LatentMoments)))


def painting_moments(codec: LatentCodec, painting: Tensor, side: int) -> LatentMoments:
    """Moments of a `painting` (1, 3, height, width) in [-1, 1], encoded by `codec` with its short side at `side` pixels or next to it."""
    size = tuple(max(round(length / codec.factor), 1) * codec.factor for length in working_size(tuple(painting.shape[-2:]), side, 1))
    return LatentMoments.of(codec.encode(resize_image(painting, size).to(memory_format=torch.channels_last)))


def pad_latents(latents: Tensor) -> Tensor:
    """`latents` (batch, channels, height, width) with their borders repeated, so that every place has a neighbourhood."""
    return functional.pad(latents, (SIDE // 2,) * 4, mode="replicate")


def _spread(places: int, count: int) -> Tensor:
    """`count` indices that are spread evenly over so many `places`; where those are fewer some come again."""
    return torch.arange(count) * places // max(count, 1)

"""What a painting's latents have in common: their mean and covariance over all places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hicast.encoders.autoencoder import LatentCodec
from hicast.io.images import resize_image, working_size


@dataclass(frozen=True)
class LatentMoments:
    """Mean (batch, channels) and covariance (batch, channels, channels) of latents, float32."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, latents: Tensor) -> LatentMoments:
        """Moments of `latents` (batch, channels, height, width) over their places."""
        flat = latents.float().flatten(2)
        mean = flat.mean(2, keepdim=True)
        centered = flat - mean
        return cls(mean[..., 0], centered @ centered.transpose(1, 2) / flat.shape[2])

    def expand(self, batch: int) -> LatentMoments:
        """The same for a `batch`; these are of that batch or of 1."""
        return LatentMoments(self.mean.expand(batch, -1), self.covariance.expand(batch, -1, -1))


def mix_moments(moments: Sequence[LatentMoments], shares: Sequence[float]) -> LatentMoments:
    """Moments of a mixture that has `shares` (sum 1) of latents with these `moments`."""
    mean = torch.stack([share * one.mean for one, share in zip(moments, shares, strict=True)]).sum(0)
    spread = torch.zeros_like(moments[0].covariance)
    for one, share in zip(moments, shares, strict=True):
        away = one.mean - mean
        spread = spread + share * (one.covariance + away[:, :, None] * away[:, None, :])
    return LatentMoments(mean, spread)


def painting_moments(codec: LatentCodec, painting: Tensor, side: int) -> LatentMoments:
    """Moments of a `painting` (1, 3, height, width) in [-1, 1], encoded by `codec` with its short side at `side` pixels or next to it."""
    size = tuple(max(round(length / codec.factor), 1) * codec.factor for length in working_size(tuple(painting.shape[-2:]), side, 1))
    return LatentMoments.of(codec.encode(resize_image(painting, size).to(memory_format=torch.channels_last)))

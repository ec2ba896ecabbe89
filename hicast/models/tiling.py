"""The denoising net on large latents: in overlapping tiles, with everything that lies beside them cut alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, cat
from torch.nn.functional import interpolate

from hicast.encoders.autoencoder import tiled
from hicast.models.conditions import Conditions
from hicast.models.hicast_model import HiCastModel

NET_OVERLAP = 64
"""Latent pixels that tiles share at most."""


def predict_in_tiles(model: HiCastModel, latents: Tensor, timestep: Tensor, conditions: Conditions, tile: int) -> Tensor:
    """The net on `latents`, in overlapping tiles where a side is longer than `tile` latent pixels."""
    if max(latents.shape[-2:]) <= tile:
        return model(latents, timestep, conditions)
    joined = cat([latents, conditions.content], dim=1)
    levels = conditions.residuals or ()
    widened = [_enlarged(level, latents.shape) for level in levels]
    joined = cat([joined, *widened], dim=1)
    channels = [latents.shape[1], conditions.content.shape[1], *(level.shape[1] for level in levels)]

    def one(part: Tensor) -> Tensor:
        noisy, content, *maps = part.split(channels, dim=1)
        shrunk = tuple(level[..., :: 2**i, :: 2**i] for i, level in enumerate(maps)) or None
        return model.predict(noisy, timestep, replace(conditions, content=content, residuals=shrunk))

    tile = max(tile // 4 * 4, 16)
    return model.color(tiled(one, joined, tile, min(NET_OVERLAP, tile // 8 * 4), 4, 1, align=4), conditions)


def _enlarged(level: Tensor, shape: Sequence[int]) -> Tensor:
    return interpolate(level.expand(shape[0], -1, -1, -1), size=shape[-2:], mode="nearest")

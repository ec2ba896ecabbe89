"""Distance between colour distributions, one direction of colour space at a time."""

from __future__ import annotations

import torch
from torch import Tensor

_DIRECTIONS = (
    (1.0, 0.0, 0.0),
    (0.0, 1.0, 0.0),
    (0.0, 0.0, 1.0),
    (0.299, 0.587, 0.114),
    (0.7071, -0.7071, 0.0),
    (-0.4082, -0.4082, 0.8165),
)
"""Red, green, blue, luminance, red against green, blue against yellow."""


OUR_PIXELS = 4096
"""Pixels of a result that are sorted in training."""


def odd_stride(positions: int, most: int) -> int:
    """The stride in which at most `most` of `positions` in raster order are taken: odd, so that every column of a picture has its turn."""
    stride = -(-positions // most)
    return stride + (stride > 1 and stride % 2 == 0)


def color_quantiles(image: Tensor, count: int = 64, max_pixels: int = 16384) -> Tensor:
    """Quantiles (batch, 6, count) of `image` (batch, 3, height, width) in [-1, 1] along six directions of colour.

    At most `max_pixels` pixels in strides of `odd_stride` are sorted. Differentiable, since sorting only permutes.
    """
    flat = image.float().flatten(2)
    flat = flat[..., :: odd_stride(flat.shape[2], max_pixels)]
    directions = flat.new_tensor(_DIRECTIONS)
    ordered = (directions @ flat).sort(dim=2).values
    position = (torch.arange(count, device=flat.device) + 0.5) / count * ordered.shape[2]
    return ordered[..., position.long()]


def color_distance(ours: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of `color_quantiles` per sample (batch,): squared Wasserstein distance along the directions.

    Source of the idea: sliced Wasserstein distance between textures (Bonneel et al. 2015, doi 10.1007/s10851-014-0506-3).
    """
    return (ours - target).square().mean((1, 2))

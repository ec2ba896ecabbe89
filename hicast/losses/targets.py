"""Distances to a picture that another method made of the same photo: where things are alike, and how rough they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hicast.losses.perceptual import Features


def target_distance(ours: Features, target: Features, weights: Mapping[str, float]) -> Tensor:
    """Weighted sum over layers of the L1 distance relative to the target's mean activation, per sample (batch,).

    Features are compared position by position. What differs from place to place without rule is averaged away, so
    `texture_distance` belongs to it.
    """
    terms = [
        weight * (ours[name].float() - target[name].float()).abs().mean((1, 2, 3)) / _size(target[name])
        for name, weight in weights.items()
    ]
    return torch.stack(terms).sum(0)


def texture_distance(ours: Features, target: Features, weights: Mapping[str, float], cells: int = 4) -> Tensor:
    """Weighted sum over layers of the relative L1 distance of standard deviations in windows, per sample (batch,).

    Windows of 1 / `cells` of a side overlap by half. So strokes count by their strength and direction, and need not lie
    where the target has them.
    """
    terms = []
    for name, weight in weights.items():
        wanted = local_deviation(target[name], cells)
        distance = (local_deviation(ours[name], cells) - wanted).abs().mean((1, 2, 3))
        terms.append(weight * distance / wanted.mean((1, 2, 3)).clamp_min(1e-6))
    return torch.stack(terms).sum(0)


def local_deviation(features: Tensor, cells: int) -> Tensor:
    """Standard deviation (batch, channels, rows, columns) of `features` in windows, `cells` of which span a side."""
    features = features.float()
    window = max(2, min(features.shape[-2:]) // cells)
    mean = F.avg_pool2d(features, window, window // 2)
    square = F.avg_pool2d(features.square(), window, window // 2)
    floor = 1e-4 * square.detach().mean((1, 2, 3), keepdim=True) + 1e-8
    return ((square - mean.square()).clamp_min(0) + floor).sqrt()


def _size(features: Tensor) -> Tensor:
    return features.float().abs().mean((1, 2, 3)).clamp_min(1e-6)

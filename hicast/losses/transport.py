"""Relaxed earth mover's distance between the neighbourhoods of two pictures' features: strokes found where they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hicast.losses.perceptual import Features


def transport_distance(ours: Features, target: Features, weights: Mapping[str, float]) -> Tensor:
    """Weighted sum over layers of the relaxed earth mover's distance of neighbourhoods, per sample (batch,), each 0 to 1.

    Neighbourhoods of 3x3 positions are compared by their cosine distance. Each of ours goes to its nearest of the target's,
    and each of the target's to its nearest of ours: the first keeps out what the target does not have, the second asks for
    all that it has. Source: relaxed earth mover's distance for style transfer (arXiv 1904.12785); differs from it in
    that both directions are averaged and not the larger taken, so that each has a gradient.
    """
    terms = []
    for name, weight in weights.items():
        likeness = neighbourhood_likeness(ours[name], target[name])
        there, back = likeness.amax(2).mean(1), likeness.amax(1).mean(1)
        terms.append(weight * (1 - (there + back) / 2))
    return torch.stack(terms).sum(0)


def neighbourhood_likeness(ours: Tensor, target: Tensor) -> Tensor:
    """Cosines (batch, positions, positions of the target) of the neighbourhoods of two layers' features."""
    (left, lengths), (right, others) = neighbourhoods(ours), neighbourhoods(target)
    return left @ right.transpose(1, 2) / (lengths * others.transpose(1, 2))


def neighbourhoods(features: Tensor, most: int = 16) -> tuple[Tensor, Tensor]:
    """About `most` squared positions of features (batch, channels, h, w) as (batch, positions, channels * 9), and their lengths (batch, positions, 1).

    Lengths come from sums of squares per position, which is a fraction of the work that dividing every neighbourhood takes.
    """
    features = features.float()
    stride = max(min(features.shape[-2:]) // most, 1)
    squares = F.avg_pool2d(features.square().sum(1, keepdim=True), 3, stride) * 9
    return F.unfold(features, 3, stride=stride).transpose(1, 2), squares.clamp_min(1e-12).sqrt().flatten(2).transpose(1, 2)


def contextual_distance(ours: Features, target: Features, weights: Mapping[str, float], bandwidth: float = 0.2) -> Tensor:
    """Weighted sum over layers of how few of the target's neighbourhoods ours are like, per sample (batch,), each at least 0.

    Every neighbourhood of ours shares one whole among those of the target, by how much nearer one is than the nearest; the
    share that each of the target's gets at most is averaged, and the logarithm taken. So one neighbourhood of ours serves
    one of the target's, and variety counts, which nearest neighbours alone do not ask for. Source: contextual loss (arXiv 1803.02077), of 3x3
    neighbourhoods and without centring the features; `bandwidth` is its h.
    """
    terms = []
    for name, weight in weights.items():
        distance = (1 - neighbourhood_likeness(ours[name], target[name])).clamp_min(0)
        relative = distance / (distance.amin(2, keepdim=True) + 1e-5)
        share = ((1 - relative) / bandwidth).softmax(2)
        terms.append(-weight * share.amax(1).mean(1).log())
    return torch.stack(terms).sum(0)

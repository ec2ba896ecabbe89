"""Flicker, as a loss: what differs between a frame and an earlier one that is moved onto it, in units of the frames' own detail."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

DOUBT = 50.0
"""How fast trust falls with the squared difference, values 0 to 1, that the source itself shows at a pixel."""

LEAST_DETAIL = 1e-4
"""Least squared gradient of a clip that is divided by, values 0 to 1."""

Pairs = Sequence[tuple[int, int]]


def warping_distance(decoded: Tensor, source: Tensor, pairs: Pairs, places: Tensor, seen: Tensor) -> Tensor:
    """Squared warping error of the clips `decoded` over their squared gradient, per clip (batch,).

    `decoded` and `source` (batch, frames, 3, height, width) in [-1, 1]; `pairs` are numbers of an earlier and a later frame,
    `places` (batch, pairs, height, width, 2) where in the earlier one the later one's pixels were (as `grid_sample` takes
    it), `seen` (batch, pairs, height, width) whether they were to be seen. Pixels count the less the more the source itself
    differs there, for then the places are wrong or the light has changed (arXiv 1808.00449). Over the clip's own gradient,
    as it is measured afterwards, blur and muted colours gain nothing.
    """
    with torch.no_grad():
        trust = seen * torch.exp(-DOUBT * _difference(source, pairs, places))
    error = (_difference(decoded, pairs, places) * trust).sum((1, 2, 3)) / trust.sum((1, 2, 3)).clamp_min(1.0)
    return error / squared_gradient(decoded).clamp_min(LEAST_DETAIL)


def squared_gradient(clips: Tensor) -> Tensor:
    """Mean squared length of the difference of neighbouring pixels, values 0 to 1, of clips in [-1, 1], per clip (batch,)."""
    values = clips.float() / 2
    down, across = values.diff(dim=3)[..., :-1], values.diff(dim=4)[..., :-1, :]
    return (down.square() + across.square()).flatten(1).mean(1)


def carried(frames: Tensor, places: Tensor) -> Tensor:
    """Earlier `frames` (n, 3, height, width) moved to where later ones have their pixels, by `places` (n, height, width, 2)."""
    return functional.grid_sample(frames.float(), places.float(), mode="bilinear", padding_mode="border", align_corners=False)


def _difference(clips: Tensor, pairs: Pairs, places: Tensor) -> Tensor:
    """Squared difference, values 0 to 1 and a mean over colours, of later frames and earlier ones moved onto them.

    (batch, pairs, height, width).
    """
    earlier, later = ([pair[side] for pair in pairs] for side in (0, 1))
    moved = carried(clips[:, earlier].flatten(0, 1), places.flatten(0, 1)).unflatten(0, places.shape[:2])
    return ((moved - clips[:, later].float()) / 2).square().mean(2)

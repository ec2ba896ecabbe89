"""Where a film cuts from one scene to another, found between two frames alone, so that it is found again wherever work begins."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 4
"""Levels of each colour in the histogram: 64 bins."""

LEAST_COLOR, LEAST_CHANGE = 0.25, 0.1
"""A cut changes at least these shares: of the pixels the bin, and of the range the value at a place."""

_THUMB = (18, 32)


def is_cut(before: Tensor, after: Tensor) -> bool:
    """Whether `after` begins another scene than `before`, frames (1, 3, height, width) in [-1, 1] that follow each other.

    Both the colour histogram and a small picture must change: a pan keeps the first, a light that goes on in a corner most of the
    second. A flash counts as a cut; a slow dissolve does not, nor a cut between two shots of the same place in the same light.
    """
    one, other = _thumb(before), _thumb(after)
    if (one - other).abs().mean() / 2 < LEAST_CHANGE:
        return False
    return bool((_histogram(before) - _histogram(after)).abs().sum() / 2 >= LEAST_COLOR)


def _thumb(frame: Tensor) -> Tensor:
    return functional.interpolate(frame.float(), size=_THUMB, mode="area")


def _histogram(frame: Tensor) -> Tensor:
    """Shares (64,) of pixels by the levels of their three colours."""
    levels = ((frame[0].float() + 1) / 2 * LEVELS).long().clamp(0, LEVELS - 1)
    bins = (levels[0] * LEVELS + levels[1]) * LEVELS + levels[2]
    return torch.bincount(bins.flatten(), minlength=LEVELS**3).float() / bins.numel()

"""Toning: the levels of a result's colour channels move towards those of the painting, by one rising curve for each channel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 256
"""Levels of a channel that are told apart, from -1 to 1."""

SMOOTHING = 4.0
"""Standard deviation, in levels, by which shares are blurred: curves stay smooth where a few levels hold most of a picture."""

FINENESS = 16
"""Steps of a curve between two levels."""


def tone_shares(picture: Tensor, weights: Tensor | None = None) -> Tensor:
    """Share (batch, 3, `LEVELS`) that each level has of each channel of `picture` (batch, 3, height, width) in [-1, 1], blurred, of sum 1.

    With `weights` (batch, 1, height, width) of 0 or more places count by them; where all are 0 the shares are 0 as well.
    """
    levels = _levels(picture).round_().long().flatten(2)
    counted = levels.new_ones((), dtype=torch.float32) if weights is None else weights.float().flatten(2)
    counts = torch.zeros(*levels.shape[:2], LEVELS, device=picture.device)
    counts.scatter_add_(2, levels, counted.expand_as(levels).contiguous())
    reach = round(4 * SMOOTHING)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=picture.device) / SMOOTHING).square())
    rows = functional.pad(counts, (reach, reach), mode="reflect").flatten(0, 1)[:, None]
    blurred = functional.conv1d(rows, bell[None, None]).view_as(counts)
    return blurred / blurred.sum(2, keepdim=True).clamp_min(1e-12)


def toned(picture: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    """`picture` (batch, 3, height, width) in [-1, 1] with the tones of a painting: each level goes to that below which as much of the painting lies.

    `own` are the shares of the picture, or of pictures like it, and `wanted` those of the painting, both (batch or 1, 3, `LEVELS`) from
    `tone_shares`. Equal pixels stay equal, and none overtakes another in its channel. Source: histogram specification (Gonzalez and
    Fittes, doi 10.1016/0094-114X(77)90062-3).
    """
    curves = _matching(own, wanted.expand_as(own)) * (2 / (LEVELS - 1)) - 1
    fine = functional.interpolate(curves, size=(LEVELS - 1) * FINENESS + 1, mode="linear", align_corners=True)
    at = _levels(picture).mul_(FINENESS).round_().long().flatten(2)
    return fine.expand(len(picture), -1, -1).gather(2, at).view_as(picture)


def _matching(own: Tensor, wanted: Tensor) -> Tensor:
    """The level (batch, 3, `LEVELS`) of shares `wanted` with as much below it as each level of shares `own` has."""
    ours, theirs = (shares.cumsum(2) - shares / 2 for shares in (own, wanted))
    theirs = theirs + torch.arange(LEVELS, device=own.device) * 1e-7  # rises even where no pixel is
    above = torch.searchsorted(theirs, ours.contiguous()).clamp(1, LEVELS - 1)
    low, high = theirs.gather(2, above - 1), theirs.gather(2, above)
    return above - 1 + ((ours - low) / (high - low)).clamp(0, 1)


def _levels(picture: Tensor) -> Tensor:
    """Values as fractions of `LEVELS` - 1 levels, in range."""
    return ((picture.float() + 1) * ((LEVELS - 1) / 2)).clamp(0, LEVELS - 1)


def remembered(shares: Tensor, earlier: int) -> Tensor:
    """`shares` (frames, 3, `LEVELS`) of the frames of a clip, each the mean over itself and at most `earlier` frames before it."""
    return torch.stack([shares[max(at - earlier, 0) : at + 1].mean(0) for at in range(len(shares))])

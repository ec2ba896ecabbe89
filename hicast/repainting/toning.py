"""Toning: the levels of a result's colour channels move towards those of the painting, by one rising curve for each channel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 256
"""Levels of a channel that are told apart, from -1 to 1."""

SMOOTHING = 4.0
"""Standard deviation, in levels, by which shares are blurred: curves stay smooth where a few levels hold most of a picture."""

COARSENESS, REACH, FAINT = 4, 2, 0.02
"""Of the filter that finds fine detail: how much smaller the picture is that it looks at, its reach in pixels there, and the variance below
which light and shade is texture and no outline."""

FINENESS = 16
"""Steps of a curve between two levels."""

ENOUGH = 2**15
"""Places of a picture that its shares are counted in."""


def tone_shares(picture: Tensor, weights: Tensor | None = None) -> Tensor:
    """Share (batch, 3, `LEVELS`) that each level has of each channel of `picture` (batch, 3, height, width) in [-1, 1], blurred, of sum 1.

    With `weights` (batch, 1, height, width) of 0 or more places count by them; where all are 0 the shares are 0 as well. Of a large picture
    every second, third, ... row and column is counted, so that at least `ENOUGH` places are.
    """
    step = max(int((picture.shape[-2] * picture.shape[-1] / ENOUGH) ** 0.5), 1)
    picture, weights = picture[..., ::step, ::step], None if weights is None else weights[..., ::step, ::step]
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
    `tone_shares`. Moved is what `smooth` leaves of the picture; fine light and shade is laid over it as it was, so that the grain of flat areas is
    not stretched with them. Source: histogram specification (Gonzalez and Fittes, doi 10.1016/0094-114X(77)90062-3).
    """
    curves = _matching(own, wanted.expand_as(own)) * (2 / (LEVELS - 1)) - 1
    fine = functional.interpolate(curves, size=(LEVELS - 1) * FINENESS + 1, mode="linear", align_corners=True)
    broad = smooth(picture)
    at = _levels(broad).mul_(FINENESS).round_().long().flatten(2)
    return (picture - broad).add_(fine.expand(len(picture), -1, -1).gather(2, at).view_as(picture)).clamp_(-1, 1)


def smooth(picture: Tensor) -> Tensor:
    """`picture` (batch, channels, height, width) without its fine light and shade, its outlines kept: a guided filter of each channel by itself.

    Its coefficients are found in the picture at a `COARSENESS`-th of its sides. Source: He et al. 2013 (doi 10.1109/TPAMI.2012.213); fast
    guided filter (He and Sun, arXiv 1505.00996).
    """
    size = picture.shape[-2:]
    small = functional.interpolate(picture, [max(side // COARSENESS, 1) for side in size], mode="area")
    mean = _box(small)
    variance = (_box(small.square()) - mean.square()).clamp_min(0)
    slope = variance / (variance + FAINT)
    coefficients = torch.cat([_box(slope), _box(mean - slope * mean)], dim=1)
    slope, offset = functional.interpolate(coefficients, size, mode="bilinear").chunk(2, dim=1)
    return torch.addcmul(offset, slope, picture)


def _box(values: Tensor) -> Tensor:
    """Means over squares of 2 `REACH` + 1 pixels, or of what there is."""
    reach = min(REACH, *(side - 1 for side in values.shape[-2:]))
    wide = functional.pad(values, (reach,) * 4, mode="reflect")
    return functional.avg_pool2d(functional.avg_pool2d(wide, (2 * reach + 1, 1), 1), (1, 2 * reach + 1), 1)


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

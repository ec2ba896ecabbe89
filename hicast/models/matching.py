"""Matching of latents: how their neighbourhoods are distributed moves towards how those of a painting's latents are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hicast.encoders.aim import Aim, Spread
from hicast.encoders.latent_moments import SIDE, pad_latents

STEP = 2.0
"""How far, over the mean of what the neighbourhoods that share a place ask for: more than 1, as those agree in part only and a pass knows some axes. 3 diverges."""

REACH, FAINT = 2, 0.01
"""Of the filter that keeps flat areas flat: its reach in places, and the variance, over the painting's, below which differences are no outlines."""

GRAIN, CLIP_GRAIN = 0.7, 0.3
"""Share that stays of what the filter takes away: flat areas get this much of the painting's texture, in clips, where it flickers, less."""

SPELL = 4
"""Frames before and after one that the filter looks at in a clip."""


def matched(latents: Tensor, painting: Aim, strength: Tensor, frames: int = 1,
            loose: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """`latents` (batch, channels, height, width) moved by `strength` (batch,) in [0, 1] of the way to where their neighbourhoods are distributed as `painting`.

    `painting` is of that batch or of 1. Pass by pass some of its neighbourhoods, made orthogonal, are the axes along which every neighbourhood goes
    to that value below which as large a share of the painting's lies, and every place to the mean of what the neighbourhoods that hold it ask for;
    every `frames` rows, the frames of a clip, go by what they are together, so that they do not flicker. Where much of a picture has nearly one value
    that would tear small differences apart, so what is added is made a local linear function of the latents, nearly constant where they are and, in
    clips, the same for some frames, but for `GRAIN` (`CLIP_GRAIN`) of it, less where `loose` (batch,) is below 1. Computed in float32, whatever the surroundings, but for convolutions in `dtype`; its gradient
    by `latents` is 1. Source: matching of patch distributions by sliced transport (Elnekave and Weiss, arXiv 2203.11862), here of latents, without
    gradients and along axes from the painting itself; iterated one-dimensional transport (Pitié et al. 2007, doi 10.1016/j.cviu.2006.11.011), the
    gradient that of exact feature distribution matching (Zhang et al., arXiv 2203.07740), guided filter (He et al. 2013, doi 10.1109/TPAMI.2012.213).
    """
    surroundings = "cpu" if latents.is_meta else latents.device.type  # autocast knows no meta tensors
    with torch.autocast(surroundings, enabled=False), torch.no_grad():
        moved = latents.float()
        for axes, spread in zip(painting.axes, painting.spreads, strict=True):
            moved = moved + _change(moved, axes, spread, frames, dtype)
        change = moved - latents.float()
        faint = FAINT * painting.variance[..., None, None]
        share = (GRAIN if frames == 1 else CLIP_GRAIN) * (torch.ones_like(strength) if loose is None else loose).float()
        change = torch.lerp(_guided(change, latents.float(), faint, frames), change, share[:, None, None, None]) * strength.float()[:, None, None, None]
    return latents + change.to(latents.dtype)


def _change(latents: Tensor, axes: Tensor, spread: Spread, frames: int, dtype: torch.dtype) -> Tensor:
    """What one pass along `axes` (batch or 1, count, values) adds to `latents` (batch, channels, height, width)."""
    groups, channels = len(axes), latents.shape[1]
    filters = axes.unflatten(2, (channels, SIDE, SIDE)).flatten(0, 1).to(dtype)
    whole = pad_latents(latents).reshape(-1, groups * channels, *(side + SIDE - 1 for side in latents.shape[-2:])).to(dtype)
    along = functional.conv2d(whole, filters, groups=groups)
    asked = spread.change(along.reshape(len(latents), axes.shape[1], -1), frames).view_as(along).to(dtype)
    return STEP / SIDE**2 * functional.conv_transpose2d(asked, filters, padding=SIDE // 2, groups=groups).view_as(latents).float()


def _guided(change: Tensor, guide: Tensor, faint: Tensor, frames: int) -> Tensor:
    """`change` (batch, channels, height, width) as a local linear function of `guide`, flatter where that varies by less than `faint`."""
    mean, average = _box(guide, frames), _box(change, frames)
    covariance, variance = _box(guide * change, frames) - mean * average, (_box(guide.square(), frames) - mean.square()).clamp_min(0)
    slope = covariance / (variance + faint + 1e-12)
    return _box(slope, frames) * guide + _box(average - slope * mean, frames)


def _box(values: Tensor, frames: int) -> Tensor:
    """Means over squares of 2 `REACH` + 1 places, or of what there is, and over 2 `SPELL` + 1 frames, the first and last repeated."""
    reach = min(REACH, *(side - 1 for side in values.shape[-2:]))
    whole = functional.pad(values, (reach,) * 4, mode="reflect")
    means = functional.avg_pool2d(functional.avg_pool2d(whole, (2 * reach + 1, 1), 1), (1, 2 * reach + 1), 1)
    if frames == 1:
        return means
    clips = means.reshape(-1, frames, means[0].numel()).transpose(1, 2)
    return functional.avg_pool1d(functional.pad(clips, (SPELL, SPELL), mode="replicate"), 2 * SPELL + 1, 1).transpose(1, 2).reshape(values.shape)

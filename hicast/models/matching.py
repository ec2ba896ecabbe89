"""Matching of latents: how their neighbourhoods and their colours are distributed moves towards how those of a painting's latents are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn import functional

from hicast.encoders.aim import SCALES, SIDE, Aim, Spread
from hicast.encoders.texture import Texture

SEED, FLAT, UNTOLD = 5.5, 0.5, 0.2
"""How much of the painting's texture flat areas are given before they are matched, at a strength of 1; and the variance, over the painting's, at which it is
half of that: grass, water and walls have texture, too, but where nobody tells them from things and faces (`subject.py`)."""

SHOWN, FACES = 1.0, 0.6
"""How much of a figure in the photo takes half of that texture; and how much less faces, which get none of it, are changed by matching."""

AROUND = 4
"""Reach, in places, of the squares that must be flat: a place counts as that if one which holds it does. So texture goes up to the outlines of what
stands before a sky, which would stand in a glow otherwise, and stays out of what is small."""

STEP = 2.0
"""How far, over the mean of what the neighbourhoods that share a place ask for: more than 1, as those agree in part only and a pass knows some axes. 3 diverges."""

REACH, FAINT = 2, 0.01
"""Of the filter that keeps flat areas flat: its reach in places, and the variance, over the painting's, below which differences are no outlines."""

GRAIN, CLIP_GRAIN = 0.6, 0.2
"""Share that stays of what the filter takes away: flat areas get this much of the painting's texture, in clips, where it flickers, less."""

CLIP_TONES = 0.7
"""How far colours go in clips, of the way that they go in pictures: what makes them stronger makes flicker stronger."""

SPELL = 4
"""Frames before and after one that the filter looks at in a clip."""


@dataclass(frozen=True)
class Spared:
    """What is kept from the painting in what a photo shows: shares (batch, 1, height, width) in [0, 1] that stay of its `texture` and of what
    matching changes (`change`)."""

    texture: Tensor
    change: Tensor

    @classmethod
    def of(cls, subject: Tensor) -> Spared:
        """That where `subject.SubjectNet` tells of `subject` (batch, 2, height, width), figures and faces."""
        figures, faces = subject.split(1, dim=1)
        return cls((1 - faces) / (1 + (figures / SHOWN).square()), 1 - FACES * faces)


def matched(latents: Tensor, painting: Aim, strength: Tensor, frames: int = 1, loose: Tensor | None = None,
            dtype: torch.dtype = torch.float32, texture: float = 1.0, spared: Spared | None = None) -> Tensor:
    """`latents` (batch, channels, height, width) moved by `strength` (batch,) of the way, at most wholly, to where their neighbourhoods are distributed as `painting`.

    `painting` is of that batch or of 1. First flat areas are given some of its texture, as much as `strength`, even above 1, times
    `texture`; the rest works it out. Then, pass by pass, some of its neighbourhoods, made orthogonal, are the axes along which every neighbourhood goes
    to that value below which as large a share of the painting's lies, and every place to the mean of what the neighbourhoods that hold it ask for,
    from coarse to fine and once more; every `frames` rows, the frames of a clip, go by what they are together and how that changes, and get no
    texture, so that they do not flicker. Where much of a picture has nearly one value that would tear small differences apart, so what is added is made a local linear function of
    the latents, nearly constant where they are and, in clips, the same for some frames, but for `GRAIN` (`CLIP_GRAIN`) of it; where `loose` (batch,)
    is below 1 less of that and of the texture, and less of the texture and of all changes where what the photo shows is `spared`. Last, by `strength`
    again, its red, green and blue come to be spread as the painting's (`Tones`), in clips `CLIP_TONES` of the way.
    Computed in float32, whatever the surroundings, but for convolutions in `dtype`; its gradient by `latents` is 1. Source: matching of patch
    distributions by sliced transport (Elnekave and Weiss, arXiv 2203.11862), here of latents, without gradients and along axes from the painting
    itself; iterated one-dimensional transport (Pitié et al. 2007, doi 10.1016/j.cviu.2006.11.011), the gradient that of exact feature distribution
    matching (Zhang et al., arXiv 2203.07740), guided filter (He et al. 2013, doi 10.1109/TPAMI.2012.213).
    """
    surroundings = "cpu" if latents.is_meta else latents.device.type  # autocast knows no meta tensors
    with torch.autocast(surroundings, enabled=False), torch.no_grad():
        own, varied = latents.float().contiguous(memory_format=torch.channels_last), painting.variance[..., None, None].clamp_min(1e-12)
        loose = (torch.ones_like(strength) if loose is None else loose).float()[:, None, None, None]
        strength = strength.float()[:, None, None, None]
        moved = seeded = own
        if texture and frames == 1:
            seeds = texture * strength * loose * _seeds(own, painting.texture, varied, UNTOLD if spared is None else FLAT)
            moved = seeded = own + (seeds if spared is None else spared.texture * seeds)
        for scale, group in groupby(zip(SCALES, painting.axes, painting.spreads, strict=True), key=itemgetter(0)):
            moved = moved + _on_scale(moved, scale, group, frames, dtype)
        change = moved - seeded
        share = (GRAIN if frames == 1 else CLIP_GRAIN) * loose
        change = torch.lerp(_guided(change, seeded, FAINT * varied, frames), change, share)
        change = (change if spared is None else spared.change * change) + seeded - own
        change = change * strength.clamp_max(1)
        change = change + strength.clamp_max(1) * (1.0 if frames == 1 else CLIP_TONES) * painting.tones.change(own + change, frames)
    return latents + change.to(latents.dtype)


def _seeds(latents: Tensor, texture: Texture, varied: Tensor, flat: float) -> Tensor:
    """Texture for `latents` (batch, channels, height, width), half of it at a variance of `flat` over `varied` (batch or 1, channels, 1, 1), the painting's."""
    side = 2 * AROUND + 1
    squares, means = _box((latents.square() / varied).mean(1, keepdim=True), 1, AROUND), _box(latents, 1, AROUND)
    unrest = (squares - (means.square() / varied).mean(1, keepdim=True)).clamp_min(0)
    least = -functional.max_pool2d(-unrest, side, 1, AROUND)  # of the squares that hold a place
    return SEED / (1 + (least / flat).square()) * texture.laid(latents)


def _on_scale(latents: Tensor, scale: int, passes: Iterable[tuple[int, Tensor, Spread]], frames: int, dtype: torch.dtype) -> Tensor:
    """What `passes` add to `latents` (batch, channels, height, width) if `scale` places to each side are one."""
    start = latents if scale == 1 else functional.avg_pool2d(latents, scale, ceil_mode=True, count_include_pad=False)
    moved = start
    for _, axes, spread in passes:
        moved = moved + _change(moved, axes, spread, frames, dtype)
    return moved - start if scale == 1 else functional.interpolate(moved - start, size=latents.shape[-2:], mode="bilinear")


def _change(latents: Tensor, axes: Tensor, spread: Spread, frames: int, dtype: torch.dtype) -> Tensor:
    """What one pass along `axes` (batch or 1, count, values) adds to `latents` (batch, channels, height, width)."""
    groups, channels, edge = len(axes), latents.shape[1], SIDE // 2
    filters = axes.unflatten(2, (channels, SIDE, SIDE)).to(dtype)
    there, back = filters.flatten(0, 1), filters.transpose(1, 2).flip(3, 4).flatten(0, 1)
    whole = functional.pad(latents, (edge,) * 4, mode="replicate").to(dtype)
    whole = whole.reshape(-1, groups * channels, *whole.shape[-2:]).contiguous(memory_format=torch.channels_last) if groups > 1 else whole
    along = functional.conv2d(whole, there, groups=groups).permute(0, 2, 3, 1)
    apart = along.unflatten(3, (groups, -1)).permute(0, 3, 1, 2, 4).reshape(len(latents), *along.shape[1:3], -1)
    asked = spread.change(apart, frames).unflatten(0, (-1, groups)).permute(0, 1, 4, 2, 3).flatten(1, 2)
    return STEP / SIDE**2 * functional.conv2d(asked, back, padding=edge, groups=groups).reshape(latents.shape).float()


def _guided(change: Tensor, guide: Tensor, faint: Tensor, frames: int) -> Tensor:
    """`change` (batch, channels, height, width) as a local linear function of `guide`, flatter where that varies by less than `faint`."""
    mean, average = _box(guide, frames), _box(change, frames)
    covariance, variance = _box(guide * change, frames) - mean * average, (_box(guide.square(), frames) - mean.square()).clamp_min(0)
    slope = covariance / (variance + faint + 1e-12)
    return _box(slope, frames) * guide + _box(average - slope * mean, frames)


def _box(values: Tensor, frames: int, reach: int = REACH) -> Tensor:
    """Means over squares of 2 `reach` + 1 places, or of what there is, and over 2 `SPELL` + 1 frames, the first and last repeated."""
    reach = min(reach, *(side - 1 for side in values.shape[-2:]))
    whole = functional.pad(values, (reach,) * 4, mode="reflect")
    means = functional.avg_pool2d(functional.avg_pool2d(whole, (2 * reach + 1, 1), 1), (1, 2 * reach + 1), 1)
    if frames == 1:
        return means
    clips = means.reshape(-1, frames, means[0].numel()).transpose(1, 2)
    return functional.avg_pool1d(functional.pad(clips, (SPELL, SPELL), mode="replicate"), 2 * SPELL + 1, 1).transpose(1, 2).reshape(values.shape)

"""Clouds and stripes of colour: broad unevenness of a picture where its photo is even."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_CELLS = ((8, 8), (4, 32), (32, 4))
"""Height and width of the cells whose means are compared; long ones find stripes that are fainter than strokes."""


def cloudiness(image: Tensor, content: Tensor, gain: float = 1.5, slack: float = 0.02) -> Tensor:
    """How much cells of `image` differ from their neighbours beyond what those of `content` do, per sample (batch,).

    Both are (batch, 3, height, width) in [-1, 1], of at least 64 pixels a side. Means of square cells are compared one and two cells apart along both axes, those of long
    cells across their length. A step of the content, of whatever colour, in the same place or beside it allows one
    `gain` times as high, and `slack` is always allowed. Statistics of colours are met most cheaply by patches and stripes of
    every colour spread over walls and skies, which no such statistic shows; strokes finer than a cell pass.
    """
    excess = []
    for height, width in _CELLS:
        ours, theirs = (_means(picture, height, width) for picture in (image, content))
        axes = [axis for axis, side in ((2, height), (3, width)) if side == min(height, width)]
        for axis in axes:
            for apart in (1, 2):
                allowed = gain * F.max_pool2d(_steps(theirs, axis, apart).abs().amax(1, keepdim=True), 3, 1, 1) + slack
                excess.append((_steps(ours, axis, apart).abs() - allowed).clamp_min(0).mean((1, 2, 3)) / len(axes))
    return torch.stack(excess).sum(0) / (2 * len(_CELLS))


def _means(picture: Tensor, height: int, width: int) -> Tensor:
    """Means of cells that overlap by half along a long side."""
    short = min(height, width)
    strides = tuple(side if side == short else side // 2 for side in (height, width))
    return F.avg_pool2d(picture.float(), (height, width), strides)


def _steps(cells: Tensor, axis: int, apart: int) -> Tensor:
    return cells.narrow(axis, apart, cells.shape[axis] - apart) - cells.narrow(axis, 0, cells.shape[axis] - apart)

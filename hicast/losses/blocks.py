"""The mosaic that a net on latents makes where its colours change fast: edges along the borders of the autoencoder's cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def blockiness(image: Tensor, period: int = 8, slack: float = 0.1) -> Tensor:
    """How much steeper `image` is at multiples of `period` pixels than between them, per sample (batch,); 0 is clean, 1 the most.

    The image (batch, 3, height, width) in [-1, 1] begins at a border of cells and has at least five a side. Steps over each border, of the length of a
    cell, are compared with the mean of the steps up to half a cell beside it: their difference over their sum. Edges of the scene lie across
    borders as often as beside them, so the mean over windows of four by four borders is near 0 without a mosaic, and `slack` is allowed.
    `lattice_energy` does not see blocks, whose signs cancel. Source of the idea: measures of blocking in compressed
    pictures (Wang, Sheikh and Bovik 2002, doi 10.1109/ICIP.2002.1038064).
    """
    ratios = [_steepness(picture, period) for picture in (image.float(), image.float().transpose(2, 3))]
    return torch.stack([(F.avg_pool2d(ratio, 4, 2) - slack).clamp_min(0).mean((1, 2, 3)) for ratio in ratios]).mean(0)


def _steepness(image: Tensor, period: int, floor: float = 0.02) -> Tensor:
    """(border - beside) / (border + beside) of the steps from column to column, (batch, 1, cells, borders); `floor` damps faint ones."""
    steps = F.avg_pool2d(image.diff(dim=3).abs().mean(1, keepdim=True), (period, 1))
    around = steps[..., period // 2 :].unfold(3, period, period)
    border = around[..., period // 2 - 1]
    beside = (around.sum(4) - border) / (period - 1)
    return (border - beside) / (border + beside + floor)

"""Lattices: the mark that autoencoders leave, which statistics of style reward and eyes do not."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional


def lattice(pixels: np.ndarray, period: int = 8) -> float:
    """Share of fine detail that repeats with the `period` of autoencoders, in `pixels` (height, width, 3) at their own size.

    The mean tile of the high-passed picture over its whole deviation, a mean over channels; 0 is clean. Pictures smaller
    than a tile, or too small for the blur, have none.
    """
    height, width = (side // period * period for side in pixels.shape[:2])
    if min(pixels.shape[:2]) < max(period, 5):
        return 0.0
    image = torch.tensor(pixels).float().permute(2, 0, 1)[None]
    high = image - functional.avg_pool2d(functional.pad(image, (4, 4, 4, 4), mode="reflect"), 9, 1)
    high = high[0, :, :height, :width]
    tile = high.unflatten(1, (-1, period)).unflatten(3, (-1, period)).mean((1, 3))
    return (tile.flatten(1).std(1) / (high.flatten(1).std(1) + 1e-6)).mean().item()

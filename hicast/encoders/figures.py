"""Where a painting shows figures, and where only its surface."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

TAP = "relu5_3"
"""The deepest layer of VGG-16: its channels answer to faces, bodies, buildings, plants and lettering, hardly to brushwork, so that their mean is 0.1 to
0.8 where there is surface alone and 1 to 3 in a crowd; strong swirls of a brush have as much as that."""

GRID = 16
"""Side in cells of what is told of a painting: that layer's own of one of 256 x 256 pixels."""


def figures_in(features: Mapping[str, Tensor]) -> Tensor:
    """How much of a figure each part (batch, `GRID`, `GRID`) of a picture shows, float32 from 0 up, from its VGG `features`, among them `TAP`."""
    return functional.adaptive_avg_pool2d(features[TAP].float().mean(1), GRID)

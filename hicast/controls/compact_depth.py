"""Compact depth: a small net of ours that has learned from one whose depth is steady over time."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.nn import functional

from hicast.controls import Weights
from hicast.controls.depth import Depth
from hicast.controls.map_net import SHIPPED, MapNet, load_map_net

SIZE = (192, 320)
"""Height and width of what the net sees, whatever the picture's shape is, as its teacher did."""


class CompactDepth(Depth):
    """Depth that is near at large values, differentiable."""

    def __init__(self, net: MapNet) -> None:
        """Wrap a net that was taught depth."""
        super().__init__()
        self.net = net

    def depth(self, image: Tensor) -> Tensor:
        """Depth (batch, 192, 320), float32, on one scale for all pictures, of `image` (batch, 3, height, width) in [-1, 1]."""
        seen = functional.interpolate(image.float(), size=SIZE, mode="bilinear", antialias=True)
        return self.net(seen.to(self.net.head.weight.dtype)).float()[:, 0]


def load_compact_depth(weights: Weights = None) -> CompactDepth:
    """The net with the shipped weights, or with those of a file; frozen, in float32. Raises ModelError for another file."""
    return CompactDepth(load_map_net(SHIPPED / "compact_depth.safetensors" if weights is None else Path(weights)))

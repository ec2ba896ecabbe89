"""Soft edges: the probability of an outline, by a small net of ours that has learned from HED."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from hicast.controls import Weights
from hicast.controls.map_net import SHIPPED, MapNet, load_map_net


class SoftEdges(nn.Module):
    """Edges of a picture of any size, differentiable; the weights say nothing about a larger scale than that of the picture."""

    def __init__(self, net: MapNet) -> None:
        """Wrap a net that was taught by HED."""
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, 3, height, width) in [0, 1], float32, of `image` (batch, 3, height, width) in [-1, 1]."""
        return self.net(image.to(self.net.head.weight.dtype)).float().sigmoid().expand(-1, 3, -1, -1)


def load_soft(weights: Weights = None) -> SoftEdges:
    """The net with the shipped weights, or with those of a file; frozen, in float32. Raises ModelError for another file."""
    return SoftEdges(load_map_net(SHIPPED / "soft.safetensors" if weights is None else Path(weights)))

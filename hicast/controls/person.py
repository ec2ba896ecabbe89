"""People: the mask of whoever is in a picture, by a small net of ours that has learned from a net for portraits."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from hicast.controls import Weights
from hicast.controls.map_net import SHIPPED, MapNet, load_map_net

SIDE = 256
"""Side of the square that the net sees, as its teacher did."""


class PersonMask(nn.Module):
    """The share of each pixel that belongs to a person, differentiable."""

    def __init__(self, net: MapNet) -> None:
        """Wrap a net that was taught masks of people."""
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, 3, height, width) in [0, 1], float32, of `image` (batch, 3, height, width) in [-1, 1]."""
        square = functional.interpolate(image.float(), size=(SIDE, SIDE), mode="bilinear", antialias=True)
        mask = self.net(square.to(self.net.head.weight.dtype)).float().sigmoid()
        return functional.interpolate(mask, size=image.shape[-2:], mode="bilinear").expand(-1, 3, -1, -1)


def load_person(weights: Weights = None) -> PersonMask:
    """The net with the shipped weights, or with those of a file; frozen, in float32. Raises ModelError for another file."""
    return PersonMask(load_map_net(SHIPPED / "person.safetensors" if weights is None else Path(weights)))

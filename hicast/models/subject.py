"""Where a photo shows things and faces, told from VGG-16's features of it: a painting's texture stays out of what it would deface."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

from hicast.encoders.vgg import Vgg16
from hicast.io.images import resize_image, working_size

SUBJECT = "subject"
"""The folder of its weights in a model that has it."""

SIDE = 128
"""Pixels of the short side at which the photo is looked at: a quarter of the work at 256."""

TAPS = ("relu4_3", "relu5_3")
"""VGG layers that it is told from."""

CHANNELS = 512
"""Of each of them."""

PAINTED = 4.0
"""How much of a figure a face in a painting counts: VGG-16, taught things, hardly answers to people, and texture with a face in it is seen as that."""

KINDS = ("figures", "faces")
"""What it tells, channel by channel."""


class SubjectNet(ModelMixin, ConfigMixin):
    """A few convolutions on `TAPS`, taught by `benchmarks/teach_subject.py`; the buffer `scale` (2) brings both layers to one size."""

    @register_to_config
    def __init__(self, width: int = 64) -> None:
        """`width` channels throughout."""
        super().__init__()
        self.register_buffer("scale", torch.ones(len(TAPS)))
        self.fine, self.coarse = (nn.Conv2d(CHANNELS, width, 1) for _ in TAPS)
        self.layers = nn.Sequential(*(Residual(width) for _ in range(2)))
        self.head = nn.Conv2d(width, len(KINDS), 1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Figures from 0 up, as `figures.figures_in` measures them at 256 pixels, and faces in [0, 1] (batch, 2, height, width), float32, from the
        `features` at `TAPS` of a photo of which 8 pixels are a place."""
        figures, faces = self.raw(features).unbind(1)
        return torch.stack([functional.softplus(figures), faces.sigmoid()], dim=1)

    def raw(self, features: Mapping[str, Tensor]) -> Tensor:
        """What `forward` tells, without bounds."""
        dtype = self.head.weight.dtype
        fine, coarse = ((features[tap] / scale.to(features[tap])).to(dtype) for tap, scale in zip(TAPS, self.scale, strict=True))  # float16 ends at 65504
        joined = self.fine(fine) + functional.interpolate(self.coarse(coarse), size=fine.shape[-2:], mode="bilinear")
        return self.head(self.layers(functional.relu(joined))).float()


class Residual(nn.Module):
    """Two convolutions whose result is added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, features: Tensor) -> Tensor:
        return functional.relu(features + self.layers(features))


def seen_by(vgg: Vgg16, photo: Tensor) -> dict[str, Tensor]:
    """The features from which the net tells, of a `photo` (batch, 3, height, width) in [-1, 1] of any size."""
    return vgg(resize_image(photo, working_size(photo.shape[-2:], SIDE, 1)), TAPS)

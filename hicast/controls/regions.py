"""Regions: parts of a picture by what VGG-16 sees in them, the same for all pictures, each in a colour of its own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from hicast.controls import Weights
from hicast.controls.map_net import SHIPPED
from hicast.encoders.vgg import Vgg16
from hicast.errors import ModelError
from hicast.io.weights import WEIGHTS_FILE, load_safetensors, resolve_model

PALETTE = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230),
    (210, 245, 60), (250, 190, 212), (0, 128, 128), (170, 110, 40), (128, 0, 0), (0, 0, 128), (128, 128, 128), (255, 255, 255),
    (0, 0, 0), (170, 255, 195), (128, 128, 0), (220, 190, 255),
)  # fmt: skip
"""Colours of the regions in the order of the centroids, far from each other."""

TAPS = ("relu4_3", "relu5_3")
SHORT_SIDE = 256
"""Pictures are seen at this short side, so that their regions do not depend on their size."""

SHARPNESS = 8.0
"""How steeply a region's share falls with its centroid's distance."""

RADIUS = 6
SMALLEST_CONTRAST = 1e-3
"""Reach in pixels, and variance of the luma below which nothing is an outline, of the filter that fits regions to outlines."""


class Regions(nn.Module):
    """Each place belongs to the nearest of some fixed centroids of VGG-16 features; borders follow the outlines of the picture.

    The features of two layers, each of length 1, are projected on their main axes. Borders come from a guided filter (He et al.
    2013, by the luma). The map's gradient is that of the mixture of colours by the regions' shares.
    """

    def __init__(self, vgg: Vgg16, mean: Tensor, axes: Tensor, centroids: Tensor) -> None:
        """Features less `mean` (channels,), times `axes` (channels, dimensions), are compared with `centroids` (count, dimensions).

        Raises ModelError where there are more centroids than colours.
        """
        super().__init__()
        if len(centroids) > len(PALETTE):
            raise ModelError(f"extractor regions: expected at most {len(PALETTE)} centroids, found {len(centroids)}; give another file")
        self.vgg, self.short_side = vgg, SHORT_SIDE
        for name, tensor in (("mean", mean), ("axes", axes), ("centroids", centroids)):
            self.register_buffer(name, tensor.float())
        self.register_buffer("palette", torch.tensor(PALETTE[: len(centroids)]).float() / 255)

    def shares(self, image: Tensor) -> Tensor:
        """Share of each region (batch, count, h, w), of sum 1, at a `short_side` of 256 pixels of `image` in [-1, 1]."""
        height, width = image.shape[-2:]
        scale = self.short_side / min(height, width)
        size = (round(height * scale), round(width * scale))
        seen = functional.interpolate(image.float(), size=size, mode="bilinear", antialias=True)
        features = project(self.vgg, seen, self.mean, self.axes)
        distance = (features[:, None] - self.centroids[None, :, :, None, None]).square().sum(2)
        shares = smoothed((-SHARPNESS * distance / self.axes.shape[1] ** 0.5).softmax(1))
        shares = functional.interpolate(shares, size=size, mode="bilinear")
        shares = guided(shares, seen.mean(1, keepdim=True) / 2).clamp_min(0)
        return shares / shares.sum(1, keepdim=True).clamp_min(1e-6)

    def labels(self, image: Tensor) -> Tensor:
        """Number of the region (batch, height, width) at each pixel of `image` (batch, 3, height, width) in [-1, 1]."""
        return functional.interpolate(self.shares(image), size=image.shape[-2:], mode="bilinear").argmax(1)

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, 3, height, width) of the palette's colours in [0, 1] of `image` (batch, 3, height, width) in [-1, 1]."""
        shares = functional.interpolate(self.shares(image), size=image.shape[-2:], mode="bilinear")
        mixed = torch.einsum("bkhw,kc->bchw", shares, self.palette)
        pure = self.palette[shares.argmax(1)].permute(0, 3, 1, 2)
        return pure + (mixed - mixed.detach()) if mixed.requires_grad else pure


def raw_features(vgg: Vgg16, image: Tensor) -> Tensor:
    """Features (batch, 1024, h / 8, w / 8) of `image` in [-1, 1]: those of each layer have the length 1, the coarser enlarged."""
    found = vgg(image, TAPS)
    fine, coarse = (functional.normalize(found[tap].float(), dim=1) for tap in TAPS)
    return torch.cat([fine, functional.interpolate(coarse, size=fine.shape[-2:], mode="bilinear")], dim=1)


def project(vgg: Vgg16, image: Tensor, mean: Tensor, axes: Tensor) -> Tensor:
    """Features (batch, dimensions, h / 8, w / 8) on the main axes, averaged over neighbours."""
    return smoothed(torch.einsum("bchw,cd->bdhw", raw_features(vgg, image) - mean.view(1, -1, 1, 1), axes))


def smoothed(values: Tensor) -> Tensor:
    """Means over each place and its eight neighbours."""
    return functional.avg_pool2d(functional.pad(values, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def guided(values: Tensor, guide: Tensor) -> Tensor:
    """`values` (batch, count, h, w) smoothed but for the outlines of `guide` (batch, 1, h, w)."""
    mean_guide, mean_values = _box(guide), _box(values)
    slope = (_box(guide * values) - mean_guide * mean_values) / (_box(guide.square()) - mean_guide.square() + SMALLEST_CONTRAST)
    return _box(slope) * guide + _box(mean_values - slope * mean_guide)


def _box(values: Tensor) -> Tensor:
    """Means over squares of 2 * RADIUS + 1 pixels a side."""
    side = 2 * RADIUS + 1
    padded = functional.pad(values, (RADIUS,) * 4, mode="replicate")
    return functional.avg_pool2d(functional.avg_pool2d(padded, (1, side), stride=1), (side, 1), stride=1)


def load_vgg() -> Vgg16:
    """VGG-16 of the compact model, which comes with the package; frozen, in float32."""
    vgg, prefix = Vgg16("caffe"), "vgg."
    stored = load_safetensors(resolve_model("compact") / "style_encoder" / WEIGHTS_FILE)
    vgg.load_state_dict({name.removeprefix(prefix): tensor.float() for name, tensor in stored.items() if name.startswith(prefix)})
    return vgg.requires_grad_(False).eval()


def load_regions(weights: Weights = None) -> Regions:
    """Regions by the shipped centroids, or by those of a file. Raises ModelError for another file."""
    path = SHIPPED / "regions.safetensors" if weights is None else Path(weights)
    stored = load_safetensors(path)
    try:
        parts = (stored["mean"], stored["axes"], stored["centroids"])
    except KeyError as error:
        raise ModelError(f"weights '{path}': expected mean, axes and centroids, found no {error.args[0]}; give another file") from error
    return Regions(load_vgg(), *parts).eval()

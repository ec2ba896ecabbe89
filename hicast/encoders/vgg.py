"""The convolutions of VGG-16, read at named layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

from hicast.errors import InputError, ModelError, UsageError

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Width and number of convolutions of each block; a 2x2 max pooling separates blocks."""

LAYERS = tuple(f"{block}_{i}" for block, (_, count) in enumerate(BLOCKS, 1) for i in range(1, count + 1))
"""Names of the thirteen layers in order: `1_1` means `conv1_1` followed by `relu1_1`."""

STYLE_TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
"""The last layer of each block: what the style vector of the published method is made of."""

CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
_LPIPS_SHIFT = (-0.030, -0.088, -0.188)
_LPIPS_SCALE = (0.458, 0.448, 0.450)


class Vgg16(ModelMixin, ConfigMixin):
    """VGG-16 without its classifier; the config `normalization` names the input its weights were trained with.

    `caffe`: BGR, 0 to 255, minus the mean colour (the original weights). `lpips`: the scaling layer that the published
    checkpoint puts before torchvision's weights (reference, section 1). Source: arXiv 1409.1556.
    """

    @register_to_config
    def __init__(self, normalization: str = "caffe") -> None:
        """Make the thirteen convolutions `conv{block}_{i}`; raises UsageError for an unknown `normalization`."""
        super().__init__()
        if normalization not in NORMALIZATIONS:
            raise UsageError(f"normalization: expected one of {', '.join(NORMALIZATIONS)}, found '{normalization}'")
        channels = 3
        for block, (width, count) in enumerate(BLOCKS, 1):
            for i in range(1, count + 1):
                self.add_module(f"conv{block}_{i}", nn.Conv2d(channels, width, 3, padding=1))
                channels = width

    def forward(self, image: Tensor, taps: Sequence[str] = STYLE_TAPS) -> dict[str, Tensor]:
        """Features at `taps` of `image` (batch, 3, height, width) in [-1, 1], in the dtype of the weights.

        Layers after the deepest tap are not computed. Raises UsageError for an unknown tap, InputError for an image
        too small to reach it and ModelError for float16 weights, in which activations overflow.
        """
        depth = _deepest(taps)
        self._check(image, int(LAYERS[depth][0]))
        features = NORMALIZATIONS[self.config.normalization](image.float()).to(self.dtype)
        features = features.contiguous(memory_format=torch.channels_last)
        found = {}
        for layer in LAYERS[: depth + 1]:
            if layer.endswith("_1") and layer != "1_1":
                features = functional.max_pool2d(features, 2)
            features = functional.relu(self.get_submodule(f"conv{layer}")(features))
            if f"relu{layer}" in taps:
                found[f"relu{layer}"] = features
        return found

    def _check(self, image: Tensor, blocks: int) -> None:
        if self.dtype == torch.float16:
            raise ModelError("VGG-16: expected float32 or bfloat16 weights, found float16, which overflows: cast them")
        smallest = 2 ** (blocks - 1)
        if min(image.shape[-2:]) < smallest:
            height, width = image.shape[-2:]
            raise InputError(
                f"VGG-16: expected an image of {smallest}x{smallest} pixels or more, found {height}x{width}: enlarge it"
            )


def caffe_input(image: Tensor) -> Tensor:
    """BGR in 0 to 255 minus the ImageNet mean colour, from `image` (batch, 3, height, width) in [-1, 1]."""
    mean = image.new_tensor(CAFFE_MEAN_BGR).view(1, 3, 1, 1)
    return (image.flip(1) + 1) * 127.5 - mean


def lpips_input(image: Tensor) -> Tensor:
    """The LPIPS scaling layer on `image` (batch, 3, height, width) in [-1, 1]."""
    shift = image.new_tensor(_LPIPS_SHIFT).view(1, 3, 1, 1)
    scale = image.new_tensor(_LPIPS_SCALE).view(1, 3, 1, 1)
    return (image - shift) / scale


NORMALIZATIONS = {"caffe": caffe_input, "lpips": lpips_input}


def rename_torchvision_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of torchvision's VGG-16 or of a published checkpoint under our names.

    Takes `features.28.weight`, `slice5.28.weight`, `vgg.slice5.28.weight` or `28.weight`: the number is the position in
    torchvision's `features`. Raises ModelError for any other key.
    """
    positions = _torchvision_positions()
    renamed = {}
    for key, value in state.items():
        *_, index, kind = ("", *key.split("."))
        if index not in positions or kind not in ("weight", "bias"):
            raise ModelError(f"VGG-16: expected keys such as 'features.0.weight', found '{key}'")
        renamed[f"conv{positions[index]}.{kind}"] = value
    return renamed


def _torchvision_positions() -> dict[str, str]:
    """Position in torchvision's `features` (convolution, ReLU, ..., pooling) to layer name."""
    positions, at = {}, 0
    for layer in LAYERS:
        if layer.endswith("_1") and layer != "1_1":
            at += 1
        positions[str(at)] = layer
        at += 2
    return positions


def _deepest(taps: Sequence[str]) -> int:
    known = [f"relu{layer}" for layer in LAYERS]
    unknown = [tap for tap in taps if tap not in known]
    if unknown or not taps:
        raise UsageError(f"VGG-16 taps: expected some of {', '.join(known)}, found {', '.join(unknown) or 'none'}")
    return max(known.index(tap) for tap in taps)

"""LPIPS: the distance of two pictures in the features of AlexNet, weighed as people judge; the user brings the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from hicast.encoders.vgg import lpips_input
from hicast.errors import ModelError
from hicast.evaluation.sight import Sight

CONVOLUTIONS = {"0": (4, 2), "3": (1, 2), "6": (1, 1), "8": (1, 1), "10": (1, 1)}
"""Stride and padding of each convolution of torchvision's AlexNet by its position in `features`."""

POOLED_BEFORE = ("3", "6")
WEIGHTS = "a folder with torchvision's AlexNet and the file alex.pth of the package lpips"


class Lpips:
    """The distance as a function. Source: arXiv 1801.03924, version 0.1 on AlexNet."""

    def __init__(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        """`state` holds `features.N.weight`, `features.N.bias` and `linK.model.1.weight`; ModelError where one lacks."""
        wanted = [f"features.{at}.{kind}" for at in CONVOLUTIONS for kind in ("weight", "bias")]
        wanted += [f"lin{level}.model.1.weight" for level in range(len(CONVOLUTIONS))]
        missing = [key for key in wanted if key not in state]
        if missing:
            raise ModelError(f"LPIPS: expected {WEIGHTS}, found no '{missing[0]}'; put both into one folder")
        self._state = {key: state[key].float().to(device) for key in wanted}
        self._device = torch.device(device)

    @torch.inference_mode()
    def __call__(self, ours: Tensor, target: Tensor) -> float:
        """Distance of two images (1, 3, height, width) in [-1, 1]; 0 for equal ones.

        Sum over layers of the mean over places of sum w (a - b)^2, a and b the features scaled to length 1 at each place, w the
        weights of the channels.
        """
        both = self._features(torch.cat([ours, target]).to(self._device))
        total = 0.0
        for level, features in enumerate(both):
            unit = features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
            difference = (unit[:1] - unit[1:]).square()
            total += functional.conv2d(difference, self._state[f"lin{level}.model.1.weight"]).mean().item()
        return total

    def _features(self, image: Tensor) -> list[Tensor]:
        features, found = lpips_input(image.float()), []
        for at, (stride, padding) in CONVOLUTIONS.items():
            if at in POOLED_BEFORE:
                features = functional.max_pool2d(features, 3, 2)
            weight, bias = (self._state[f"features.{at}.{kind}"] for kind in ("weight", "bias"))
            features = functional.relu(functional.conv2d(features, weight, bias, stride, padding))
            found.append(features)
        return found

    def measure(self, result: Sight, content: Sight, style: Sight) -> float:
        """Distance of a result to its content."""
        return self(result.image, content.image)

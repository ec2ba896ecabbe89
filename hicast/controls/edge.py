"""Edges that need no weights: the strength of the gradient, and Canny lines of OpenCV and of controlnet-aux."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from hicast.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

CANNY_THRESHOLDS = (100, 200)
"""Published thresholds (reference, section 5)."""

_LUMA = (0.299, 0.587, 0.114)
_BLUR = (0.0614, 0.2448, 0.3877, 0.2448, 0.0614)
"""A Gaussian of one pixel's standard deviation."""

_SMALLEST_AUX_SIDE = 64
_SMALLEST_STRENGTH = 1e-3
_SMALLEST_MEAN = 0.01


def gradient_edges(image: Tensor) -> Tensor:
    """Soft edges (batch, 3, height, width) in [0, 1) of `image` (batch, 3, height, width) in [-1, 1], differentiable.

    It is what its name says and no edge detector that has learned anything: the length g of the gradient of the blurred
    luma as g / (g + m), m being twice its mean over the picture, so that pictures of weak and of strong contrast give like
    maps; texture counts as well as outlines. A flat picture gives 0.
    """
    luma = (image.float() * image.new_tensor(_LUMA, dtype=torch.float32).view(1, 3, 1, 1)).sum(1, keepdim=True) / 2
    kernel = luma.new_tensor(_BLUR)
    padded = functional.pad(luma, (3, 3, 3, 3), mode="replicate")
    smooth = functional.conv2d(functional.conv2d(padded, kernel.view(1, 1, 1, 5)), kernel.view(1, 1, 5, 1))
    across = smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]
    down = smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]
    strength = (across.square() + down.square() + _SMALLEST_STRENGTH**2).sqrt() - _SMALLEST_STRENGTH
    level = 2 * strength.mean((2, 3), keepdim=True).clamp_min(_SMALLEST_MEAN)
    return (strength / (strength + level)).expand(-1, 3, -1, -1)


@torch.no_grad()
def canny_edges(image: Tensor) -> Tensor:
    """Lines of 0 or 1 (batch, 3, height, width) of `image` (batch, 3, height, width) in [-1, 1], without gradient.

    OpenCV's Canny detector on the 8-bit RGB picture (reference, section 5).
    """
    import cv2

    maps = torch.stack([torch.from_numpy(cv2.Canny(picture, *CANNY_THRESHOLDS)) for picture in _eight_bit(image)])
    return (maps[:, None].to(image.device, torch.float32) / 255).expand(-1, 3, -1, -1)


def open_canny_aux() -> Callable[[Tensor], Tensor]:
    """The Canny detector of controlnet-aux as an extractor without gradient, at the published thresholds.

    Differs from `canny_edges` in that it sees the picture with sides rounded to multiples of 64; its lines are resized back, so
    their values lie between 0 and 1. Raises UsageError where the package is missing or broken.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from controlnet_aux import CannyDetector
        except Exception as error:  # any of its many detectors may fail on import
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(
                f"extractor canny-aux: expected the package controlnet-aux, found: {reason}; install it, or take canny"
            ) from error
    detector = CannyDetector()

    @torch.no_grad()
    def edges(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        side = max(min(height, width), _SMALLEST_AUX_SIDE)
        maps = [detector(pixels, *CANNY_THRESHOLDS, detect_resolution=side, image_resolution=side) for pixels in _eight_bit(image)]
        lines = torch.stack([torch.from_numpy(drawn) for drawn in maps]).permute(0, 3, 1, 2).to(image.device, torch.float32) / 255
        return functional.interpolate(lines, size=(height, width), mode="bilinear", antialias=True).clamp(0, 1)

    return edges


def _eight_bit(image: Tensor) -> np.ndarray:
    """Pixels uint8 (batch, height, width, 3) of `image` (batch, 3, height, width) in [-1, 1]."""
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()

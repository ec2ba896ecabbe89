"""Edges that need no weights: the strength of the gradient, and OpenCV's Canny lines."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CANNY_THRESHOLDS = (100, 200)
"""Published thresholds (reference, section 5)."""

_LUMA = (0.299, 0.587, 0.114)
_BLUR = (0.0614, 0.2448, 0.3877, 0.2448, 0.0614)
"""A Gaussian of one pixel's standard deviation."""

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

    pixels = ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    maps = torch.stack([torch.from_numpy(cv2.Canny(picture, *CANNY_THRESHOLDS)) for picture in pixels])
    return (maps[:, None].to(image.device, torch.float32) / 255).expand(-1, 3, -1, -1)

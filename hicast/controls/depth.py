"""Depth: one scale per picture or clip, and the large net of the published method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from hicast.controls import Weights, missing_weights

HUB = "Intel/dpt-hybrid-midas"
SIDE = 384
"""Side of the square that the net sees (reference, section 5)."""

_SMALLEST_RANGE = 1e-6


def normalize_depth(depth: Tensor, frames: int = 1) -> Tensor:
    """Map (batch, 3, height, width) in [0, 1], near = 1, of `depth` (batch, height, width) that grows towards the eye.

    The range is that of each picture, or of each clip of `frames` pictures in a row: never of the whole batch, as the
    published code has it (reference, section 5), where a picture's map depends on its neighbours. Flat depth gives 0.
    """
    clips = depth.float().unflatten(0, (-1, frames))
    clips = clips - clips.amin((1, 2, 3), keepdim=True)
    clips = clips / clips.amax((1, 2, 3), keepdim=True).clamp_min(_SMALLEST_RANGE)
    return clips.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)


def fixed_range(depth: Tensor, low: float, high: float) -> Tensor:
    """Map (batch, 3, height, width) in [0, 1] of `depth` (batch, height, width) with the range of a clip that is known before."""
    return ((depth.float() - low) / max(high - low, _SMALLEST_RANGE)).clamp(0, 1)[:, None].expand(-1, 3, -1, -1)


class Depth(nn.Module, ABC):
    """A net that says how near things are. `enlarge` is how its depth is brought to the size of the picture."""

    enlarge = "bilinear"

    @abstractmethod
    def depth(self, image: Tensor) -> Tensor:
        """Depth (batch, rows, columns), float32, near is large, on one scale for all pictures, of `image` in [-1, 1]."""

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, 3, height, width) in [0, 1], near = 1, of `image` (batch, 3, height, width) in [-1, 1]."""
        return normalize_depth(self._fitted(image))

    def for_clip(self, frames: Tensor) -> Callable[[Tensor], Tensor]:
        """The extractor whose maps have one range for a whole clip: that of `frames` (count, 3, height, width) spread over it."""
        with torch.no_grad():
            depth = torch.cat([self._fitted(frame) for frame in frames.split(1)])
        low, high = depth.min().item(), depth.max().item()
        return lambda image: fixed_range(self._fitted(image), low, high)

    def _fitted(self, image: Tensor) -> Tensor:
        return functional.interpolate(self.depth(image)[:, None], size=image.shape[-2:], mode=self.enlarge)[:, 0]


class DptDepth(Depth):
    """Depth by a DPT net of transformers (arXiv 2103.13413), differentiable."""

    enlarge = "bicubic"

    def __init__(self, net: nn.Module) -> None:
        """Wrap a `DPTForDepthEstimation`."""
        super().__init__()
        self.net = net

    def depth(self, image: Tensor) -> Tensor:
        """Depth (batch, 384, 384), float32, on one scale for all pictures, of `image` (batch, 3, height, width) in [-1, 1]."""
        dtype = next(self.net.parameters()).dtype
        square = functional.interpolate(image.float(), size=(SIDE, SIDE), mode="bicubic", antialias=True)
        return self.net(pixel_values=square.to(dtype)).predicted_depth.float()


def load_dpt(weights: Weights) -> DptDepth:
    """The net from a folder, or from the hub's cache; frozen, in float32. Raises ModelError where it is not there."""
    from transformers import DPTForDepthEstimation
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        net = DPTForDepthEstimation.from_pretrained(str(weights or HUB), local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise missing_weights("dpt-hybrid-midas", weights) from error
    finally:
        if drawn:
            logging.enable_progress_bar()
    return DptDepth(net).requires_grad_(False).eval()

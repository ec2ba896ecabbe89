"""Maps of whole pictures and of videos: at a working size, in pixels to be stored, depth with one range per video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hicast.controls import Extractor
from hicast.controls.depth import fixed_range
from hicast.io.images import resize_image, to_pixels, to_tensor, working_size
from hicast.io.video_read import VideoReader

Frames = Iterator[np.ndarray]
OnProgress = Callable[[int, int], None]

OVERLAY_SHARE = 0.6
"""How much of an overlay is the map."""


@torch.no_grad()
def draw_map(extractor: Extractor, pixels: np.ndarray, size: int | None, device: torch.device) -> np.ndarray:
    """Map uint8 (h, w, 3) of a picture uint8 (height, width, 3), drawn at a short side of `size`; None, or smaller: its own."""
    return to_pixels(extractor(_seen(pixels, size, device)) * 2 - 1)


def overlay(pixels: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """A picture uint8 or uint16 (height, width, 3) with its map uint8 (h, w, 3) laid over it, at the size of the map."""
    photo = resize_image(to_tensor(pixels), drawn.shape[:2])
    return to_pixels(torch.lerp(photo, to_tensor(drawn), OVERLAY_SHARE))


def film_painter(extractor: Extractor, video: Path, size: int | None, device: torch.device,
                 on_progress: OnProgress = lambda done, total: None) -> Callable[[np.ndarray], np.ndarray]:  # fmt: skip
    """A function from frames uint8 or uint16 (height, width, 3) of `video` to their maps uint8 (h, w, 3).

    An extractor of depth looks through the whole video first, so that all its frames share one range. Raises InputError for
    what is no video.
    """
    if not hasattr(extractor, "depth"):
        return lambda pixels: draw_map(extractor, pixels, size, device)
    low, high = _range_of(extractor, video, size, device, on_progress)

    @torch.no_grad()
    def paint(pixels: np.ndarray) -> np.ndarray:
        image = _seen(pixels, size, device)
        depth = functional.interpolate(extractor.depth(image)[:, None], size=image.shape[-2:], mode="bilinear")[:, 0]
        return to_pixels(fixed_range(depth, low, high) * 2 - 1)

    return paint


@torch.no_grad()
def _range_of(extractor: Extractor, video: Path, size: int | None, device: torch.device, on_progress: OnProgress) -> tuple[float, float]:
    """Least and largest depth in a video."""
    reader, low, high = VideoReader(video), float("inf"), float("-inf")
    for frame in reader.frames():
        depth = extractor.depth(_seen(reader.pixels(frame)[..., :3], size, device))
        low, high = min(low, depth.min().item()), max(high, depth.max().item())
        on_progress(frame.index + 1, reader.expected_frames or 0)
    return low, high


def _seen(pixels: np.ndarray, size: int | None, device: torch.device) -> Tensor:
    """The picture (1, 3, h, w) in [-1, 1] as the extractor sees it."""
    height, width = pixels.shape[:2]
    smaller = size is not None and size < min(height, width)
    return resize_image(to_tensor(pixels).to(device), working_size((height, width), size if smaller else None, 1))

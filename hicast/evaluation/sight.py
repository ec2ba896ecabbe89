"""A picture as metrics see it: pixels, features and whatever is worked out of them, each once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hicast.evaluation.eye import PUBLISHED_TAPS, TAPS, Eye
from hicast.io.images import to_tensor

Value = TypeVar("Value")


class Sight:
    """One picture, `pixels` uint8 (height, width, 3), at the size at which all pictures are compared.

    `original` are the pixels before they were resampled, for what depends on their own size.
    """

    def __init__(self, pixels: np.ndarray, eye: Eye, original: np.ndarray | None = None) -> None:
        self.pixels, self.eye = pixels, eye
        self.original = pixels if original is None else original
        self._kept: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What `make` gives, made at the first call with this `key`."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    @property
    def image(self) -> Tensor:
        """The picture (1, 3, height, width) in [-1, 1], float32."""
        return self.once("image", lambda: to_tensor(self.pixels))

    @property
    def features(self) -> Mapping[str, Tensor]:
        """Features (1, channels, h, w) by tap."""
        return self.once("features", lambda: self.eye.look(self.image))

    @property
    def published_features(self) -> Mapping[str, Tensor]:
        """Features as the published Gram metric takes them: the picture in [0, 1] where the net expects [-1, 1]."""
        return self.once("published", lambda: self.eye.look(self.image / 2 + 0.5, PUBLISHED_TAPS, quick=True))


def squared(pixels: np.ndarray, size: int) -> np.ndarray:
    """`pixels`, uint8 (height, width, 3), resampled to `size` x `size` (Lanczos), whatever its aspect."""
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS))


def look_at(sights: Sequence[Sight], batch: int) -> None:
    """Work out the features of `sights` of one size and eye, `batch` pictures at a time."""
    for start in range(0, len(sights), batch):
        part = sights[start : start + batch]
        found = part[0].eye.look(torch.cat([sight.image for sight in part]), TAPS)
        for at, sight in enumerate(part):
            sight.once("features", lambda at=at: {name: features[at : at + 1] for name, features in found.items()})

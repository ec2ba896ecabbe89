"""Pictures for training: folders read recursively, kept in memory, cropped by a generator of the sample's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hicast.errors import InputError
from hicast.io.files import find_images
from hicast.io.images import load_picture

Batch = TypeVar("Batch")

SMALLEST_SIDE = 16
"""Pictures with a shorter side teach nothing and are skipped."""


def sample_generator(seed: int, index: int) -> np.random.Generator:
    """Randomness of one training sample, keyed by its global index: the same on any number of processes."""
    return np.random.Generator(np.random.Philox(key=[seed, index]))


class PicturePool:
    """Pictures of several folders, decoded on first use and kept in memory up to a limit."""

    def __init__(self, folders: Sequence[Path], short_side: int, cache_bytes: int) -> None:
        """List the pictures below `folders`; they are reduced to `short_side` pixels when read.

        Raises InputError when a folder is missing or holds no picture.
        """
        self.files = [file for folder in folders for file in list_folder(folder)]
        self.short_side = short_side
        self.skipped: dict[Path, str] = {}
        self._room = cache_bytes
        self._cache: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        """Picture `index` as uint8 (height, width, 3); a broken file is noted once and its neighbour served."""
        for offset in range(len(self.files)):
            at = (index + offset) % len(self.files)
            if at in self._cache:
                return self._cache[at]
            if self.files[at] in self.skipped:
                continue
            try:
                pixels = self._read(self.files[at])
            except InputError as error:
                self.skipped[self.files[at]] = str(error)
                continue
            if pixels.nbytes <= self._room:
                self._room -= pixels.nbytes
                self._cache[at] = pixels
            return pixels
        raise InputError(f"expected training pictures, found only unreadable files, such as {self.files[0]}")

    def _read(self, file: Path) -> np.ndarray:
        picture = Image.fromarray(load_picture(file, max_megapixels=1000).pixels)
        if min(picture.size) < SMALLEST_SIDE:
            raise InputError(f"{file}: expected sides of at least {SMALLEST_SIDE} pixels, found {min(picture.size)}")
        scale = self.short_side / min(picture.size)
        if scale < 1:
            size = tuple(max(16, round(side * scale)) for side in picture.size)
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        return np.asarray(picture)


def list_folder(folder: Path) -> list[Path]:
    """Pictures below `folder`, sorted; InputError when there are none."""
    if not folder.is_dir():
        raise InputError(f"expected a folder of training pictures, found nothing at {folder}: check the path")
    files = find_images(folder)
    if not files:
        raise InputError(f"expected jpg, png or webp pictures below {folder}, found none")
    return files


def random_crop(pixels: np.ndarray, side: int, zoom: tuple[float, float], random: np.random.Generator) -> np.ndarray:
    """Square crop covering a random share of the short side, resized to `side`, mirrored half of the time."""
    height, width = pixels.shape[:2]
    extent = min(height, width) * random.uniform(*zoom)
    extent = int(min(max(extent, side), min(height, width)))
    top = int(random.integers(0, height - extent + 1))
    left = int(random.integers(0, width - extent + 1))
    crop = pixels[top : top + extent, left : left + extent]
    if extent != side:
        crop = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0))
    return crop[:, ::-1] if random.random() < 0.5 else crop


def to_batch(crops: Sequence[np.ndarray]) -> Tensor:
    """Stack uint8 (height, width, 3) crops into float32 (batch, 3, height, width) in [-1, 1], channels last."""
    stacked = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    return stacked.to(torch.float32).div_(127.5).sub_(1.0)


def prefetched(make: Callable[[int], Batch], first: int, last: int, ahead: int = 2) -> Iterator[Batch]:
    """Yield `make(step)` for steps `first` to `last - 1`, computed in order on a background thread."""
    with ThreadPoolExecutor(max_workers=1) as worker:
        pending = [worker.submit(make, step) for step in range(first, min(first + ahead, last))]
        for step in range(first, last):
            if step + ahead < last:
                pending.append(worker.submit(make, step + ahead))
            yield pending.pop(0).result()

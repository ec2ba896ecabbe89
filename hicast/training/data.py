"""Pictures for training: kept in memory, cropped by a generator of the sample's own, prepared ahead of time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hicast.errors import InputError
from hicast.io.images import load_picture
from hicast.training.sources import PICTURES, OnNote, Source, list_sources

Batch = TypeVar("Batch")

SMALLEST_SIDE = 16
"""Pictures with a shorter side teach nothing and are skipped."""


def sample_generator(seed: int, index: int) -> np.random.Generator:
    """Randomness of one training sample, keyed by its global index: the same on any number of processes."""
    return np.random.Generator(np.random.Philox(key=[seed, index]))


class PicturePool:
    """Pictures of several folders and tar shards, decoded on first use and kept in memory up to a limit."""

    def __init__(self, places: Sequence[Path], short_side: int, cache_bytes: int, on_note: OnNote | None = None) -> None:
        """List the pictures of `places`; they are reduced to `short_side` pixels when read.

        Each file that cannot be used is told to `on_note` once and kept in `skipped` with the reason. Raises InputError
        when a place is missing or holds no picture.
        """
        self.places = tuple(places)
        self.files = list_sources(places, PICTURES, on_note)
        self.short_side, self.cache_bytes = short_side, cache_bytes
        self.skipped: dict[Source, str] = {}
        self._on_note = on_note
        self._room = cache_bytes
        self._cache: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        """Picture `index` as uint8 (height, width, 3); in place of a file that cannot be used its neighbour."""
        for offset in range(len(self.files)):
            at = (index + offset) % len(self.files)
            if at in self._cache:
                return self._cache[at]
            if self.files[at] in self.skipped:
                continue
            try:
                pixels = self._read(self.files[at])
            except InputError as error:
                self._skip(self.files[at], str(error))
                continue
            self._keep(at, pixels)
            return pixels
        raise InputError(f"expected training pictures, found only files that cannot be used, such as {self.files[0].name}")

    def _read(self, source: Source) -> np.ndarray:
        try:
            picture = Image.fromarray(load_picture(BytesIO(source.read()), max_megapixels=1000).pixels)
        except InputError as error:
            raise InputError(str(error).replace("standard input", source.name, 1)) from error
        if min(picture.size) < SMALLEST_SIDE:
            raise InputError(f"{source.name}: expected sides of at least {SMALLEST_SIDE} pixels, found {min(picture.size)}")
        scale = self.short_side / min(picture.size)
        if scale < 1:
            size = tuple(max(16, round(side * scale)) for side in picture.size)
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        return np.asarray(picture)

    def _skip(self, source: Source, reason: str) -> None:
        with self._lock:
            if source in self.skipped:
                return
            self.skipped[source] = reason
            count = len(self.skipped)
        if self._on_note:
            self._on_note(f"skipped {count} of {len(self.files)} pictures: {reason}")

    def _keep(self, at: int, pixels: np.ndarray) -> None:
        with self._lock:
            if at not in self._cache and pixels.nbytes <= self._room:
                self._room -= pixels.nbytes
                self._cache[at] = pixels


@dataclass(frozen=True)
class Window:
    """A square part of a picture in pixels, and whether it is mirrored."""

    top: int
    left: int
    extent: int
    mirrored: bool


def crop_window(size: tuple[int, int], side: int, zoom: tuple[float, float], random: np.random.Generator) -> Window:
    """A square that covers a random share in `zoom` of the short side of `size` (height, width), mirrored half of the time.

    It is not smaller than `side`, unless the picture is.
    """
    height, width = size
    extent = min(height, width) * random.uniform(*zoom)
    extent = int(min(max(extent, side), min(height, width)))
    top = int(random.integers(0, height - extent + 1))
    left = int(random.integers(0, width - extent + 1))
    return Window(top, left, extent, random.random() < 0.5)


def cut(pixels: np.ndarray, window: Window, side: int, resample: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """The part `window` of `pixels` (height, width, 3), resized to `side`."""
    crop = pixels[window.top : window.top + window.extent, window.left : window.left + window.extent]
    if window.extent != side:
        crop = np.asarray(Image.fromarray(crop).resize((side, side), resample, reducing_gap=2.0))
    return crop[:, ::-1] if window.mirrored else crop


def random_crop(pixels: np.ndarray, side: int, zoom: tuple[float, float], random: np.random.Generator) -> np.ndarray:
    """A random `crop_window` of `pixels` (height, width, 3), resized to `side`."""
    return cut(pixels, crop_window(pixels.shape[:2], side, zoom, random), side)


def center_crop(pixels: np.ndarray, side: int) -> np.ndarray:
    """The largest square in the middle of `pixels` (height, width, 3), resized to `side`."""
    extent = min(pixels.shape[:2])
    top, left = ((length - extent) // 2 for length in pixels.shape[:2])
    square = Image.fromarray(pixels[top : top + extent, left : left + extent])
    return np.asarray(square.resize((side, side), Image.Resampling.LANCZOS))


def evenly(count: int, wanted: int) -> list[int]:
    """`wanted` indices, fewer where there are not so many, spread over `count`: the fixed samples of contact sheets."""
    wanted = min(count, wanted)
    return [i * count // wanted for i in range(wanted)]


def to_batch(crops: Sequence[np.ndarray]) -> Tensor:
    """Stack uint8 (height, width, 3) crops into float32 (batch, 3, height, width) in [-1, 1], channels last."""
    stacked = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    return stacked.to(torch.float32).div_(127.5).sub_(1.0)


def prefetched(make: Callable[[int], Batch], first: int, last: int, workers: int = 1) -> Iterator[Batch]:
    """Yield `make(step)` for steps `first` to `last - 1` in order, computed ahead on background threads."""
    ahead = workers + 1
    with ThreadPoolExecutor(max_workers=workers) as pool:
        pending = [pool.submit(make, step) for step in range(first, min(first + ahead, last))]
        try:
            for step in range(first, last):
                batch = pending.pop(0).result()
                if step + ahead < last:
                    pending.append(pool.submit(make, step + ahead))
                yield batch
        finally:
            for future in pending:
                future.cancel()

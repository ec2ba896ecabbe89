"""Control maps drawn before a run: a folder that mirrors the photos, cut like them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from PIL import Image

from hicast.errors import InputError
from hicast.io.images import load_picture
from hicast.training.data import PicturePool, Window
from hicast.training.sources import OnNote
from hicast.training.targets import rows_by_name

MAP_SUFFIX = ".png"
MOST_STRETCH = 0.03
"""Largest relative difference of a map's aspect ratio from its photo's: rounding of reduced sides, no other picture."""


class MapPool:
    """Photos of a pool that have a map in a folder, by the same name with the suffix `.png`."""

    def __init__(self, folder: Path, photos: PicturePool, resample: Image.Resampling, on_note: OnNote | None = None) -> None:
        """Match the maps below `folder` with `photos`; those without are counted in one note.

        `resample` is how maps are resized (labels must not be blended). Raises InputError where none matches.
        """
        self.photos, self.resample = photos, resample
        named = {row: folder / Path(name).with_suffix(MAP_SUFFIX) for name, row in rows_by_name(photos).items()}
        self.files = [(row, path) for row, path in sorted(named.items()) if path.is_file()]
        if not self.files:
            raise InputError(
                f"maps {folder}: expected maps with the names of the photos, such as {next(iter(named.values()), folder)}, found none; "
                "give the folder that mirrors the photos"
            )
        if len(self.files) < len(photos) and on_note:
            on_note(f"{folder}: left out {len(photos) - len(self.files)} of {len(photos)} photos: without map")
        self._on_note, self._lock = on_note, threading.Lock()
        self._skipped: set[int] = set()
        self._room = photos.cache_bytes
        self._cache: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Photo and map `index`, uint8 of one size (height, width, 3); in place of one that cannot be used the next."""
        for offset in range(len(self.files)):
            at = (index + offset) % len(self.files)
            if at in self._skipped:
                continue
            try:
                return self._pair(at)
            except InputError as error:
                self._skip(at, str(error))
        raise InputError(f"maps: expected maps that fit their photos, found none, such as {self.files[0][1]}")

    def _pair(self, at: int) -> tuple[np.ndarray, np.ndarray]:
        row, path = self.files[at]
        photo = self.photos[row]
        if self.photos.files[row] in self.photos.skipped:
            raise InputError(f"{path}: its photo cannot be used")
        if at not in self._cache:
            pixels = _fitted(load_picture(path).pixels, photo.shape[:2], path, self.resample)
            with self._lock:
                if pixels.nbytes > self._room:
                    return photo, pixels
                self._room -= pixels.nbytes
                self._cache[at] = pixels
        return photo, self._cache[at]

    def _skip(self, at: int, reason: str) -> None:
        with self._lock:
            new = at not in self._skipped
            self._skipped.add(at)
        if new and self._on_note:
            self._on_note(f"skipped {len(self._skipped)} of {len(self.files)} maps: {reason}")


def _fitted(pixels: np.ndarray, size: tuple[int, int], path: Path, resample: Image.Resampling) -> np.ndarray:
    """A map (height, width, 3) at the `size` of its photo; InputError where its aspect ratio is another."""
    (height, width), (wanted_height, wanted_width) = pixels.shape[:2], size
    if abs(height * wanted_width / (width * wanted_height) - 1) > MOST_STRETCH:
        raise InputError(f"{path}: expected the aspect ratio of its photo ({wanted_height}x{wanted_width}), found {height}x{width}")
    if (height, width) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((wanted_width, wanted_height), resample))


def middle(size: tuple[int, int]) -> Window:
    """The largest square in the middle of a picture of `size` (height, width)."""
    extent = min(size)
    return Window((size[0] - extent) // 2, (size[1] - extent) // 2, extent, False)

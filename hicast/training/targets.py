"""Results of another method as targets: the same crop of photo and result, to learn from what that method does."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hicast.errors import InputError
from hicast.training.data import PicturePool, crop_window, cut
from hicast.training.sources import OnNote

PAIRS_FILE = "pairs.csv"


@dataclass(frozen=True)
class Target:
    """One result: its row in the pool of results, and those of its photo and painting in theirs."""

    result: int
    photo: int
    painting: int


class TargetPool:
    """A folder with `pairs.csv` (columns content,style: names below the folders of photos and paintings) and result k of
    it as `k.jpg` or `k.png`, k with leading zeros."""

    def __init__(self, folder: Path, photos: PicturePool, paintings: PicturePool, on_note: OnNote | None = None) -> None:
        """Match the results in `folder` with the pictures of both pools; those without are counted in one note.

        Raises InputError where the list or every match is missing.
        """
        self.photos, self.paintings = photos, paintings
        self.results = PicturePool([folder], photos.short_side, photos.cache_bytes, on_note)
        numbers = {int(source.path.stem): row for row, source in enumerate(self.results.files) if source.path.stem.isdecimal()}
        known = [rows_by_name(pool) for pool in (photos, paintings)]
        pairs = _read_pairs(folder / PAIRS_FILE)
        found = [
            Target(numbers[number], known[0][photo], known[1][painting])
            for number, (photo, painting) in enumerate(pairs)
            if number in numbers and photo in known[0] and painting in known[1]
        ]
        if not found:
            raise InputError(
                f"{folder / PAIRS_FILE}: expected names of pictures below the folders of photos and paintings and their results "
                f"beside it, found none that match of {len(pairs)}; give the folders that the results were made from"
            )
        if len(found) < len(pairs) and on_note:
            on_note(f"{folder}: left out {len(pairs) - len(found)} of {len(pairs)} pairs: without photo, painting or result")
        self.targets = found

    def __len__(self) -> int:
        return len(self.targets)

    def crops(self, index: int, side: int, zoom: tuple[float, float], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """The same random crop (side, side, 3) of photo and result `index`, and the row of its painting."""
        photo, result = self.pictures(index)
        window = crop_window(photo.shape[:2], side, zoom, random)
        return cut(photo, window, side), cut(result, window, side), self.targets[index].painting

    def pictures(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Photo and result `index`, uint8 of the photo's size (height, width, 3)."""
        target = self.targets[index]
        photo, result = self.photos[target.photo], self.results[target.result]
        if result.shape != photo.shape:
            result = np.asarray(Image.fromarray(result).resize(photo.shape[1::-1], Image.Resampling.LANCZOS))
        return photo, result


def rows_by_name(pool: PicturePool) -> dict[str, int]:
    """Row of every picture by its name below the place it was found in."""
    rows = {}
    for row, source in enumerate(pool.files):
        for place in pool.places:
            if source.path == place:  # a tar shard, whose members are named after a colon
                rows.setdefault(source.name[len(str(place)) + 1 :], row)
            elif source.path.is_relative_to(place):
                rows.setdefault(source.path.relative_to(place).as_posix(), row)
    return rows


def _read_pairs(path: Path) -> Sequence[tuple[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return [(row["content"], row["style"]) for row in csv.DictReader(stream)]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a CSV file with the columns content,style, found: {error}; write it") from error

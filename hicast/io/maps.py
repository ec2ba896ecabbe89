"""Control maps and masks from files: which one belongs to an input, and whether it has its shape."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hicast.errors import InputError
from hicast.io.files import READABLE_SUFFIXES, VIDEOS, PlannedOutput, is_numbered
from hicast.io.images import load_picture, to_tensor

if TYPE_CHECKING:
    from torch import Tensor

PICTURE_SUFFIXES = (".png", *(suffix for suffix in READABLE_SUFFIXES if suffix != ".png"))
CLIP_SUFFIXES = tuple(suffix for suffix in VIDEOS.readable if suffix != ".gif")
MOST_STRETCH = 0.03
"""Largest relative difference of a map's aspect ratio from its picture's: rounding of reduced sides, no other picture."""


def is_clip(path: Path) -> bool:
    """Whether a map is a video, or numbered pictures."""
    return path.suffix.lower() in CLIP_SUFFIXES or is_numbered(path)


def find_map(place: Path, item: PlannedOutput, clips: bool = False) -> Path:
    """The map of one input: `place` itself, or in the folder `place` the file where the input lies in its own, of any suffix.

    For `clips` a video comes first. Raises InputError where there is none.
    """
    if not place.is_dir():
        return place
    suffixes = (*CLIP_SUFFIXES, *PICTURE_SUFFIXES) if clips else PICTURE_SUFFIXES
    names = [(place / item.within).with_suffix(suffix) for suffix in suffixes]
    found = next((name for name in names if name.is_file()), None)
    if found is None:
        raise InputError(
            f"{place}: expected a map of {item.source or 'standard input'}, such as {names[0]}, found none; "
            "give a folder that mirrors the inputs, with the same names"
        )
    return found


def load_map(path: Path) -> Tensor:
    """A map as a tensor (1, 3, height, width) in [0, 1]; raises InputError as `load_picture` does."""
    return to_tensor(load_picture(path).pixels) / 2 + 0.5


def check_shape(name: str, size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Whether a map of `size` must be resized to `wanted`, both (height, width).

    Raises InputError where its aspect ratio is another.
    """
    (height, width), (wanted_height, wanted_width) = size, wanted
    if abs(height * wanted_width / (width * wanted_height) - 1) > MOST_STRETCH:
        raise InputError(
            f"{name}: expected the shape of the picture ({wanted_width} x {wanted_height}), found {width} x {height}; crop it alike"
        )
    return size != wanted

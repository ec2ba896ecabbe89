"""Pictures: decoded to 8-bit sRGB, moved to and from tensors, resized, and encoded with their settings."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from hicast.errors import HicastError, InputError, OutputError
from hicast.io.color import to_srgb
from hicast.io.files import VIDEOS, WRITABLE_FORMATS, atomic_path, check_target
from hicast.io.metadata import read_orientation, read_settings, save_options

if TYPE_CHECKING:
    from torch import Tensor

LEAST_SIDE = 8
READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
LONGEST_SIDES = {"JPEG": 65500, "WEBP": 16383}
"""Largest side in pixels that a format's encoder takes."""

_HEADER_LOCK = threading.Lock()


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture: `pixels` uint8 (height, width, 3) in sRGB, `alpha` uint8 (height, width) or None.

    `format` names the source's format; `settings` are those that hicast embedded when it wrote the file.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    format: str | None = None
    settings: dict[str, Any] | None = None


def load_picture(source: Path | str | BinaryIO, max_megapixels: float = 100.0) -> Picture:
    """Decode the first frame of a file or stream, upright by its EXIF orientation, in sRGB.

    Raises InputError for everything that is no picture of at least 8 pixels a side and at most `max_megapixels`;
    the size is judged by the header, before anything is decoded.
    """
    name = "standard input" if hasattr(source, "read") else str(source)
    with _open(source) as stream, _damage_reported(name):
        if stream.seek(0, 2) == 0:
            raise InputError(f"{name}: expected a picture, found an empty file; get the file again")
        stream.seek(0)
        with _lenient_pillow():
            image = Image.open(stream, formats=READABLE_FORMATS)
        _check_size(image, name, max_megapixels)
        image.load()
        with _lenient_pillow():
            orientation, settings = read_orientation(image), read_settings(image)
        pixels, alpha = to_srgb(image)
    pixels = _upright(pixels, orientation)
    alpha = None if alpha is None else _upright(alpha, orientation)
    return Picture(pixels, alpha, image.format, settings)


def _open(source: Path | str | BinaryIO) -> BinaryIO:
    """A stream that can seek: the opened file, or the content of a pipe."""
    if hasattr(source, "read"):
        return BytesIO(source.read())
    path = Path(source)
    try:
        stream = path.open("rb")
        if stream.seekable():
            return stream
        with stream:
            return BytesIO(stream.read())
    except FileNotFoundError:
        raise InputError(f"{path}: expected a picture, found no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: expected a picture, found a folder; name a file in it") from None
    except OSError as error:
        message = f"{path}: expected a file that can be read, found: {error.strerror}; check its permissions"
        raise InputError(message) from error


@contextmanager
def _damage_reported(name: str) -> Iterator[None]:
    """Turn what Pillow's decoders raise (they raise nearly anything) into InputError."""
    try:
        yield
    except (HicastError, MemoryError):
        raise
    except UnidentifiedImageError:
        expected = f"expected a picture ({', '.join(READABLE_FORMATS)})"
        if name.lower().endswith(VIDEOS.readable) and not name.lower().endswith(".gif"):
            raise InputError(f"{name}: {expected}, found a video by its name; name a picture, or take hicast stylize-video for videos") from None
        raise InputError(f"{name}: {expected}, found something else or a damaged start; check the file") from None
    except Exception as error:
        found = f"found a truncated or damaged one ({' '.join(str(error).split())})"
        raise InputError(f"{name}: expected a whole picture, {found}; get the file again") from error


@contextmanager
def _lenient_pillow() -> Iterator[None]:
    """Switch off Pillow's own size limit and warnings; both are global, so one thread at a time."""
    with _HEADER_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(image: Image.Image, name: str, max_megapixels: float) -> None:
    found = f"found {image.width} x {image.height} pixels"
    megapixels = image.width * image.height / 1e6
    if min(image.size) < LEAST_SIDE:
        expected = f"expected at least {LEAST_SIDE} x {LEAST_SIDE} pixels"
        raise InputError(f"{name}: {expected}, {found}; choose a larger picture")
    if megapixels > max_megapixels:
        raise InputError(
            f"{name}: expected at most {max_megapixels:g} megapixels, {found} ({megapixels:.1f} megapixels); "
            "shrink the picture or raise --max-megapixels"
        )


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """`values` (height, width, ...) turned and mirrored as EXIF orientations 2 to 8 ask; others change nothing."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def save_picture(
    picture: Picture,
    target: Path | str | BinaryIO,
    *,
    format: str | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    quality: int = 95,
) -> None:
    """Write `picture` with `settings` (what JSON can hold) embedded to a file, whole or not at all, or to a stream.

    `format` is a suffix such as `png`; without it the target's decides, and a stream gets png. `quality` (0 to 100) is
    that of jpg and webp. The same picture and settings give the same bytes. Jpg has no alpha: the picture is laid on
    white. Raises OutputError for an unknown suffix, a file already there (unless `overwrite`) and a place that cannot
    be written.
    """
    stream = hasattr(target, "write")
    name = "standard output" if stream else str(target)
    suffix = f".{format.lower().lstrip('.')}" if format else ".png" if stream else Path(target).suffix.lower()
    if suffix not in WRITABLE_FORMATS:
        expected = f"expected one of {', '.join(WRITABLE_FORMATS)}"
        raise OutputError(f"{name}: {expected}, found {suffix or 'no suffix'}; change the name")
    if not stream:
        check_target(Path(target), overwrite)
    data = _encode(picture, name, WRITABLE_FORMATS[suffix], settings, quality)
    if not stream:
        with atomic_path(Path(target), overwrite) as draft:
            draft.write_bytes(data)
        return
    try:
        target.write(data)
        target.flush()
    except OSError as error:
        raise OutputError(f"{name}: expected to be able to write, found: {error.strerror}; check the pipe") from error


def _encode(picture: Picture, name: str, format: str, settings: Mapping[str, Any] | None, quality: int) -> bytes:
    """The bytes of a file of `format` (a Pillow name), tagged as sRGB."""
    height, width = picture.pixels.shape[:2]
    longest = LONGEST_SIDES.get(format)
    if longest and max(height, width) > longest:
        raise OutputError(f"{name}: expected at most {longest} pixels a side, found {width} x {height}; write a png")
    image = Image.fromarray(picture.pixels)
    if picture.alpha is not None:
        alpha = Image.fromarray(picture.alpha)
        if format == "JPEG":
            image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
        else:
            image.putalpha(alpha)
    encoding = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "PNG": {},
        "WEBP": {"quality": quality},
        "TIFF": {"compression": "tiff_deflate"},
    }
    data = BytesIO()
    try:
        image.save(data, format, **encoding[format], **save_options(format, settings))
    except (OSError, ValueError) as error:
        raise OutputError(f"{name}: expected a picture that {format} can hold, found: {error}; write a png") from error
    return data.getvalue()


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Pixels uint8, or uint16 of full scale, (height, width, 3) as a float32 image (1, 3, height, width) in [-1, 1]."""
    import torch

    planes = torch.tensor(pixels).permute(2, 0, 1)[None]
    return planes.to(torch.float32, memory_format=torch.contiguous_format).div_(np.iinfo(pixels.dtype).max / 2).sub_(1)


def to_pixels(image: Tensor, deep: bool = False) -> np.ndarray:
    """Image (1, 3, height, width), clamped to [-1, 1], as pixels uint8, or uint16 if `deep`, (height, width, 3), rounded."""
    white, kind = (65535, np.uint16) if deep else (255, np.uint8)
    levels = image[0].detach().float().add(1).mul_(white / 2).round_().clamp_(0, white)
    return levels.permute(1, 2, 0).contiguous().cpu().numpy().astype(kind)


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Image (1, 3, h, w) in [-1, 1] resampled to `size` (height, width): bicubic, antialiased, clamped."""
    from torch.nn.functional import interpolate

    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return interpolate(image, size=tuple(size), mode="bicubic", align_corners=False, antialias=True).clamp(-1, 1)


def working_size(size: tuple[int, int], short_side: int | None, multiple: int) -> tuple[int, int]:
    """Size (height, width) to work at: `short_side` rounded to the `multiple`, the long side in proportion.

    The long side is rounded to a pixel only, so nothing is squashed; `pad_to_multiple` does the rest. With None the
    size stays.
    """
    if short_side is None:
        return size
    short = max(round(short_side / multiple), 1) * multiple
    scale = short / min(size)
    return round(size[0] * scale), round(size[1] * scale)


def pad_to_multiple(image: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Image (1, 3, h, w) grown at the right and the bottom to multiples, and its size (h, w) to crop back to.

    The border mirrors the picture; where it is wider than the picture itself, the last pixels are repeated.
    """
    from torch.nn.functional import pad

    height, width = image.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if not (down or right):
        return image, (height, width)
    image = pad(image, (0, right, 0, 0), mode="reflect" if right < width else "replicate")
    image = pad(image, (0, 0, 0, down), mode="reflect" if down < height else "replicate")
    return image, (height, width)


def crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The upper left part of `image` (..., h, w) of `size` (height, width)."""
    return image[..., : size[0], : size[1]]

"""Every colour mode of Pillow brought to 8-bit sRGB, with the alpha channel apart."""

from __future__ import annotations

import struct
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

BASE_MODES = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK", "LAB": "LAB"}
"""Mode in which an embedded profile is applied; all other modes become RGB first."""

PROFILE_MODES = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}
"""Mode that a profile of a colour space applies to (ICC.1:2022, data colour space signatures)."""

NUMBER_RANGES = {"I": (255, 65535), "F": (1, 255, 65535)}
"""White of pictures of integers and floats: the first of these that no value exceeds."""

PROFILE_DATE = slice(24, 36)
"""Bytes of an ICC header that hold the date of its making (ICC.1:2022, table 17)."""


def to_srgb(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """8-bit sRGB pixels (height, width, 3) and alpha (height, width) or None of a decoded picture of any mode.

    An embedded ICC profile is applied; a broken one, or one of another colour space than the picture, is ignored.
    """
    profile = image.info.get("icc_profile")
    if image.mode[0] in "IF":
        image = _to_eight_bit(image)
    base = BASE_MODES.get(image.mode, "RGB")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.array(image.getchannel("A"))
    image = image.convert(base)
    if profile:
        image = _through_profile(image, profile)
    return np.array(image.convert("RGB")), alpha


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """Grey picture of 16-bit, integer or float values scaled, not clipped, to mode L."""
    values = np.asarray(image).astype(np.float32)
    values[~np.isfinite(values)] = 0
    low, high = float(values.min()), float(values.max())
    whites = NUMBER_RANGES.get(image.mode, (65535,))
    if low >= 0 and high <= whites[-1]:
        low, high = 0.0, next(white for white in whites if high <= white)
    scaled = (values - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _through_profile(image: Image.Image, data: bytes) -> Image.Image:
    """`image` (L, RGB, CMYK, LAB) converted to sRGB by the ICC profile `data`, or as it was where that cannot be."""
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(data))
        mode = PROFILE_MODES.get(profile.profile.xcolor_space)
        if mode != image.mode and (mode, image.mode) != ("RGB", "L"):
            return image
        return ImageCms.profileToProfile(
            image.convert(mode),
            profile,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, ValueError, ImageCms.PyCMSError):
        return image


@cache
def srgb_profile() -> bytes:
    """An sRGB ICC profile to embed, the same bytes at any time."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[PROFILE_DATE] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return bytes(data)

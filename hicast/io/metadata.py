"""What hicast reads from and writes to the metadata of pictures and videos: orientation, settings, the sRGB tag."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from hicast.io.color import srgb_profile

SETTINGS_KEY = "hicast"
COMMENT_START = "hicast "
COMMENT_CODE = b"ASCII\0\0\0"
"""Eight bytes that name the encoding of an EXIF UserComment (Exif 2.32, table 9)."""


def read_orientation(image: Image.Image) -> int:
    """EXIF orientation of a decoded picture, 1 (upright) where there is none or the tags are damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # cameras write all kinds of broken tags, and Pillow raises nearly anything
        return 1


def read_settings(image: Image.Image) -> dict[str, Any] | None:
    """Settings that `save_options` embedded in a picture, or None."""
    try:
        settings = json.loads(image.info.get(SETTINGS_KEY) or _read_comment(image))
    except Exception:  # as above, and other programs may use the same fields
        return None
    return settings if isinstance(settings, dict) else None


def _read_comment(image: Image.Image) -> str:
    """Our text in the EXIF UserComment (jpg, webp), the ImageDescription (tif) or the comment (gif), empty where there is none."""
    exif = image.getexif()
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes):
        comment = comment.removeprefix(COMMENT_CODE).decode("ascii")
    return _without_start(str(comment or exif.get(ExifTags.Base.ImageDescription) or image.info.get("comment", b"").decode("utf-8")))


def settings_comment(settings: Mapping[str, Any]) -> str:
    """`settings` as the comment of a video."""
    return COMMENT_START + json.dumps(dict(settings))


def comment_settings(tags: Mapping[str, str]) -> dict[str, Any] | None:
    """Settings that stand in the comment among a video's `tags`, or None."""
    ours = next((line for line in reversed(_comment_of(tags).splitlines()) if line.startswith(COMMENT_START)), "")
    try:
        settings = json.loads(_without_start(ours))
    except ValueError:  # other programs write comments too
        return None
    return settings if isinstance(settings, dict) else None


def join_comments(tags: Mapping[str, str], ours: str) -> str:
    """The comment of a video made of one with such `tags`: what others wrote there, then `ours` in place of one that was ours."""
    others = [line for line in _comment_of(tags).splitlines() if not line.startswith(COMMENT_START)]
    return "\n".join([*others, ours])


def png_with(file: bytes, comment: str) -> bytes:
    """A PNG `file` with the settings of a `settings_comment`, as `save_options` embeds them; they go behind the header (33 bytes)."""
    chunk = b"iTXt" + SETTINGS_KEY.encode() + bytes(5) + _without_start(comment).encode()
    return file[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + file[33:]


def gif_with(file: bytes, comment: str) -> bytes:
    """A GIF `file` with a `comment`, in blocks of 255 bytes behind the header and the global palette (GIF89a, 24)."""
    text, flags = comment.encode(), file[10]
    begin = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
    blocks = b"".join(bytes([len(text[at : at + 255])]) + text[at : at + 255] for at in range(0, len(text), 255))
    return file[:begin] + b"\x21\xfe" + blocks + b"\0" + file[begin:]


def _comment_of(tags: Mapping[str, str]) -> str:
    return next((value for key, value in tags.items() if key.lower() == "comment"), "")


def _without_start(text: str) -> str:
    return text.removeprefix(COMMENT_START) if text.startswith(COMMENT_START) else ""


def save_options(format: str, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options for `Image.save` as `format` (PNG, JPEG, WEBP, TIFF) that tag sRGB and embed `settings` as JSON."""
    text = None if settings is None else json.dumps(dict(settings))
    if format == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.add(b"sRGB", b"\0")
        if text is not None:
            chunks.add_itxt(SETTINGS_KEY, text)
        return {"pnginfo": chunks}
    options: dict[str, Any] = {"icc_profile": srgb_profile()}
    if text is None:
        return options
    comment = COMMENT_START + text
    if format == "TIFF":
        return options | {"tiffinfo": {ExifTags.Base.ImageDescription: comment}}
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: COMMENT_CODE + comment.encode("ascii")}
    return options | {"exif": exif.tobytes()}

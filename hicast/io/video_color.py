"""Colours of video frames: between the matrix and range that a clip is stored in and full-range RGB."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

LIMITED, FULL = 1, 2
"""Numbers of the colour ranges (ITU-T H.273, VideoFullRangeFlag, as FFmpeg counts them)."""

UNSPECIFIED = 2
"""What H.273 calls an unknown matrix, primaries and transfer."""

RGB_MATRIX, BT709, BT601 = 0, 1, 6
SCALER_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
"""Matrices (H.273, table 4) that FFmpeg's scaler knows, and its own numbers for them."""

LEAST_HD_HEIGHT = 720
ACCURATE = 0x4 | 0x40000 | 0x2000 | 0x4000
"""FFmpeg's scaler: bicubic, accurate rounding, all of the chroma on the way in and out (SWS_* flags)."""


@dataclass(frozen=True)
class ColorTags:
    """How the numbers of a clip are to be read, in the numbers of ITU-T H.273; `range` is LIMITED or FULL."""

    matrix: int = BT709
    range: int = LIMITED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


def color_of(frame: VideoFrame) -> ColorTags:
    """The tags of a decoded frame; where it has none, those that players assume: BT.601 below 720 lines, limited range.

    RGB frames are given the tags that they would be stored with as YUV.
    """
    matrix, range = int(frame.colorspace), int(frame.color_range)
    if frame.format.is_rgb or frame.format.has_palette:
        matrix, range = UNSPECIFIED, LIMITED
    if matrix not in SCALER_MATRICES:
        matrix = BT709 if frame.height >= LEAST_HD_HEIGHT else BT601
    if frame.format.name.startswith("yuvj"):
        range = FULL
    return ColorTags(matrix, range or LIMITED, int(frame.color_primaries), int(frame.color_trc))


def to_pixels(frame: VideoFrame, color: ColorTags, deep: bool = False, alpha: bool = False) -> np.ndarray:
    """RGB, with `alpha` RGBA, of a frame: (height, width, 3 or 4) uint8, or uint16 of full scale where `deep`."""
    format = ("rgba64le" if alpha else "rgb48le") if deep else ("rgba" if alpha else "rgb24")
    matrix, range = SCALER_MATRICES[color.matrix], color.range
    if frame.format.is_rgb or frame.format.has_palette:
        range = FULL
    converted = frame.reformat(
        format=format, src_colorspace=matrix, dst_colorspace=matrix, src_color_range=range, dst_color_range=FULL,
        interpolation=ACCURATE, threads=1,
    )  # fmt: skip
    return converted.to_ndarray()


def to_frame(pixels: np.ndarray, format: str, color: ColorTags) -> VideoFrame:
    """A frame of a pixel format and colours from pixels as `to_pixels` gives them."""
    import av

    deep, alpha = pixels.dtype == np.uint16, pixels.shape[2] == 4
    name = ("rgba64le" if alpha else "rgb48le") if deep else ("rgba" if alpha else "rgb24")
    return convert(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), name), format, replace(color, range=FULL), color)


def convert(frame: VideoFrame, format: str, source: ColorTags, target: ColorTags) -> VideoFrame:
    """`frame` in another pixel format and range; numbers stay as they are where only the format's name differs."""
    wanted = _storage(format)
    if frame.format.name == wanted and source.range == target.range:
        return tagged(frame, target)
    matrix = SCALER_MATRICES[target.matrix]
    into = FULL if _is_rgb(wanted) else target.range
    converted = frame.reformat(
        format=wanted, src_colorspace=matrix, dst_colorspace=matrix, src_color_range=source.range, dst_color_range=into,
        interpolation=ACCURATE, threads=1,
    )  # fmt: skip
    return tagged(converted, replace(target, range=into))


def tagged(frame: VideoFrame, color: ColorTags) -> VideoFrame:
    """`frame` itself with the tags of `color` on it."""
    frame.colorspace = RGB_MATRIX if frame.format.is_rgb else color.matrix
    frame.color_range = FULL if frame.format.is_rgb else color.range
    frame.color_primaries, frame.color_trc = color.primaries, color.transfer
    return frame


def _storage(format: str) -> str:
    """A pixel format without the range in its name."""
    return format.replace("yuvj", "yuv")


def _is_rgb(format: str) -> bool:
    import av

    return av.VideoFormat(format).is_rgb

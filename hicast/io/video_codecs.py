"""Which encoder, pixel format and options a result gets, from its suffix, its source and what the user asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from hicast.config.problems import name_advice
from hicast.errors import UsageError
from hicast.io.video_color import ColorTags
from hicast.io.video_info import VideoInfo

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}
"""Suffixes of results and FFmpeg's names of their formats."""

PICTURES = {".gif": "gif", ".png": "png"}
"""Results that are pictures in one file (gif) or many (png), made from frames that are kept without loss."""

STREAM_SUFFIX = ".mkv"
"""What standard output carries."""

SHORT_NAMES = {
    "h264": "libx264", "hevc": "libx265", "h265": "libx265", "vp8": "libvpx", "vp9": "libvpx-vp9", "av1": "libsvtav1",
    "prores": "prores_ks", "ffv1": "ffv1",
}  # fmt: skip
"""Names of codecs for users, and FFmpeg's encoders for them; any other encoder's own name serves as well."""

LOSSLESS = "ffv1"
FORMATS = {
    "libx264": ("yuv420p", "yuv420p10le", "", ""),
    "libx265": ("yuv420p", "yuv420p10le", "", ""),
    "libvpx": ("yuv420p", "", "yuva420p", ""),
    "libvpx-vp9": ("yuv420p", "", "yuva420p", ""),
    "libsvtav1": ("yuv420p", "yuv420p10le", "", ""),
    "prores_ks": ("yuv422p10le", "yuv422p10le", "yuva444p10le", "yuva444p10le"),
    "ffv1": ("bgr0", "rgb48le", "bgra", "rgba64le"),
}
"""Pixel formats for 8 bits, more bits, 8 bits with alpha, more bits with alpha; empty where an encoder lacks it."""

OPTIONS: Mapping[str, dict[str, str]] = {
    "libx264": {"crf": "18", "preset": "medium", "mbtree": "0"},
    "libx265": {"crf": "20", "preset": "medium", "x265-params": "log-level=error:pools=1:frame-threads=1"},
    "libvpx": {"crf": "10", "b": "8M", "cpu-used": "4", "deadline": "good"},
    "libvpx-vp9": {"crf": "24", "b": "0", "cpu-used": "4", "deadline": "good", "row-mt": "1"},
    "libsvtav1": {"crf": "28", "preset": "8"},
}
"""Options of encoders. x264's `mbtree` is off: with AVX-512 it now and then gives other packets for the same frames."""

HIGHEST_CRF = {"libx264": 51, "libx265": 51, "libvpx": 63, "libvpx-vp9": 63, "libsvtav1": 63}
TAGS = {("libx265", "mp4"): "hvc1", ("libx265", "mov"): "hvc1"}
"""Codec tags that players of Apple ask for."""


@dataclass(frozen=True)
class Encoding:
    """How frames become packets: everything an encoder is opened with, and what it could not keep in `notes`."""

    codec: str
    pixel_format: str
    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    pixel_aspect: Fraction
    color: ColorTags
    options: Mapping[str, str] = field(default_factory=dict)
    tag: str | None = None
    notes: tuple[str, ...] = ()


def pick_codec(suffix: str, codec: str | None, crf: float | None, alpha: bool = False) -> str:
    """The encoder for a result, checked before anything is computed.

    `suffix` is the result's; without `codec` H.264 is taken, and one that keeps `alpha` where the container has one.
    Raises UsageError for an unknown codec, one that the container cannot hold and a `crf` that it does not know.
    """
    if suffix in PICTURES:
        if codec or crf is not None:
            raise UsageError(f"expected neither --codec nor --crf for {suffix}, found one; leave it out or name a video file")
        return LOSSLESS
    name = SHORT_NAMES.get(codec, codec) if codec else _default_codec(suffix, alpha)
    _check_encoder(name, suffix, codec or name)
    highest = HIGHEST_CRF.get(name)
    if crf is not None and highest is None:
        raise UsageError(f"--crf: expected a codec that has it ({', '.join(HIGHEST_CRF)}), found {codec or name}; leave it out")
    if crf is not None and not 0 <= crf <= highest:
        raise UsageError(f"--crf: expected a number from 0 to {highest} for {codec or name}, found {crf:g}; 0 is the best")
    return name


def encoding_for(
    info: VideoInfo, codec: str, suffix: str, size: tuple[int, int], pixel_aspect: Fraction, crf: float | None = None, *,
    own_format: bool = False,
) -> Encoding:  # fmt: skip
    """How frames of `size` (height, width) from the video `info` are encoded.

    With `own_format` (frames that are passed through) the source's pixel format stays where the encoder takes it.
    """
    height, width = size
    format, notes = _pixel_format(info, codec, height % 2 or width % 2, own_format)
    options = dict(OPTIONS.get(codec, {}))
    if crf is not None:
        options |= {"crf": f"{crf:g}"}
    if suffix == ".avi" and codec == "libx264":
        options |= {"x264-params": "bframes=0"}  # frames in AVI are shown in the order that they are stored in
    tag = TAGS.get((codec, CONTAINERS.get(suffix, "")))
    if codec == "prores_ks":
        tag = "ap4h" if "444" in format else "apch"
    return Encoding(codec, format, width, height, info.rate, info.time_base, pixel_aspect, info.color, options, tag, notes)


def _pixel_format(info: VideoInfo, codec: str, odd: int, own_format: bool) -> tuple[str, tuple[str, ...]]:
    """The pixel format and notes on what it cannot hold; odd sides need chroma of full size, as H.264 halves even ones only."""
    from av.codec import Codec

    known = [format.name for format in Codec(codec, "w").video_formats or ()]
    own = info.pixel_format.replace("yuvj", "yuv")
    halved = odd and codec in ("libx264", "libx265", "libsvtav1")
    if own_format and own in known and not (halved and ("420" in own or "422" in own)):
        return own, ()
    plain, deep, clear, deep_clear = FORMATS.get(codec, (known[0] if known else "yuv420p", "", "", ""))
    notes = []
    if info.alpha and not clear:
        notes.append(f"{codec} cannot hold the alpha channel: left out; write .mov or .webm to keep it")
    if info.depth > 8 and not deep:
        notes.append(f"{codec} holds 8 bits of the {info.depth} of the source; take --codec hevc to keep more")
    wants = (deep_clear if info.depth > 8 else "") or clear if info.alpha else (deep if info.depth > 8 else "")
    format = wants or plain
    if halved:
        full = format.replace("420", "444")
        if full not in known:
            raise UsageError(f"--codec {codec}: expected even sides in pixels, found odd ones; take --codec h264 or --codec vp9")
        format = full
    return format, tuple(notes)


def _default_codec(suffix: str, alpha: bool) -> str:
    if suffix == ".webm" or (alpha and suffix == ".mkv"):
        return "libvpx-vp9"
    return "prores_ks" if alpha and suffix == ".mov" else "libx264"


def _check_encoder(name: str, suffix: str, asked: str) -> None:
    """Raise UsageError, with the names that fit, where `name` is no video encoder of this FFmpeg or the container cannot hold what it makes."""
    held, makes = _held_by(suffix), _makes(name)
    if makes in held:
        return
    fitting = [short for short, encoder in SHORT_NAMES.items() if _makes(encoder) in held]
    if makes is None:
        raise UsageError(f"--codec: expected an encoder of videos that {suffix} can hold, found {asked}; {name_advice(asked, fitting)}")
    others = "" if suffix == STREAM_SUFFIX else f", or write {STREAM_SUFFIX}"
    raise UsageError(f"--codec {asked}: expected one that {suffix} can hold, found another; take one of {', '.join(fitting)}{others}")


def _makes(encoder: str) -> str | None:
    """FFmpeg's name of what a video `encoder` makes; None where it has none of that name."""
    from av.codec import Codec

    try:
        codec = Codec(encoder, "w")
    except Exception:  # PyAV raises one of its own kinds that has moved between versions
        return None
    return codec.canonical_name if codec.type == "video" else None


def _held_by(suffix: str) -> set[str]:
    """FFmpeg's names of what results with `suffix` can hold."""
    import av

    with av.open(os.devnull, "w", format=CONTAINERS[suffix]) as container:
        return container.supported_codecs


def encoder_problem(encoding: Encoding, error: Exception) -> UsageError:
    """What to say where an encoder refuses to be opened."""
    what: Any = getattr(error, "strerror", None) or error
    found = f"{encoding.width} x {encoding.height} {encoding.pixel_format}: {what}"
    return UsageError(f"--codec {encoding.codec}: expected frames that it takes, found {found}; take another --codec")

"""What a video is: its picture track's size, timing, depth and colour, read from the file and its first frame."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hicast.errors import InputError
from hicast.io.video_color import ColorTags, color_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that keep an alpha channel which FFmpeg's own drop, by codec."""

PICTURE_CODECS = ("gif", "png", "apng", "webp")
"""Codecs whose pixel format has alpha also where every pixel is opaque."""

DEFAULT_RATE, HIGHEST_RATE = Fraction(25), 1000


@dataclass(frozen=True)
class VideoInfo:
    """The picture track of a video; `width`, `height` and `pixel_aspect` (width over height of a pixel) are those after turning.

    `turning` are FFmpeg's filters, with their arguments, that set the pictures upright. `start` is the time stamp
    of the first frame and `origin` that of the whole file's beginning, in units of `time_base`. `frames` and `duration`
    (seconds) are what the file says and None where it does not; `rate` is the mean one.
    """

    name: str
    format: str
    codec: str
    width: int
    height: int
    turning: tuple[tuple[str, str], ...]
    pixel_aspect: Fraction
    rate: Fraction
    time_base: Fraction
    start: int
    origin: int
    frames: int | None
    duration: Fraction | None
    pixel_format: str
    depth: int
    """Bits of a colour value: 8, or more."""
    alpha: bool
    color: ColorTags
    tracks: tuple[str, ...] = ()
    """Kinds of the other tracks, such as `audio` and `subtitle`."""
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def expected_frames(self) -> int | None:
        """How many frames there should be, by count or else by time; None where the file says neither."""
        if self.frames:
            return self.frames
        return round(self.duration * self.rate) if self.duration else None


def probe_video(path: Path | str) -> VideoInfo:
    """What the video at `path` is; its first frame is decoded to learn its colours and how it is turned.

    Raises InputError for what is no video, has no picture track or not a single frame that can be decoded.
    """
    name = str(path)
    with open_video(path) as container:
        stream = picture_track(container, name)
        if container.format.name.endswith("_pipe") or (container.format.name == "image2" and "%" not in name):
            raise InputError(f"{name}: expected a video, found a single picture; use hicast stylize-image")
        frame = next(decoded(container, stream), None)
        if frame is None:
            raise InputError(f"{name}: expected a video with frames, found none that can be decoded; get the file again")
        return _describe(name, container, stream, frame)


@contextmanager
def open_video(path: Path | str) -> Iterator[InputContainer]:
    """The opened file; InputError in place of what FFmpeg says about files that are missing, closed or no video."""
    import av

    name = str(path)
    try:
        container = av.open(name, metadata_errors="replace")
    except FileNotFoundError:
        raise InputError(f"{name}: expected a video, found no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{name}: expected a video, found a folder; name a file in it") from None
    except (av.error.InvalidDataError, av.error.EOFError):
        if os.path.isfile(name) and os.path.getsize(name) == 0:
            raise InputError(f"{name}: expected a video, found an empty file; get the file again") from None
        raise InputError(f"{name}: expected a video, found something else or a damaged start; check the file") from None
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{name}: expected a file that can be read, found: {error.strerror}; check its permissions") from error
    with container:
        yield container


def picture_track(container: InputContainer, name: str) -> VideoStream:
    """The first track of moving pictures, cover pictures left aside; raises InputError where there is none."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no track at all"
    raise InputError(f"{name}: expected a video, found no picture track in it but {kinds}; name another file")


def decoded(container: InputContainer, stream: VideoStream, lost: list[str] | None = None) -> Iterator[VideoFrame]:
    """Frames of `stream` in the order of display; what cannot be decoded is left out and told to `lost`, one entry each."""
    import av

    decoder = stream.codec_context
    if has_alpha_channel(stream) and decoder.codec.canonical_name in ALPHA_DECODERS:
        decoder = av.CodecContext.create(ALPHA_DECODERS[decoder.codec.canonical_name], "r")
        decoder.extradata = stream.codec_context.extradata
    decoder.thread_type = "AUTO"
    packets = _packets(container, stream, lost)
    for packet in packets:
        try:
            yield from decoder.decode(packet)
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            if lost is not None:
                lost.append(error.strerror or str(error))


def has_alpha_channel(stream: VideoStream) -> bool:
    """Whether a track says, as Matroska and WebM do, that its packets have an alpha channel beside them."""
    return any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())


def _packets(container: InputContainer, stream: VideoStream, lost: list[str] | None) -> Iterator[Any]:
    """Packets of `stream` and then None, which empties the decoder; a file that breaks off simply ends, told to `lost`."""
    import av

    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except av.error.FFmpegError as error:
        if lost is not None:
            lost.append(error.strerror or str(error))
    yield None


def _describe(name: str, container: InputContainer, stream: VideoStream, frame: VideoFrame) -> VideoInfo:
    """The description from the opened file and its first frame."""
    time_base = _fraction(stream.time_base) or Fraction(1, 1000)
    turning = turning_of(frame)
    width, height = frame.width, frame.height
    if turning and turning[0][0] == "transpose":
        width, height = height, width
    start = frame.pts if frame.pts is not None else 0
    origin = Fraction(max(container.start_time or 0, 0), 1_000_000) / time_base
    return VideoInfo(
        name=name,
        format=container.format.name,
        codec=stream.codec_context.codec.canonical_name,
        width=width,
        height=height,
        turning=turning,
        pixel_aspect=pixel_aspect_of(stream, turning),
        rate=_rate(stream),
        time_base=time_base,
        start=start,
        origin=min(round(origin), start),
        frames=stream.frames or None,
        duration=_duration(container, stream, time_base),
        pixel_format=frame.format.name,
        depth=max(component.bits for component in frame.format.components) if not frame.format.has_palette else 8,
        alpha=_has_alpha(frame, stream.codec_context.codec.canonical_name),
        color=color_of(frame),
        tracks=tuple(other.type for other in container.streams if other is not stream and other.type != "video"),
        metadata=dict(container.metadata),
    )


def turning_of(frame: VideoFrame) -> tuple[tuple[str, str], ...]:
    """Filters that do what a frame's display matrix says: quarter turns, mirrored or not; any other angle is rounded to one."""
    from av.sidedata.sidedata import Type

    side = frame.side_data.get(Type.DISPLAYMATRIX)
    if side is None:
        return ()
    matrix = struct.unpack("=9i", bytes(side)[:36])
    quarter = round(frame.rotation / 90) * 90 % 360
    if quarter in (90, 270):
        plain, mirrored = ("cclock", "clock_flip") if quarter == 90 else ("clock", "cclock_flip")
        return (("transpose", mirrored if (matrix[3] < 0) == (quarter == 90) else plain),)
    return tuple((name, "") for name, sign in (("hflip", matrix[0]), ("vflip", matrix[4])) if sign < 0)


def pixel_aspect_of(stream: VideoStream, turning: tuple[tuple[str, str], ...]) -> Fraction:
    """Width over height of a pixel after `turning`; 1 where the track does not say."""
    aspect = _fraction(stream.sample_aspect_ratio) or Fraction(1)
    return 1 / aspect if turning and turning[0][0] == "transpose" else aspect


def _rate(stream: VideoStream) -> Fraction:
    """Mean frames per second; where a file has none, FFmpeg may give the fineness of its time stamps, which is no rate."""
    rates = (_fraction(stream.average_rate), _fraction(stream.guessed_rate), _fraction(stream.base_rate))
    return next((rate for rate in rates if rate and rate < HIGHEST_RATE), DEFAULT_RATE)


def _duration(container: InputContainer, stream: VideoStream, time_base: Fraction) -> Fraction | None:
    """Seconds that the pictures last: as their track says, else as the whole file does where there is nothing else in it."""
    if stream.duration:
        return stream.duration * time_base
    words = stream.metadata.get("DURATION", "")
    if words.count(":") == 2:  # Matroska keeps it as a tag of the track
        hours, minutes, seconds = words.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    alone = all(other is stream for other in container.streams)
    return Fraction(container.duration, 1_000_000) if alone and container.duration else None


def _has_alpha(frame: VideoFrame, codec: str) -> bool:
    """Whether the frames have an alpha channel; for codecs of pictures the first frame must use it."""
    has_palette = frame.format.has_palette
    if not has_palette and not any(component.is_alpha for component in frame.format.components):
        return False
    if codec not in PICTURE_CODECS and not has_palette:
        return True
    return bool((frame.reformat(format="rgba").to_ndarray()[..., 3] < 255).any())


def _fraction(number: Any) -> Fraction | None:
    """`number`, in whichever rational type PyAV has, as a Fraction; None where it is missing or zero."""
    return Fraction(number.numerator, number.denominator) if number is not None and number.numerator and number.denominator else None

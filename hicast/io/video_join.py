"""Joining the pieces of a film into one file, with the sound, subtitles, chapters and tags of its source."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hicast.io.metadata import join_comments
from hicast.io.video_info import VideoInfo, has_alpha_channel, open_video
from hicast.io.video_write import PIECE_TIME_BASE

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream

OWN_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration"}
"""Tags that describe a file and not the film in it."""

COPIED = ("audio", "subtitle")
FROM_ZERO = ("matroska", "webm", "avi")
"""Formats without negative times: the silence that encoders put before the beginning would move the pictures."""

START_CODES = {"h264": "h264_mp4toannexb"}
"""FFmpeg's filters for what AVI wants with start codes, where pieces have lengths."""


@dataclass(frozen=True)
class Piece:
    """A finished piece: its file, the time stamps of its frames in order, how long the last is shown, its codec tag.

    `lag` is by how many places packets come before their frame's turn, at most.
    """

    path: Path
    stamps: tuple[int, ...]
    last_duration: int
    lag: int = 0
    tag: str | None = None


@dataclass(frozen=True)
class Joining:
    """What becomes of a film's other tracks, and where its time begins.

    `offset` is taken off all times (in units of the source's time base); `whole` films keep all of the other tracks,
    others what lies between their first and last frame.
    """

    info: VideoInfo
    source: Path | str
    offset: int
    whole: bool
    keep_audio: bool = True
    comment: str | None = None
    """A line for the film's comment."""


def join_pieces(pieces: Sequence[Piece], target: Path | BinaryIO, format: str, joining: Joining) -> list[str]:
    """Write the film of `pieces` to `target` in FFmpeg's `format`; returns notes on what it cannot hold.

    Nothing is encoded again. Raises OSError or FFmpeg's errors where the target cannot be written.
    """
    import av

    notes: list[str] = []
    options = {"movflags": "+faststart"} if format in ("mp4", "mov") else {}
    with ExitStack() as stack:
        source = stack.enter_context(open_video(joining.source))
        output = av.open(target if hasattr(target, "write") else str(target), "w", format=format, options=options)
        stack.enter_context(output)
        first = stack.enter_context(av.open(str(pieces[0].path)))
        video = _add_video(output, first, pieces[0], joining)
        streams = _add_copies(output, source, format, joining, notes)
        _copy_tags(output, source, pieces, joining)
        shift = joining.offset * joining.info.time_base
        packets = [_video_packets(pieces, video, joining, START_CODES if format == "avi" else {})]
        if streams:
            floor = 0 if format in FROM_ZERO else None
            packets.append(_copied_packets(source, streams, shift, _limits(pieces, joining), floor))
        for _, packet in heapq.merge(*packets, key=lambda entry: entry[0]):
            output.mux(packet)
    return notes


def _add_video(output: OutputContainer, first: InputContainer, piece: Piece, joining: Joining) -> Stream:
    """The track for the pictures, described as the first piece is."""
    template = first.streams.video[0]
    stream = output.add_stream_from_template(template, opaque=True)
    stream.time_base = joining.info.time_base
    stream.codec_context.framerate = joining.info.rate
    if piece.tag:
        stream.codec_context.codec_tag = piece.tag
    if has_alpha_channel(template):
        stream.metadata["alpha_mode"] = "1"
    return stream


def _add_copies(output: OutputContainer, source: InputContainer, format: str, joining: Joining, notes: list[str]) -> dict[int, Stream]:
    """Tracks of the output by index of the source's; what the format cannot hold is told to `notes`, a line for each."""
    streams = {}
    for stream in source.streams:
        if stream.type not in COPIED or (stream.type == "audio" and not joining.keep_audio):
            continue
        if not _can_hold(format, stream):
            codec = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
            notes.append(f"{stream.type} track {stream.index} ({codec}) left out: {format} cannot hold it; write .mkv")
            continue
        copy = output.add_stream_from_template(stream, opaque=True)
        copy.metadata.update({key: value for key, value in stream.metadata.items() if key.lower() not in OWN_TAGS})
        copy.disposition = stream.disposition
        streams[stream.index] = copy
    return streams


def _can_hold(format: str, stream: Stream) -> bool:
    """Whether `format` can hold a track like `stream`: tried out, as FFmpeg's tables promise more than its muxers do."""
    import av

    trial = av.open(BytesIO(), "w", format=format)
    try:
        trial.add_stream_from_template(stream, opaque=True)
        trial.start_encoding()
    except (ValueError, OSError, av.error.FFmpegError):
        return False
    finally:
        with suppress(OSError, av.error.FFmpegError):
            trial.close()
    return True


def _copy_tags(output: OutputContainer, source: InputContainer, pieces: Sequence[Piece], joining: Joining) -> None:
    """The source's tags with `comment`, and its chapters as far as they reach into the film."""
    kept = {key: value for key, value in source.metadata.items() if key.lower() not in OWN_TAGS}
    if joining.comment:
        comment = join_comments(kept, joining.comment)
        kept = {key: value for key, value in kept.items() if key.lower() != "comment"} | {"comment": comment}
    output.metadata.update(kept)
    begin, end = _limits(pieces, joining)
    shift = joining.offset * joining.info.time_base
    chapters = []
    for chapter in source.chapters():
        base = Fraction(chapter["time_base"].numerator, chapter["time_base"].denominator)
        start, stop = chapter["start"] * base, chapter["end"] * base
        if begin is not None:
            start, stop = max(start, begin), min(stop, end)
        if start < stop:
            chapters.append({**chapter, "start": round((start - shift) / base), "end": round((stop - shift) / base)})
    if chapters:
        output.set_chapters(chapters)


def _limits(pieces: Sequence[Piece], joining: Joining) -> tuple[Fraction, Fraction] | tuple[None, None]:
    """Seconds in the source between which other tracks are kept; None where all of them are."""
    if joining.whole:
        return None, None
    base = joining.info.time_base
    return pieces[0].stamps[0] * base, (pieces[-1].stamps[-1] + pieces[-1].last_duration) * base


def _video_packets(pieces: Sequence[Piece], video: Stream, joining: Joining, filters: Mapping[str, str]) -> Iterator[tuple[float, Packet]]:
    """Seconds and packets of the pictures, with the film's own time stamps, through that of the `filters` that is for their codec.

    Decoding stamps are the presentation stamps in order, late by as many frames as the encoder reorders: valid for any
    frame rate, and without a jump where pieces meet. Those before the first presentation stamp are as far apart as the last ones
    are on average, so that both end together: MP4 counts the length of a film in decoding stamps.
    """
    stamps = [stamp - joining.offset for piece in pieces for stamp in piece.stamps]
    lag = max(piece.lag for piece in pieces)
    last = pieces[-1].last_duration
    ends = [*stamps[1:], stamps[-1] + last]
    apart = max(round((stamps[-1] - stamps[-1 - lag]) / lag), 1) if lag else 0
    place, base = 0, joining.info.time_base
    for piece, begin in zip(pieces, _begins(pieces), strict=True):
        for number, packet in _packets_of(piece, filters):
            index = begin + number
            packet.stream, packet.time_base = video, base
            packet.pts = stamps[index]
            packet.dts = stamps[place - lag] if place >= lag else stamps[0] - (lag - place) * apart
            place += 1
            packet.duration = last if place == len(stamps) else ends[index] - stamps[index]
            yield float(packet.dts * base), packet


def _begins(pieces: Sequence[Piece]) -> list[int]:
    """Index in the film of each piece's first frame."""
    begins = [0]
    for piece in pieces[:-1]:
        begins.append(begins[-1] + len(piece.stamps))
    return begins


def _packets_of(piece: Piece, filters: Mapping[str, str]) -> Iterator[tuple[int, Packet]]:
    """Packets of a piece in the order of decoding, each with its frame's number there."""
    import av
    from av.bitstream import BitStreamFilterContext

    with av.open(str(piece.path)) as container:
        stream = container.streams.video[0]
        name = filters.get(stream.codec_context.codec.canonical_name)
        filter = BitStreamFilterContext(name, stream) if name else None
        for read in container.demux(stream):
            for packet in (filter.filter(read) if filter else [read]) if read.size else ():
                yield round(packet.pts * Fraction(packet.time_base.numerator, packet.time_base.denominator) / PIECE_TIME_BASE), packet


def _copied_packets(
    source: InputContainer, streams: dict[int, Stream], shift: Fraction, limits: tuple[Fraction, Fraction] | tuple[None, None],
    floor: int | None,
) -> Iterator[tuple[float, Packet]]:
    """Seconds and packets of the other tracks between `limits`, `shift` seconds earlier than in the source, none below `floor`."""
    begin, end = limits
    tracks = [source.streams[index] for index in streams]
    if begin is not None:
        source.seek(int(begin * 1_000_000))
    for packet in source.demux(*tracks):
        if packet.dts is None or not packet.size:
            continue
        base: Any = Fraction(packet.time_base.numerator, packet.time_base.denominator)
        time = (packet.pts if packet.pts is not None else packet.dts) * base
        if (begin is not None and not begin <= time < end) or (floor is not None and time - shift < floor):
            continue
        moved = round(shift / base)
        packet.dts -= moved
        if packet.pts is not None:
            packet.pts -= moved
        packet.stream = streams[packet.stream_index]
        yield float(packet.dts * base), packet

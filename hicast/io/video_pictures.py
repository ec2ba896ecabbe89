"""Films as pictures: an animated GIF with one palette of its own, or numbered PNG files."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from hicast.io.files import check_target
from hicast.io.metadata import gif_with, png_with
from hicast.io.video_color import ACCURATE
from hicast.io.video_join import Joining, Piece

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

GIF_TIME_BASE = Fraction(1, 100)
LONGEST_DELAY = 2**16 - 1
PNG_FORMATS = {False: {False: "rgb24", True: "rgb48be"}, True: {False: "rgba", True: "rgba64be"}}
"""Pixel formats of PNG by whether there is alpha and whether there are more than 8 bits."""


def write_gif(pieces: Sequence[Piece], target: Path, joining: Joining) -> list[str]:
    """Write an endless GIF of all frames; its palette of 256 colours is made of all of them. Returns notes.

    Times are rounded to hundredths of a second. Raises OSError or FFmpeg's errors where `target` cannot be written.
    """
    import av

    palette = _palette(pieces)
    first = next(_frames(pieces))[1]
    stamps = [stamp for piece in pieces for stamp in piece.stamps]
    last = round(pieces[-1].last_duration * joining.info.time_base / GIF_TIME_BASE)
    with av.open(str(target), "w", format="gif", options={"final_delay": str(min(last, LONGEST_DELAY))} if last > 0 else {}) as output:
        stream = output.add_stream("gif", rate=joining.info.rate)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "pal8"
        stream.codec_context.time_base = GIF_TIME_BASE
        for number, frame in enumerate(_in_palette(pieces, palette, first)):
            frame.pts = round((stamps[number] - joining.offset) * joining.info.time_base / GIF_TIME_BASE)
            frame.time_base = GIF_TIME_BASE
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    if joining.comment:
        target.write_bytes(gif_with(target.read_bytes(), joining.comment))
    kinds = sorted(set(joining.info.tracks) & {"audio", "subtitle"})
    return [f"{' and '.join(kinds)} left out: gif cannot hold it; write .mkv"] if kinds else []


def write_pictures(pieces: Sequence[Piece], target: Path, overwrite: bool = False, comment: str | None = None) -> list[str]:
    """Write PNG files named by `target` (such as `frame-%05d.png`), from 1 on, with the settings of a `comment`; returns notes.

    They are written to a hidden folder beside and moved into place when all are there. Raises OutputError for files
    that are there already (unless `overwrite`), OSError or FFmpeg's errors where they cannot be written.
    """
    for number in range(1, sum(len(piece.stamps) for piece in pieces) + 1):
        check_target(target.with_name(target.name % number), overwrite)
    draft = target.with_name(f".hicast-{secrets.token_hex(4)}")
    try:
        draft.mkdir(parents=True)
        for number, frame in _frames(pieces):
            file = _png(frame)
            (draft / (target.name % (number + 1))).write_bytes(png_with(file, comment) if comment else file)
        for path in draft.iterdir():
            os.replace(path, target.parent / path.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return []


def _frames(pieces: Sequence[Piece]) -> Iterator[tuple[int, VideoFrame]]:
    """All frames with their numbers from 0 on."""
    import av

    begin = 0
    for piece in pieces:
        with av.open(str(piece.path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                yield begin + number, frame
        begin += len(piece.stamps)


def _png(frame: VideoFrame) -> bytes:
    """A PNG file of one frame."""
    import av

    alpha = any(component.is_alpha for component in frame.format.components) and frame.format.name != "bgr0"
    format = PNG_FORMATS[alpha][max(component.bits for component in frame.format.components) > 8]
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, format
    encoder.time_base = Fraction(1, 25)
    converted = frame.reformat(format=format, interpolation=ACCURATE, threads=1)
    converted.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(converted), *encoder.encode(None)])


def _palette(pieces: Sequence[Piece]) -> VideoFrame:
    """The colours that serve all frames best, as a picture of 16 x 16."""
    from av.filter import Graph

    graph = None
    for number, frame in _frames(pieces):
        frame = _plain(frame, number)
        if graph is None:
            graph = Graph()
            source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=GIF_TIME_BASE)
            graph.link_nodes(source, graph.add("palettegen"), graph.add("buffersink")).configure()
        graph.vpush(frame)
    graph.vpush(None)
    return graph.vpull()


def _in_palette(pieces: Sequence[Piece], palette: VideoFrame, first: VideoFrame) -> Iterator[VideoFrame]:
    """All frames in the colours of `palette`, dithered in a pattern that does not move."""
    import av
    from av.filter import Graph

    graph = Graph()
    pictures, colors = (
        graph.add_buffer(width=frame.width, height=frame.height, format=format, time_base=GIF_TIME_BASE, name=name)
        for name, frame, format in (("pictures", first, av.VideoFormat("bgra")), ("colors", palette, palette.format))
    )
    use, sink = graph.add("paletteuse", "dither=bayer:bayer_scale=3"), graph.add("buffersink")
    pictures.link_to(use, 0, 0)
    colors.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    palette.pts = 0
    colors.push(palette)
    colors.push(None)
    for number, frame in _frames(pieces):
        pictures.push(_plain(frame, number))
        yield from _pulled(graph)
    pictures.push(None)
    yield from _pulled(graph)


def _pulled(graph: object) -> Iterator[VideoFrame]:
    """The frames that a graph has ready."""
    import av

    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _plain(frame: VideoFrame, number: int) -> VideoFrame:
    """`frame` in the one format that the palette's filters take, with its number as its time."""
    plain = frame.reformat(format="bgra", interpolation=ACCURATE, threads=1)
    plain.pts, plain.time_base = number, GIF_TIME_BASE
    return plain

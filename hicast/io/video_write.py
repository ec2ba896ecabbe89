"""Encoding of frames into one closed piece of a film, from which films are joined without encoding again."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hicast.io.video_codecs import Encoding, encoder_problem
from hicast.io.video_color import FULL, RGB_MATRIX

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame

GLOBAL_HEADER = 1 << 22
"""FFmpeg's flag for headers that stand before the stream and not in it."""

PIECE_TIME_BASE = Fraction(1, 1000)
LEAD = 64
"""Decoding stamps lie this many frames before, which is more than any encoder reorders."""


class PieceWriter:
    """One piece: frames go in with their time stamps, packets come out in a file that numbers the frames from 0.

    The file's stamps are those numbers and not times, as Matroska rounds times to milliseconds; who joins pieces knows
    the times. The same frames and encoding give the same packets. Raises UsageError where the encoder refuses the
    encoding, and OSError or FFmpeg's errors where the file cannot be written.
    """

    def __init__(self, path: Path, encoding: Encoding) -> None:
        """Open the encoder and begin the file."""
        import av

        if encoding.codec == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only; it goes around FFmpeg's log
        self.encoding = encoding
        self.stamps: list[int] = []
        self.lag = 0
        """By how many places packets come before their frame's turn, at most: the encoder's reordering."""
        self._written = 0
        self._numbers: dict[int, int] = {}
        self._container: OutputContainer = av.open(str(path), "w", format="matroska")
        self._stream = self._container.add_stream(encoding.codec, rate=encoding.rate, options=dict(encoding.options))
        _set_up(self._stream.codec_context, encoding)
        try:
            self._container.start_encoding()
        except OSError:
            raise
        except (av.error.FFmpegError, ValueError) as error:
            raise encoder_problem(encoding, error) from error

    def write(self, frame: VideoFrame, pts: int) -> None:
        """Encode a frame of the encoding's pixel format and size, shown at `pts` in its time base."""
        frame.pts, frame.time_base = pts, self.encoding.time_base
        self._numbers[pts] = len(self.stamps)
        self.stamps.append(pts)
        self._mux(self._stream.encode(frame))

    def close(self) -> None:
        """Empty the encoder and finish the file."""
        try:
            self._mux(self._stream.encode(None))
        finally:
            self._container.close()

    def abandon(self) -> None:
        """Let go of the file, which is then of no use."""
        self._container.close()

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.time_base = PIECE_TIME_BASE
            packet.pts = self._numbers.pop(packet.pts)
            self.lag = max(self.lag, self._written - packet.pts)
            packet.dts = self._written - LEAD
            packet.duration = 1
            self._container.mux(packet)
            self._written += 1


def _set_up(context: VideoCodecContext, encoding: Encoding) -> None:
    """Give an encoder all that `encoding` says but its options."""
    context.width, context.height, context.pix_fmt = encoding.width, encoding.height, encoding.pixel_format
    context.time_base, context.framerate = encoding.time_base, encoding.rate
    context.sample_aspect_ratio = encoding.pixel_aspect
    color, is_rgb = encoding.color, context.format.is_rgb
    context.color_range, context.colorspace = (FULL, RGB_MATRIX) if is_rgb else (color.range, color.matrix)
    context.color_primaries, context.color_trc = color.primaries, color.transfer
    context.flags |= GLOBAL_HEADER
    context.thread_count = 1  # so that packets do not depend on the number of cores, which the nets need anyway
    if encoding.tag:
        context.codec_tag = encoding.tag

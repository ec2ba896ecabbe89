"""The encoding end of a film: frames are gathered into pieces, and each piece counts when it is whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

import numpy as np

from hicast.io.film_parts import PartsFolder
from hicast.io.side_by_side import WriteBehind, read_ahead
from hicast.io.video_codecs import encoding_for
from hicast.io.video_color import convert, to_frame
from hicast.io.video_info import VideoInfo
from hicast.io.video_join import Piece
from hicast.io.video_read import SourceFrame, VideoReader
from hicast.io.video_write import PieceWriter

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Paint = Callable[[Iterator[np.ndarray], int, int], Iterator[np.ndarray]]
"""From RGB frames (height, width, 3) uint8 or uint16, the index of the first one and the number of leading ones that are
context only, to as many painted frames as are not, of the same type and of one size."""

DEPTH = 4
"""Frames that decoding is ahead of painting, and painting of encoding, at the least."""

BUFFER = 64 * 2**20
"""Bytes of such frames that are too many."""


class Choices(Protocol):
    """What the encoding end asks of a film."""

    suffix: str
    crf: float | None
    piece_frames: int
    pixel_aspect: Fraction | None


@dataclass
class Done:
    """The count of finished frames, told to `on_progress(done, total)` as it grows."""

    count: int
    total: int
    on_progress: Callable[[int, int], None]

    def add(self) -> None:
        """One more frame is done."""
        self.count += 1
        self.on_progress(self.count, max(self.total, self.count) if self.total else 0)


class PieceSink:
    """Takes frames in their order, encodes them and appends finished pieces to `pieces` and to the folder of parts."""

    def __init__(
        self, info: VideoInfo, codec: str, film: Choices, parts: PartsFolder, pieces: list[Piece], done: Done,
        on_note: Callable[[str], None], first: int = 0,
    ) -> None:  # fmt: skip
        """`pieces` are those that are there already, after the `first` ones, which others make; `on_note` is told once what the
        encoding cannot keep."""
        self._info, self._codec, self._film, self._parts, self._pieces = info, codec, film, parts, pieces
        self._done, self._on_note = done, on_note
        self._writer: PieceWriter | None = None
        self._last_duration = 0
        self._noted = bool(pieces) or first > 0
        self._first = first

    def write(self, frame: SourceFrame, content: np.ndarray | VideoFrame, alpha: np.ndarray | None) -> None:
        """Encode one frame: painted pixels, with the `alpha` (height, width, 1) of its source, or a picture as it was decoded."""
        passed = not isinstance(content, np.ndarray)
        size = (content.height, content.width) if passed else content.shape[:2]
        if self._writer is None:
            self._writer = self._open(size, passed)
        format, color = self._writer.encoding.pixel_format, self._info.color
        if passed:
            picture = convert(content, format, color, color)
        else:
            if alpha is not None:
                content = np.concatenate([content, _resized(alpha, size)], axis=2)
            picture = to_frame(content, format, color)
        self._writer.write(picture, frame.pts)
        self._last_duration = frame.duration
        self._done.add()
        if len(self._writer.stamps) == self._film.piece_frames:
            self.close()

    def close(self) -> None:
        """Finish the piece that is open, if any."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()
            self._pieces.append(self._parts.add(self._first + len(self._pieces), writer, self._last_duration))

    def abandon(self) -> None:
        """Let go of the piece that is open, if any."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with suppress(Exception):  # what has failed already may fail again
                writer.abandon()

    def _open(self, size: tuple[int, int], passed: bool) -> PieceWriter:
        film = self._film
        aspect = film.pixel_aspect or self._info.pixel_aspect
        encoding = encoding_for(self._info, self._codec, film.suffix, size, aspect, film.crf, own_format=passed)
        for note in () if self._noted else encoding.notes:
            self._on_note(f"{self._info.name}: {note}")
        self._noted = True
        return PieceWriter(self._parts.piece_path(self._first + len(self._pieces)), encoding)


def frames_ahead(window: int, info: VideoInfo) -> int:
    """How far apart decoding, painting and encoding may be: by the frames of a `window`, which are wanted and given back all at once,
    as far as `BUFFER` holds them.
    """
    return max(DEPTH, min(window, BUFFER // (3 * info.width * info.height)))


def encode_frames(frames: Iterable[SourceFrame], reader: VideoReader, paint: Paint | None, sink: PieceSink, first: int, context: int,
                  ahead: int = DEPTH) -> None:
    """Unpack, paint and encode `frames`, each in a thread of its own, at most `ahead` frames apart; the `context` ones before index
    `first` are only looked at.
    """
    waiting: deque[tuple[SourceFrame, np.ndarray | None]] = deque()

    def unpacked() -> Iterator[tuple[SourceFrame, np.ndarray | None]]:
        for frame in frames:
            yield frame, None if paint is None else reader.pixels(frame)

    def pictures(items: Iterator[tuple[SourceFrame, np.ndarray | None]]) -> Iterator[np.ndarray]:
        for frame, pixels in items:
            if frame.index >= first:
                alpha = pixels[..., 3:] if pixels.shape[2] == 4 else None
                waiting.append((SourceFrame(frame.index, frame.pts, frame.duration, None), alpha))
            yield pixels[..., :3]

    items = read_ahead(unpacked(), ahead)
    try:
        with WriteBehind(lambda item: sink.write(*item), ahead) as behind:
            if paint is None:
                for frame, _ in items:
                    behind.put((frame, frame.picture, None))
            else:
                for painted in paint(pictures(items), first - context, context):
                    frame, alpha = waiting.popleft()
                    behind.put((frame, painted, alpha))
        sink.close()
    except BaseException:
        sink.abandon()
        raise
    finally:
        items.close()


def _resized(alpha: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`alpha` (height, width, 1) resampled to `size` (height, width), of its own type."""
    if alpha.shape[:2] == tuple(size):
        return alpha
    from PIL import Image

    values = Image.fromarray(alpha[..., 0].astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.rint(values).clip(0, np.iinfo(alpha.dtype).max).astype(alpha.dtype)[..., None]

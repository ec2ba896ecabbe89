"""A whole film from file to file: decoded, handed to a painter, encoded in closed pieces, joined; interrupted work goes on."""

from __future__ import annotations

import errno
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hicast.errors import InputError, OutputError
from hicast.io.files import atomic_path, check_target, first_name, is_numbered
from hicast.io.film_encode import Done, PieceSink
from hicast.io.film_parts import PartsFolder, parts_path
from hicast.io.side_by_side import WriteBehind, read_ahead
from hicast.io.video_codecs import CONTAINERS, PICTURES, STREAM_SUFFIX, pick_codec
from hicast.io.video_join import Joining, Piece, join_pieces
from hicast.io.video_pictures import write_gif, write_pictures
from hicast.io.video_read import SourceFrame, Span, VideoReader

Paint = Callable[[Iterator[np.ndarray], int, int], Iterator[np.ndarray]]
"""From RGB frames (height, width, 3) uint8 or uint16, the index of the first one and the number of leading ones that are
context only, to as many painted frames as are not, of the same type and of one size."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LEAST_PIECE = 48
"""Frames that a piece has at least, as each begins with a key frame, which is large."""

DEPTH = 4
"""Frames that decoding is ahead of painting, and painting of encoding."""


@dataclass(frozen=True)
class Film:
    """What is made of one video.

    `target` is a file, a numbered name of pictures (`frame-%05d.png`) or a stream to write to. `step` is the number of
    frames that are painted together and `context` that of the frames before, which the painter looks at. `look` is what
    else decides the result, in what JSON can hold: pieces made with another one are not gone on with. `pixel_aspect`
    is that of the painted frames where it is not the source's; `tags` are written into the file.
    """

    source: Path
    target: Path | BinaryIO
    span: Span = Span()
    codec: str | None = None
    crf: float | None = None
    keep_audio: bool = True
    step: int = 16
    context: int = 0
    look: Mapping[str, Any] = field(default_factory=dict)
    pixel_aspect: Fraction | None = None
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def suffix(self) -> str:
        """The suffix that decides the container."""
        return self.target.suffix.lower() if isinstance(self.target, Path) else STREAM_SUFFIX

    @property
    def piece_frames(self) -> int:
        """Frames of a piece: whole windows."""
        return -(-LEAST_PIECE // self.step) * self.step


@dataclass(frozen=True)
class FilmOutcome:
    """How many frames the film has, how many of them were there from an earlier run, and what is lost in words, or None."""

    frames: int
    resumed: int
    lost: str | None


def make_film(
    film: Film,
    paint: Paint | None,
    *,
    resume: bool = True,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> FilmOutcome:
    """Make `film`; without `paint` its frames are encoded as they were decoded.

    Finished pieces are kept in a hidden folder beside the target until the film is whole; then it is moved into place.
    `on_progress(done, total)` counts frames, with a total of 0 where the file does not tell. A source that breaks off
    gives a film of what could be decoded. Raises InputError, OutputError and UsageError, and what `paint` raises.
    """
    reader = VideoReader(film.source, film.span)
    codec = pick_codec(film.suffix, film.codec, film.crf, reader.info.alpha)
    with ExitStack() as stack:
        if isinstance(film.target, Path):
            check_target(first_name(film.target), overwrite)
            folder = parts_path(film.target)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hicast-"))) / "parts"
        parts = PartsFolder(folder)
        pieces = parts.open(_job(film, codec, passed=paint is None), resume)
        stack.callback(lambda: None if pieces else parts.remove())
        resumed = sum(len(piece.stamps) for piece in pieces)
        if resumed:
            on_note(f"{film.target}: {resumed} frames are there from an earlier run; going on after them")
        end = parts.end()
        if end is None:
            with _write_errors(film):
                done = Done(resumed, reader.expected_frames or 0, on_progress)
                sink = PieceSink(reader.info, codec, film, parts, pieces, done, on_note)
                _encode_rest(film, reader, paint, sink, resumed)
                if not pieces:
                    raise InputError(f"{film.source}: expected frames in this part of the video, found none; change --start and --end")
                end = {"lost": reader.lost}
                parts.finish(end)
        with _write_errors(film):
            _deliver(film, reader, pieces, codec, overwrite, on_note)
        parts.remove()
    return FilmOutcome(sum(len(piece.stamps) for piece in pieces), resumed, end["lost"])


def _job(film: Film, codec: str, passed: bool) -> dict[str, Any]:
    """All that decides the frames of a film."""
    status = first_name(film.source).stat()
    times = {name: None if time is None else str(time) for name, time in vars(film.span).items()}
    source = {"name": film.source.name, "bytes": status.st_size, "changed": status.st_mtime_ns}
    return {"source": source, **times, "codec": codec, "crf": film.crf, "window": film.step, "overlap": film.context,
            "passthrough": passed, **film.look}  # fmt: skip


def _encode_rest(film: Film, reader: VideoReader, paint: Paint | None, sink: PieceSink, first: int) -> None:
    """Decode, paint and encode all frames from index `first` on, each in a thread of its own."""
    context = min(film.context, first) if paint else 0

    def unpacked() -> Iterator[tuple[SourceFrame, np.ndarray | None]]:
        for frame in reader.frames(first - context):
            yield frame, None if paint is None else reader.pixels(frame)

    waiting: deque[tuple[SourceFrame, np.ndarray | None]] = deque()

    def pictures(frames: Iterator[tuple[SourceFrame, np.ndarray | None]]) -> Iterator[np.ndarray]:
        for frame, pixels in frames:
            if frame.index >= first:
                alpha = pixels[..., 3:] if pixels.shape[2] == 4 else None
                waiting.append((SourceFrame(frame.index, frame.pts, frame.duration, None), alpha))
            yield pixels[..., :3]

    frames = read_ahead(unpacked(), DEPTH)
    try:
        with WriteBehind(lambda item: sink.write(*item), DEPTH) as behind:
            if paint is None:
                for frame, _ in frames:
                    behind.put((frame, frame.picture, None))
            else:
                for painted in paint(pictures(frames), first - context, context):
                    frame, alpha = waiting.popleft()
                    behind.put((frame, painted, alpha))
        sink.close()
    except BaseException:
        sink.abandon()
        raise
    finally:
        frames.close()


def _deliver(
    film: Film, reader: VideoReader, pieces: list[Piece], codec: str, overwrite: bool, on_note: Callable[[str], None]
) -> None:
    """Write the finished film to its place."""
    whole = film.span == Span()
    offset = reader.info.origin if film.span.start is None else pieces[0].stamps[0]
    joining = Joining(reader.info, film.source, offset, whole, film.keep_audio, film.tags)
    if not isinstance(film.target, Path):
        notes = join_pieces(pieces, film.target, CONTAINERS[STREAM_SUFFIX], joining)
        film.target.flush()
    elif is_numbered(film.target):
        notes = write_pictures(pieces, film.target, overwrite)
    else:
        with atomic_path(film.target, overwrite) as draft, _write_errors(film):
            if film.suffix in PICTURES:
                notes = write_gif(pieces, draft, joining)
            else:
                notes = join_pieces(pieces, draft, CONTAINERS[film.suffix], joining)
    for note in notes:
        on_note(f"{film.source}: {note}")


@contextmanager
def _write_errors(film: Film) -> Iterator[None]:
    """Turn what goes wrong in writing into OutputError, which tells how to go on."""
    import av

    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        found, place, advice = getattr(error, "strerror", None) or error, "standard output", "check the pipe"
        if isinstance(film.target, Path):
            place, advice = film.target, "choose another place"
            if getattr(error, "errno", None) in NO_ROOM:
                advice = "make room and give the same command again: it goes on from there"
        raise OutputError(f"{place}: expected to be able to write, found: {found}; {advice}") from error

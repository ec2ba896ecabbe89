"""A whole film from file to file: decoded, handed to a painter, encoded in closed pieces, joined; interrupted work goes on."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from hicast.errors import InputError, OutputError
from hicast.io.files import atomic_path, check_target, first_name, is_numbered
from hicast.io.film_encode import Done, Paint, PieceSink, encode_frames, frames_ahead
from hicast.io.film_parts import PartsFolder, parts_path
from hicast.io.film_share import Share, piece_runs
from hicast.io.video_codecs import CONTAINERS, PICTURES, STREAM_SUFFIX, pick_codec
from hicast.io.video_join import Joining, Piece, join_pieces
from hicast.io.video_pictures import write_gif, write_pictures
from hicast.io.video_read import Span, VideoReader

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LEAST_PIECE = 48
"""Frames that a piece has at least, as each begins with a key frame, which is large."""


@dataclass(frozen=True)
class Film:
    """What is made of one video.

    `target` is a file, a numbered name of pictures (`frame-%05d.png`) or a stream to write to. `step` is the number of
    frames that are painted together and `context` that of the frames before, which the painter looks at. `look` is what
    else decides the result, in what JSON can hold: pieces made with another one are not gone on with. `pixel_aspect`
    is that of the painted frames where it is not the source's; `comment` is a line of ours for the file's comment.
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
    comment: str | None = None

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
    share: Share | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> FilmOutcome:
    """Make `film`; without `paint` its frames are encoded as they were decoded.

    Finished pieces are kept in a hidden folder beside the target until the film is whole; then it is moved into place.
    `on_progress(done, total)` counts frames, with a total of 0 where the file does not tell. A source that breaks off
    gives a film of what could be decoded. With a `share` several processes make it together, each called with its own: pieces are
    shared out, and the first process joins them; the result is that of one process. Raises InputError, OutputError and UsageError, and what `paint` raises.
    """
    reader = VideoReader(film.source, film.span)
    codec = pick_codec(film.suffix, film.codec, film.crf, reader.info.alpha)
    with ExitStack() as stack:
        if isinstance(film.target, Path):
            check_target(first_name(film.target), overwrite)
            folder = parts_path(film.target)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hicast-"))) / "parts"
        parts, job = PartsFolder(folder), _job(film, codec, passed=paint is None)
        if share is None:
            pieces = parts.open(job, resume)
            stack.callback(lambda: None if pieces else parts.remove())
        else:
            pieces = share.together(lambda: parts.open(job, resume), alone=True) or []
        resumed = sum(len(piece.stamps) for piece in pieces)
        if resumed:
            on_note(f"{film.target}: {resumed} frames are there from an earlier run; going on after them")
        end = parts.end() if share is None else share.gather(parts.end())[0]
        if end is None:
            end = _make(film, reader, paint, codec, parts, pieces, Done(resumed, reader.expected_frames or 0, on_progress), on_note, share)
        if share is None or share.leads:
            with _write_errors(film):
                _deliver(film, reader, pieces, codec, overwrite, on_note)
            parts.remove()
    return FilmOutcome(sum(len(piece.stamps) for piece in pieces), resumed, end["lost"])


def _make(film: Film, reader: VideoReader, paint: Paint | None, codec: str, parts: PartsFolder, pieces: list[Piece], done: Done,
          on_note: Callable[[str], None], share: Share | None) -> dict[str, Any]:
    """Make all pieces that are missing from `pieces`, which then holds them; what is to be known of the end."""

    def work() -> None:
        with _write_errors(film):
            if share is None:
                _encode_rest(film, reader, paint, PieceSink(reader.info, codec, film, parts, pieces, done, on_note), done.count)
            else:
                _encode_share(film, reader, paint, parts, share, lambda number: PieceSink(reader.info, codec, film, parts, [], done, on_note, number))

    if share is None:
        work()
    else:
        share.together(work)
        pieces[:] = share.together(parts.pieces)
    if not pieces:
        parts.remove()
        raise InputError(f"{film.source}: expected frames in this part of the video, found none; change --start and --end")
    end = {"lost": reader.lost}
    if share is None or share.leads:
        with _write_errors(film):
            parts.finish(end)
    return end


def _job(film: Film, codec: str, passed: bool) -> dict[str, Any]:
    """All that decides the frames of a film."""
    status = first_name(film.source).stat()
    times = {name: None if time is None else str(time) for name, time in vars(film.span).items()}
    source = {"name": film.source.name, "bytes": status.st_size, "changed": status.st_mtime_ns}
    return {"source": source, **times, "codec": codec, "crf": film.crf, "window": film.step, "overlap": film.context,
            "passthrough": passed, **film.look}  # fmt: skip


def _encode_rest(film: Film, reader: VideoReader, paint: Paint | None, sink: PieceSink, first: int) -> None:
    """Decode, paint and encode all frames from index `first` on."""
    context = min(film.context, first) if paint else 0
    encode_frames(reader.frames(first - context), reader, paint, sink, first, context, frames_ahead(film.step, reader.info))


def _encode_share(film: Film, reader: VideoReader, paint: Paint | None, parts: PartsFolder, share: Share, new_sink: Callable[[int], PieceSink]) -> None:
    """Make those missing pieces that are for this process, each painted from the context before it."""
    there, context = parts.numbers(), film.context if paint else 0
    runs = piece_runs(reader.frames(), film.piece_frames, context, lambda number: share.owns(number) and number not in there)
    for number, frames in runs:
        first = number * film.piece_frames
        encode_frames(frames, reader, paint, new_sink(number), first, min(context, first), frames_ahead(film.step, reader.info))


def _deliver(
    film: Film, reader: VideoReader, pieces: list[Piece], codec: str, overwrite: bool, on_note: Callable[[str], None]
) -> None:
    """Write the finished film to its place."""
    whole = film.span == Span()
    offset = reader.info.origin if film.span.start is None else pieces[0].stamps[0]
    joining = Joining(reader.info, film.source, offset, whole, film.keep_audio, film.comment)
    if not isinstance(film.target, Path):
        notes = join_pieces(pieces, film.target, CONTAINERS[STREAM_SUFFIX], joining)
        film.target.flush()
    elif is_numbered(film.target):
        notes = write_pictures(pieces, film.target, overwrite, film.comment)
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

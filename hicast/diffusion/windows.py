"""A film cut into windows: the frames that are computed together, each time with some of those before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from hicast.config.stylize import check_windows
from hicast.errors import UsageError

Frame = TypeVar("Frame")


@dataclass(frozen=True)
class Window(Generic[Frame]):
    """Frames in their order: `context` leading ones that an earlier window has done, then the ones to do.

    `first` is the index in the film of the first of them all.
    """

    frames: tuple[Frame, ...]
    context: int
    first: int


def cut_windows(frames: Iterable[Frame], size: int, overlap: int, first: int = 0, lead: int = 0,
                is_cut: Callable[[Frame, Frame], bool] | None = None) -> Iterator[Window[Frame]]:
    """Windows of at most `size` frames, `overlap` of them context; one window is taken from `frames` at a time.

    Frames to do begin at multiples of `size - overlap` in the film, so that a window is the same whether work began
    before it or with it: then `frames` begin at index `first` with `lead` frames of context. Where `is_cut(before, after)` says
    that another scene begins, so does another window, without context: none holds frames of two scenes. Raises UsageError where
    nothing would be left to do, or where the first frame to do does not begin a window.
    """
    check_windows(size, overlap)
    step = size - overlap
    if (first + lead) % step:
        raise UsageError(f"first frame: expected a multiple of {step}, found {first + lead}; begin where a window does")
    source = iter(frames)
    context = list(islice(source, lead))
    while fresh := list(islice(source, step)):
        window = Window((*context, *fresh), len(context), first)
        yield from _scenes(window, is_cut) if is_cut else (window,)
        kept = list(window.frames[len(window.frames) - overlap :]) if overlap else []
        first += len(window.frames) - len(kept)
        context = kept


def _scenes(window: Window[Frame], is_cut: Callable[[Frame, Frame], bool]) -> Iterator[Window[Frame]]:
    """The parts of `window` between cuts, but those that are context alone."""
    frames = window.frames
    starts = [0, *(at for at in range(1, len(frames)) if is_cut(frames[at - 1], frames[at]))]
    for start, end in zip(starts, [*starts[1:], len(frames)], strict=True):
        if end > window.context:
            yield Window(frames[start:end], max(window.context - start, 0), window.first + start)

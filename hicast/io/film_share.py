"""One film made by several processes: each makes some of its pieces, the first opens the folder of pieces and joins them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from hicast.errors import InputError
from hicast.io.video_read import SourceFrame


@dataclass(frozen=True)
class Share:
    """One process of `count`, by its `rank` from 0; `gather(said)` waits for all and gives what each of them has said, by rank."""

    rank: int
    count: int
    gather: Callable[[Any], list[Any]]

    @property
    def leads(self) -> bool:
        """Whether this is the process that opens, joins and reports."""
        return self.rank == 0

    def owns(self, number: int) -> bool:
        """Whether piece `number` is for this process."""
        return number % self.count == self.rank

    def agree(self, error: Exception | None) -> None:
        """Wait for all; raise the `error` of this process, else InputError with that of another one, if any."""
        said = self.gather(None if error is None else str(error))
        if error is not None:
            raise error
        others = [text for text in said if text is not None]
        if others:
            raise InputError(others[0])

    def together(self, work: Callable[[], Any], alone: bool = False) -> Any:
        """What `work` gives, after all processes have done it, or with `alone` the first one; None to the others.

        Where it fails in one of them, all raise.
        """
        found = error = None
        if self.leads or not alone:
            try:
                found = work()
            except Exception as raised:
                error = raised
        self.agree(error)
        return found


def piece_runs(
    frames: Iterable[SourceFrame], length: int, context: int, wanted: Callable[[int], bool]
) -> Iterator[tuple[int, Iterator[SourceFrame]]]:  # fmt: skip
    """The number of every `wanted` piece of `length` frames, and its frames after the `context` ones before it.

    No two pieces that follow each other are wanted, and `context` is shorter than a piece. A run must be used up before the next.
    """

    def piece_of(frame: SourceFrame) -> int | None:
        for number in (frame.index // length, (frame.index + context) // length):
            if wanted(number):
                return number
        return None

    return ((number, run) for number, run in groupby(frames, piece_of) if number is not None)

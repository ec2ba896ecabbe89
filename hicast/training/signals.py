"""Signals that end a run, kept until the step is done, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 143


class Ending:
    """Whether a signal has asked for the end, and which."""

    def __init__(self) -> None:
        """None has, so far."""
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def leave(self) -> None:
        """Raise what the signal stands for: KeyboardInterrupt for Ctrl-C, else SystemExit(143)."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(TERMINATED)


@contextmanager
def held_signals() -> Iterator[Ending]:
    """SIGINT and SIGTERM are noted while the block runs; a second one does at once what it did before.

    Outside the main thread, where Python has no say over signals, nothing is held.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        ending.number = number
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

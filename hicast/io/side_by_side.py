"""Work in threads of its own, a few items ahead of or behind the main one, so that decoding, computing and encoding overlap."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

PATIENCE = 0.1
"""Seconds after which a waiting thread looks whether it is still wanted."""


def read_ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """`items` in their order, taken by a thread that is at most `depth` of them ahead; its exceptions are raised here.

    The thread ends with the last item or with this generator, whichever comes first.
    """
    queue: Queue[tuple[bool, object]] = Queue(depth)
    unwanted = threading.Event()

    def give(entry: tuple[bool, object]) -> bool:
        while not unwanted.is_set():
            with suppress(Full):
                queue.put(entry, timeout=PATIENCE)
                return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not give((True, item)):
                    return
            give((False, None))
        except BaseException as error:
            give((False, error))

    thread = threading.Thread(target=work, name="hicast-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            more, item = queue.get()
            if not more:
                if item is not None:
                    raise item
                return
            yield item
    finally:
        unwanted.set()
        thread.join()
        if hasattr(items, "close"):
            items.close()


class WriteBehind(Generic[Item]):
    """Hands items to `work` in a thread, in their order; the giver waits where it is more than `depth` of them ahead.

    What `work` raises is raised by the next `put`, or at the end of the block. Where the block itself fails, items that
    are still waiting are left undone.
    """

    def __init__(self, work: Callable[[Item], None], depth: int) -> None:
        """Start the thread."""
        self._work = work
        self._queue: Queue[tuple[bool, Item | None]] = Queue(depth)
        self._error: BaseException | None = None
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hicast-write-behind", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Hand over `item`; raises what an earlier one has raised."""
        while self._error is None:
            with suppress(Full):
                self._queue.put((True, item), timeout=PATIENCE)
                return
        raise self._error

    def __enter__(self) -> Self:
        """The block in which items are handed over."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Wait for the thread: until all is done, or until the item in hand is where the block has failed."""
        if kind is not None:
            self._unwanted.set()
        while self._thread.is_alive() and not self._unwanted.is_set():
            with suppress(Full):
                self._queue.put((False, None), timeout=PATIENCE)
                break
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        while not self._unwanted.is_set():
            try:
                more, item = self._queue.get(timeout=PATIENCE)
            except Empty:
                continue
            if not more:
                return
            try:
                self._work(item)
            except BaseException as error:
                self._error = error
                return

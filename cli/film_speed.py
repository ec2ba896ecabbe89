"""How fast a film is painted, and when it will be done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

REMEMBERED = 60.0
"""Seconds back to which the speed is measured."""


class FilmSpeed:
    """Frames per second over the last minute, and the time left.

    `say` gets a line once the first window is done, then one `every` so many seconds. `text` is the latest reading.
    """

    def __init__(self, window: int, say: Callable[[str], None], every: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock."""
        self.every, self.text = every, ""
        self._window, self._say, self._clock = window, say, clock
        self._readings: deque[tuple[float, int]] = deque()
        self._began, self._first, self._said = clock(), -1, 0.0

    def update(self, done: int, total: int) -> None:
        """Note that `done` frames of `total` (0 where that is unknown) are there."""
        now = self._clock()
        if self._first < 0:
            self._first = done - 1
            self._readings.append((self._began, self._first))
        self._readings.append((now, done))
        while len(self._readings) > 2 and now - self._readings[1][0] > REMEMBERED:
            self._readings.popleft()
        (before, count), seconds = self._readings[0], now - self._readings[0][0]
        speed = (done - count) / max(seconds, 1e-6)
        left = f", about {timedelta(seconds=round((total - done) / max(speed, 1e-6)))} left" if total else ""
        self.text = f"{speed:.1f} frames/s{left}"
        first_window = done - self._first == self._window
        if first_window or (self._said and now - self._said >= self.every):
            self._said = now
            self._say(f"{done} of {total} frames, {self.text}" if total else f"{done} frames, {self.text}")

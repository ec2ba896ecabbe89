"""What the user sees: results on standard output, progress and messages on standard error."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console as Screen
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from .failures import MEMORY_ADVICE, explain
from .film_speed import FilmSpeed

OnProgress = Callable[[int, int], None]
OnTerms = Callable[[int, int, dict[str, float]], None]


class Console:
    """One run's voice; the switches are set once by the command (`options.open_console`)."""

    def __init__(self) -> None:
        self.json = False
        self.quiet = False
        self.verbose = False
        self.results_to_stderr = False
        """Set where standard output carries a picture."""
        self.interrupt_advice = "finished results are whole"
        """What to say after Ctrl-C."""
        self.memory_advice = MEMORY_ADVICE
        """What to say where memory has run out."""
        self._live: Screen | None = None

    def result(self, line: str) -> None:
        """One result, such as an output path, on a line of its own; with `--json` the document says it instead."""
        if not self.json and not self.results_to_stderr:
            print(line, flush=True)

    def document(self, content: Any) -> None:
        """The one JSON document of a run with `--json`."""
        if self.json:
            stream = sys.stderr if self.results_to_stderr else sys.stdout
            print(json.dumps(content, indent=2, ensure_ascii=False), file=stream, flush=True)

    def table(self, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """A table that was asked for, on standard output."""
        table = Table(*columns, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*row)
        width = None if sys.stdout.isatty() else 200
        Screen(file=sys.stdout, width=width, markup=False, highlight=False).print(table)

    def info(self, text: str) -> None:
        """Worth knowing; silent with `--quiet`."""
        if not self.quiet:
            self._say(text)

    def detail(self, text: str) -> None:
        """For those who look closely: `--verbose` only."""
        if self.verbose:
            self._say(text)

    def failure(self, error: BaseException) -> int:
        """One line for `error`, after its traceback with `--verbose`; returns the exit code that fits."""
        if self.verbose:
            traceback.print_exception(error, file=sys.stderr)
        line, code = explain(error, self.memory_advice)
        self._say(f"hicast: {line}", style="red")
        return code

    @contextmanager
    def progress(self, label: str) -> Iterator[OnProgress]:
        """A bar for as long as the block runs; it gives `on_progress(done, total)`, silent where nobody watches."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda done, total: None
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Screen(stderr=True), transient=True) as bars:
            task = bars.add_task(label, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    @contextmanager
    def training(self, every: int, batch_size: int) -> Iterator[OnTerms]:
        """Step, samples per second, time left and mean loss terms of a training run, one reading in `every` steps.

        On a terminal one line that stays in place, else a plain line for each reading.
        """
        if self.quiet:
            yield lambda step, total, terms: None
            return
        if not sys.stderr.isatty():
            yield _readings(every, batch_size, lambda step, total, text: self.info(f"step {step}/{total} {text}"))
            return
        count = MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=13))
        reading = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1))
        with Progress(BarColumn(12), count, reading, console=Screen(stderr=True), expand=True) as bars:
            task = bars.add_task("", total=None)
            self._live = bars.console
            read = _readings(every, batch_size, lambda step, total, text: bars.update(task, description=text))

            def on_progress(step: int, total: int, terms: dict[str, float]) -> None:
                read(step, total, terms)
                bars.update(task, completed=step, total=total)

            try:
                yield on_progress
            finally:
                self._live = None

    @contextmanager
    def film(self, label: str, window: int) -> Iterator[OnProgress]:
        """Frames per second and time left of a film; a first estimate after `window` frames stands in a line of its own."""
        if self.quiet:
            yield lambda done, total: None
            return
        speed = FilmSpeed(window, lambda text: self.info(f"{label}: {text}"))
        if not sys.stderr.isatty():
            yield speed.update
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
        with Progress(*columns, console=Screen(stderr=True), transient=True) as bars:
            task = bars.add_task(label, total=None, speed="")
            self._live = bars.console
            speed.every = float("inf")

            def on_progress(done: int, total: int) -> None:
                speed.update(done, total)
                bars.update(task, completed=done, total=total or None, speed=speed.text)

            try:
                yield on_progress
            finally:
                self._live = None

    def _say(self, text: str, style: str = "") -> None:
        line = " ".join(text.split())
        screen = self._live or Screen(stderr=True, markup=False, highlight=False, emoji=False)
        screen.print(line, style=style, soft_wrap=True, markup=False, highlight=False, emoji=False)


def _readings(every: int, batch_size: int, show: Callable[[int, int, str], None]) -> OnTerms:
    """Gathers steps and shows `samples/s`, time left and mean terms after `every` of them, and after the last."""
    sums: dict[str, float] = {}
    mark = [time.monotonic(), 0]

    def on_progress(step: int, total: int, terms: dict[str, float]) -> None:
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value
        mark[1] += 1
        if step % every and step != total:
            return
        seconds = max(time.monotonic() - mark[0], 1e-6)
        left = timedelta(seconds=round((total - step) * seconds / mark[1]))
        means = " ".join(f"{name} {value / mark[1]:.4g}" for name, value in sums.items())
        show(step, total, f"{mark[1] * batch_size / seconds:.1f}/s left {left} {means}")
        sums.clear()
        mark[:] = [time.monotonic(), 0]

    return on_progress

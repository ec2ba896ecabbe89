"""What a run leaves to be looked at: a JSON-lines log, scalars for TensorBoard, contact sheets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hicast.errors import OutputError
from hicast.io.images import Picture, save_picture
from hicast.training.sources import OnNote

LOG = "log.jsonl"


class Record:
    """Rows of the log and scalars by name, per step."""

    def __init__(self, folder: Path, first: int, tensorboard: bool, on_note: OnNote | None = None) -> None:
        """Go on after step `first`; rows of later steps, which are done again, are taken out of the log.

        Where TensorBoard is asked for and not installed, `on_note` says so and the log holds all the same.
        """
        self.folder = folder
        self._writer = _open_writer(folder / "tensorboard", first, on_note) if tensorboard else None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _cut(folder / LOG, first)
        except OSError as error:
            raise _no_room(folder, error) from error

    def row(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of the log, its numbers also as scalars; raises OutputError where it cannot be written."""
        try:
            with (self.folder / LOG).open("a") as log:
                log.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise _no_room(self.folder / LOG, error) from error
        for name, value in values.items():
            if self._writer and isinstance(value, float):
                self._writer.add_scalar(name, value, step)

    def sheet(self, step: int, pixels: np.ndarray) -> None:
        """A contact sheet, uint8 (height, width, 3), as `sheets/step-N.png`."""
        save_picture(Picture(pixels), self.folder / "sheets" / f"step-{step:08d}.png", overwrite=True)
        if self._writer:
            self._writer.add_image("sheet", pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write out what waits."""
        if self._writer:
            self._writer.close()


def _open_writer(folder: Path, first: int, on_note: OnNote | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        if on_note:
            on_note("tensorboard is not installed, so there are no scalars for it: pip install tensorboard, or set tensorboard=false")
        return None
    return SummaryWriter(str(folder), purge_step=first + 1)


def _cut(log: Path, last: int) -> None:
    """Drop the rows after step `last`, and a last one that is not whole."""
    if not log.is_file():
        return
    kept = [line for line in log.read_text().splitlines() if _step(line) <= last]
    log.write_text("".join(f"{line}\n" for line in kept))


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _no_room(path: Path, error: OSError) -> OutputError:
    found = error.strerror or error
    return OutputError(f"{path}: expected to be able to write, found: {found}; make room or change the output, then give the same command")

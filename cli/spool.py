"""A video that comes through a pipe, kept in a file: most kinds of videos must be read in more than one place."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from hicast.errors import InputError


def spooled(stream: BinaryIO, stack: ExitStack) -> Path:
    """A temporary file with all of `stream`, gone when `stack` closes; raises InputError where it cannot be kept."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hicast-")))
    path = folder / "stdin"
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
    except OSError as error:
        message = f"standard input: expected room for it in {folder.parent}, found: {error.strerror}; set TMPDIR to another folder"
        raise InputError(message) from error
    return path

"""Converted nets on disk: beside the weights where that can be written, else in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hicast.errors import OutputError
from hicast.io.files import atomic_path
from hicast.io.model_places import COMPILED

SUFFIX = ".net"
_DIGEST = 32


def cache_folder() -> Path:
    """The user's cache folder: `hicast` in XDG_CACHE_HOME or LOCALAPPDATA, else in `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(home) if home else Path.home() / ".cache") / "hicast"


class Store:
    """Files of bytes by name, each with its own hash at its beginning."""

    def __init__(self, model: Path | None) -> None:
        """`model` is the folder of the weights, None for a net that was never on disk."""
        self._model = model
        self.folders: Sequence[Path] = (*([model / COMPILED] if model else []), cache_folder() / COMPILED)

    def load(self, name: str) -> tuple[np.ndarray | None, Path | None]:
        """The bytes called `name` (uint8) and the file they are in; both None where there is none, the bytes alone where it is damaged."""
        for folder in self.folders:
            path = folder / f"{name}{SUFFIX}"
            try:
                content = np.fromfile(path, dtype=np.uint8)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                return None, path
            digest, payload = content[:_DIGEST].tobytes(), content[_DIGEST:]
            return (payload if hashlib.sha256(payload).digest() == digest else None), path
        return None, None

    def save(self, name: str, payload: bytes, group: str) -> Path | None:
        """Keep `payload`, and beside the weights no other of its `group`; the file, or None where nothing can be written."""
        for folder in self.folders:
            target = folder / f"{name}{SUFFIX}"
            try:
                with atomic_path(target, overwrite=True) as draft, draft.open("wb") as stream:
                    stream.write(hashlib.sha256(payload).digest())
                    stream.write(payload)
            except OutputError:
                continue
            if self._model and folder.parent == self._model:
                for other in folder.glob(f"{group}-*{SUFFIX}"):
                    if other != target:
                        other.unlink(missing_ok=True)
            return target
        return None

"""The hidden folder beside a film in the making: its finished pieces, and what they were made from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hicast.errors import OutputError
from hicast.io.video_join import Piece
from hicast.io.video_write import PieceWriter

JOB_FILE, END_FILE = "job.json", "end.json"


def parts_path(target: Path) -> Path:
    """The folder for the pieces of `target`, beside it; a numbered name of pictures has one too."""
    return target.with_name(f".hicast-{target.name.replace('%', '')}.parts")


class PartsFolder:
    """Pieces of one film. A piece counts once its description stands beside it, which is moved into place last."""

    def __init__(self, path: Path) -> None:
        """Take the folder at `path`, which need not exist."""
        self.path = path

    def open(self, job: Mapping[str, Any], resume: bool = True) -> list[Piece]:
        """The pieces that are there, after a check that they were made for the same `job`; without `resume` none are kept.

        `job` is what JSON can hold. Raises OutputError, naming what differs, for pieces of another job, and for a folder
        that cannot be written.
        """
        found = self._read(JOB_FILE)
        wanted = json.loads(json.dumps(dict(job)))
        if found is not None and resume:
            changed = sorted(_differences(found, wanted))
            if changed:
                raise OutputError(
                    f"{self.path}: expected pieces made with the same settings, found others for {', '.join(changed)}; "
                    "give the earlier settings to go on, or --no-resume to begin anew"
                )
            return self.pieces()
        self.remove()
        try:
            self.path.mkdir(parents=True)
            self._write(JOB_FILE, wanted)
        except OSError as error:
            found_words = error.strerror or error
            raise OutputError(f"{self.path}: expected to be able to write, found: {found_words}; choose another place") from error
        return []

    def piece_path(self, number: int) -> Path:
        """Where piece `number` is written."""
        return self.path / f"{number:06}.mkv"

    def add(self, number: int, writer: PieceWriter, last_duration: int) -> Piece:
        """Count piece `number`, which `writer` has finished; raises OSError."""
        path = self.piece_path(number)
        piece = Piece(path, tuple(writer.stamps), last_duration, writer.lag, writer.encoding.tag)
        _sync(path)
        self._write(f"{number:06}.json", {key: value for key, value in vars(piece).items() if key != "path"})
        return piece

    def end(self) -> dict[str, Any] | None:
        """What `finish` was told, or None while frames are missing."""
        return self._read(END_FILE)

    def finish(self, content: Mapping[str, Any]) -> None:
        """Note that all frames are there; raises OSError."""
        self._write(END_FILE, dict(content))

    def remove(self) -> None:
        """Delete the folder, if there is one."""
        shutil.rmtree(self.path, ignore_errors=True)

    def numbers(self) -> set[int]:
        """Numbers of all pieces that count, gaps or not."""
        return {int(path.stem) for path in self.path.glob("[0-9]*.json") if path.with_suffix(".mkv").is_file()}

    def pieces(self) -> list[Piece]:
        """Pieces from the first on without a gap."""
        pieces: list[Piece] = []
        while (entry := self._read(f"{len(pieces):06}.json")) is not None and self.piece_path(len(pieces)).is_file():
            pieces.append(Piece(self.piece_path(len(pieces)), **{**entry, "stamps": tuple(entry["stamps"])}))
        return pieces

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        draft = self.path / f".{name}"
        draft.write_text(json.dumps(content), encoding="utf-8")
        os.replace(draft, self.path / name)


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Dotted names of the keys in which two jobs differ."""
    names: set[str] = set()
    for key in found.keys() | wanted.keys():
        one, other = found.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names |= _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            names.add(f"{prefix}{key}")
    return names


def _sync(path: Path) -> None:
    """Have the system write a file's content to the disk before it counts."""
    with path.open("rb") as file:
        os.fsync(file.fileno())

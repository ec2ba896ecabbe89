"""Where samples lie: files of folders, and members of tar shards, found and read alike."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hicast.errors import InputError
from hicast.io.files import READABLE_SUFFIXES, VIDEOS

PICTURES = READABLE_SUFFIXES
CLIPS = VIDEOS.readable
"""Suffixes of files that PyAV may open as clips."""

SHARD = ".tar"
COMPANIONS = (".txt", ".json", ".cls", ".caption")
"""Suffixes in tar shards that belong to a sample without being its picture: nothing to tell of."""

OnNote = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """One file, or the bytes `offset` to `offset + size` of a tar shard; `name` is for messages."""

    path: Path
    name: str
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Its content; raises InputError where it cannot be read."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.offset)
                content = stream.read(-1 if self.size is None else self.size)
        except OSError as error:
            raise InputError(f"{self.name}: expected a file that can be read, found: {error.strerror}") from error
        if self.size is not None and len(content) < self.size:
            raise InputError(f"{self.name}: expected {self.size} bytes, found {len(content)}: the shard is cut off")
        return content


def list_sources(places: Sequence[Path], suffixes: Sequence[str] = PICTURES, on_note: OnNote | None = None) -> list[Source]:
    """Samples with one of `suffixes` below the folders and in the tar shards `places`, sorted within each of them.

    Folders are searched recursively, shards in them included, hidden files left out; other files are counted in one
    note. Raises InputError for a place that is missing or holds no sample.
    """
    found = []
    for place in places:
        here, others = _list_place(place, tuple(suffixes))
        if not here:
            raise InputError(
                f"expected {', '.join(suffix[1:] for suffix in suffixes)} or tar files below {place}, found none of them; "
                "choose another folder"
            )
        if others and on_note:
            on_note(f"{place}: left out {len(others)} of {len(here) + len(others)} files, such as {others[0]}: another kind")
        found += here
    return found


def _list_place(place: Path, suffixes: tuple[str, ...]) -> tuple[list[Source], list[str]]:
    """Samples of one folder or shard, and the names of what else lies there."""
    if place.is_file() and place.suffix.lower() == SHARD:
        return _list_shard(place, suffixes)
    if not place.is_dir():
        raise InputError(f"expected a folder or tar shard of training data, found nothing of that kind at {place}; check the path")
    here: list[Source] = []
    others: list[str] = []
    for path in sorted(place.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(place).parts) or not path.is_file():
            continue
        if path.suffix.lower() == SHARD:
            samples, strangers = _list_shard(path, suffixes)
            here += samples
            others += strangers
        elif path.suffix.lower() in suffixes:
            here.append(Source(path, str(path)))
        else:
            others.append(path.name)
    return here, others


def _list_shard(path: Path, suffixes: tuple[str, ...]) -> tuple[list[Source], list[str]]:
    """Samples of a tar shard in its order; of one that is cut off, those that are whole."""
    here: list[Source] = []
    others: list[str] = []
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                name = PurePosixPath(member.name)
                if not member.isfile() or name.name.startswith("."):
                    continue
                if name.suffix.lower() in suffixes:
                    here.append(Source(path, f"{path}:{name}", member.offset_data, member.size))
                elif name.suffix.lower() not in COMPANIONS:
                    others.append(name.name)
    except (tarfile.TarError, OSError) as error:
        if not here:
            raise InputError(f"{path}: expected a tar shard (not compressed), found: {error}; write it again") from error
        others.append(f"the end of {path.name}, which is damaged")
    return here, others

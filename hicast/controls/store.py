"""Folders of control maps: which map goes where, and a manifest that says how each was drawn.

A folder holds one folder for each control, `FOLDER/edge/NAME.png`, with the manifest `controls.json` in it: that is what
stylizing and training read. Pictures to look at lie in `FOLDER/overlay/edge`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from hicast.errors import InputError, OutputError, UsageError
from hicast.io.files import IMAGES, VIDEOS, atomic_path, find_images

MANIFEST = "controls.json"
OVERLAY = "overlay"
MAP_SUFFIX, FILM_SUFFIX = ".png", ".mp4"

SAVE_EVERY = 2.0
"""Seconds between two savings of a manifest that grows."""


@dataclass(frozen=True)
class MapSource:
    """A picture or video and the name of its maps below the folder of their control."""

    path: Path
    name: Path

    @property
    def is_film(self) -> bool:
        """Whether the maps are videos."""
        return self.name.suffix == FILM_SUFFIX

    @property
    def about(self) -> dict[str, Any]:
        """What tells this file from another one, as the manifest keeps it; raises InputError where there is no such file."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise InputError(f"{self.path}: expected a picture or video, found no such file; check the path") from error
        return {"file": str(self.path), "bytes": status.st_size, "changed": status.st_mtime_ns}


def find_sources(inputs: Sequence[Path | str], output: Path) -> list[MapSource]:
    """Pictures and videos among `inputs`, files or folders (mirrored), and the names of their maps.

    Files that do not exist are listed like others: reading reports them. What lies in `output` itself is left out.
    Raises UsageError for a file of another kind or where two would share a map, InputError for a folder without any.
    """
    found: list[MapSource] = []
    for entry in map(Path, inputs):
        if entry.is_dir():
            found += _in_folder(entry, output)
        elif _map_suffix(entry) is None:
            expected = "expected a picture or video by its suffix"
            raise UsageError(f"{entry}: {expected}, found {entry.suffix or 'none'}; name a file of {', '.join(IMAGES.readable)} or .mp4 ...")
        else:
            found.append(MapSource(entry, Path(entry.name).with_suffix(_map_suffix(entry))))
    taken: dict[Path, Path] = {}
    for source in found:
        if source.name in taken:
            both = f"found that {taken[source.name]} and {source.path} would both become {source.name}"
            raise UsageError(f"expected one map per file, {both}; rename one or run them apart")
        taken[source.name] = source.path
    return found


def _in_folder(folder: Path, output: Path) -> list[MapSource]:
    """Everything in `folder` and below that is not in `output`."""
    results = output.resolve()
    paths = {path for kind in (IMAGES, VIDEOS) for path in find_images(folder, kind)}
    paths = sorted(path for path in paths if not path.resolve().is_relative_to(results))
    if not paths:
        raise InputError(f"{folder}: expected pictures or videos, found none; choose another folder")
    return [MapSource(path, path.relative_to(folder).with_suffix(_map_suffix(path))) for path in paths]


def _map_suffix(path: Path) -> str | None:
    """The suffix of the maps of a file; None for what is neither picture nor video. A GIF is a picture."""
    if path.suffix.lower() in IMAGES.readable:
        return MAP_SUFFIX
    return FILM_SUFFIX if path.suffix.lower() in VIDEOS.readable else None


def drawn_by(folder: Path) -> str | None:
    """The extractor that drew all maps of one control in `folder`, by the manifest there; None without one, and for maps of several."""
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["maps"].values()
        names = {entry["extractor"] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return names.pop() if len(names) == 1 else None


@dataclass
class MapFolder:
    """The maps of one control below `root`, with their manifest: for each map its source, its extractor and its parameters."""

    root: Path
    control: str
    maps: dict[str, dict[str, Any]] = field(default_factory=dict)
    _saved: float = 0.0
    _changed: bool = False

    def __post_init__(self) -> None:
        """Read the manifest that is there; raises OutputError where the file is another one."""
        if not self.manifest.is_file():
            return
        try:
            self.maps = dict(json.loads(self.manifest.read_text(encoding="utf-8"))["maps"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{self.manifest}: expected the manifest of maps, found another file; move it or choose another folder") from error

    @property
    def manifest(self) -> Path:
        """Where the manifest lies."""
        return self.root / self.control / MANIFEST

    def target(self, source: MapSource) -> Path:
        """Where the map of a source lies."""
        return self.root / self.control / source.name

    def overlay(self, source: MapSource) -> Path:
        """Where the picture to look at lies."""
        return self.root / OVERLAY / self.control / source.name

    def has(self, source: MapSource, entry: dict[str, Any]) -> bool:
        """Whether the map of a source is there and was drawn just so from just this file, wherever that lay."""
        found = self.maps.get(source.name.as_posix())
        return found is not None and _deciding(found) == _deciding(entry) and self.target(source).is_file()

    def changes(self, source: MapSource, entry: dict[str, Any]) -> str | None:
        """What decides how the map of a source looks and has changed since it was drawn, in words; None for a map of unknown origin."""
        found = self.maps.get(source.name.as_posix())
        if found is None:
            return None
        now, then = _deciding(entry), _deciding(found)
        changed = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
        said = [f"{key} {then.get(key) or 'its own'}" for key in changed if key in entry]
        return ", ".join(said + ["another source"] * (len(said) < len(changed)))

    def add(self, source: MapSource, entry: dict[str, Any]) -> None:
        """Note a map that is finished, and save the manifest now and then."""
        self.maps[source.name.as_posix()] = entry
        self._changed = True
        if monotonic() - self._saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write the manifest if it has changed; raises OutputError where it cannot be written."""
        if not self._changed:
            return
        content = {"control": self.control, "maps": dict(sorted(self.maps.items()))}
        with atomic_path(self.manifest, overwrite=True) as draft:
            draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        self._saved, self._changed = monotonic(), False




def _deciding(entry: dict[str, Any]) -> dict[str, Any]:
    """What decides how a map looks: all of its entry but the source's place and the version."""
    source = {key: value for key, value in entry.get("source", {}).items() if key != "file"}
    return {key: value for key, value in entry.items() if key not in ("source", "hicast")} | source

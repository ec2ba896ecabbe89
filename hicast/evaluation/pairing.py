"""Which photo and which painting a result was made of: by a pairs file, or by the names of the files."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hicast.errors import InputError, UsageError
from hicast.io.files import IMAGES, FileKind, find_images

NUMBERED_PREFIX = re.compile(r"^\d+_")
"""What the published scripts put before the names of content and style."""

CONTENT_FOLDER, STYLE_FOLDER = "content", "style"


@dataclass(frozen=True)
class Pair:
    """One photo (or clip) and one painting, and the `key` that results of this pair are named by; `kind` groups paintings."""

    key: str
    content: Path
    style: Path
    kind: str = ""

    @property
    def label(self) -> str:
        """The pair in words."""
        return f"{self.key}: {self.content.stem} + {self.style.stem}" if self.key not in (self.content.stem, self.style.stem) else self.key


@dataclass(frozen=True)
class Pairing:
    """The pairs, the file of each method by the pair's key, and the names on either side that found no partner."""

    pairs: list[Pair]
    results: dict[str, dict[str, Path]]
    unmatched: dict[str, list[str]] = field(default_factory=dict)

    def notes(self, most: int = 8) -> list[str]:
        """What is to be said of names without partner, a line for each side."""
        lines = []
        for side, names in self.unmatched.items():
            shown = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
            lines.append(f"{side}: {len(names)} without partner: {shown}")
        return lines


def check_sources(content: Path | None, style: Path | None, pairs: Path | None) -> None:
    """Raise UsageError where neither both sides nor a file of `pairs` say what is judged; the message names what is missing."""
    given = {"--content": content, "--style": style}
    missing = [option for option, path in given.items() if path is None]
    if pairs is not None or not missing:
        return
    expected = "expected --content and --style, or --pairs"
    if len(missing) == len(given):
        raise UsageError(f"{expected}, found neither; name the photos and the paintings")
    (found,) = given.keys() - missing
    raise UsageError(f"{expected}, found {found} alone; add {missing[0]}")


def read_pairs(file: Path, content: Path | None = None, style: Path | None = None) -> list[Pair]:
    """Rows of a pairs file (CSV with the columns `content,style`, and `kind` if wanted); row k has the key `000`, `001`, ...

    Names stand under the folders given, else under `content` and `style` beside the file. Raises InputError where the
    file or a column is missing or no row is there.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        found = getattr(error, "strerror", None) or error
        raise InputError(f"{file}: expected a pairs file (CSV with the columns content,style), found: {found}; check the path") from error
    lacking = [name for name in ("content", "style") if name not in columns]
    if lacking:
        raise InputError(f"{file}: expected the columns content,style, found {', '.join(columns) or 'none'}; name them in its first line")
    if not rows:
        raise InputError(f"{file}: expected at least one pair below the first line, found none; add rows")
    bad = [number for number, row in enumerate(rows, 2) if not row["content"] or not row["style"]]
    if bad:
        raise InputError(f"{file}: line {bad[0]}: expected a content and a style, found one empty; complete the line")
    photos, paintings = content or file.parent / CONTENT_FOLDER, style or file.parent / STYLE_FOLDER
    return [Pair(f"{k:03d}", photos / row["content"], paintings / row["style"], row.get("kind") or "") for k, row in enumerate(rows)]


def all_pairs(content: Path, style: Path, kind: FileKind = IMAGES) -> list[Pair]:
    """Every photo with a painting: with the one of its stem where all have one, with the only one, else in turn."""
    photos, paintings = files_of(content, kind), files_of(style)
    by_stem = {path.stem: path for path in paintings}
    if all(photo.stem in by_stem for photo in photos):
        return [Pair(photo.stem, photo, by_stem[photo.stem]) for photo in photos]
    if len(paintings) == 1:
        return [Pair(photo.stem, photo, paintings[0]) for photo in photos]
    return [Pair(f"{photo.stem}-{(p := paintings[k % len(paintings)]).stem}", photo, p) for k, photo in enumerate(photos)]


def match(pairs: Sequence[Pair], folders: Mapping[str, Path], kind: FileKind = IMAGES) -> Pairing:
    """Results of `pairs` in the folder of each method, by stem; raises InputError where a method has none at all."""
    keys, results, unmatched = [pair.key for pair in pairs], {}, {}
    for name, folder in folders.items():
        found = {path.stem: path for path in files_of(folder, kind)}
        results[name] = {key: found[key] for key in keys if key in found}
        if not results[name]:
            raise InputError(f"{folder}: expected results named {keys[0]} and so on, found {next(iter(found))}; rename them or give --pairs")
        _note(unmatched, f"{name}, results", [found[stem].name for stem in found if stem not in set(keys)])
        _note(unmatched, f"{name}, pairs", [key for key in keys if key not in found])
    return Pairing(list(pairs), results, unmatched)


def match_by_name(content: Path, style: Path, folders: Mapping[str, Path], kind: FileKind = IMAGES) -> Pairing:
    """Pairs from the stems of results: that of the photo and the painting alike, that of the photo where there is one
    painting, `PHOTO-PAINTING`, `PHOTO_PAINTING`, or either after a number, as the published scripts write it.

    Raises InputError for a folder without files and where no result finds its pair.
    """
    photos = {path.stem: path for path in files_of(content, kind)}
    paintings = {path.stem: path for path in files_of(style)}
    names = {f"{c}{sign}{s}": (c, s) for c in photos for s in paintings for sign in "-_"}
    names |= {stem: (stem, stem) for stem in photos if stem in paintings}
    if len(paintings) == 1:
        names |= {stem: (stem, next(iter(paintings))) for stem in photos}
    found: dict[str, dict[str, Path]] = {}
    chosen: dict[str, tuple[str, str]] = {}
    unmatched: dict[str, list[str]] = {}
    for name, folder in folders.items():
        files = files_of(folder, kind)
        known = {path.stem: names.get(path.stem) or names.get(NUMBERED_PREFIX.sub("", path.stem)) for path in files}
        found[name] = {path.stem: path for path in files if known[path.stem]}
        chosen |= {stem: both for stem, both in known.items() if both}
        _note(unmatched, f"{name}, results", [path.name for path in files if not known[path.stem]])
        if not found[name]:
            raise InputError(
                f"{folder}: expected results named after photo and painting, found {files[0].name}; rename them, or give --pairs FILE"
            )
    pairs = [Pair(key, photos[c], paintings[s]) for key, (c, s) in sorted(chosen.items())]
    for name in folders:
        _note(unmatched, f"{name}, pairs", [pair.key for pair in pairs if pair.key not in found[name]])
    _note(unmatched, "content", [photos[stem].name for stem in photos if stem not in {c for c, _ in chosen.values()}])
    return Pairing(pairs, found, unmatched)


def files_of(path: Path, kind: FileKind = IMAGES) -> list[Path]:
    """The file `path`, or those of a `kind` in a folder, sorted; raises InputError where there are none or two share a stem."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: expected a folder of {kind.noun}, found no such folder; check the path")
    files = find_images(path, kind)
    if not files:
        raise InputError(f"{path}: expected {kind.noun} ({', '.join(kind.readable)}), found none; choose another folder")
    stems: dict[str, Path] = {}
    for file in files:
        if file.stem in stems:
            raise UsageError(f"{path}: expected one file for each name, found {stems[file.stem].name} and {file.name}; move one away")
        stems[file.stem] = file
    return files


def _note(unmatched: dict[str, list[str]], side: str, names: list[str]) -> None:
    if names:
        unmatched[side] = names

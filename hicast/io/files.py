"""Where results go: finding inputs, planning output names, and files that appear only when they are whole."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hicast.errors import InputError, OutputError, UsageError

READABLE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")
WRITABLE_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
"""Suffixes of results, and Pillow's names of their formats."""

KEPT_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Suffixes that a result takes over from its input; all others become `.png`."""

STANDARD_STREAM = "-"


@dataclass(frozen=True)
class FileKind:
    """A kind of files by their suffixes: those that are read, written, and taken over by a result from its input.

    A result whose input's suffix is not taken over gets `fallback`. `numbered` suffixes are written as many files, whose
    names hold a number such as `%05d`.
    """

    noun: str
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    kept: tuple[str, ...]
    fallback: str
    numbered: tuple[str, ...] = ()

    def can_write(self, path: Path) -> bool:
        """Whether a result may have this name."""
        suffix = path.suffix.lower()
        return suffix in self.writable or (suffix in self.numbered and is_numbered(path))


IMAGES = FileKind("pictures", READABLE_SUFFIXES, tuple(WRITABLE_FORMATS), KEPT_SUFFIXES, ".png")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif")
VIDEOS = FileKind(
    "videos",
    (*VIDEO_SUFFIXES, ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".flv", ".ogv", ".3gp", ".y4m"),
    VIDEO_SUFFIXES,
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".gif"),
    ".mp4",
    (".png",),
)

NUMBERED = re.compile(r"[^%]*%0?\d*d[^%]*")


@dataclass(frozen=True)
class PlannedOutput:
    """One input to read and the place of its result; None stands for standard input and output.

    `within` is the input's path below the folder that was given, or its name: where things that mirror the inputs lie.
    """

    source: Path | None
    target: Path | None
    within: Path = field(default=Path("stdin"), compare=False)


def is_numbered(path: Path) -> bool:
    """Whether a name stands for many files, such as `frame-%05d.png`."""
    return bool(NUMBERED.fullmatch(path.name))


def first_name(path: Path) -> Path:
    """`path`, or the first of the files that a numbered name stands for."""
    return path.with_name(path.name % 1) if is_numbered(path) else path


def find_images(folder: Path, kind: FileKind = IMAGES) -> list[Path]:
    """Pictures, or files of another `kind`, in `folder` and below, by suffix, sorted; hidden files and folders are skipped."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in kind.readable
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def plan_outputs(
    inputs: Sequence[Path | str],
    style_names: Sequence[str],
    output: Path | str | None = None,
    *,
    protected: Iterable[Path] = (),
    kind: FileKind = IMAGES,
) -> list[PlannedOutput]:
    """Pair every input of a `kind` with the place of its result, before anything is computed.

    `inputs` are files, folders or `-` (standard input). Without `output` a file becomes `NAME-STYLE.EXT` and a folder
    the folder `NAME-STYLE`, both in the working folder, and standard input goes to standard output. `output` is a
    file (one input), a folder (existing, or a string with a trailing slash, or any name for several inputs; folders
    are mirrored, stems kept) or `-`. Files that do not exist are planned like others: reading reports them.
    `protected` are files that no result may replace, such as the styles.

    Raises UsageError for plans that contradict themselves or would replace an input, InputError for a folder
    without files of the kind.
    """
    many = len(inputs) > 1 or any(os.path.isdir(entry) for entry in inputs)
    into_folder = output is not None and _names_folder(output, many, kind)
    ending = "".join(f"-{name}" for name in style_names)
    planned: list[PlannedOutput] = []
    for entry in inputs:
        path = Path(entry)
        if os.path.isdir(path):
            planned += _plan_folder(path, Path(output) if output else Path(f"{path.resolve().name}{ending}"), kind)
            continue
        source = None if str(entry) == STANDARD_STREAM else path
        name = _result_name(source or Path("stdin"), kind)
        if into_folder:
            target = Path(output) / name
        elif output is not None:
            target = None if str(output) == STANDARD_STREAM else Path(output)
        else:
            target = name.with_stem(f"{name.stem}{ending}") if source else None
        planned.append(PlannedOutput(source, target, Path(source.name) if source else Path("stdin")))
    _check_plan(planned, protected)
    return planned


def _names_folder(output: Path | str, many: bool, kind: FileKind) -> bool:
    """Whether `output` is a folder for results; UsageError where it does not suit the number of inputs."""
    path = Path(output)
    if str(output) == STANDARD_STREAM:
        if many:
            raise UsageError("expected --output to be a folder for several inputs, found -; name a folder")
        return False
    if many:
        if os.path.isfile(path) or (kind.can_write(path) and not os.path.isdir(path)):
            raise UsageError(f"expected --output to be a folder for several inputs, found {path}; name a folder")
        return True
    if os.path.isdir(path) or str(output).endswith(("/", os.sep)):
        return True
    if not kind.can_write(path):
        raise UsageError(
            f"expected --output to end in {', '.join(kind.writable)}{_numbered_names(kind)}, found {path}; "
            f"change the suffix, or write {path}{os.sep} for a folder"
        )
    return False


def _numbered_names(kind: FileKind) -> str:
    return "".join(f" or in a number and {suffix} (frame-%05d{suffix})" for suffix in kind.numbered)


def _result_name(path: Path, kind: FileKind) -> Path:
    """File name of the result of `path`: its stem, and its suffix where that can be written."""
    return Path(path.stem + (path.suffix if path.suffix.lower() in kind.kept else kind.fallback))


def _plan_folder(folder: Path, root: Path, kind: FileKind) -> list[PlannedOutput]:
    """Results of all files of `folder` mirrored below `root`; earlier results in `root` are no inputs."""
    results = root.resolve()
    nested = results != folder.resolve() and results.is_relative_to(folder.resolve())
    paths = [path for path in find_images(folder, kind) if not (nested and path.resolve().is_relative_to(results))]
    if not paths:
        expected = f"expected {kind.noun} ({', '.join(kind.readable)})"
        raise InputError(f"{folder}: {expected}, found none; choose another folder")
    within = {path: path.relative_to(folder) for path in paths}
    return [PlannedOutput(path, root / within[path].parent / _result_name(path, kind), within[path]) for path in paths]


def _check_plan(planned: list[PlannedOutput], protected: Iterable[Path]) -> None:
    """Raise UsageError where a result would replace an input, a protected file or another result."""
    kept = {path.resolve() for path in protected} | {item.source.resolve() for item in planned if item.source}
    taken: dict[Path | None, Path | None] = {}
    for item in planned:
        place = item.target.resolve() if item.target else None
        if place and place in kept:
            raise UsageError(f"expected no result in place of an input or style, found {item.target}; change --output")
        if place in taken:
            first, second = (path or STANDARD_STREAM for path in (taken[place], item.source))
            raise UsageError(
                f"expected one result per file, found that {first} and {second} would both become "
                f"{item.target or STANDARD_STREAM}; rename one or run them apart"
            )
        taken[place] = item.source


def check_target(target: Path, overwrite: bool = False) -> None:
    """Raise OutputError where `target` cannot or must not be written: call it before long work."""
    # os.path and not Path, which raises where a folder is closed or a name too long
    if os.path.exists(target) and not os.path.isfile(target):
        raise OutputError(f"{target}: expected the name of a file to write, found a folder or device; add a file name")
    if os.path.exists(target) and not overwrite:
        raise OutputError(f"{target}: expected no such file, found one; choose another name or add --overwrite")
    parent = next(folder for folder in target.absolute().parents if os.path.exists(folder))
    if not os.path.isdir(parent):
        raise OutputError(f"{target}: expected a folder to write to, found the file {parent}; choose another folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{target}: expected to be able to write, found {parent} read-only; choose another folder")


@contextmanager
def atomic_path(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a hidden temporary path beside `target`, moved into place when the block ends well.

    The temporary file has the suffix of `target` and stands empty at first; missing parent folders are made. After
    any exception, KeyboardInterrupt included, it is removed and an old file stays as it was. Raises OutputError as
    `check_target` does, and in place of every OSError, those of the block included.
    """
    check_target(target, overwrite)
    draft = target.with_name(f".hicast-{secrets.token_hex(4)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.touch(exist_ok=False)
        yield draft
        os.replace(draft, target)
    except OSError as error:
        found = error.strerror or error
        raise OutputError(f"{target}: expected to be able to write, found: {found}; choose another place") from error
    finally:
        draft.unlink(missing_ok=True)

"""The hash list of a model folder: SHA-256 of every file, written when it is made and compared whenever it is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from hicast.errors import ModelError
from hicast.io.model_places import model_files
from hicast.io.weights import load_json, save_json

HASHES_FILE = "hashes.json"
_BLOCK = 2**22

OnBytes = Callable[[int], None]


def file_hash(path: Path, on_bytes: OnBytes | None = None) -> str:
    """SHA-256 of a file, in hexadecimal; `on_bytes` is told the length of each block that is read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            if on_bytes:
                on_bytes(len(block))
    return digest.hexdigest()


def git_hash(path: Path) -> str:
    """The name that git gives to a file's content, by which a hub knows its small files."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def write_hashes(folder: Path, on_bytes: OnBytes | None = None) -> None:
    """Write the list of all files in `folder`; `on_bytes` is that of `file_hash`. Raises OutputError."""
    save_json({"algorithm": "sha256", "files": {name: file_hash(path, on_bytes) for name, path in _files(folder).items()}}, folder / HASHES_FILE)


def hash_problems(folder: Path, on_bytes: OnBytes | None = None) -> list[str] | None:
    """What differs from the hash list of `folder`: a sentence for each file; None where it has no list.

    Raises ModelError for a list that cannot be read.
    """
    if not (folder / HASHES_FILE).is_file():
        return None
    listed = load_json(folder / HASHES_FILE).get("files")
    if not isinstance(listed, dict):
        raise ModelError(f"'{folder / HASHES_FILE}': expected files with their hashes, found none; convert the model again")
    files = _files(folder)
    problems = [f"{name}: expected by the hash list, found no such file" for name in listed if name not in files]
    problems += [f"{name}: not in the hash list" for name in files if name not in listed]
    for name in sorted(set(listed) & set(files)):
        found = file_hash(files[name], on_bytes)
        if found != listed[name]:
            problems.append(f"{name}: expected SHA-256 {listed[name][:12]}..., found {found[:12]}...")
    return problems


def _files(folder: Path) -> dict[str, Path]:
    """All files of a folder but the list itself, by their path in it."""
    paths = [path for path in model_files(folder) if path != folder / HASHES_FILE]
    return {path.relative_to(folder).as_posix(): path for path in paths}

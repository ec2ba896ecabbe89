"""Results of a model as files: made where they are not there yet, found again where the same look was painted before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hicast import __version__
from hicast.config.stylize import StylizeSettings
from hicast.errors import InputError
from hicast.evaluation.clips import read_clip
from hicast.evaluation.pairing import Pair
from hicast.evaluation.painter import Painter
from hicast.io.clip_write import write_frames
from hicast.io.files import atomic_path
from hicast.io.images import Picture, load_picture, save_picture
from hicast.io.model_places import model_files
from hicast.io.weights import resolve_model

OF_THIS_MACHINE = {"device", "max_megapixels", "model", "compile", "offload"}
"""Settings that do not tell results of one model apart."""

WHOLE = 10**6
"""A short side that no clip has: clips are painted at their own size."""

Failed = list[dict[str, str]]
OnProgress = Callable[[int, int], None]


def paint_pairs(
    painter: Painter, pairs: Sequence[Pair], settings: StylizeSettings, folder: Path, model: str, *,
    failed: Failed | None = None, on_progress: OnProgress = lambda done, total: None,
) -> dict[str, Path]:
    """Results of `pairs` in `folder` as KEY.png; those that are there with the same settings and model are left as they are.

    A pair whose files are broken is kept in `failed` and has no result; all other errors are raised.
    """
    record, paths = look_of(settings, model), {}
    for at, pair in enumerate(pairs):
        path, own = folder / f"{pair.key}.png", {**record, "pair": stamp(pair)}
        with _counted(failed, pair):
            if not (path.is_file() and _settings_in(path) == own):
                save_picture(Picture(painter.image(pair, settings)), path, settings=own, overwrite=True)
            paths[pair.key] = path
        on_progress(at + 1, len(pairs))
    return paths


def paint_clip(painter: Painter, pair: Pair, settings: StylizeSettings, folder: Path, model: str, *, failed: Failed | None = None) -> dict[str, Path]:
    """The clip of `pair` in `folder` as KEY.mkv, without loss, beside KEY.json, by which it is found again; else as `paint_pairs`."""
    path, note = folder / f"{pair.key}.mkv", folder / f"{pair.key}.json"
    own = {**look_of(settings, model), "pair": stamp(pair), "temporal": painter.pipeline.temporal is not None}
    paths: dict[str, Path] = {}
    with _counted(failed, pair):
        if not (path.is_file() and _read(note) == own):
            note.unlink(missing_ok=True)
            write_frames(painter.clip(read_clip(pair.content, WHOLE), pair.style, settings), path)
            with atomic_path(note, overwrite=True) as draft:
                draft.write_text(json.dumps(own, indent=1), encoding="utf-8")
        paths[pair.key] = path
    return paths


@contextmanager
def _counted(failed: Failed | None, pair: Pair) -> Iterator[None]:
    """Keeps what goes wrong with one pair in `failed`, each reason once; what would go wrong with all of them passes."""
    try:
        yield
    except InputError as error:
        entry = {"file": str(pair.content), "error": str(error)}
        if failed is not None and entry not in failed:
            failed.append(entry)


def look_of(settings: StylizeSettings, model: str) -> dict[str, Any]:
    """All that decides what a result looks like: the weights of the model and of joined adapters, and the settings."""
    look = {"hicast": __version__, "model": fingerprint(model), "settings": settings.model_dump(mode="json", exclude=OF_THIS_MACHINE)}
    joined: Mapping[str, str] = settings.adapter_folders
    return look | ({"joined": {name: fingerprint(place) for name, place in joined.items()}} if joined else {})


def stamp(pair: Pair) -> list[list[Any]]:
    """Name, size in bytes and time of change of both files of a pair; the name alone of one that is not there."""
    found: list[list[Any]] = []
    for path in (pair.content, pair.style):
        about = path.stat() if path.is_file() else None
        found.append([path.name, about.st_size, about.st_mtime_ns] if about else [path.name])
    return found


def fingerprint(model: str) -> str:
    """A word that changes with the files of a model."""
    folder = resolve_model(model)
    files = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in model_files(folder)]
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]


def _settings_in(path: Path) -> Any:
    try:
        return load_picture(path).settings
    except InputError:
        return None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

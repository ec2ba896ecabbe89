"""Model folders that hold a part of their own and name the folder, their base, that has the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hicast.errors import ModelError
from hicast.io.weights import SHIPPED_MODELS, load_json, resolve_model, save_json

INDEX_FILE = "model_index.json"
BASE_KEY = "base"
FORMAT_VERSION = 1


def resolve_base(folder: Path) -> Path | None:
    """The folder that `folder` names as its base, or None where it is whole.

    The key `base` of its index holds a shipped model's name, or a path: absolute, or beginning at `folder`. Raises ModelError where there
    is no such folder.
    """
    base = load_json(folder / INDEX_FILE).get(BASE_KEY) if (folder / INDEX_FILE).is_file() else None
    if base is None:
        return None
    if base in SHIPPED_MODELS:
        return resolve_model(base)
    found = Path(os.path.normpath(folder / base))
    if not found.is_dir():
        raise ModelError(f"model '{folder}': expected its base at '{found}', found no folder; put it there, or change base in {INDEX_FILE}")
    return found


def folder_chain(folder: Path) -> list[Path]:
    """`folder`, its base, the base of that and so on; raises ModelError for a base that is missing or goes in a circle."""
    chain = [folder]
    while (base := resolve_base(chain[-1])) is not None:
        if any(base.samefile(seen) for seen in chain):
            names = " -> ".join(str(path) for path in (*chain, base))
            raise ModelError(f"model '{folder}': expected bases that end, found the circle {names}; change base in {INDEX_FILE}")
        chain.append(base)
    return chain


def holder(chain: Sequence[Path], part: str) -> Path:
    """The first folder of `chain` that has `part`, else the last one, which should."""
    return next((folder for folder in chain if (folder / part).exists()), chain[-1])


def base_reference(base: Path, folder: Path) -> str:
    """How `folder` names its `base`: as a shipped model, else as the path from one to the other, so that both can move together."""
    for name in SHIPPED_MODELS:
        try:
            if resolve_model(name).samefile(base):
                return name
        except ModelError:
            continue
    return os.path.relpath(base.resolve(), folder.resolve())


def merged_index(chain: Sequence[Path]) -> dict[str, Any]:
    """The indices of a `chain` as one, the nearest first; ModelError where one is missing or has another format."""
    merged: dict[str, Any] = {}
    for folder in reversed(chain):
        index = load_json(folder / INDEX_FILE)
        if index.get("format") != FORMAT_VERSION:
            raise ModelError(
                f"model '{folder}': expected a hicast model of format {FORMAT_VERSION}, found format "
                f"{index.get('format')}: convert it or update hicast"
            )
        merged |= index
    merged.pop(BASE_KEY, None)
    return merged


def save_index(folder: Path, base: Path) -> None:
    """Write the index of a `folder` that holds a part of its own and takes the others from `base`; raises OutputError."""
    save_json({"_class_name": "HiCastPipeline", "format": FORMAT_VERSION, BASE_KEY: base_reference(base, folder)}, folder / INDEX_FILE)

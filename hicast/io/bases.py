"""Folders that hold only a part of a model and name the base it belongs to, as training an adapter leaves them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hicast.config.model import ModelIndex
from hicast.config.problems import validate
from hicast.errors import ModelError, SettingsError
from hicast.io.model_places import INDEX_FILE
from hicast.io.weights import CONFIG_FILE, SHIPPED_MODELS, WEIGHTS_FILE, load_json, resolve_model

FORMAT_VERSION = 1
OWN_CLASS = "HiCastPipeline"
"""What the index of each of our folders names as its class, as diffusers does with its own."""

TEMPORAL = "temporal"
"""Sub-folder with the temporal layers."""

ADAPTERS = "adapters"
"""Sub-folder with one folder per adapter, named after its control."""


def load_index(folder: Path) -> dict[str, Any]:
    """The index of a model folder of ours, as it is stored; raises ModelError where there is none or a value makes no sense."""
    path = folder / INDEX_FILE
    index = load_json(path)
    try:
        validate(index, ModelIndex, f"'{path}'")
    except SettingsError as error:
        raise ModelError(f"{error}; correct it, or leave the key out for its default") from None
    return index


def with_bases(folder: Path) -> list[Path]:
    """`folder`, the base that it names, that base's own base and so on: the last one holds the whole model.

    Raises ModelError where `folder` holds no model of ours, a base has moved, or one of the folders is named twice.
    """
    check_own(folder)
    found = [folder]
    while (base := load_index(found[-1]).get("base")) is not None:
        place = base_folder(found[-1], base)
        if any(place.resolve() == other.resolve() for other in found):
            raise ModelError(f"model '{folder}': expected bases that end, found a circle at '{place}'; correct base in its {INDEX_FILE}")
        found.append(place)
    return found


def model_defaults(name: str | Path) -> dict[str, Any]:
    """Settings of stylizing that the model `name` falls back to, told without its nets; raises ModelError as `with_bases` does."""
    return load_index(with_bases(resolve_model(name))[-1]).get("defaults", {})


def check_own(folder: Path) -> None:
    """Raise ModelError for a folder that holds something else than a model of ours, with what can be done with it."""
    index = folder / INDEX_FILE
    kind = load_json(index).get("_class_name", OWN_CLASS) if index.is_file() else None
    if kind == OWN_CLASS:
        return
    found = f"one of {kind}" if kind else f"no {INDEX_FILE}"
    if any((folder / part / CONFIG_FILE).is_file() for part in ("vae", "text_encoder")):
        advice = f"Stable Diffusion is what training starts from: hicast train --stage image --model sd15 --base {folder}"
    elif next(folder.glob(f"**/unet/{CONFIG_FILE}"), None):
        advice = f"published checkpoints are converted first: hicast models convert {folder}"
    else:
        advice = "take a folder that hicast train or hicast models convert has written"
    raise ModelError(f"model '{folder}': expected a hicast model, found {found}; {advice}")


def base_folder(folder: Path, base: str) -> Path:
    """The folder that `folder` means by `base`: a shipped model by name, or a path, seen from `folder` unless absolute.

    Raises ModelError where no model is there.
    """
    if base in SHIPPED_MODELS:
        return resolve_model(base)
    place = folder / base
    if not (place / INDEX_FILE).is_file():
        raise ModelError(
            f"model '{folder}': expected its base in '{place}', found no model there; move it back, or write its place as base into "
            f"{folder / INDEX_FILE}"
        )
    return place


def base_name(base: Path, folder: Path) -> str:
    """What `folder` writes as its base: the name of a shipped model, else the relative path, so that both can move together."""
    for name in SHIPPED_MODELS:
        if base.resolve() == resolve_model(name).resolve():
            return name
    try:
        return Path(os.path.relpath(base.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return str(base.resolve())


def find_adapters(folder: Path) -> dict[str, Path]:
    """Folders of all adapters by name that come with a model folder: those of its bases and, before these, its own."""
    found: dict[str, Path] = {}
    for place in reversed(with_bases(folder)):
        found |= {path.name: path for path in (place / ADAPTERS).glob("*") if path.is_dir()}
    return dict(sorted(found.items()))


def adapter_folder(name: str, place: str | Path) -> Path:
    """The folder of the adapter `name`: `place` itself, or the one of that name in the model folder `place`.

    Raises ModelError where it holds none, or only others.
    """
    place = Path(place)
    choices = [place / ADAPTERS / name, place]
    for choice in choices:
        if (choice / CONFIG_FILE).is_file() and (choice / WEIGHTS_FILE).is_file():
            return choice
    others = sorted(path.name for path in (place / ADAPTERS).glob("*") if path.is_dir())
    raise ModelError(
        f"adapter '{name}': expected one in '{place}', found {', '.join(others) or 'none'}; give the folder of a run of the stage "
        "adapter for it"
    )

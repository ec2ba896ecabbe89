"""A model of our own written whole: every part copied from the folder it lies in, so that the result needs no base and may travel."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from hicast.errors import ModelError
from hicast.io.bases import ADAPTERS, INDEX_FILE, load_index
from hicast.io.model_places import CLIPS
from hicast.io.new_folder import new_model_folder
from hicast.io.weights import CONTEXT_FILE, cast_weights, load_safetensors, read_metadata, resolve_model, save_safetensors
from hicast.models.adapters import AdapterSet, adapter_widths
from hicast.models.hicast_model import FLAGS_FILE
from hicast.models.parts import part_places
from hicast.models.verification import meta_part, part_folders, verify_model

WEIGHTS = ".safetensors"


def write_whole(name: str | Path, target: Path, dtype: torch.dtype | None = None, adapters: Mapping[str, str | Path] | None = None) -> None:
    """Write the model `name` with all that it refers to into the new folder `target`, and a list of hashes.

    `name` and `adapters` are those of `HiCastPipeline.from_pretrained`. Weights keep their metadata, and their precision unless a `dtype` is
    given; those that style statistics depend on as float16 in place of bfloat16, which is coarser. Raises ModelError for missing,
    damaged or foreign parts and for values too large for `dtype`, OutputError where nothing can be written; then nothing is left behind.
    """
    places = _all_places(resolve_model(name), adapters or {})
    fine = torch.float16 if dtype == torch.bfloat16 else dtype
    missing = [within for within, place in places.items() if not place.exists()]
    if missing:
        raise ModelError(f"model '{name}': expected a whole model in it and its bases, found no {', '.join(missing)}; train or fetch it again")
    with new_model_folder(target) as draft:
        for within, place in places.items():
            for path in _files(place):
                goal = draft / within / path.relative_to(place)
                goal.parent.mkdir(parents=True, exist_ok=True)
                _copy(path, goal, fine if place.name == "style_encoder" else dtype)
        problems = [f"{check.name}: {problem}" for check in verify_model(draft) for problem in check.problems]
        if problems:
            raise ModelError(f"model '{name}': expected parts that belong together, found {'; '.join(problems)}; train or fetch them again")
        _check_adapters(draft)


def _all_places(own: Path, adapters: Mapping[str, str | Path]) -> dict[str, Path]:
    """Where everything lies that belongs into the whole model: its parts, and those that are for clips alone."""
    places, clips = part_places(own, adapters), own / CLIPS
    if (clips / INDEX_FILE).is_file():
        inside = [*part_folders(clips), *(path for path in (clips / INDEX_FILE, clips / FLAGS_FILE, clips / CONTEXT_FILE) if path.is_file())]
        places |= {path.relative_to(own).as_posix(): path for path in inside}
    return places


def _check_adapters(folder: Path) -> None:
    """Raise ModelError where an adapter in the whole model is of another net."""
    kind = load_index(folder).get("autoencoder", "ResidualAutoencoder")
    found = {path.name: meta_part(path, kind) for path in part_folders(folder) if path.parent.name == ADAPTERS}
    AdapterSet(found, adapter_widths(meta_part(folder / "unet", kind)) if found else ())


def _files(place: Path) -> list[Path]:
    """The files of a part, which may be one file itself."""
    return [path for path in sorted(place.iterdir()) if path.suffix in (".json", WEIGHTS)] if place.is_dir() else [place]


def _copy(path: Path, target: Path, dtype: torch.dtype | None) -> None:
    """A file as it is, or its weights as `dtype`."""
    if dtype is None or path.suffix != WEIGHTS:
        shutil.copyfile(path, target)
    else:
        save_safetensors(cast_weights(load_safetensors(path), dtype), target, read_metadata(path))

"""The parts of a whole model in the folders that hold them: read from a model's folder and its bases, written into one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import T2IAdapter

from hicast.encoders.autoencoder import AUTOENCODERS
from hicast.encoders.style import StyleEncoder
from hicast.errors import ModelError
from hicast.io.bases import ADAPTERS, FORMAT_VERSION, INDEX_FILE, OWN_CLASS, TEMPORAL, adapter_folder, find_adapters, load_index, with_bases
from hicast.io.weights import (
    CONTEXT_FILE,
    WEIGHTS_FILE,
    load_context,
    load_json,
    load_module,
    read_metadata,
    resolve_model,
    save_json,
    save_module,
    save_safetensors,
)
from hicast.models.hicast_model import FLAGS_FILE, HiCastModel
from hicast.models.subject import SUBJECT
from hicast.models.temporal import TemporalLayers


def part_places(own: Path, adapters: Mapping[str, str | Path]) -> dict[str, Path]:
    """Where each part of the model in the folder `own` lies, by its place in a whole model; the nearest base has what a folder lacks.

    `adapters` are those of `HiCastPipeline.from_pretrained`. Raises ModelError for bases and adapters that are not there.
    """
    bases = with_bases(own)
    last = bases[-1]
    net, style_encoder, vae = (next((place for place in bases if (place / part).is_dir()), last) for part in ("unet", "style_encoder", "vae"))
    found = {name: net / name for name in ("unet", "content_projection", FLAGS_FILE)} | {name: last / name for name in ("scheduler", INDEX_FILE)}
    found |= {"style_encoder": style_encoder / "style_encoder", "vae": vae / "vae"}
    joined = find_adapters(own) | {key: adapter_folder(key, place) for key, place in adapters.items()}
    found |= {f"{ADAPTERS}/{key}": path for key, path in joined.items()}
    found |= {SUBJECT: net / SUBJECT} if (net / SUBJECT).is_dir() else {}
    found |= {TEMPORAL: place / TEMPORAL for place in reversed(bases) if (place / TEMPORAL).is_dir()}
    return found | ({CONTEXT_FILE: last / CONTEXT_FILE} if (last / CONTEXT_FILE).is_file() else {})


def read_parts(name: str | Path, adapters: Mapping[str, str | Path]) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """All that a pipeline is made of, by the names of its arguments, and the metadata of each adapter's weights.

    `name` and `adapters` are those of `HiCastPipeline.from_pretrained`; a part that the folder lacks is that of the nearest base.

    Raises ModelError for missing, damaged or foreign parts.
    """
    own = resolve_model(name)
    for folder in with_bases(own):
        index = load_index(folder)
        kind = index.get("autoencoder", "ResidualAutoencoder")
        if index.get("format") != FORMAT_VERSION or kind not in AUTOENCODERS:
            raise ModelError(
                f"model '{folder}': expected a hicast model of format {FORMAT_VERSION}, found format "
                f"{index.get('format')}: convert it or update hicast"
            )
    places = part_places(own, adapters)
    joined = {place.rpartition("/")[2]: path for place, path in places.items() if place.startswith(f"{ADAPTERS}/")}
    temporal = places.get(TEMPORAL)
    parts = {
        "model": HiCastModel.from_pretrained(places["unet"].parent),
        "autoencoder": load_module(lambda config: AUTOENCODERS[kind](**config), places["vae"]),
        "style_encoder": load_module(lambda config: StyleEncoder(**config), places["style_encoder"]),
        "scheduler_config": load_json(places["scheduler"] / "scheduler_config.json"),
        "index": index,
        "context": load_context(folder),
        "adapters": {key: load_module(lambda config: T2IAdapter(**config), path) for key, path in joined.items()},
        "temporal": load_module(lambda config: TemporalLayers(**config), temporal) if temporal else None,
    }
    return parts, {key: read_metadata(path / WEIGHTS_FILE) for key, path in joined.items()}


def write_parts(parts: Mapping[str, Any], about: Mapping[str, Mapping[str, str]], folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write what `read_parts` gives to `folder`, which then needs no base, with weights as `dtype` if given; raises OutputError."""
    parts["model"].save_pretrained(folder, dtype)
    for name, part in (("vae", "autoencoder"), ("style_encoder", "style_encoder"), (TEMPORAL, "temporal")):
        if parts[part] is not None:
            save_module(parts[part], folder / name, dtype, {"component": name})
    for name, adapter in parts["adapters"].items():
        save_module(adapter, folder / ADAPTERS / name, dtype, {"component": "adapter", "control": name} | dict(about.get(name, {})))
    (folder / "scheduler").mkdir(exist_ok=True)
    save_json(parts["scheduler_config"], folder / "scheduler" / "scheduler_config.json")
    if parts["context"] is not None:
        save_safetensors({"context": parts["context"]}, folder / CONTEXT_FILE, {})
    fixed = {"_class_name": OWN_CLASS, "format": FORMAT_VERSION, "autoencoder": type(parts["autoencoder"]).__name__}
    save_json(parts["index"] | fixed, folder / INDEX_FILE)

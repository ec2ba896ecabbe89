"""A model folder against itself: every part's tensors against its configuration, metadata, precision, and the hash list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import T2IAdapter
from torch import nn

from hicast.encoders.autoencoder import AUTOENCODERS
from hicast.encoders.style import StyleEncoder
from hicast.errors import HicastError
from hicast.io.bases import ADAPTERS, FORMAT_VERSION, INDEX_FILE, TEMPORAL, load_index, with_bases
from hicast.io.hashes import OnBytes, hash_problems, write_hashes
from hicast.io.model_places import CLIPS
from hicast.io.weights import CONFIG_FILE, CONTEXT_FILE, WEIGHTS_FILE, building, load_json, read_header, read_metadata
from hicast.models.adapters import AdapterSet, adapter_widths
from hicast.models.subject import SUBJECT, SubjectNet
from hicast.models.temporal import TemporalLayers
from hicast.models.unet import ContentProjection, build_unet

WHOLE = ("unet", "content_projection", "vae", "style_encoder")
"""Parts that a model or one of its bases must have."""

_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `problems` is empty where all is well."""

    name: str
    text: str
    problems: tuple[str, ...] = ()


def part_builders(kind: str) -> dict[str, Callable[[dict[str, Any]], nn.Module]]:
    """What makes the parts of a model with an autoencoder of `kind`, by the folder they lie in."""
    return {
        "unet": build_unet,
        "content_projection": lambda config: ContentProjection(**config),
        "vae": lambda config: AUTOENCODERS[kind](**config),
        "style_encoder": lambda config: StyleEncoder(**config),
        SUBJECT: lambda config: SubjectNet(**config),
        TEMPORAL: lambda config: TemporalLayers(**config),
        ADAPTERS: lambda config: T2IAdapter(**config),
    }


def part_folders(folder: Path) -> list[Path]:
    """The folders of parts in a model folder, adapters last."""
    names = [*WHOLE, SUBJECT, TEMPORAL]
    return [*(folder / name for name in names if (folder / name).is_dir()), *sorted(path for path in (folder / ADAPTERS).glob("*") if path.is_dir())]


def meta_part(folder: Path, kind: str) -> nn.Module:
    """The module that belongs into a part's folder, on the meta device; raises ModelError for a config that cannot be built."""
    name = ADAPTERS if folder.parent.name == ADAPTERS else folder.name
    config = {key: value for key, value in load_json(folder / CONFIG_FILE).items() if not key.startswith("_")}
    with building(folder / CONFIG_FILE), torch.device("meta"):
        return part_builders(kind)[name](config)


def verify_model(folder: Path, on_bytes: OnBytes | None = None, renew: bool = False) -> list[Check]:
    """Everything that can be told of a model folder without running it; the folder for clips in it is looked at too.

    `on_bytes` is told how many bytes have been hashed. With `renew` the hash list is written anew, where all else is good, in place of being
    compared. Raises ModelError where `folder` holds no model at all, OutputError where the list cannot be written.
    """
    kind = str(load_json(folder / INDEX_FILE).get("autoencoder", "ResidualAutoencoder"))
    widths = _widths(folder, kind)
    checks = [_check_index(folder)]
    checks += [_check_part(path, path.relative_to(folder).as_posix(), kind, widths) for path in part_folders(folder)]
    if (folder / CLIPS / INDEX_FILE).is_file():
        checks += [Check(f"{CLIPS}/{check.name}", check.text, check.problems) for check in verify_model(folder / CLIPS) if check.name != "hashes"]
    if renew and not any(check.problems for check in checks):
        write_hashes(folder, on_bytes)
        return [*checks, Check("hashes", "written anew")]
    problems = hash_problems(folder, on_bytes)
    checks.append(Check("hashes", "no hash list" if problems is None else "as listed", tuple(problems or ())))
    return checks


def _check_index(folder: Path) -> Check:
    """The index, and whether the parts of a whole model are there."""
    try:
        index = load_index(folder)
    except HicastError as error:
        return Check("index", "", (str(error),))
    problems = []
    if index.get("format") != FORMAT_VERSION:
        problems.append(f"expected format {FORMAT_VERSION}, found {index.get('format')}")
    if index.get("autoencoder", "ResidualAutoencoder") not in AUTOENCODERS:
        problems.append(f"expected an autoencoder of {', '.join(AUTOENCODERS)}, found {index['autoencoder']}")
    try:
        bases = with_bases(folder)
    except HicastError as error:
        return Check("index", "", (*problems, str(error)))
    missing = [name for name in WHOLE if not any((place / name).is_dir() for place in bases)]
    if missing:
        problems.append(f"expected {', '.join(WHOLE)}, found no {', '.join(missing)}")
    elif lacking := [name for name in _beside(bases) if not (bases[-1] / name).is_file()]:
        problems.append(f"expected {', '.join(lacking)}, found no such file")
    return Check("index", f"format {index.get('format')}", tuple(problems))


def _beside(bases: Sequence[Path]) -> list[str]:
    """Files that a whole model has beside its parts: the noise schedule, and the answer to an empty prompt where no style tokens take its place."""
    encoder = next(place / "style_encoder" for place in bases if (place / "style_encoder").is_dir())
    return ["scheduler/scheduler_config.json", *([] if load_json(encoder / CONFIG_FILE).get("token_grid") else [CONTEXT_FILE])]


def _widths(folder: Path, kind: str) -> tuple[int, ...] | None:
    """Widths of the levels at which adapters reach the net that belongs to `folder`; None where that cannot be told."""
    try:
        net = next((place / "unet" for place in with_bases(folder) if (place / "unet").is_dir()), None)
        return adapter_widths(meta_part(net, kind)) if net else None
    except HicastError:
        return None


def _check_part(folder: Path, name: str, kind: str, widths: tuple[int, ...] | None) -> Check:
    """Shapes, precision and metadata of one part; of an adapter also whether it fits levels of `widths`."""
    try:
        part = meta_part(folder, kind if kind in AUTOENCODERS else "AutoencoderKL")
        if widths and folder.parent.name == ADAPTERS:
            AdapterSet({folder.name: part}, widths)
        shapes = {key: tuple(value.shape) for key, value in part.state_dict().items()}
        found = read_header(folder / WEIGHTS_FILE)
        metadata = read_metadata(folder / WEIGHTS_FILE)
    except HicastError as error:
        return Check(name, "", (str(error),))
    problems = [f"expected '{key}', found no such tensor" for key in sorted(set(shapes) - set(found))[:1]]
    problems += [f"expected no '{key}', found it" for key in sorted(set(found) - set(shapes))[:1]]
    problems += [
        f"expected '{key}' of shape {shape}, found {found[key][1]}" for key, shape in shapes.items() if key in found and found[key][1] != shape
    ][:1]
    kinds = sorted({dtype for dtype, _ in found.values()})
    if len(kinds) > 1 or not set(kinds) <= set(_FLOATS):
        problems.append(f"expected one of {', '.join(_FLOATS)}, found {', '.join(kinds)}")
    component = metadata.get("component")
    expected = "adapter" if folder.parent.name == ADAPTERS else folder.name
    if component not in (None, expected):
        problems.append(f"expected metadata of the component {expected}, found {component}")
    return Check(name, f"{len(found)} tensors, {'/'.join(kinds)}" + ("" if component else ", no metadata"), tuple(problems))

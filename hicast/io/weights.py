"""Model folders and safetensors files: found, read, checked and written."""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hicast.errors import ModelError, OutputError
from hicast.io.hub_models import OnNote, hub_model, is_hub_id
from hicast.io.model_places import ALSO_CALLED, PUBLISHED, WHERE_FROM, installed_models

CONTEXT_FILE = "context.safetensors"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
SHIPPED_MODELS = ("compact",)

Module = TypeVar("Module", bound=nn.Module)


def resolve_model(name: str | Path, on_note: OnNote | None = None) -> Path:
    """Folder of a model: one that ships in the package or lies in the user's folder of models, by name, any folder, or that of a hub id.

    `on_note` is told where one is fetched from the hub. Raises ModelError if there is no such model or folder.
    """
    if str(name) in SHIPPED_MODELS:
        folder = Path(str(importlib.resources.files("hicast"))) / "weights" / str(name)
        if not folder.is_dir():
            raise ModelError(f"model '{name}': expected its weights in the package, found none: install hicast again")
        return folder
    folder = installed_models().get(str(name), Path(name))
    if not folder.is_dir():
        if is_hub_id(name):
            return hub_model(str(name), on_note)
        advice = f"; {WHERE_FROM}" if str(name) in (PUBLISHED, *ALSO_CALLED) else "; check the path (hicast models list says what is here)"
        raise ModelError(f"model: expected {', '.join((*SHIPPED_MODELS, *installed_models()))} or a folder, found '{name}', which is neither{advice}")
    return folder


def load_safetensors(
    path: str | Path, expected_shapes: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Tensor]:
    """All tensors of `path`, by name; if `expected_shapes` is given, just those names with just those shapes.

    Raises ModelError if the file is missing, truncated or no safetensors file, or if names or shapes differ.
    """
    with _opened(Path(path)) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if expected_shapes is not None:
        check_shapes(Path(path), tensors, expected_shapes)
    return tensors


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file; raises ModelError if it is missing or damaged."""
    with _opened(Path(path)) as file:
        return dict(file.metadata() or {})


def read_header(path: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype (as safetensors names it: F32, F16, BF16, ...) and shape of every tensor in a file, without reading the tensors.

    Raises ModelError if it is missing or damaged.
    """
    with _opened(Path(path)) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


def _opened(path: Path) -> safe_open:
    if not path.is_file():
        raise ModelError(f"weights: expected a file, found none at '{path}'")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"weights '{path}': expected a whole safetensors file, found {path.stat().st_size} bytes that are not "
            f"({error}): fetch or save it again"
        ) from error


def save_safetensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write `tensors` beside `path`, then move them into place, so that no half-written file is ever found there.

    The metadata gets `format: pt`, which diffusers asks for. Raises OutputError if the folder cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = part.stat().st_mode
        save_file(packed, part, metadata={"format": "pt", **metadata})
        part.chmod(mode)
        os.replace(part, path)
    except (SafetensorError, OSError) as error:
        raise OutputError(f"weights: expected to write '{path}', found no way to: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def cast_weights(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """`tensors`, those of floating-point numbers as `dtype`; raises ModelError for values that are none or that it cannot hold."""
    stored = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    for name, tensor in stored.items():
        if tensor.isfinite().all():
            continue
        if not tensors[name].isfinite().all():
            raise ModelError(f"'{name}': expected finite values, found others: the weights are damaged; fetch or train them again")
        raise ModelError(f"'{name}': expected values that {tensor.dtype} can hold, found larger ones; take --dtype bfloat16")
    return stored


def load_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder; raises ModelError if there is none."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"model folder: expected '{path}', found no such file; take a whole model folder") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"model folder: expected JSON in '{path}', found: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"model folder: expected a JSON object in '{path}', found {type(content).__name__}")
    return content


def save_json(content: Mapping[str, Any], path: str | Path) -> None:
    """Write `content` as JSON to `path`; raises OutputError if it cannot be written."""
    try:
        Path(path).write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"model folder: expected to write '{path}', found no way to: {error}") from error


def load_module(build: Callable[[dict[str, Any]], Module], folder: str | Path) -> Module:
    """The module that `build` makes from the config in `folder` (diffusers layout), with the weights stored there.

    Stored float16 is cast to the module's own dtype. Raises ModelError if anything is missing, damaged or does not fit.
    """
    path = Path(folder) / CONFIG_FILE
    config = {key: value for key, value in load_json(path).items() if not key.startswith("_")}
    with building(path):
        module = build(config)
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    module.load_state_dict(load_safetensors(Path(folder) / WEIGHTS_FILE, shapes))
    return module.eval()


@contextlib.contextmanager
def building(path: Path) -> Iterator[None]:
    """Turn what a block raises that builds from the config at `path` into a ModelError that names it."""
    try:
        yield
    except KeyError as error:
        raise ModelError(f"'{path}': expected a config that can be built, found no {error.args[0]}; fetch or train it again") from error
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"'{path}': expected a config that can be built, found: {reason}; fetch or train it again") from error


def save_module(
    module: nn.Module, folder: str | Path, dtype: torch.dtype | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a diffusers `module` to `folder` in diffusers layout, its floating-point weights as `dtype` if given.

    Raises OutputError if the folder cannot be written.
    """
    try:
        module.save_config(str(folder))
    except (OSError, AssertionError) as error:
        raise OutputError(f"model folder: expected to write '{folder}', found no way to: {error}") from error
    state = module.state_dict()
    if dtype is not None:
        state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_safetensors(state, Path(folder) / WEIGHTS_FILE, metadata or {})


def place(module: Module, device: torch.device | str, dtype: torch.dtype | None = None) -> Module:
    """`module` on `device`, in channels_last order and, if given, in `dtype`; changed in place and returned.

    Goes around diffusers' own `to`, which writes a line about float32 parts to standard error at every cast.
    """
    return nn.Module.to(module, device=device, dtype=dtype, memory_format=torch.channels_last)


def check_shapes(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]]) -> None:
    """Raise ModelError with the first difference in names or shapes of the `tensors` read from `path`."""
    missing = sorted(set(expected) - set(tensors))
    if missing:
        raise ModelError(f"weights '{path}': expected '{missing[0]}', found no such tensor ({len(missing)} missing)")
    surplus = sorted(set(tensors) - set(expected))
    if surplus:
        raise ModelError(f"weights '{path}': expected no '{surplus[0]}', found it ({len(surplus)} unknown)")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != tuple(shape):
            raise ModelError(
                f"weights '{path}': expected '{name}' of shape {tuple(shape)}, found {tuple(tensors[name].shape)}: "
                "config and weights are of different models"
            )


def load_context(folder: Path) -> Tensor | None:
    """The constant text context (1, tokens, width) of the model in `folder`, float32, or None where it has none."""
    path = folder / CONTEXT_FILE
    return load_safetensors(path)["context"].float() if path.is_file() else None

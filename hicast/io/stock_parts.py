"""Weights of one part of Stable Diffusion in diffusers layout, in whichever of its files and under whichever of its names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hicast.errors import ModelError
from hicast.io.pickles import load_pickle
from hicast.io.weights import WEIGHTS_FILE, check_shapes, load_safetensors

State = dict[str, Tensor]

_STEM = WEIGHTS_FILE.removesuffix(".safetensors")
WEIGHT_FILES = (WEIGHTS_FILE, f"{_STEM}.fp16.safetensors", f"{_STEM}.bin")
"""Files that a part's weights may lie in, the best first."""

TEXT_FILES = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin")
"""The same of a text encoder."""

_FORMER_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names that autoencoders of the first releases have, and today's."""


def weights_path(folder: Path, names: Sequence[str] = WEIGHT_FILES) -> Path:
    """The file that holds the weights of the part in `folder`; raises ModelError where there is none of the `names`."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    begun = sorted(path.name for path in folder.glob("*.incomplete")) if folder.is_dir() else []
    found = f"only {begun[0]}, half downloaded" if begun else "none of them"
    raise ModelError(f"'{folder}': expected {' or '.join(names)}, found {found}: fetch it again")


def load_weights(path: Path) -> State:
    """All tensors of a weight file, as they are stored; raises ModelError for one that is missing, damaged or holds code."""
    return load_safetensors(path) if path.suffix == ".safetensors" else load_pickle(path)


def load_stock(folder: Path, shapes: Mapping[str, Any]) -> State:
    """Weights of the part in `folder` in float32, under today's names, with just these `shapes`; raises ModelError."""
    path = weights_path(folder)
    return fit_stock(path, load_weights(path), shapes)


def fit_stock(path: Path, state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> State:
    """The tensors read from `path` in float32, under today's names, with just these `shapes`; raises ModelError."""
    state = {_renamed(name): value.float() for name, value in state.items()}
    state = {name: _fitted(value, shapes.get(name)) for name, value in state.items()}
    check_shapes(path, state, shapes)
    return state


def _renamed(name: str) -> str:
    for former, new in _FORMER_ATTENTION.items():
        name = name.replace(former, new)
    return name


def _fitted(value: Tensor, shape: Any) -> Tensor:
    """Attention of the first releases was stored as 1x1 convolutions: the same numbers as a matrix."""
    return value.view(shape) if shape is not None and value.ndim == len(shape) + 2 and value.shape[2:] == (1, 1) else value

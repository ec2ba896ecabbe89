"""Weights in torch's own files, which are pickles: tensors are read, and nothing in them is ever run."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from hicast.errors import ModelError

_ASKED_FOR = re.compile(r"GLOBAL ([\w.]+)")


def load_pickle(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a `.bin`, `.pt`, `.pth` or `.ckpt` file, by name, on the CPU; large files are mapped, not read at once.

    A dictionary `state_dict` around them is opened. Raises ModelError where the file is missing or damaged, holds anything but
    tensors, or asks for code, which `weights_only` refuses to load.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"weights: expected a file, found none at '{path}'")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ModelError(_refusal(path, str(error))) from None
    except Exception as error:  # reading damaged bytes raises nearly anything
        size = path.stat().st_size
        raise ModelError(f"weights '{path}': expected tensors, found {size} bytes that cannot be read ({type(error).__name__}): fetch it again") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict):
        raise ModelError(f"weights '{path}': expected tensors by name, found {type(state).__name__}: take another file")
    odd = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise ModelError(f"weights '{path}': expected nothing but tensors, found also {', '.join(odd[:3])}: take another file")
    return state


def _refusal(path: Path, reason: str) -> str:
    """Why the file was not loaded: it asks for code, or its bytes are no pickle of tensors."""
    asked = _ASKED_FOR.search(reason)
    if asked is None:
        return f"weights '{path}': expected tensors, found {path.stat().st_size} bytes that are none, or that ask for code, which is never run: fetch it again"
    return f"weights '{path}': expected tensors only, found a pickle that asks for {asked[1]}, which is never run; take a .safetensors file or another copy"

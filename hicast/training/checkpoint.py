"""Checkpoints of a run: everything needed to go on, as safetensors and JSON, moved into place when complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hicast.errors import ModelError, OutputError


def save_checkpoint(folder: Path, step: int, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer,
                    ema: Mapping[str, Tensor], state: Mapping[str, object], keep: int) -> Path:
    """Write `folder/step-N` with the modules, the optimizer, the averages and `state`; keep the newest `keep`.

    The folder appears under its final name only when it is whole. Raises OutputError when it cannot be written.
    """
    target = folder / f"step-{step:08d}"
    draft = folder / f".{target.name}.part"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for name, module in modules.items():
            save_file(_packed(module.state_dict()), draft / f"{name}.safetensors")
        tensors, layout = _flatten_optimizer(optimizer)
        save_file(tensors, draft / "optimizer.safetensors")
        save_file(_packed(ema), draft / "ema.safetensors")
        (draft / "state.json").write_text(json.dumps({"step": step, "optimizer": layout, **state}, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise OutputError(f"cannot write the checkpoint {target}: {error}; earlier checkpoints are untouched") from error
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def load_checkpoint(path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer,
                    ema: dict[str, Tensor]) -> dict:
    """Restore modules, optimizer and averages in place and return the saved state (with `step`).

    Raises ModelError when the checkpoint does not belong to these modules or is damaged.
    """
    try:
        state = json.loads((path / "state.json").read_text())
        for name, module in modules.items():
            module.load_state_dict(load_file(path / f"{name}.safetensors"))
        _restore_optimizer(optimizer, load_file(path / "optimizer.safetensors"), state["optimizer"])
        averages = load_file(path / "ema.safetensors")
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise ModelError(f"cannot resume from {path}: {str(error).splitlines()[0]}; use another --output") from error
    if averages.keys() != ema.keys():
        raise ModelError(f"cannot resume from {path}: it averages other weights; use another --output")
    for name, value in averages.items():
        ema[name].copy_(value)
    return state


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in tensors.items()}


def _flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list]:
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": torch.as_tensor(value).detach().contiguous()
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, state["param_groups"]


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], layout: list) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": layout})

"""Checkpoints of a run: everything needed to go on, as safetensors and JSON, moved into place when complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hicast.errors import ModelError, OutputError


NOT_FINITE, OUT_OF_MEMORY = "not-finite", "out-of-memory"
"""Words of why a run has stopped, which lie beside its checkpoints until it has gone on to another one."""


@dataclass(frozen=True)
class Training:
    """What a checkpoint holds in tensors: modules by name, their optimizer, averages by name of the weight."""

    modules: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    ema: Mapping[str, Tensor]


def save_checkpoint(folder: Path, step: int, training: Training, state: Mapping[str, Any], keep: int) -> Path:
    """Write `folder/step-N` with `training` and `state`; keep the newest `keep` checkpoints up to it.

    Later ones are of a run that was begun anew, and are deleted too. The folder appears under its final name only when it is whole. Raises OutputError when it cannot be written.
    """
    target = folder / f"step-{step:08d}"
    draft = folder / f".{target.name}.part"
    try:
        for leftover in folder.glob(".step-*.part"):
            shutil.rmtree(leftover)
        draft.mkdir(parents=True)
        for name, module in training.modules.items():
            save_file(_packed(module.state_dict()), draft / f"{name}.safetensors")
        save_file(_flatten_optimizer(training.optimizer), draft / "optimizer.safetensors")
        save_file(_packed(training.ema), draft / "ema.safetensors")
        (draft / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        for word in (NOT_FINITE, OUT_OF_MEMORY):
            (folder / word).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise OutputError(
            f"checkpoint {target}: expected to be able to write it, found: {error}; make room, then give the same command: "
            "earlier checkpoints are whole"
        ) from error
    kept = list_checkpoints(folder)
    at = kept.index(target) + 1
    for other in (*kept[:at][:-keep], *kept[at:]):
        shutil.rmtree(other, ignore_errors=True)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def leave_word(folder: Path, word: str) -> None:
    """Leave `word` of why the run stopped in the `folder` of its checkpoints; OutputError where nothing can be written."""
    try:
        (folder / word).touch()
    except OSError as error:
        raise OutputError(f"{folder}: expected to be able to write, found: {error.strerror}; make room") from error


def has_word(folder: Path, word: str) -> bool:
    """Whether the run whose checkpoints are in `folder` stopped for the reason `word` and has not gone on since."""
    return (folder / word).is_file()


def read_state(path: Path) -> dict[str, Any]:
    """The `state` of a checkpoint, with `step`; raises ModelError where it is damaged."""
    try:
        return json.loads((path / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error


def load_checkpoint(path: Path, training: Training) -> None:
    """Restore modules, optimizer and averages in place.

    Raises ModelError when the checkpoint does not belong to these modules or is damaged.
    """
    try:
        for name, module in training.modules.items():
            module.load_state_dict(load_file(path / f"{name}.safetensors"))
        _restore_optimizer(training.optimizer, load_file(path / "optimizer.safetensors"))
        averages = load_file(path / "ema.safetensors")
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise _unusable(path, error) from error
    if averages.keys() != training.ema.keys():
        raise ModelError(f"cannot resume from {path}: it averages other weights; use another --output or --no-resume")
    for name, value in averages.items():
        training.ema[name].copy_(value)


def _unusable(path: Path, error: Exception) -> ModelError:
    reason = str(error).splitlines()[0]
    return ModelError(f"cannot resume from {path}: {reason}; delete it, use another --output or --no-resume")


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in tensors.items()}


def _flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{index}.{name}": torch.as_tensor(value).detach().contiguous()
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the stored moments back; rates and other options are those of the settings."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape:  # files know no order in memory, and a fused step goes through all of them in that of the weight
                values[name] = torch.empty_like(parameter).copy_(value)

"""The processes of a run: one, or several that share every batch, started by torchrun or accelerate."""

from __future__ import annotations

from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from hicast.config.train_run import TrainSettings
from hicast.config.train_layers import halves
from hicast.errors import UsageError

PATIENCE = timedelta(hours=2)
"""How long processes wait for one another, for example while the main one measures paintings."""


def open_accelerator(device: str = "cpu") -> Accelerator:
    """The processes that this one belongs to, on `device` (`auto`, `cpu`, `cuda`, `mps`), gradients averaged over them.

    Raises UsageError where this machine lacks the device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not present.get(device, device == "auto"):
        raise UsageError(f"device: expected auto or one that is there ({', '.join(k for k, v in present.items() if v)}), found '{device}'; take one of them")
    on_cpu = device == "cpu" or not (present["cuda"] or present["mps"])
    return Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])


def check_precision(settings: TrainSettings, device: torch.device) -> None:
    """Raise UsageError for float16 where `device`, which may have been found by itself, is the CPU."""
    if device.type == "cpu" and (keys := halves(settings)):
        words = " ".join(f"--set {key}=bfloat16" for key in keys)
        raise UsageError(f"{', '.join(keys)}: expected a GPU for float16, found the CPU, which is far too slow at it; {words}")


def batch_parts(settings: TrainSettings, processes: int, process: int) -> list[range]:
    """Rows of a step's batch that `process` of `processes` computes, in `accumulate` parts of equal length.

    Raises UsageError where the batch cannot be shared equally.
    """
    parts = processes * settings.accumulate
    size, rest = divmod(settings.batch_size, parts)
    if rest:
        raise UsageError(
            f"batch_size: expected a multiple of {parts} (processes {processes} times accumulate {settings.accumulate}), "
            f"found {settings.batch_size}; change one of them"
        )
    first = process * settings.accumulate
    return [range((first + part) * size, (first + part + 1) * size) for part in range(settings.accumulate)]

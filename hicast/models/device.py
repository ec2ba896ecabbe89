"""Where a model computes, and in which precision."""

from __future__ import annotations

import torch

from hicast.errors import UsageError


def pick_device(name: str) -> torch.device:
    """The device called `name`, or the best there is for `auto`; UsageError where this machine lacks it."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if not present.get(name, False):
        raise UsageError(f"device: expected auto or one that is there ({', '.join(k for k, v in present.items() if v)}), found '{name}'; take one of them")
    return torch.device(name)


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """What VGG-16 computes in beside nets of `dtype`: style statistics overflow in float16, so float32 stands in for it."""
    return torch.float32 if dtype == torch.float16 else dtype


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision called `name`, or what `device` computes fast in for `auto`; UsageError for float16 on a CPU."""
    if name == "float16" and device.type == "cpu":
        raise UsageError("dtype float16: a CPU is about fifty times slower in it than in bfloat16: use bfloat16 or float32")
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32

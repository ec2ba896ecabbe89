"""Models larger than the GPU's memory: parts, or single layers, wait in the machine's memory until they compute."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from hicast.errors import UsageError
from hicast.io.weights import place

OFFLOADS = ("none", "model", "sequential")
"""What is on the GPU: all parts, the part that computes, or the layer that computes (slow, and needs least)."""


class Offload:
    """Where the parts of a model are: `use` brings what computes next to `device`."""

    def __init__(self, kind: str, device: torch.device, parts: Mapping[str, nn.Module]) -> None:
        """Take `parts`, which lie in the machine's memory, over; raises UsageError for an unknown `kind`."""
        if kind not in OFFLOADS:
            raise UsageError(f"offload: expected one of {', '.join(OFFLOADS)}, found '{kind}'; take one of them")
        self.kind, self.device, self.parts = kind, device, dict(parts)
        for name, part in self.parts.items():
            if kind == "sequential" and name in ("model", "autoencoder", "adapters"):
                _layer_by_layer(part, device)
            elif kind != "model":
                place(part, device)

    def use(self, *names: str) -> None:
        """Let the parts `names` be on the device, and with `model` nothing else."""
        if self.kind != "model":
            return
        for name, part in self.parts.items():
            if name not in names:
                place(part, "cpu")
        for name in names:
            if name in self.parts:
                place(self.parts[name], self.device)

    def release(self) -> None:
        """Take the hooks of `sequential` out again; its layers then lie in the machine's memory."""
        if self.kind == "sequential":
            from accelerate.hooks import remove_hook_from_submodules

            for part in self.parts.values():
                remove_hook_from_submodules(part)


def _layer_by_layer(part: nn.Module, device: torch.device) -> None:
    from accelerate import cpu_offload

    if any(True for _ in part.parameters()):
        cpu_offload(part, execution_device=device)

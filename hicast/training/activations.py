"""What a forward pass keeps for the backward pass, counted on the meta device: nothing is computed, no memory is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from hicast.models.fused_attention import FusedAttention


@dataclass(frozen=True)
class Activations:
    """Bytes that a backward pass needs: all of them, or with gradient checkpointing what is kept and the largest block."""

    whole: int
    kept: int
    largest_block: int

    @property
    def checkpointed(self) -> int:
        """Bytes at the worst moment of a backward pass that computes block after block again."""
        return self.kept + self.largest_block


def count_activations(modules: Iterable[nn.Module], forward: Callable[[], Tensor]) -> Activations:
    """Count what autograd saves in `forward`, which calls `modules` on the meta device; weights are not counted.

    Attention is taken as the fused kernel that all devices have: it keeps its inputs and its output, not the matrix.
    Blocks are those that diffusers' gradient checkpointing computes again, of which only the inputs are kept.
    """
    counter = _Counter([parameter for module in modules for parameter in (*module.parameters(), *module.buffers())])
    for module in modules:
        if getattr(module, "_supports_gradient_checkpointing", False):
            module.enable_gradient_checkpointing(counter.block)
    with counter, FusedAttention():
        forward()
    return Activations(counter.outside + counter.inside, counter.outside + counter.inputs, counter.largest)


class _Counter(saved_tensors_hooks):
    """Sums of saved bytes, every storage once: outside of blocks, inside of all, inside of the largest, and blocks' inputs."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__(self._pack, lambda packed: packed)
        self.outside = self.inside = self.largest = self.inputs = 0
        self._depth = 0
        self._seen = {_storage(weight): weight for weight in weights}

    def block(self, module: Callable[..., Any], *inputs: Any) -> Any:
        """Stands in for the function that computes a block again."""
        if self._depth:
            return module(*inputs)
        self.inputs += sum(self._new_bytes(value) for value in inputs if isinstance(value, Tensor))
        before = self.inside
        self._depth += 1
        result = module(*inputs)
        self._depth -= 1
        self.largest = max(self.largest, self.inside - before)
        return result

    def _pack(self, tensor: Tensor) -> Tensor:
        size = self._new_bytes(tensor)
        if self._depth:
            self.inside += size
        else:
            self.outside += size
        return tensor

    def _new_bytes(self, tensor: Tensor) -> int:
        """Bytes of the tensor's storage where it has not been seen; it is held, so that no other one gets its number."""
        if _storage(tensor) in self._seen:
            return 0
        self._seen[_storage(tensor)] = tensor
        return tensor.untyped_storage().nbytes()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata

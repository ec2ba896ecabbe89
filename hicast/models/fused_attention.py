"""Attention on the meta device as fused kernels have it: inputs and output, never the matrix; with its arithmetic counted."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FusedAttention(TorchFunctionMode):
    """Inside, attention saves queries, keys, values and its output, in place of the plain one that the meta device runs.

    `operations` are the multiplications and additions that it would take.
    """

    def __init__(self) -> None:
        """Begin to count."""
        super().__init__()
        self.operations = 0

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        """Stands in for the one function."""
        if function is torch.nn.functional.scaled_dot_product_attention:
            named = dict(named or {})
            query, key, value = (*arguments, *(named[name] for name in ("query", "key", "value") if name in named))[:3]
            self.operations += 2 * prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
            return _Attention.apply(query, key, value)
        return function(*arguments, **(named or {}))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        return None, None, None

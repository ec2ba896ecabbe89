"""What cached measurements are found again by: the content of files and of weights, never their names or places."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from hicast.errors import InputError
from hicast.training.sources import Source

UNREADABLE = b"unreadable".ljust(32)
"""Stands for the content of a file that cannot be read."""


def content_digest(source: Source) -> bytes:
    """32 bytes that stand for the content of a file or of a tar shard's member."""
    try:
        return hashlib.sha256(source.read()).digest()
    except InputError:
        return UNREADABLE


def weights_digest(module: nn.Module) -> bytes:
    """32 bytes that stand for every weight of `module` and its precision."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.digest()

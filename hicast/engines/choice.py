"""Which engine runs the denoising net, and why a faster one does not."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import nn

from hicast.errors import UsageError

ENGINES = ("auto", "torch", "openvino")
"""Names of engines; `auto` is OpenVINO where it can be used, else PyTorch."""

VARIABLE = "HICAST_ENGINE"
"""Environment variable that says what `auto` stands for."""

MOST_WEIGHTS = 250_000_000
"""Weights of the largest net that is converted: conversion holds them in memory several times, and the disk keeps a copy."""


def meant_engine(name: str) -> str:
    """`name`, or for `auto` what the environment says that it stands for; raises UsageError for another name."""
    origin = "engine"
    if name == "auto" and (own := os.environ.get(VARIABLE)):
        name, origin = own, VARIABLE
    if name not in ENGINES:
        raise UsageError(f"{origin}: expected one of {', '.join(ENGINES)}, found '{name}'; correct it")
    return name


def why_not_openvino(net: nn.Module, device: torch.device) -> str | None:
    """Why OpenVINO cannot run `net` on `device`, as expected and found and what to do; None where it can."""
    if importlib.util.find_spec("openvino") is None:
        return "expected the package openvino, found none; pip install openvino"
    if device.type != "cpu":
        return f"expected the CPU, found {device.type}; take --device cpu or --engine torch"
    count = sum(parameter.numel() for parameter in net.parameters())
    if count > MOST_WEIGHTS:
        return f"expected a net of at most {MOST_WEIGHTS // 10**6} million weights, found {count // 10**6}; take --engine torch"
    return None

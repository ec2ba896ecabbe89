"""Before a large model is loaded: what memory the work will take, settings that fit where it does not, and how long a CPU takes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from hicast.config.stylize import StylizeSettings
from hicast.errors import ModelError
from hicast.io.images import working_size

from .console import Console

if TYPE_CHECKING:
    import torch

LARGE = 500e6
"""Bytes of weights from which on it is worth a second to look ahead."""

OF_TRAINING = {"checkpoints", "cache"}
"""Folders that a run of training leaves beside its model."""

EFFICIENCY = 0.5
"""Speed of whole nets over that of one convolution that fills the machine."""


def look_ahead(console: Console, settings: StylizeSettings, model: str | Path, size: tuple[int, int], clip: bool = False) -> bool:
    """Tell what stylizing a picture, or one window of a clip, of `size` (height, width) takes with `model`; whether it was told.

    Raises MemoryLimitError where it does not fit. Says nothing of small models, and leaves damaged ones to who loads them.
    """
    from hicast.io.bases import load_index, with_bases
    from hicast.io.weights import resolve_model

    try:
        bases = with_bases(resolve_model(model))
    except ModelError:
        return False
    weights = {file for base in bases for file in base.rglob("*.safetensors") if not OF_TRAINING & set(file.relative_to(base).parts)}
    if sum(file.stat().st_size for file in weights) < LARGE:
        return False
    from hicast.models.device import pick_device, pick_dtype
    from hicast.models.footprint import Footprint, Work
    from hicast.models.thrift import check_fit
    from hicast.training.memory import available

    device = pick_device(settings.device)
    index = load_index(bases[-1])
    work = Work(
        size=_side(settings, size, index.get("side_range", [256, 1024])),
        frames=settings.video.window if clip else 1,
        branches=_branches(settings),
        steps=settings.steps or index.get("defaults", {}).get("steps", 20),
        tile=settings.tile or index.get("tile", 2048),
        dtype=pick_dtype(settings.dtype, device),
        offload=settings.offload,
    )
    footprint = Footprint(bases[0], clips=clip)
    console.info(check_fit(footprint, work, available(device), device.type == "cuda"))
    if device.type == "cpu":
        seconds = footprint.operations(work) / (EFFICIENCY * speed(work.dtype))
        unit = f"{work.frames} frames" if clip else "a picture"
        console.info(f"no GPU is used: the CPU takes about {timedelta(seconds=max(round(seconds), 1))} for {unit} of {work.size[0]} x {work.size[1]} pixels")
    return True


def speed(dtype: torch.dtype) -> float:
    """Operations a second of this machine in a convolution, measured for a moment."""
    import torch

    with torch.inference_mode():
        image = torch.randn(1, 128, 64, 64).to(dtype, memory_format=torch.channels_last)
        layer = torch.nn.Conv2d(128, 128, 3, padding=1).to(dtype, memory_format=torch.channels_last)
        layer(image)
        begun, runs = perf_counter(), 0
        while perf_counter() - begun < 0.1:
            layer(image)
            runs += 1
    return runs * 2 * 128 * 128 * 9 * 64 * 64 / (perf_counter() - begun)


def _side(settings: StylizeSettings, size: tuple[int, int], side_range: list[int]) -> tuple[int, int]:
    """The size to work at, as the pipeline chooses it."""
    least, largest = side_range
    found = working_size(size, settings.size or min(max(min(size), least), largest), 8)
    return (min(found), min(found)) if settings.square else found


def _branches(settings: StylizeSettings) -> int:
    """Branches of the picture's own look and of each region's, which are evaluated as one batch."""
    from hicast.diffusion.guidance import plan_guidance

    scales = [settings.style_scale, *(settings.style_scale if region.style_scale is None else region.style_scale for region in settings.regions)]
    return sum(len(plan_guidance(scale, settings.content_scale).coefficients) for scale in scales)

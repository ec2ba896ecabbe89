"""Does the work fit into memory, and if not, with which settings it does: those first that change least of the result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from hicast.errors import MemoryLimitError
from hicast.models.footprint import GIB, Footprint, Work

TILES = (512, 256)
WINDOWS = (8, 4)
SIDES = (512, 384, 256)


def smaller_works(work: Work, on_gpu: bool) -> Iterator[tuple[str, Work]]:
    """Options to add and the work they make, from those that cost only time to those that change the picture.

    Precision, tiles, fewer frames together, offloading (GPU only), a smaller side; each keeps what came before it.
    """
    words: list[str] = []

    def step(word: str, **changes: object) -> tuple[str, Work]:
        nonlocal work
        words[:] = [other for other in words if other.split()[0] != word.split()[0]] + [word]
        work = replace(work, **changes)
        return " ".join(words), work

    if work.dtype == torch.float32:
        yield step("--dtype bfloat16", dtype=torch.bfloat16)
    if on_gpu and work.offload == "none":
        yield step("--offload model", offload="model")
    for tile in TILES:
        if tile < min(work.tile, max(work.size)):
            yield step(f"--tile {tile}", tile=tile)
    for frames in WINDOWS:
        if frames < work.frames:
            yield step(f"--window {frames}", frames=frames)
    if on_gpu and work.offload != "sequential":
        yield step("--offload sequential", offload="sequential")
    height, width = work.size
    for side in SIDES:
        if side < min(height, width):
            scale = side / min(height, width)
            yield step(f"--size {side}", size=(round(height * scale), round(width * scale)))


def check_fit(footprint: Footprint, work: Work, room: int | None, on_gpu: bool) -> str:
    """What `work` needs, in a line; raises MemoryLimitError where that is more than `room` bytes, naming settings that fit."""
    parts = footprint.memory(work, on_gpu)
    need, where = sum(parts.values()), "on the GPU" if on_gpu else "of memory"
    if room is not None and need > room:
        for words, smaller in smaller_works(work, on_gpu):
            fits = sum(footprint.memory(smaller, on_gpu).values())
            if fits <= room:
                raise MemoryLimitError(f"expected work of at most {_gib(room)} GiB {where}, found {_gib(need)} GiB; {words} needs {_gib(fits)} GiB")
        raise MemoryLimitError(f"expected work of at most {_gib(room)} GiB {where}, found {_gib(need)} GiB, and no settings that fit; take --model compact")
    text = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items() if size >= GIB / 100)
    return f"expects {_gib(need)} GiB {where}{'' if room is None else f', there are {_gib(room)}'}: {text}"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}" if size >= GIB / 10 else f"{size / GIB:.2f}"

"""The memory that a run needs, part by part, known before anything is loaded; and which settings fit where it does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hicast.config.train_run import TrainSettings
from hicast.encoders.latent_moments import BLOCK, KEPT_BLOCKS
from hicast.encoders.vgg import BLOCKS
from hicast.errors import MemoryLimitError
from hicast.training.activations import Activations, count_activations
from hicast.training.sources import OnNote

GIB = 2**30
LIBRARIES = GIB
"""What Python, torch and diffusers take in each process."""

AUTOCAST_SHARE = 0.75
"""Activations under autocast, of those in float32: measured 0.54 to 0.67 on a CPU; more norms stay in float32 on a GPU."""

SLACK = 1.3
"""Activations with the gradients and the scratch space of the operation in progress; measured on the compact image stage."""

BYTES_PER_PAINTING = 170_000
"""What is kept of a measured painting besides its Gram matrices and neighbourhoods of its latents: statistics and tokens."""

LATENT_COPIES = 3
"""How many times kept latents are there at most: while they are gathered, joined and written."""

LITTLE_CACHE = 0.25
"""Gigabytes of decoded pictures that are kept where memory is short; the others are decoded again."""

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Outline:
    """A stage's nets without their values, and its two passes: what `StageKind.outline(settings)` gives.

    `trained` and `frozen` modules are made under `torch.device("meta")`, the trained ones in float32, the frozen ones in
    `frozen_dtype` and without gradients; beside each of these lies the original in float32. `borrowed` ones are frozen too, in the
    precision that they compute in, and have no copy. `predict(samples)` calls the trained nets as a step does, in float32;
    `judge(samples)` calls the frozen nets that gradients pass through, on an input that requires a gradient, and discriminators. Both
    make their inputs on the meta device and are counted by what autograd saves in them; passes under `no_grad` count for nothing.
    `latents` is the number of values in the latent of a sample.
    """

    trained: tuple[nn.Module, ...]
    frozen: tuple[nn.Module, ...]
    predict: Callable[[int], Any]
    judge: Callable[[int], Any] | None = None
    borrowed: tuple[nn.Module, ...] = ()
    latents: int = 0


OutlineOf = Callable[[Any], Outline]


def check_memory(settings: TrainSettings, outline_of: OutlineOf, pictures: Mapping[str, int], device: torch.device,
                 processes: int = 1, on_note: OnNote | None = None) -> None:
    """Tell `on_note` what the run needs per part; MemoryLimitError with settings that would fit where it cannot fit.

    `pictures` are the numbers of files by the setting that names their place, `processes` those of the whole run.
    """
    counts = count(outline_of(settings))
    parts = expected(settings, counts, pictures, device, processes)
    need, room = sum(parts.values()), available(device)
    text = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items())
    where = "on the GPU" if device.type == "cuda" else "of memory"
    if on_note:
        on_note(f"expects {_gib(need)} GiB {where}{'' if room is None else f', there are {_gib(room)}'}: {text}")
    if room is None or need <= room:
        return
    for changes in smaller(settings, processes):
        changed = settings.model_copy(update=changes)
        fits = sum(expected(changed, counts.scaled(changed.crop**2 / settings.crop**2), pictures, device, processes).values())
        if fits <= room:
            words = " ".join(f"--set {key}={str(value).lower()}" for key, value in changes.items())
            raise MemoryLimitError(f"expected a run of at most {_gib(room)} GiB, found one of {_gib(need)} GiB; {words} needs {_gib(fits)} GiB")
    raise MemoryLimitError(
        f"expected a run of at most {_gib(room)} GiB, found one of {_gib(need)} GiB, and no batch or crop that fits; take a smaller --model "
        "or a machine with more memory"
    )


@dataclass(frozen=True)
class Counts:
    """Bytes of an outline: weights by kind, and activations of one sample."""

    trained: int
    frozen: int
    """Frozen nets as they came, in float32, for saving; and as they compute."""
    predict: Activations
    judge: Activations
    latents: int = 0
    """Values in the latent of a sample."""
    loading: int = 0
    """Frozen nets while they are read: in float32, beside the file of the largest in float16."""

    def scaled(self, pixels: float) -> Counts:
        """The same for samples of `pixels` times as many pixels: attention keeps no matrix, so all activations grow alike."""
        parts = [Activations(*(round(pixels * size) for size in (part.whole, part.kept, part.largest_block))) for part in (self.predict, self.judge)]
        return Counts(self.trained, self.frozen, *parts, round(pixels * self.latents), self.loading)


def count(outline: Outline) -> Counts:
    """Count weights and the activations of one sample; takes a fraction of a second."""
    modules = (*outline.trained, *outline.frozen, *outline.borrowed)
    for module in modules:
        module.train()
    judge = count_activations(modules, lambda: outline.judge(1)) if outline.judge else Activations(0, 0, 0)
    predict = count_activations(modules, lambda: outline.predict(1))
    frozen = sum(parameter.numel() * (4 + parameter.element_size()) for module in outline.frozen for parameter in module.parameters())
    frozen += sum(parameter.numel() * parameter.element_size() for module in outline.borrowed for parameter in module.parameters())
    trained = 4 * sum(p.numel() for module in outline.trained for p in module.parameters() if p.requires_grad)
    sizes = [sum(parameter.numel() for parameter in module.parameters()) for module in (*outline.frozen, *outline.borrowed)]
    return Counts(trained, frozen, predict, judge, outline.latents, 4 * sum(sizes) + 2 * max(sizes, default=0))


def expected(settings: TrainSettings, counts: Counts, pictures: Mapping[str, int], device: torch.device, processes: int = 1) -> dict[str, int]:
    """Bytes by part, on the GPU for device `cuda`, else in the memory that all processes of this machine share.

    AdamW keeps two moments, the averages one copy; several processes gather gradients in buckets as large as these. A GPU
    updates all weights at once, which takes one more copy when activations are gone. On a CPU frozen nets are read in float32 before
    they are cast, which may be the worst moment itself.
    """
    here = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    samples = settings.batch_size // (processes * settings.accumulate)
    kept = [part.checkpointed if settings.gradient_checkpointing else part.whole for part in (counts.predict, counts.judge)]
    if settings.autocast != "float32":
        kept[0] *= AUTOCAST_SHARE
    activations = SLACK * samples * sum(kept) + (counts.trained / 2 if settings.autocast != "float32" else 0)
    if device.type == "cuda":
        activations = max(activations, counts.trained)
    parts = {
        "weights": counts.trained,
        "gradients": counts.trained * (2 if processes > 1 else 1),
        "optimizer": 2 * counts.trained,
        "averages": counts.trained,
        "frozen nets": counts.frozen,
        "activations": round(activations),
    }
    if device.type != "cuda":
        parts |= {"pictures": _pictures(settings, counts, pictures, samples), "libraries": LIBRARIES}
        if (loading := counts.loading + counts.trained + LIBRARIES - sum(parts.values())) > 0:
            parts["loading"] = loading
    return {name: here * size for name, size in parts.items()}


def available(device: torch.device) -> int | None:
    """Bytes that a run can have: free on the GPU; else those of the machine or its container, None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):
        return None
    for path in map(Path, _CGROUP_LIMITS):
        text = path.read_text().strip() if path.is_file() else ""
        limits += [int(text)] if text.isdecimal() else []
    return min(limits)


def smaller(settings: TrainSettings, processes: int) -> Iterator[dict[str, Any]]:
    """Changes to try, from those that cost only time to those that change what is learned."""
    checkpointing = {} if settings.gradient_checkpointing else {"gradient_checkpointing": True}
    share = settings.batch_size // processes
    parts = [{"accumulate": number} for number in range(settings.accumulate + 1, share + 1) if share % number == 0]
    yield from ([checkpointing] if checkpointing else [])
    yield from parts
    yield from ([checkpointing | part for part in parts] if checkpointing else [])
    least = checkpointing | (parts[-1] if parts else {})
    if settings.cache_gigabytes > LITTLE_CACHE:
        least |= {"cache_gigabytes": LITTLE_CACHE}
        yield least
    crop = settings.crop // 64 * 32
    while crop >= 64:
        yield least | {"crop": crop}
        crop = crop // 64 * 32


def _pictures(settings: TrainSettings, counts: Counts, pictures: Mapping[str, int], samples: int) -> int:
    """Decoded pictures that are kept, measured paintings, kept latents, and batches that are prepared ahead."""
    room, one = settings.cache_gigabytes * GIB, 3 * settings.image_side**2 * 1.4
    stills = {name: number for name, number in pictures.items() if name != "video"}
    kept = sum(min(room, number * one) for number in stills.values())
    latents = sum(stills.values()) * getattr(settings, "cached_crops", 0) * counts.latents * LATENT_COPIES * _itemsize(settings)
    ahead = (settings.readers + 2) * samples * settings.accumulate * getattr(settings, "frames", 1) * 2 * 3 * 4 * settings.crop**2
    grams = 2 * sum(BLOCKS[int(name.removeprefix("relu")[0]) - 1][0] ** 2 for name in getattr(settings, "gram_layers", {}))
    blocks = 2 * KEPT_BLOCKS * BLOCK**2 * 64 * counts.latents // settings.crop**2
    return round(kept + ahead + latents + pictures.get("style", 0) * (BYTES_PER_PAINTING + grams + blocks))


def _itemsize(settings: TrainSettings) -> int:
    return getattr(torch, settings.frozen_dtype).itemsize


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}" if size >= GIB / 10 else f"{size / GIB:.2f}"

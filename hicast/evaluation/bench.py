"""What a model costs: seconds and memory of the net alone, of each part beside it, of steps and sizes."""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from hicast import __version__
from hicast.errors import UsageError
from hicast.io.images import to_tensor

if TYPE_CHECKING:
    from torch import nn

    from hicast.pipeline import HiCastPipeline

BASE, CLIP, TEMPORAL = "base", "clip, frame by frame", "clip, temporal layers"
PAINTING_SIDE = 256
CIRCUMSTANCES = ("hicast", "torch", "model", "device", "processor", "threads", "dtype", "engine")

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Case:
    """Something to time: a part of the model at a size and a number of steps; `frames` that one run makes; what to compare with."""

    part: str
    size: int
    steps: int
    run: Callable[[], Any]
    frames: int = 1
    against: str = BASE
    weights: int = 0
    """Bytes of the weights that take part."""

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells it from all others."""
        return self.part, self.size, self.steps


def cases(pipeline: HiCastPipeline, sizes: Sequence[int], steps: Sequence[int], adapters: Sequence[str], frames: int = 0) -> list[Case]:
    """Base and each of `adapters` at every size and number of steps, and clips of `frames` with and without temporal layers.

    Pictures are made up; the painting is encoded beforehand, and so are adapters' maps. Raises UsageError for an adapter that the
    model lacks.
    """
    names = pipeline.adapters.names if adapters else ()
    unknown = [name for name in adapters if name not in names]
    if unknown:
        raise UsageError(f"--adapters {unknown[0]}: expected some of {', '.join(names) or 'none'}, which the model has; leave it out, or join it")
    held = bytes_of(pipeline.model, pipeline.autoencoder, pipeline.style_encoder)
    code = pipeline.encode_style([(to_tensor(made_up(PAINTING_SIDE, 1)), 1.0)])
    found = []
    for size in sizes:
        photo = to_tensor(made_up(size, 0))
        for count in steps:
            settings = {"steps": count, "size": size}

            def base(photo: Any = photo, settings: Mapping[str, Any] = settings, **more: Any) -> Any:
                return pipeline.stylize_image(photo, code, **settings, **more)

            found.append(Case(BASE, size, count, base, weights=held))
            for name in adapters:
                more = {"controls": {name: photo / 2 + 0.5}, "adapters": {name: 1.0}}
                with_it = held + bytes_of(pipeline.adapters.adapters[name])
                found.append(Case(f"adapter {name}", size, count, lambda base=base, more=more: base(**more), weights=with_it))
            if frames:
                clip = [photo] * frames
                found.append(Case(CLIP, size, count, lambda clip=clip, s=settings: _clip(pipeline, clip, code, s, False), frames, BASE, held))
                if pipeline.temporal is not None:
                    with_it = held + bytes_of(pipeline.temporal)
                    found.append(Case(TEMPORAL, size, count, lambda clip=clip, s=settings: _clip(pipeline, clip, code, s, True), frames, CLIP, with_it))
    return found


def bytes_of(*modules: nn.Module) -> int:
    """Bytes of all weights and buffers of `modules`."""
    return sum(tensor.numel() * tensor.element_size() for module in modules for tensor in (*module.parameters(), *module.buffers()))


def _clip(pipeline: HiCastPipeline, frames: list[Any], code: Any, settings: Mapping[str, Any], temporal: bool) -> int:
    kept = pipeline.temporal
    pipeline.temporal = kept if temporal else None
    try:
        return sum(1 for _ in pipeline.stylize_video(iter(frames), code, window=len(frames), **settings))
    finally:
        pipeline.temporal = kept


def made_up(side: int, seed: int) -> np.ndarray:
    """A picture of blocks and noise, uint8 (side, side, 3), the same for a seed."""
    random = np.random.default_rng(seed)
    blocks = random.integers(40, 216, (8, 8, 3)).repeat(-(-side // 8), 0).repeat(-(-side // 8), 1)[:side, :side]
    return np.clip(blocks + random.normal(0, 12, blocks.shape), 0, 255).astype(np.uint8)


def measure(wanted: Sequence[Case], device: str, *, warm_up: int = 1, repeats: int = 5, on_progress: OnProgress = lambda done, total: None) -> list[dict[str, Any]]:
    """A row for each case: median seconds for a frame, its ratio to what it is compared with, and memory in MiB: the
    process's peak, what a run adds to what lay there, and the weights that take part.

    Cases take turns, every other round backwards, so that whatever else the machine does falls on all alike; ratios are
    medians of the rounds' own. `warm_up` rounds before are not counted; memory is taken in one more round.
    """
    seconds: dict[tuple[str, int, int], list[float]] = {case.key: [] for case in wanted}
    rounds = warm_up + repeats
    for number in range(rounds):
        for case in reversed(wanted) if number % 2 else wanted:
            begun = perf_counter()
            case.run()
            _wait(device)
            if number >= warm_up:
                seconds[case.key].append((perf_counter() - begun) / case.frames)
        on_progress(number + 1, rounds + 1)
    gc.collect()
    memory = {case.key: peak_memory(case.run, device) for case in wanted}
    on_progress(rounds + 1, rounds + 1)
    rows = []
    for case in wanted:
        other = seconds[case.against, case.size, case.steps]
        ratio = median(ours / theirs for ours, theirs in zip(seconds[case.key], other, strict=True))
        peak, working = memory[case.key]
        rows.append({"part": case.part, "size": case.size, "steps": case.steps, "seconds": median(seconds[case.key]),
                     "fastest": min(seconds[case.key]), "slowest": max(seconds[case.key]), "ratio": ratio, "against": case.against,
                     "memory_mib": peak, "working_mib": working, "weights_mib": case.weights / 2**20})  # fmt: skip
    return rows


def peak_memory(run: Callable[[], Any], device: str) -> tuple[float | None, float | None]:
    """MiB at the peak of one run, and how much of that the run itself added to what lay there before.

    Allocated on a GPU; of the whole process on a CPU, under Linux, where memory that was let go is given back to the system
    beforehand. None where it cannot be told.
    """
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        peak = torch.cuda.max_memory_allocated()
        return peak / 2**20, (peak - before) / 2**20
    try:
        _give_back()
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        run()
        peak = _resident("VmHWM")
        return peak, peak - before
    except (OSError, KeyError, ValueError):
        return None, None


def _resident(key: str) -> float:
    """MiB of this process by a `key` of Linux."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[key].split()[0]) / 1024


def _give_back() -> None:
    """Have the allocator return free memory to the system, where it can: it would hide what a run takes."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _wait(device: str) -> None:
    """Let a device that works by itself come to an end."""
    if device in ("cuda", "mps"):
        import torch

        getattr(torch, device).synchronize()


def describe(model: str, device: str, dtype: str, engine: str = "torch") -> dict[str, Any]:
    """Where and with what the figures were taken."""
    import torch

    processor = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return {"hicast": __version__, "torch": torch.__version__, "model": model, "device": device, "processor": processor,
            "threads": torch.get_num_threads(), "dtype": dtype, "engine": engine}  # fmt: skip


def _processor() -> str:
    """The CPU by its full name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def differences(ours: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str]:
    """A line for each circumstance in which two reports differ, so that their seconds are not those of the model alone."""
    return [f"{key} was {earlier[key]}, now {ours[key]}" for key in CIRCUMSTANCES if key in earlier and earlier[key] != ours[key]]


def compare(rows: Iterable[Mapping[str, Any]], earlier: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows with `before`, the seconds of the same case in an earlier report, and `change`, now over before; `memory_before` and
    `memory_change` likewise of the memory a run takes. None where the earlier one lacks the case.
    """
    known = {(row["part"], row["size"], row["steps"]): row for row in earlier.get("cases", [])}
    found = []
    for row in rows:
        past = known.get((row["part"], row["size"], row["steps"]), {})
        seconds, memory = past.get("seconds"), past.get("working_mib")
        found.append({**row, "before": seconds, "change": _over(row["seconds"], seconds),
                      "memory_before": memory, "memory_change": _over(row.get("working_mib"), memory)})  # fmt: skip
    return found


def _over(now: float | None, before: float | None) -> float | None:
    return now / before if now is not None and before else None

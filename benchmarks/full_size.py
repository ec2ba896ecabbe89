"""The net of Stable Diffusion's size against a plain loop as the published scripts have it: time and peak memory.

The plain loop evaluates three guidance branches in float32 whatever the scales; ours evaluates those that count, in the precision
of the device. Weights are random: values do not matter to either. `python benchmarks/full_size.py --device cuda` for true size;
`--width 0.2` shrinks every width for a machine without a GPU, and the ratio is what to read then.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from hicast.pipeline import HiCastPipeline

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
WAYS = ("plain", "ours")
PEAK_RESET = Path("/proc/self/clear_refs")
"""Linux's; writing 5 to it forgets the peak (proc(5))."""

CLIP_FRAMES, CLIP_SCALE = 21, 0.8
"""Frames of the published clips, and their style scale under our name."""


def main(words: Sequence[str] | None = None) -> None:
    """Measure each way at each size in a process of its own, so that peaks are its own; print a table and, with `--json`, write it."""
    options = parse(words)
    os.environ.update(WAITING)
    if options.worker:
        print(json.dumps(work(options)))
        return
    if options.count:
        for frames in (1, options.frames):
            counted = operations(frames, options.clip_size, options.width) / 1e12, expected_memory(frames, options.clip_size, options.width) / 2**30
            print(f"{frames} at {options.clip_size} pixels: {counted[0]:.2f} TFLOP an evaluation, expects {counted[1]:.1f} GiB in half precision")
        return
    tasks = [("image", size) for size in options.sizes] + ([("clip", options.clip_size)] if options.frames else [])
    rows = [row(options, kind, size) for kind, size in tasks]
    print("\n".join(lines(rows)))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options; `--worker` is for the processes that this script starts."""
    parser = argparse.ArgumentParser(description="Time the published net against a plain loop, with random weights.")
    parser.add_argument("--width", type=float, default=1.0, metavar="X", help="share of the true widths (default: 1, which wants a GPU)")
    parser.add_argument("--sizes", type=lambda text: [int(word) for word in text.split(",") if word], default=[384, 512, 768], metavar="A,B")
    parser.add_argument("--clip-size", type=int, default=512, metavar="N", help="side of the clip (default: 512)")
    parser.add_argument("--frames", type=int, default=CLIP_FRAMES, metavar="N", help="frames of the clip, 0 for none (default: 21)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="DDIM steps (default: 20)")
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="timed runs, after one that warms up; the fastest counts (default: 2)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--dtype", default="auto", help="precision of ours (default: what the device is fast in)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads on a CPU (default: torch's own number)")
    parser.add_argument("--count", action="store_true", help="count the operations of a picture and of the clip instead, and compute nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--worker", metavar="WAY,KIND,SIZE", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def row(options: argparse.Namespace, kind: str, size: int) -> dict[str, Any]:
    """Both ways at one size."""
    found = {}
    for way in WAYS:
        passed = [f"--{key.replace('_', '-')}={value}" for key, value in vars(options).items() if key not in ("sizes", "json", "worker", "count") and value is not None]
        done = subprocess.run([sys.executable, __file__, *passed, f"--worker={way},{kind},{size}"], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{way} {kind} {size}: {done.stderr[-2000:]}")
        found[way] = json.loads(done.stdout.splitlines()[-1])
    ratios = {name: found["plain"][name] / found["ours"][name] for name in ("seconds", "peak_bytes")}
    return {"kind": kind, "size": size, "width": options.width, "steps": options.steps, **found, "times_faster": ratios["seconds"],
            "times_less_memory": ratios["peak_bytes"]}  # fmt: skip


def work(options: argparse.Namespace) -> dict[str, Any]:
    """One way at one size: seconds of the fastest run, and peak memory (of the GPU, else of the process)."""
    import torch

    way, kind, size = options.worker.split(",")
    if options.threads:
        torch.set_num_threads(options.threads)
    pipeline = random_pipeline(options.width, kind == "clip").to(options.device, "float32" if way == "plain" else options.dtype)
    frames = torch.rand(options.frames if kind == "clip" else 1, 3, int(size), int(size), generator=torch.Generator().manual_seed(1)) * 2 - 1
    code = pipeline.encode_style([(frames[:1], 1.0)])
    forget_peak()
    scale = CLIP_SCALE if kind == "clip" else 1.0
    run = (lambda: plain(pipeline, frames, code, scale, options.steps)) if way == "plain" else (lambda: ours(pipeline, frames, code, scale, options.steps))
    run()
    seconds = []
    for _ in range(options.repeats):
        begun = perf_counter()
        run()
        seconds.append(perf_counter() - begun)
    on_gpu = pipeline.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else process_peak()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    return {"seconds": min(seconds), "peak_bytes": peak, "device": device, "dtype": str(pipeline.dtype).removeprefix("torch.")}


def forget_peak() -> None:
    """Count peaks from here: weights were made at random in float32, which nobody does who loads them in another precision."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if PEAK_RESET.exists():
        ctypes.CDLL(None).malloc_trim(0)
        PEAK_RESET.write_text("5")


def process_peak() -> int:
    """Bytes: the most memory that this process held since `forget_peak`, where the system keeps that, else since its start."""
    if not PEAK_RESET.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def random_pipeline(width: float, clips: bool) -> HiCastPipeline:
    """The published net at `width` times its true widths, with random weights."""
    import torch
    from diffusers import AutoencoderKL

    from hicast.config.model import ModelConfig
    from hicast.config.presets import load_preset
    from hicast.encoders.style import StyleEncoder
    from hicast.models.build import build_model
    from hicast.models.temporal import TemporalLayers
    from hicast.pipeline import HiCastPipeline

    config = ModelConfig(**load_preset("sd15", "models"))
    unet = config.unet | {"block_out_channels": [max(round(width * each / 32), 1) * 32 for each in config.unet["block_out_channels"]]}
    vae = config.autoencoder | {"block_out_channels": [max(round(width * each / 32), 1) * 32 for each in config.autoencoder["block_out_channels"]]}
    model = build_model(config.model_copy(update={"unet": unet}))
    layers = TemporalLayers.for_unet(model.unet) if clips else None
    return HiCastPipeline(model, AutoencoderKL(**vae), StyleEncoder(**config.style_encoder), config.scheduler,
                          index={"defaults": {"steps": 20}, "side_range": [64, 4096], "tile": 8192}, context=torch.zeros(1, 77, 768), temporal=layers)  # fmt: skip


def ours(pipeline: HiCastPipeline, frames: torch.Tensor, code: Any, style_scale: float, steps: int) -> None:
    """As a user has it."""
    size = frames.shape[-1]
    if len(frames) == 1:
        pipeline.stylize_image(frames, code, steps=steps, size=size, style_scale=style_scale)
    else:
        list(pipeline.stylize_video(frames.split(1), code, steps=steps, size=size, style_scale=style_scale, window=len(frames)))


def plain(pipeline: HiCastPipeline, frames: torch.Tensor, code: Any, style_scale: float, steps: int) -> torch.Tensor:
    """A loop of diffusers alone, as the published scripts have it: three branches, one batch, everything decoded in one call."""
    import torch
    from diffusers import DDIMScheduler

    from hicast.diffusion.sampling import make_scheduler
    from hicast.models.conditions import Conditions, stack_conditions

    scheduler: DDIMScheduler = make_scheduler("ddim", pipeline.scheduler_config)
    scheduler.set_timesteps(steps, device=pipeline.device)
    with torch.inference_mode(), pipeline._as_clip(len(frames)):
        vae = pipeline.autoencoder
        content = vae.encode(frames.to(pipeline.device)).latent_dist.sample() * vae.config.scaling_factor
        full = Conditions.of(content, code, pipeline.context.to(pipeline.device))
        together = stack_conditions([full, full.without_style(pipeline.style_encoder.null(1)), full.without_content()])
        latents = torch.randn(content.shape, generator=torch.Generator().manual_seed(0)).to(pipeline.device)
        for timestep in scheduler.timesteps:
            whole, no_style, no_content = pipeline.model(torch.cat([latents] * 3), timestep, together).chunk(3)
            guided = no_style + style_scale * (whole - no_style) + no_content + (whole - no_content) - whole
            latents = scheduler.step(guided, timestep, latents).prev_sample
        return vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1).cpu()


def operations(frames: int, size: int, width: float) -> int:
    """Floating-point operations (two for a multiplication with its addition) of one evaluation of the net, with temporal layers for more than a frame."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from hicast.encoders.style import STYLE_DIM, StyleCode
    from hicast.models.conditions import Conditions

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        pipeline = random_pipeline(width, frames > 1)
        latents = torch.empty(frames, 4, size // 8, size // 8)
        conditions = Conditions.of(latents, StyleCode(torch.empty(1, STYLE_DIM)), torch.empty(1, 77, 768))
        with pipeline._as_clip(frames):
            pipeline.model(latents, torch.zeros(()), conditions)
    return counter.get_total_flops()


def expected_memory(frames: int, size: int, width: float) -> int:
    """Bytes that `hicast stylize-video` says it expects for a window of square `frames`, in half precision."""
    from types import SimpleNamespace

    import torch
    from hicast.cli.film_memory import expected_bytes

    from hicast.config.stylize import StylizeSettings, VideoSettings

    with torch.device("meta"):
        pipeline = random_pipeline(width, frames > 1)
        for part in (pipeline.model, pipeline.autoencoder, pipeline.style_encoder, *([pipeline.temporal] if frames > 1 else [])):
            torch.nn.Module.to(part, torch.float16)
        settings = StylizeSettings(size=size, video=VideoSettings(window=frames, overlap=0))
        return expected_bytes(pipeline, settings, SimpleNamespace(height=size, width=size, pixel_aspect=1))


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown table of the figures."""
    table = ["| what | plain | ours | times faster | plain, peak | ours, peak | times less memory |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for each in rows:
        one, other = each["plain"], each["ours"]
        peaks = (f"{part['peak_bytes'] / 2**30:.2f} GiB" for part in (one, other))
        table.append(f"| {each['kind']} {each['size']} | {one['seconds']:.2f} s | {other['seconds']:.2f} s | {each['times_faster']:.1f} | {' | '.join(peaks)} | {each['times_less_memory']:.1f} |")
    first = rows[0]
    table.append(f"width {first['width']:g}, {first['steps']} steps; plain: {first['plain']['dtype']}, ours: {first['ours']['dtype']}; {first['ours']['device']}")
    return table


if __name__ == "__main__":
    main()

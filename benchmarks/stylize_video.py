"""How fast videos are painted: frames per second from file to file once a window has been painted, the share of it in the nets, and the memory of short and long clips.

Presets come with their adapters, whose maps are drawn of every frame; `frame by frame` is the first preset without temporal layers.

Run it on an idle machine: `python benchmarks/stylize_video.py CLIP PAINTING`. Every row is a fresh process; rows take turns.
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
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
SHARE_GOAL, GROWTH_GOAL = 0.85, 1.1
MAGENTA, PICTURES = "Magenta", "frame by frame"


def main(words: Sequence[str] | None = None) -> None:
    """Measure every row, print a table and, with `--json`, write the figures to a file."""
    options = parse(words)
    os.environ.update(WAITING)
    if options.worker:
        print(json.dumps(work(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        clip = cut_clip(options.clip, Path(folder) / "clip.mp4", options.frames, options.side)
        names = [*options.presets, *([f"temporal:{options.temporal}"] if options.temporal else []), PICTURES, MAGENTA]
        rounds = [{name: measure(options, name, clip) for name in names} for _ in range(options.rounds)]
        rows = [row for name in names if (row := middle([found[name] for found in rounds]))]
        if options.long:
            long = cut_clip(options.clip, Path(folder) / "long.mp4", options.long, options.side)
            rows.append(measure(options, options.presets[0], long))
    print("\n".join(lines(rows)))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options; `--worker` is for the processes that this script starts."""
    parser = argparse.ArgumentParser(description="Time hicast stylize-video.")
    parser.add_argument("clip", type=Path, help="a clip, repeated and cut as needed")
    parser.add_argument("painting", type=Path)
    parser.add_argument("--presets", type=lambda text: text.split(","), default=["balanced", "portrait"], metavar="A,B")
    parser.add_argument("--temporal", metavar="FOLDER", help="a model with temporal layers, timed as well")
    parser.add_argument("--frames", type=int, default=100, metavar="N", help="frames of the clip (default: 100)")
    parser.add_argument("--long", type=int, default=2000, metavar="N", help="frames of the long clip, whose memory is compared; 0 for none (default: 2000)")
    parser.add_argument("--side", type=int, default=256, metavar="N", help="short side of the clip (default: 256)")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--engine", default="auto", help="what runs the net: torch or openvino (default: auto)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds, of which the median counts (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--worker", nargs=2, metavar=("ROW", "CLIP"), help=argparse.SUPPRESS)
    return parser.parse_args(words)


def cut_clip(source: Path, target: Path, frames: int, side: int) -> Path:
    """`frames` frames of `source`, played again and again, with a short side of `side` pixels."""
    import av

    pictures = first_frames(source, frames)
    height, width = pictures[0].shape[:2]
    scale = side / min(height, width)
    with av.open(str(target), "w") as clip:
        stream = clip.add_stream("libx264", rate=24)
        stream.height, stream.width = (round(length * scale / 2) * 2 for length in (height, width))
        stream.pix_fmt = "yuv420p"
        for pixels in islice(cycle(pictures), frames):
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(stream.width, stream.height, "yuv420p")))
        clip.mux(stream.encode())
    return target


def first_frames(clip: Path, count: int) -> list[np.ndarray]:
    """The first `count` frames of `clip`, uint8 (height, width, 3)."""
    import av

    with av.open(str(clip)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), count)]


def measure(options: argparse.Namespace, name: str, clip: Path) -> dict[str, Any] | None:
    """The figures of one row from a fresh process; None where it cannot be had."""
    passed = ["--presets", ",".join(options.presets), "--threads", str(options.threads), "--side", str(options.side), "--engine", options.engine, "--worker", name, str(clip)]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, __file__, str(options.clip), str(options.painting), *passed]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{Path(__file__).name}: {name} failed: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def work(options: argparse.Namespace) -> dict[str, Any] | None:
    """One row: the clip from file to file with everything loaded before the clock starts."""
    import torch

    from hicast.io.film import Film, make_film

    torch.set_num_threads(options.threads)
    (name, clip), spent = options.worker, {"nets": 0.0}
    made = magenta_painter(options, spent) if name == MAGENTA else own_painter(options, name, spent)
    if made is None:
        return None
    (step, context), paint = made
    list(paint(iter(first_frames(Path(clip), step + context)), 0, 0))  # what is loaded or compiled for a window is, from here on
    spent["nets"] = 0.0
    with tempfile.TemporaryDirectory() as folder:
        start = perf_counter()
        frames = make_film(Film(Path(clip), Path(folder) / "out.mp4", step=step, context=context), paint).frames
        seconds = perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"row": name, "frames": frames, "frames_per_second": frames / seconds, "share_in_nets": spent["nets"] / seconds, "peak_bytes": peak}


def own_painter(options: argparse.Namespace, name: str, spent: dict[str, float]) -> Any:
    """Window and context, and the painter of a preset, or of a model with temporal layers or of one without them in the first preset."""
    import torch
    from timing import NetTimer

    from hicast.config.stylize import resolve_stylize, stylize_layers
    from hicast.controls import find_extractor
    from hicast.io.images import load_picture, to_pixels, to_tensor
    from hicast.pipeline import HiCastPipeline

    kind, _, folder = name.partition(":")
    pipeline = HiCastPipeline.from_pretrained(folder or "compact", "cpu", engine=options.engine)
    preset = options.presets[0] if folder or name == PICTURES else kind
    settings = resolve_stylize(stylize_layers("stylize-video", preset)[1], pipeline.defaults)
    if name == PICTURES:
        pipeline.temporal = None
    code = pipeline.encode_style([(to_tensor(load_picture(options.painting).pixels), 1.0)])
    timer, video = NetTimer(pipeline), settings.video

    def timed(draw: Any) -> Any:
        def drawn(picture: torch.Tensor) -> torch.Tensor:
            start = perf_counter()
            with torch.inference_mode():
                found = draw(picture)
            spent["nets"] += perf_counter() - start
            return found

        return drawn

    kinds = {control: find_extractor(control, pipeline.about[control].get("extractor"))[1] for control in settings.adapters}
    controls = {control: timed(kind.open(None, pipeline.device, torch.float32)) for control, kind in kinds.items()}
    context = video.overlap if pipeline.looks_back else 0

    def paint(frames: Iterator[np.ndarray], first: int, lead: int) -> Iterator[np.ndarray]:
        painted = pipeline.stylize_video(
            (to_tensor(pixels) for pixels in frames), code, style_scale=settings.style_scale, content_scale=settings.content_scale,
            steps=settings.steps, window=video.window, overlap=context, shared_noise=video.shared_noise, size=options.side, first=first, lead=lead,
            controls=controls, adapters=settings.adapters,
        )  # fmt: skip
        before = timer.total
        yield from (to_pixels(image) for image in painted)
        spent["nets"] += timer.total - before

    return (video.window - context, context), paint


def magenta_painter(options: argparse.Namespace, spent: dict[str, float]) -> Any:
    """Magenta's network frame by frame, at the size that it is fixed to; None where it is not installed."""
    from PIL import Image
    from rivals import MAGENTA_SIZE, MAGENTA_STYLE_SIZE, magenta_networks

    networks = magenta_networks(options.threads)
    if networks is None:
        return None
    predict, transfer = networks

    def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))

    painting = resized(np.asarray(Image.open(options.painting).convert("RGB")), (MAGENTA_STYLE_SIZE,) * 2)
    code = predict(painting[None].astype(np.float32) / 255)

    def paint(frames: Iterator[np.ndarray], first: int, lead: int) -> Iterator[np.ndarray]:
        for pixels in frames:
            small = resized(pixels, (MAGENTA_SIZE,) * 2)[None].astype(np.float32) / 255
            start = perf_counter()
            result = transfer(small, code)[0]
            spent["nets"] += perf_counter() - start
            yield resized((result * 255).round().clip(0, 255).astype(np.uint8), pixels.shape[1::-1])

    return (16, 0), paint


def middle(found: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Medians of the figures of one row over all rounds."""
    if found[0] is None:
        return None
    return {key: value if isinstance(value, str) else median(each[key] for each in found) for key, value in found[0].items()}


def lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table of the figures."""
    yield "| row | frames | frames per second | share in nets | peak memory |"
    yield "| --- | --- | --- | --- | --- |"
    for row in rows:
        goal = "" if row["share_in_nets"] >= SHARE_GOAL or row["row"] == MAGENTA else f" (goal {SHARE_GOAL:.0%})"
        growth = row["peak_bytes"] / rows[0]["peak_bytes"]
        grown = "" if row["row"] != rows[0]["row"] or row is rows[0] else f", {growth:.2f} times that of {rows[0]['frames']} frames (goal {GROWTH_GOAL})"
        name = "temporal layers" if row["row"].startswith("temporal:") else row["row"]
        yield f"| {name} | {row['frames']} | {row['frames_per_second']:.2f} | {row['share_in_nets']:.0%}{goal} | {row['peak_bytes'] / 2**30:.2f} GiB{grown} |"


if __name__ == "__main__":
    main()

"""PyTorch against OpenVINO on a CPU: time per picture and per frame of a clip, beside Magenta's networks, and how far results differ.

Run it on an idle machine: `python benchmarks/engines.py`. Runs take turns as in `timing.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from stylize_image import common_parser, pictures, run_and_report, square
from timing import interleaved, ratio

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from hicast.pipeline import HiCastPipeline

ENGINES = ("torch", "openvino")
MAGENTA, CLIP = "magenta", "clip"
ANEW, KNOWN = "painting encoded anew", "painting known"
STEP = 3
"""Pixels by which the made-up clip moves from frame to frame."""


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the tables and, with `--json`, write the figures to a file."""
    run_and_report(parse(words), measure, lines)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options, with `sizes` and `repeats` filled in."""
    parser = common_parser("Time the engines of hicast on the CPU, beside Magenta.")
    parser.add_argument("--dtype", default="auto", help="precision of both engines (default: what the machine is fast in)")
    parser.add_argument("--frames", type=int, default=28, metavar="N", help="frames of a clip of 256 x 448 pixels, 0 for none (default: 28)")
    options = parser.parse_args(words)
    options.sizes, options.repeats = options.sizes or [256, 384, 512, 1024], options.repeats or 9
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures, times in seconds; raises HicastError for what cannot be read, UsageError where an engine is not there."""
    import torch

    from hicast.errors import UsageError
    from hicast.io.images import to_tensor
    from hicast.pipeline import HiCastPipeline

    torch.set_num_threads(options.threads)
    photo, painting = pictures(options)
    made = {name: HiCastPipeline.from_pretrained(options.model, "cpu", options.dtype, engine=name) for name in ENGINES}
    exact = {name: HiCastPipeline.from_pretrained(options.model, "cpu", "float32", engine=name) for name in ENGINES}
    if made["openvino"].engine != "openvino":
        raise UsageError("expected the package openvino, found none; pip install openvino")
    style = to_tensor(square(painting, made["torch"].index["style_side"]))
    rows = [*time_pictures(made, options, photo, style), *time_magenta(made, options, photo, painting)]
    return {
        "model": options.model, "dtype": str(made["torch"].dtype).removeprefix("torch."), "threads": options.threads, "repeats": options.repeats,
        "rows": rows, "clips": time_clips(made, options, photo, style) if options.frames else [],
        "differences": differences(made, exact, options, photo, style),
    }  # fmt: skip


def time_pictures(made: dict[str, HiCastPipeline], options: argparse.Namespace, photo: np.ndarray, style: Tensor) -> list[dict[str, Any]]:
    """One row per size and way: seconds with each engine, and PyTorch's over OpenVINO's."""
    from hicast.io.images import to_tensor

    runs = {}
    for size in options.sizes:
        content = to_tensor(square(photo, size))
        for name, pipeline in made.items():
            for way, painting in ((ANEW, [(style, 1.0)]), (KNOWN, pipeline.encode_style([(style, 1.0)]))):
                runs[f"{name} {way}", size] = partial(pipeline.stylize_image, content, painting, size=size)
    seconds, _ = interleaved(runs, options.repeats)
    return [_compared(way, size, {name: seconds[f"{name} {way}", size] for name in made}) for size in options.sizes for way in (ANEW, KNOWN)]


def time_magenta(made: dict[str, HiCastPipeline], options: argparse.Namespace, photo: np.ndarray, painting: np.ndarray) -> list[dict[str, Any]]:
    """The same beside Magenta's networks at the size that they are fixed to; nothing where they are not installed."""
    import numpy as np
    from rivals import MAGENTA_SIZE, MAGENTA_STYLE_SIZE, magenta_networks

    from hicast.io.images import to_tensor

    networks = magenta_networks(options.threads)
    if networks is None:
        return []
    predict, transfer = networks
    theirs, their_style = (square(pixels, size)[None].astype(np.float32) / 255 for pixels, size in ((photo, MAGENTA_SIZE), (painting, MAGENTA_STYLE_SIZE)))
    code = predict(their_style)
    content, style = to_tensor(square(photo, MAGENTA_SIZE)), to_tensor(square(painting, made["torch"].index["style_side"]))
    runs = {(f"{MAGENTA} {ANEW}", MAGENTA_SIZE): lambda: transfer(theirs, predict(their_style)), (f"{MAGENTA} {KNOWN}", MAGENTA_SIZE): lambda: transfer(theirs, code)}
    for name, pipeline in made.items():
        for way, given in ((ANEW, [(style, 1.0)]), (KNOWN, pipeline.encode_style([(style, 1.0)]))):
            runs[f"{name} {way}", MAGENTA_SIZE] = partial(pipeline.stylize_image, content, given, size=MAGENTA_SIZE)
    seconds, _ = interleaved(runs, options.repeats)
    return [_compared(way, MAGENTA_SIZE, {name: seconds[f"{name} {way}", MAGENTA_SIZE] for name in (*made, MAGENTA)}) for way in (ANEW, KNOWN)]


def time_clips(made: dict[str, HiCastPipeline], options: argparse.Namespace, photo: np.ndarray, style: Tensor) -> list[dict[str, Any]]:
    """Seconds per frame of a clip of 256 x 448 pixels in the windows of the default preset, with and without temporal layers."""
    frames, rows = clip(photo, options.frames), []
    for layers in (True, False):
        runs = {}
        for name, pipeline in made.items():
            code = pipeline.encode_style([(style, 1.0)])
            runs[name, 256] = partial(_paint_clip, pipeline, frames, code, layers)
        seconds, _ = interleaved(runs, max(options.repeats // 2, 1))
        each = {name: [value / options.frames for value in seconds[name, 256]] for name in made}
        rows.append(_compared(f"{CLIP}, temporal layers" if layers else f"{CLIP}, frame by frame", 256, each))
    return rows if made["torch"].temporal is not None else rows[1:]


def clip(photo: np.ndarray, frames: int) -> list[Tensor]:
    """`photo` that moves sideways, as frames (1, 3, 256, 448) in [-1, 1]."""
    from hicast.io.images import resize_image, to_tensor

    still = resize_image(to_tensor(photo), (256, 448))
    return [still.roll(STEP * number, 3) for number in range(frames)]


def _paint_clip(pipeline: HiCastPipeline, frames: list[Tensor], code: Any, layers: bool) -> list[Tensor]:
    from hicast.config.stylize import VideoSettings

    video, kept = VideoSettings(), pipeline.temporal
    pipeline.temporal = kept if layers else None
    try:
        context = video.overlap if pipeline.looks_back else 0
        return list(pipeline.stylize_video(iter(frames), code, size=256, window=video.window, overlap=context, shared_noise=video.shared_noise))
    finally:
        pipeline.temporal = kept


def differences(made: dict[str, HiCastPipeline], exact: dict[str, HiCastPipeline], options: argparse.Namespace, photo: np.ndarray,
                style: Tensor) -> list[dict[str, Any]]:  # fmt: skip
    """Mean absolute difference in grey levels (0 to 255) to PyTorch in float32, and of both engines in the precision that was timed."""
    from hicast.io.images import to_tensor

    rows = []
    for size in options.sizes:
        content = to_tensor(square(photo, size))
        found = {(name, kind): pipeline.stylize_image(content, [(style, 1.0)], size=size)
                 for kind, group in (("timed", made), ("float32", exact)) for name, pipeline in group.items()}  # fmt: skip

        def apart(one: tuple[str, str], other: tuple[str, str], found: dict[tuple[str, str], Tensor] = found) -> float:
            return (found[one] - found[other]).abs().mean().item() * 127.5

        truth = ("torch", "float32")
        rows.append({"size": size, "torch": apart(("torch", "timed"), truth), "openvino": apart(("openvino", "timed"), truth),
                     "openvino_float32": apart(("openvino", "float32"), truth), "between": apart(("openvino", "timed"), ("torch", "timed"))})  # fmt: skip
    return rows


def _compared(way: str, size: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    row = {"way": way, "size": size, "seconds": {name: median(values) for name, values in seconds.items()}}
    row["torch_over_openvino"] = ratio(seconds["torch"], seconds["openvino"])
    if MAGENTA in seconds:
        row["over_magenta"] = {name: ratio(seconds[name], seconds[MAGENTA]) for name in ENGINES}
    return row


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report as tables to read, times in milliseconds."""
    yield "{model}, {dtype}, threads {threads}, medians of {repeats} rounds".format(**report)
    yield "\n| pixels | | torch ms | openvino ms | torch/openvino | Magenta ms | torch/Magenta | openvino/Magenta |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in report["rows"]:
        theirs = row.get("over_magenta")
        beside = f"{row['seconds'][MAGENTA] * 1000:.0f} | {theirs['torch']:.2f} | {theirs['openvino']:.2f}" if theirs else "| |"
        yield f"| {row['size']} | {row['way']} | {_both(row)} | {row['torch_over_openvino']:.2f} | {beside} |"
    yield "\n| frames of 256 x 448 | torch ms | openvino ms | torch/openvino | torch fps | openvino fps |\n| --- | --- | --- | --- | --- | --- |"
    for row in report["clips"]:
        rates = " | ".join(f"{1 / row['seconds'][name]:.1f}" for name in ENGINES)
        yield f"| {row['way']} | {_both(row)} | {row['torch_over_openvino']:.2f} | {rates} |"
    yield "\n| pixels | grey levels from torch float32: torch | openvino | openvino float32 | openvino from torch |\n| --- | --- | --- | --- | --- |"
    for row in report["differences"]:
        yield f"| {row['size']} | {row['torch']:.2f} | {row['openvino']:.2f} | {row['openvino_float32']:.4f} | {row['between']:.2f} |"


def _both(row: dict[str, Any]) -> str:
    return " | ".join(f"{row['seconds'][name] * 1000:.0f}" for name in ENGINES)


if __name__ == "__main__":
    main()

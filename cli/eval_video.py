"""`hicast eval video`: how steady stylized clips are, and how content and style stand in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import eval_options as words
from . import options
from .eval_images import OURS, check_request

if TYPE_CHECKING:
    from hicast.config.stylize import StylizeSettings
    from hicast.evaluation.painter import Painter
    from hicast.evaluation.pairing import Pair

CLIP_METRICS = ["cf", "ge", "lp", "qs3", "statistics"]


def eval_video(
    ctx: typer.Context,
    content: words.Clips = None,
    style: words.Style = None,
    stylized: words.Stylized = None,
    pairs: words.Pairs = None,
    peers: words.Peers = None,
    model: words.Model = None,
    preset: words.Preset = None,
    set_words: options.Set = None,
    metrics: Annotated[str | None, typer.Option("--metrics", metavar="LIST", show_default=False, help="Of content and style, at first, middle and last frame. Default: cf,ge,lp,qs3,statistics.")] = None,
    flow: Annotated[Path | None, typer.Option("--flow", metavar="FOLDER", show_default=False, help="True flow: CLIP/NAME.flo from each frame to the next, NAME.png where hidden.")] = None,
    gap: Annotated[int, typer.Option("--gap", metavar="N", min=1, help="Frames apart of the long warping error.")] = 10,
    weights: words.Weights = None,
    extractor: words.Extractors = None,
    size: words.CompareSize = 256,
    output: words.Output = Path("evaluation"),
    overwrite: words.Overwrite = False,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Judge stylized clips: how steady they are, how much of clip and painting is in them."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    folders = ({OURS: stylized} if stylized else {}) | words.named_paths("--peers", peers)
    files, asked = words.named_paths("--weights", weights), words.listed(metrics)
    settings = words.stylize_settings(preset, set_words, model, device) if model else None
    check_request(content, style, pairs, folders, model)
    from hicast.evaluation.clips import evaluate_clips
    from hicast.evaluation.metrics import check_metrics
    from hicast.evaluation.report import check_report, write_report
    from hicast.evaluation.runner import check_methods
    from hicast.evaluation.scene import open_scene, pair_up
    from hicast.io.files import VIDEOS

    name = Path(model).name if model else None
    check_methods([*folders, *([name] if name else [])])
    check_metrics(asked, files)
    check_report(output, overwrite)
    pairing = pair_up(content, style, pairs, folders, VIDEOS)
    failed: list[dict[str, str]] = []
    if settings and name:
        painter, settings = words.open_painter(console, settings, files)
        pairing = replace(pairing, results={name: {}, **pairing.results})
        with console.progress("stylizing") as on_progress:
            for at, pair in enumerate(pairing.pairs):
                painted = paint(painter, pair, settings, output / name, failed)
                pairing.results[name].update({pair.key: painted} if painted else {})
                on_progress(at + 1, len(pairing.pairs))
        del painter
    opened = open_scene(asked if asked is not None else CLIP_METRICS, files, words.named("--extractor", extractor), device or "auto", console.info)
    with console.progress("measuring") as on_progress:
        result = evaluate_clips(pairing, opened.metrics, opened.eye, size=size, flow=flow, gap=gap, on_progress=on_progress)
    written = write_report(
        result.done, output, "Stylized clips", lambda method, pair: result.stills.get(method, {}).get(pair.key), extremes_by="excess-short",
        series=result.series, overwrite=overwrite,
    )  # fmt: skip
    failed += result.done.failed
    words.finish(console, result.done, written, failed)


def paint(painter: Painter, pair: Pair, settings: StylizeSettings, folder: Path, failed: list[dict[str, str]]) -> Path | None:
    """The clip of `pair` as KEY.mkv in `folder`, without loss; None where it is broken."""
    from hicast.errors import InputError
    from hicast.evaluation.clips import read_clip
    from hicast.io.clip_write import write_frames

    try:
        frames = read_clip(pair.content, 10**6)
        return write_frames(painter.clip(frames, pair.style, settings), folder / f"{pair.key}.mkv")
    except InputError as error:
        failed.append({"file": str(pair.content), "error": str(error)})
        return None

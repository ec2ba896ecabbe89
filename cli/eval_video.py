"""`hicast eval video`: how steady stylized clips are, and how content and style stand in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hicast.errors import InputError

from . import eval_options as words
from . import options
from .console import Console
from .eval_images import OURS, check_request

if TYPE_CHECKING:
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
    files, asked, drawn = words.named_paths("--weights", weights), words.listed(metrics), words.named("--extractor", extractor)
    check_request(content, style, pairs, folders, model)
    if flow and not flow.is_dir():
        raise InputError(f"--flow {flow}: expected a folder with a folder of .flo files for each clip, found none; check the path")
    wanted = words.wanted_look(console, preset, set_words, model, device) if model else None
    from hicast.evaluation.clips import check_clip_metrics, evaluate_clips
    from hicast.evaluation.metrics import check_metrics
    from hicast.evaluation.report import check_report, write_report
    from hicast.evaluation.runner import check_methods, check_size
    from hicast.evaluation.scene import open_scene, pair_up
    from hicast.io.files import VIDEOS

    name = words.model_name(model) if model else None
    check_methods([*folders, *([name] if name else [])])
    check_metrics(asked, files, drawn)
    check_clip_metrics(asked)
    check_size(size)
    check_report(output, overwrite)
    pairing = pair_up(content, style, pairs, folders, VIDEOS)
    opened = open_scene(asked if asked is not None else CLIP_METRICS, files, drawn, device or "auto", console.info)
    failed: list[dict[str, str]] = []
    if wanted and name:
        pairing = replace(pairing, results={name: paint(console, wanted, files, pairing.pairs, output / name, failed), **pairing.results})
    with console.progress("measuring") as on_progress:
        result = evaluate_clips(pairing, opened.metrics, opened.eye, size=size, flow=flow, gap=gap, on_progress=on_progress)
    written = write_report(result.done, output, "Stylized clips", result.still, series=result.series, overwrite=overwrite)
    words.finish(console, result.done, written, failed + result.done.failed)


def paint(console: Console, wanted: words.Wanted, weights: dict[str, Path], pairs: list[Pair], folder: Path, failed: list[dict[str, str]]) -> dict[str, Path]:
    """Clips of a model for `pairs` in `folder`, by the pair's key."""
    from hicast.evaluation.painted import paint_clip
    from hicast.io.model_places import clip_model

    model = wanted.settings.model
    painter, settings = words.open_painter(console, wanted.of(clip_model(model)), weights)
    painter.check(settings)
    console.interrupt_advice = "the same command goes on with the clips that are missing"
    found: dict[str, Path] = {}
    with console.progress("stylizing") as on_progress:
        for at, pair in enumerate(pairs):
            found |= paint_clip(painter, pair, settings, folder, model, failed=failed)
            on_progress(at + 1, len(pairs))
    return found

"""`hicast eval ablation`: what each part of a model adds, by kind of style as well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hicast.config.adapters import LARGEST
from hicast.evaluation.pairing import Pair, Pairing, all_pairs, check_sources

from . import eval_options as words
from . import options
from .console import Console
from .eval_video import CLIP_METRICS

if TYPE_CHECKING:
    from hicast.evaluation.ablation import Work
    from hicast.evaluation.clips import ClipEvaluation

CLIPS = "clips"
"""Folder of the clips' report in that of the pictures'."""


def eval_ablation(
    ctx: typer.Context,
    content: words.Content = None,
    style: words.Style = None,
    pairs: words.Pairs = None,
    video: Annotated[Path | None, typer.Option("--video", metavar="PATH", show_default=False, help="Folder of clips, or one: per frame against temporal layers.")] = None,
    model: options.Model = None,
    against: Annotated[list[str] | None, typer.Option("--against", metavar="NAME=FOLDER", show_default=False, help="Another model, such as one of other losses; repeat for several.")] = None,
    preset: words.Preset = None,
    set_words: options.Set = None,
    adapter_weight: Annotated[float, typer.Option("--adapter-weight", metavar="X", min=0, max=LARGEST, help="Weight of each adapter.")] = 1.0,
    kinds_from_names: Annotated[bool, typer.Option("--kinds-from-names", help="Figures by the first word of the paintings' names (up to a -), for pairs without kind.")] = False,
    metrics: words.Metrics = None,
    weights: words.Weights = None,
    extractor: words.Extractors = None,
    size: words.CompareSize = 256,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, show_default=False, help="Only the first pairs.")] = None,
    output: words.Output = Path("ablation"),
    overwrite: words.Overwrite = False,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Score a model with and without its parts: adapters, style scale, temporal layers, losses."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    check_sources(content, style, pairs)
    files, rivals, drawn = words.named_paths("--weights", weights), words.named("--against", against), words.named("--extractor", extractor)
    asked, wanted = words.listed(metrics), words.wanted_look(console, preset, set_words, model, device)
    from hicast.evaluation import ablation
    from hicast.evaluation.clips import evaluate_clips
    from hicast.evaluation.metrics import check_metrics
    from hicast.evaluation.report import check_report, write_report
    from hicast.evaluation.runner import check_size, evaluate
    from hicast.evaluation.scene import check_sets, open_scene, pair_up, pictures_of
    from hicast.io.files import VIDEOS
    from hicast.io.weights import resolve_model

    for place in rivals.values():
        resolve_model(place, console.info)
    check_metrics(asked, files, drawn)
    check_size(size)
    for folder in (output, *([output / CLIPS] if video else [])):
        check_report(folder, overwrite)
    chosen = pair_up(content, style, pairs, {}).pairs[:limit]
    check_sets(asked, len(chosen))
    chosen = ablation.kinds_from_names(chosen) if kinds_from_names else chosen
    clip_pairs = [replace(pair, kind="") for pair in all_pairs(video, style or chosen[0].style.parent, VIDEOS)[:limit]] if video else []
    opened = open_scene(asked, files, drawn, device or "auto", console.info)
    work = ablation.Work([], {}, {})
    console.interrupt_advice = "the same command goes on with the results that are missing"
    for name, place in {"": wanted.settings.model, **rivals}.items():
        _paint(console, wanted.of(place), files, f"{name}: " if name else "", (chosen, clip_pairs), adapter_weight, output, work)
    with console.progress("measuring") as on_progress:
        done = evaluate(Pairing(chosen, work.pictures), opened.metrics, opened.eye, size=size, inception=opened.inception,
                        set_metrics=opened.sets, on_progress=on_progress)  # fmt: skip
    written = write_report(done, output, "Ablation", pictures_of(done), overwrite=overwrite)
    more, failed = {}, work.failed + done.failed
    if clip_pairs:
        timed = [metric for metric in opened.metrics if metric.name in CLIP_METRICS]
        with console.progress("clips") as on_progress:
            judged = evaluate_clips(Pairing(clip_pairs, work.clips), timed, opened.eye, size=size, on_progress=on_progress)
        failed += judged.done.failed
        more = {CLIPS: _report_clips(console, judged, output / CLIPS, overwrite)}
    words.finish(console, done, written, failed, more)


def _report_clips(console: Console, judged: ClipEvaluation, folder: Path, overwrite: bool) -> dict[str, Any]:
    """The clips' own report in `folder`, shown as a table; its figures for the JSON document."""
    from hicast.evaluation.report import write_report
    from hicast.evaluation.tables import document

    path = write_report(judged.done, folder, "Ablation: clips", judged.still, series=judged.series, overwrite=overwrite)[0]
    words.show_table(console, judged.done)
    console.result(str(path))
    return document(judged.done)


def _paint(console: Console, wanted: words.Wanted, weights: dict[str, Path], prefix: str, pairs: tuple[list[Pair], list[Pair]], adapter_weight: float,
           output: Path, work: Work) -> None:
    """What one model makes of the `pairs` of pictures and of clips, added to `work` under names that begin with `prefix`."""
    from hicast.evaluation import ablation
    from hicast.io.model_places import clip_model

    pictures, clips = pairs
    model, part = wanted.settings.model, clip_model(wanted.settings.model)
    painter, settings = words.open_painter(console, wanted, weights)
    looks = ablation.variants(settings, painter.pipeline.adapters.names, adapter_weight)
    console.info(f"{prefix or model + ': '}{', '.join(looks)}")
    for look in looks.values():
        painter.check(look)
    with console.progress("stylizing") as on_progress:
        work.pictures |= ablation.paint_variants(painter, pictures, looks, output, model, prefix, failed=work.failed, on_progress=on_progress)
    if not clips:
        return
    if part != model:
        painter, settings = words.open_painter(console, wanted.of(part), weights)
    if painter.pipeline.temporal is None:
        console.info(f"{prefix}the model has no temporal layers: clips are painted frame by frame only")
    with console.progress("clips") as on_progress:
        work.clips |= ablation.paint_clips(painter, clips, settings, output / CLIPS, model, prefix, failed=work.failed, on_progress=on_progress)

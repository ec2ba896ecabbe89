"""`hicast eval ablation`: what each part of a model adds, by kind of style as well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hicast.errors import UsageError

from . import eval_options as words
from . import options


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
    adapter_weight: Annotated[float, typer.Option("--adapter-weight", metavar="X", min=0, help="Weight of each adapter.")] = 1.0,
    kinds_from_names: Annotated[bool, typer.Option("--kinds-from-names", help="Figures by the first word of the paintings' names (up to a -), for pairs without kind.")] = False,
    metrics: words.Metrics = None,
    weights: words.Weights = None,
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
    if pairs is None and (content is None or style is None):
        raise UsageError("expected --content and --style, or --pairs, found neither; name the photos and the paintings")
    files, rivals = words.named_paths("--weights", weights), words.named("--against", against)
    settings = words.stylize_settings(preset, set_words, model, device)
    from hicast.evaluation import ablation
    from hicast.evaluation.metrics import check_metrics
    from hicast.evaluation.pairing import Pairing, all_pairs
    from hicast.evaluation.report import check_report, write_report
    from hicast.evaluation.runner import evaluate
    from hicast.evaluation.scene import open_scene, pair_up, pictures_of
    from hicast.io.files import VIDEOS

    check_metrics(words.listed(metrics), files)
    check_report(output, overwrite)
    chosen = pair_up(content, style, pairs, {}).pairs[:limit]
    chosen = ablation.kinds_from_names(chosen) if kinds_from_names else chosen
    failed: list[dict[str, str]] = []
    results: dict[str, dict[str, Path]] = {}
    clips: dict[str, dict[str, Path]] = {}
    clip_pairs = [replace(pair, kind="") for pair in all_pairs(video, style or chosen[0].style.parent, VIDEOS)[:limit]] if video else []
    for name, place in {"": settings.model, **rivals}.items():
        painter, resolved = words.open_painter(console, settings.model_copy(update={"model": place}), files)
        prefix = f"{name}: " if name else ""
        looks = ablation.variants(resolved, painter.pipeline.adapters.names, adapter_weight)
        console.info(f"{prefix or settings.model + ': '}{', '.join(looks)}")
        with console.progress("stylizing") as on_progress:
            results |= ablation.paint_variants(painter, chosen, looks, output, place, prefix, failed=failed, on_progress=on_progress)
        if clip_pairs and not name:
            if painter.pipeline.temporal is None:
                console.info("the model has no temporal layers: clips are painted frame by frame only")
            with console.progress("clips") as on_progress:
                clips = ablation.paint_clips(painter, clip_pairs, resolved, output / "clips", failed=failed, on_progress=on_progress)
        del painter
    opened = open_scene(words.listed(metrics), files, {}, device or "auto", console.info)
    if clips:
        from hicast.evaluation.clips import evaluate_clips

        timed = [metric for metric in opened.metrics if metric.name in ("cf", "ge", "lp", "qs3", "statistics")]
        judged = evaluate_clips(Pairing(clip_pairs, clips), timed, opened.eye, size=size)
        failed += judged.done.failed
        path = write_report(judged.done, output / "clips", "Ablation: clips", lambda method, pair: judged.stills.get(method, {}).get(pair.key),
                            extremes_by="excess-short", series=judged.series, overwrite=overwrite)[0]  # fmt: skip
        console.result(str(path))
    with console.progress("measuring") as on_progress:
        done = evaluate(Pairing(chosen, results), opened.metrics, opened.eye, size=size, on_progress=on_progress)
    written = write_report(done, output, "Ablation", pictures_of(done), extremes_by="qs3", overwrite=overwrite)
    words.finish(console, done, written, failed + done.failed)

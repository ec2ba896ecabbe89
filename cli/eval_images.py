"""`hicast eval images`: how good stylized pictures are, ours or anybody's, beside peers and anchors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from hicast.errors import UsageError

from . import eval_options as words
from . import options

OURS = "stylized"


def eval_images(
    ctx: typer.Context,
    content: words.Content = None,
    style: words.Style = None,
    stylized: words.Stylized = None,
    pairs: words.Pairs = None,
    peers: words.Peers = None,
    model: words.Model = None,
    preset: words.Preset = None,
    set_words: options.Set = None,
    metrics: words.Metrics = None,
    weights: words.Weights = None,
    extractor: words.Extractors = None,
    size: words.CompareSize = 256,
    batch: words.BatchSize = 8,
    output: words.Output = Path("evaluation"),
    overwrite: words.Overwrite = False,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Judge stylized pictures: how much of the photo stays, how much of the painting comes over."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    folders = ({OURS: stylized} if stylized else {}) | words.named_paths("--peers", peers)
    files, asked = words.named_paths("--weights", weights), words.listed(metrics)
    settings = words.stylize_settings(preset, set_words, model, device) if model else None
    check_request(content, style, pairs, folders, model)
    from hicast.evaluation.metrics import check_metrics
    from hicast.evaluation.report import check_report, write_report
    from hicast.evaluation.runner import check_methods, evaluate
    from hicast.evaluation.scene import open_scene, pair_up, pictures_of

    name = Path(model).name if model else None
    check_methods([*folders, *([name] if name else [])])
    check_metrics(asked, files)
    check_report(output, overwrite)
    pairing = pair_up(content, style, pairs, folders)
    failed: list[dict[str, str]] = []
    if settings and name:
        from hicast.evaluation.painter import paint_pairs

        painter, settings = words.open_painter(console, settings, files)
        with console.progress("stylizing") as on_progress:
            painted = paint_pairs(painter, pairing.pairs, settings, output / name, settings.model, failed=failed, on_progress=on_progress)
        pairing = replace(pairing, results={name: painted, **pairing.results})
        del painter
    opened = open_scene(asked, files, words.named("--extractor", extractor), device or "auto", console.info)
    with console.progress("measuring") as on_progress:
        done = evaluate(pairing, opened.metrics, opened.eye, size=size, batch=batch, inception=opened.inception,
                        set_metrics=opened.sets, on_progress=on_progress)  # fmt: skip
    written = write_report(done, output, "Stylized pictures", pictures_of(done), extremes_by="qs3", overwrite=overwrite)
    failed += [entry for entry in done.failed if entry not in failed]
    words.finish(console, done, written, failed)


def check_request(content: Path | None, style: Path | None, pairs: Path | None, folders: dict[str, Path], model: str | None) -> None:
    """Raise UsageError where it is not said what to judge, or against what."""
    if not folders and model is None:
        raise UsageError("expected --stylized, --peers or --model, found none; name results, or a model that makes them")
    if pairs is None and (content is None or style is None):
        raise UsageError("expected --content and --style, or --pairs, found neither; name the photos and the paintings")


"""`hicast eval images`: how good stylized pictures are, ours or anybody's, beside peers and anchors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from hicast.errors import UsageError
from hicast.evaluation.pairing import Pair, check_sources

from . import eval_options as words
from . import options
from .console import Console

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
    files, asked, drawn = words.named_paths("--weights", weights), words.listed(metrics), words.named("--extractor", extractor)
    check_request(content, style, pairs, folders, model)
    wanted = words.wanted_look(console, preset, set_words, model, device) if model else None
    from hicast.evaluation.metrics import check_metrics
    from hicast.evaluation.report import check_report, write_report
    from hicast.evaluation.runner import check_methods, check_size, evaluate
    from hicast.evaluation.scene import check_sets, open_scene, pair_up, pictures_of

    name = words.model_name(model) if model else None
    check_methods([*folders, *([name] if name else [])])
    check_metrics(asked, files, drawn)
    check_size(size)
    check_report(output, overwrite)
    pairing = pair_up(content, style, pairs, folders)
    check_sets(asked, len(pairing.pairs))
    opened = open_scene(asked, files, drawn, device or "auto", console.info)
    failed: list[dict[str, str]] = []
    if wanted and name:
        pairing = replace(pairing, results={name: paint(console, wanted, files, pairing.pairs, output / name, failed), **pairing.results})
    with console.progress("measuring") as on_progress:
        done = evaluate(pairing, opened.metrics, opened.eye, size=size, batch=batch, inception=opened.inception,
                        set_metrics=opened.sets, on_progress=on_progress)  # fmt: skip
    written = write_report(done, output, "Stylized pictures", pictures_of(done), overwrite=overwrite)
    failed += [entry for entry in done.failed if entry not in failed]
    words.finish(console, done, written, failed)


def paint(console: Console, wanted: words.Wanted, weights: dict[str, Path], pairs: list[Pair], folder: Path, failed: list[dict[str, str]]) -> dict[str, Path]:
    """Results of a model for `pairs` in `folder`, by the pair's key."""
    from hicast.evaluation.painted import paint_pairs

    painter, settings = words.open_painter(console, wanted, weights)
    painter.check(settings)
    console.interrupt_advice = "the same command goes on with the results that are missing"
    with console.progress("stylizing") as on_progress:
        return paint_pairs(painter, pairs, settings, folder, settings.model, failed=failed, on_progress=on_progress)


def check_request(content: Path | None, style: Path | None, pairs: Path | None, folders: dict[str, Path], model: str | None) -> None:
    """Raise UsageError where it is not said what to judge, or against what."""
    if not folders and model is None:
        raise UsageError("expected --stylized, --peers or --model, found none; name results, or a model that makes them")
    check_sources(content, style, pairs)

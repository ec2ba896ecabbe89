"""`hicast eval sweep`: how style scale and adapter weights act together, and a preset of the best point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hicast.evaluation.pairing import check_sources

from . import eval_options as words
from . import options
from .console import Console

if TYPE_CHECKING:
    from hicast.evaluation.sweep import Point

SWEEP_METRICS = ["cf", "ge", "lp", "qs3", "edge", "statistics"]


def eval_sweep(
    ctx: typer.Context,
    content: words.Content = None,
    style: words.Style = None,
    pairs: words.Pairs = None,
    model: options.Model = None,
    preset: words.Preset = None,
    set_words: options.Set = None,
    sweep: Annotated[list[str] | None, typer.Option("--sweep", metavar="KEY=VALUES", show_default=False, help="style_scale, content_scale, texture, steps, size or adapters.NAME with V1,V2,... or LOW..HIGH; repeat.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", metavar="N", min=1, show_default=False, help="So many random looks in place of the whole grid.")] = None,
    search_seed: Annotated[int, typer.Option("--search-seed", metavar="N", help="Start of the random looks.")] = 0,
    choose: Annotated[str, typer.Option("--choose", metavar="RULE", help="The point that becomes a preset: knee, content, style, qs3 or its number.")] = "knee",
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, show_default=False, help="Only the first pairs.")] = None,
    weights: words.Weights = None,
    extractor: words.Extractors = None,
    size: words.CompareSize = 256,
    output: words.Output = Path("sweep"),
    overwrite: words.Overwrite = False,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Score many looks of a model: a grid or a random search; the same command again goes on."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    check_sources(content, style, pairs)
    files, drawn = words.named_paths("--weights", weights), words.named("--extractor", extractor)
    wanted = words.wanted_look(console, preset, set_words, model, device)
    from hicast.evaluation.metrics import check_metrics
    from hicast.evaluation.runner import check_size
    from hicast.evaluation.sweep import check_choice, parse_axis, plan, run_sweep, settings_at
    from hicast.evaluation.sweep import choose as chosen_place

    axes = [parse_axis(word) for word in sweep or []]
    looks = plan(axes, samples, search_seed)
    check_choice(choose, len(looks))
    for values in looks:
        settings_at(wanted.settings, values)
    held = [axis.key.partition(".")[2] for axis in axes if axis.key.startswith("adapters.")]
    names = list(dict.fromkeys([*SWEEP_METRICS, *held]))
    check_metrics(names, files, drawn)
    check_size(size)
    from hicast.evaluation.scene import open_scene, pair_up
    from hicast.evaluation.sweep_report import FILES, write_sweep
    from hicast.io.files import check_target

    for name in FILES:
        check_target(output / name, overwrite)
    chosen_pairs = pair_up(content, style, pairs, {}).pairs[:limit]
    painter, settings = words.open_painter(console, wanted, files)
    opened = open_scene(names, files, drawn, device or "auto", console.info)
    console.interrupt_advice = "the same command goes on with the looks that are missing"
    with console.progress("looks") as on_progress:
        points = run_sweep(painter, chosen_pairs, settings, looks, opened.metrics, opened.eye, output / "points", size=size, on_progress=on_progress)
    place = chosen_place(points, choose)
    written = write_sweep(points, place, {m.name: m.label for m in opened.metrics}, output, settings_at(settings, points[place].values), overwrite)
    _tell(console, points, place, written)


def _tell(console: Console, points: list[Point], place: int, written: list[Path]) -> None:
    """What failed, the chosen point and the files; leaves with exit code 1 where anything failed."""
    failed = sorted({reason for point in points for reason in point.failed})
    for reason in failed:
        console.info(f"hicast: {reason}")
    console.info(f"chosen: {', '.join(f'{key} {value:g}' for key, value in points[place].values.items())}")
    console.document({"chosen": place, "points": [{"values": p.values, "means": p.means} for p in points], "files": [str(p) for p in written]})
    for path in written:
        console.result(str(path))
    if failed:
        raise typer.Exit(1)

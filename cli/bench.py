"""`hicast bench`: what a model costs in time and memory, part by part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hicast.config.stylize import StylizeSettings
from hicast.errors import InputError, UsageError

from . import eval_options as words
from . import options
from .batch import check_device


def bench(
    ctx: typer.Context,
    model: options.Model = None,
    sizes: Annotated[str, typer.Option("--sizes", metavar="N,N", help="Sides of the pictures in pixels.")] = "256,512",
    steps: Annotated[str | None, typer.Option("--steps", metavar="N,N", show_default=False, help="Sampling steps. Default: the model's own.")] = None,
    adapters: Annotated[str | None, typer.Option("--adapters", metavar="LIST", show_default=False, help="Names, or NAME=FOLDER to join one. Default: all of the model.")] = None,
    frames: Annotated[int, typer.Option("--frames", metavar="N", min=0, help="Length of clips; 0 for none.")] = 4,
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", min=1, help="Rounds that medians are taken of.")] = 5,
    warm_up: Annotated[int, typer.Option("--warm-up", metavar="N", min=0, help="Rounds before that are not counted.")] = 1,
    compare: Annotated[Path | None, typer.Option("--compare", metavar="FILE", show_default=False, help="An earlier result to compare with.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="Where the figures go as JSON.")] = None,
    overwrite: options.Overwrite = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.Engine = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Time a model and its parts: adapters, temporal layers, steps and sizes."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    sides, counts = _numbers("--sizes", sizes, 32), _numbers("--steps", steps, 1) if steps else None
    earlier = _earlier(compare) if compare else None
    from hicast.io.files import atomic_path, check_target

    if output:
        check_target(output, overwrite)
    flags = {key: value for key, value in (("model", model), ("device", device), ("dtype", dtype), ("engine", engine)) if value is not None}
    settings = StylizeSettings(**flags)
    check_device(settings)
    asked = words.listed(adapters)
    joined = words.named_paths("--adapters", [word for word in asked or [] if "=" in word])
    from hicast.evaluation.bench import cases, describe, differences, measure
    from hicast.evaluation.bench import compare as compared
    from hicast.pipeline import HiCastPipeline

    more = {"adapters": joined} if joined else {}
    more |= {"engine": settings.engine, "on_note": console.info}
    pipeline = HiCastPipeline.from_pretrained(settings.model, device=settings.device, dtype=settings.dtype, **more)
    names = [word.partition("=")[0] for word in asked] if asked is not None else list(pipeline.adapters.names)
    place = pipeline.device.type
    wanted = cases(pipeline, sides, counts or [pipeline.defaults.get("steps", 20)], names, frames)
    with console.progress("rounds") as on_progress:
        rows = measure(wanted, place, warm_up=warm_up, repeats=repeats, on_progress=on_progress)
    rows = compared(rows, earlier) if earlier else rows
    where = describe(settings.model, place, str(pipeline.dtype).removeprefix("torch."), pipeline.engine)
    other = differences(where, earlier) if earlier else []
    report = {**where, "repeats": repeats, "cases": rows} | ({"differences": other} if earlier else {})
    if output:
        with atomic_path(output, overwrite) as draft:
            draft.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if not console.json:
        for line in other:
            console.info(f"{compare}: {line}; changes are not those of the code alone")
        head = ("part", "size", "steps", "seconds", "ratio", "weights MiB", "run MiB", "peak MiB", *(("before", "change", "run before", "run change") if earlier else ()))
        console.table(head, [_cells(row, bool(earlier)) for row in rows])
    console.document(report)
    if output:
        console.result(str(output))


def _cells(row: dict[str, Any], compared: bool) -> tuple[str, ...]:
    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    cells = [row["part"], str(row["size"]), str(row["steps"]), shown(row["seconds"], ".4f"), shown(row["ratio"], ".2f")]
    cells += [shown(row[key], ".0f") for key in ("weights_mib", "working_mib", "memory_mib")]
    if compared:
        cells += [shown(row[key], form) for key, form in (("before", ".4f"), ("change", ".2f"), ("memory_before", ".0f"), ("memory_change", ".2f"))]
    return tuple(cells)


def _numbers(option: str, text: str, least: int) -> list[int]:
    """Whole numbers apart by commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        raise UsageError(f"{option}: expected whole numbers of {least} or more apart by commas, found {text}; write for example {least},{2 * least}")
    return list(dict.fromkeys(int(part) for part in parts))


def _earlier(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert all({"part", "size", "steps", "seconds"} <= set(row) for row in found["cases"])
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise InputError(f"--compare {path}: expected the JSON of an earlier hicast bench, found none; give another file") from None
    return found

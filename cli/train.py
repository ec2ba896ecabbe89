"""`hicast train`: the stages of the method on the user's own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hicast.config.layers import Layer, combine, parse_set
from hicast.config.presets import load_preset
from hicast.config.train import AutoencoderTraining, ImageTraining
from hicast.errors import UsageError

from . import options
from .console import Console

STAGES = {"autoencoder": AutoencoderTraining, "image": ImageTraining}


def train(
    ctx: typer.Context,
    stage: Annotated[Literal["autoencoder", "image"], typer.Option("--stage", help="Which part of the model to train.")],
    content: Annotated[list[Path] | None, typer.Option("--content", metavar="PATH", help="Folder of photos; repeat for several.", show_default=False)] = None,
    style: Annotated[list[Path] | None, typer.Option("--style", metavar="PATH", help="Folder of paintings; repeat for several.", show_default=False)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Where the model and its checkpoints go.", show_default=False)] = None,
    start: Annotated[str | None, typer.Option("--from", metavar="FOLDER", help="Result of an earlier stage, or the name of a shipped model.", show_default=False)] = None,
    model: options.Model = None,
    preset: Annotated[str | None, typer.Option("--preset", metavar="NAME", help="Training preset or YAML file. Default: MODEL-STAGE.", show_default=False)] = None,
    max_minutes: Annotated[float | None, typer.Option("--max-minutes", metavar="X", help="Save and stop after this time.", show_default=False)] = None,
    no_resume: Annotated[bool, typer.Option("--no-resume", help="Begin anew, not from the checkpoints in the output folder.")] = False,
    set_words: options.Set = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train a stage of the model; the same command again goes on where it stopped."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    needed = {"--content": content, "--output": output} | ({"--style": style} if stage == "image" else {})
    missing = [name for name, value in needed.items() if not value]
    if missing:
        raise UsageError(f"train --stage {stage}: expected {', '.join(missing)}, found none; name the folder")
    name = preset or f"{model or 'compact'}-{stage}"
    values = load_preset(name, "train")
    if values.get("stage", stage) != stage:
        raise UsageError(f"preset {name}: expected one for the stage {stage}, found one for {values['stage']}; take another")
    settings = combine([Layer(f"preset {name}", values), Layer("--set", parse_set(set_words or []))], STAGES[stage])
    outcome = _run(console, settings, content, style or [], output, model or "compact", start, device, max_minutes, not no_resume)
    console.result(str(outcome.folder))
    console.document({"output": str(outcome.folder), "step": outcome.step, "finished": outcome.finished, "settings": settings.model_dump(mode="json")})


def _run(console: Console, settings: Any, content: list[Path], style: list[Path], output: Path, model: str,
         start: str | None, device: str | None, max_minutes: float | None, resume: bool) -> Any:
    from hicast.pipeline import pick_device
    from hicast.training.data import list_folder
    from hicast.training.loop import train as run_loop
    from hicast.training.run import TrainRequest, open_stage

    for folder in (*content, *style):
        list_folder(folder)
    request = TrainRequest(content, style, output, model, start, str(pick_device(device or "auto")))
    with console.progress("measuring paintings") as on_measure:
        opened = open_stage(settings, request, on_measure)
    with console.training(settings.log_every, settings.batch_size) as on_progress:
        outcome = run_loop(opened, output, max_minutes=max_minutes, resume=resume, on_progress=on_progress)
    console.info(f"step {outcome.step} of {settings.steps}" + ("" if outcome.finished else "; the same command goes on from here"))
    return outcome

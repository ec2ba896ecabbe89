"""`hicast train`: the stages of the method on the user's own pictures and clips."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hicast.config.layers import read_words
from hicast.config.train_run import TrainSettings
from hicast.config.train_layers import require, resolve_training
from hicast.controls import CONTROLS
from hicast.training.run import STAGES, Opening, check_data, check_output

from . import options
from .console import Console
from .failures import TRAINING_MEMORY_ADVICE

StageName = Literal[tuple(STAGES)]
ControlName = Literal[tuple(CONTROLS)]


def train(
    ctx: typer.Context,
    stage: Annotated[StageName, typer.Option("--stage", help="Which part of the model to train.")],
    content: Annotated[list[Path] | None, typer.Option("--content", metavar="PATH", help="Folder or tar shard of photos; repeat for several.", show_default=False)] = None,
    style: Annotated[list[Path] | None, typer.Option("--style", metavar="PATH", help="Folder or tar shard of paintings; repeat for several.", show_default=False)] = None,
    control: Annotated[ControlName | None, typer.Option("--control", help="What the adapter holds of the photo (stage adapter).", show_default=False)] = None,
    video: Annotated[list[Path] | None, typer.Option("--video", metavar="PATH", help="Folder or tar shard of clips, for the stage temporal; repeat for several.", show_default=False)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Where the model and its checkpoints go.", show_default=False)] = None,
    start: Annotated[str | None, typer.Option("--from", metavar="FOLDER", help="Result of an earlier stage, or the name of a shipped model.", show_default=False)] = None,
    base: Annotated[str | None, typer.Option("--base", metavar="NAME", help="Stock Stable Diffusion 1.5 to begin --model sd15 with: a folder, .safetensors file or hub id.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Which net: compact, sd15, or a model folder. Default: compact.", show_default=False)] = None,
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
    follower = int(os.environ.get("RANK", "0")) > 0  # one of several processes, of which the first speaks
    console = options.open_console(ctx, as_json and not follower, quiet or follower, verbose)
    console.memory_advice, console.interrupt_advice = TRAINING_MEMORY_ADVICE, "the same command goes on from the last checkpoint"
    given = {"content": content, "style": style, "video": video, "control": control, "output": output, "from": start, "base": base,
             "model": model, "device": device}  # fmt: skip
    flags = {key: value for key, value in given.items() if value}
    kinds = {name: kind.settings for name, kind in STAGES.items()}
    words, problems = read_words(set_words or [])
    if max_minutes is not None and not max_minutes > 0:
        problems.append(f"--max-minutes: expected a number above 0, found {max_minutes:g}; raise it or leave it out")
    settings = resolve_training(stage, kinds, preset=preset, words=words, flags=flags, problems=problems)
    require(settings, STAGES[stage].needs, f"train --stage {stage}")
    outcome = _run(console, stage, settings, max_minutes, not no_resume)
    if not follower:
        console.result(str(outcome.folder))
        console.document({"output": str(outcome.folder), "step": outcome.step, "finished": outcome.finished,
                          "settings": settings.model_dump(mode="json")})  # fmt: skip


def _run(console: Console, stage: str, settings: TrainSettings, max_minutes: float | None, resume: bool) -> Any:
    check_output(settings.output)
    pictures = check_data(settings, STAGES[stage])
    from hicast.training.loop import train as run_loop
    from hicast.training.memory import check_memory
    from hicast.training.processes import batch_parts, check_precision, open_accelerator

    accelerator = open_accelerator(settings.device)
    check_precision(settings, accelerator.device)
    batch_parts(settings, accelerator.num_processes, accelerator.process_index)
    check_memory(settings, STAGES[stage].outline, pictures, accelerator.device, accelerator.num_processes, console.info)
    with console.progress("measuring pictures") as on_measure, accelerator.main_process_first():
        opening = Opening(accelerator.device, settings.output, on_measure, console.info)
        opened = STAGES[stage].open(settings, opening)
    with console.training(settings.log_every, settings.batch_size) as on_progress:
        outcome = run_loop(opened, settings.output, accelerator=accelerator, max_minutes=max_minutes, resume=resume,
                           on_progress=on_progress, on_note=console.info)
    console.info(f"step {outcome.step} of {settings.steps}" + ("" if outcome.finished else "; the same command goes on from here"))
    return outcome

"""The `hicast` command: its sub-commands, and the one edge where errors become a line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, NoReturn

import typer

from hicast import __version__

from .bench import bench
from .console import Console
from .extract_controls import extract_controls
from .eval_ablation import eval_ablation
from .eval_images import eval_images
from .eval_study import eval_study
from .eval_sweep import eval_sweep
from .eval_video import eval_video
from .models_cmd import convert_model, list_models, pull_model, show_model, verify_model
from .presets_cmd import copy_preset, list_command, show_preset
from .stylize_image import stylize_image
from .stylize_video import stylize_video
from .train import train

INTERRUPTED, TERMINATED = 130, 143
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
"""Threads that sleep while they wait; torch reads this once, when it loads."""

CONTEXT = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True)
class Command:
    """A sub-command by its words (one or two), the function that does it, and an example that its help shows."""

    words: tuple[str, ...]
    function: Callable[..., None]
    example: str


COMMANDS = (
    Command(("stylize-image",), stylize_image, "hicast stylize-image photo.jpg --style painting.jpg -o result.png"),
    Command(("stylize-video",), stylize_video, "hicast stylize-video clip.mp4 --style painting.jpg -o result.mp4"),
    Command(("extract-controls",), extract_controls, "hicast extract-controls photos --controls edge,depth -o maps"),
    Command(("train",), train, "hicast train --stage image --content photos --style paintings --output runs/image"),
    Command(("eval", "images"), eval_images, "hicast eval images --pairs pairs.csv --stylized results --peers other=others -o evaluation"),
    Command(("eval", "video"), eval_video, "hicast eval video --content clips --style painting.jpg --stylized films -o steadiness"),
    Command(("eval", "sweep"), eval_sweep, "hicast eval sweep --pairs pairs.csv --sweep style_scale=0.5,1,1.5 --sweep content_scale=1,1.2 -o sweep"),
    Command(("eval", "ablation"), eval_ablation, "hicast eval ablation --pairs pairs.csv --preset bold --video clips -o ablation"),
    Command(("eval", "study"), eval_study, "hicast eval study --pairs pairs.csv --stylized results --peers other=others -o study"),
    Command(("bench",), bench, "hicast bench --sizes 256,512 --steps 1,4 -o bench.json"),
    Command(("models", "list"), list_models, "hicast models list"),
    Command(("models", "info"), show_model, "hicast models info compact"),
    Command(("models", "pull"), pull_model, "hicast models pull fast"),
    Command(("models", "convert"), convert_model, "hicast models convert FAST/checkpoint --base stable-diffusion-v1-5"),
    Command(("models", "verify"), verify_model, "hicast models verify compact"),
    Command(("presets", "list"), list_command, "hicast presets list"),
    Command(("presets", "show"), show_preset, "hicast presets show bold"),
    Command(("presets", "copy"), copy_preset, "hicast presets copy bold -o mine.yaml"),
)
GROUPS = {
    "eval": "Judge results: figures, reports, sweeps and studies.",
    "models": "List, fetch, convert and check models.",
    "presets": "List, show and copy presets: looks, and training runs.",
}


def app(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line on `arguments` (default: those of the process) and leave with its exit code."""
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one run: 0 done, 1 our error or some inputs failed, 2 wrong usage, 130 after Ctrl-C."""
    console = Console()
    command = typer.main.get_command(build())
    try:
        code = command.main(args=list(arguments), prog_name="hicast", standalone_mode=False, obj=console)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        return console.failure(error)
    if code == INTERRUPTED:
        console.info(f"hicast: interrupted; {console.interrupt_advice}")
    return code or 0


def build() -> typer.Typer:
    """The tree of commands, from the table above."""
    root = typer.Typer(no_args_is_help=False, context_settings=CONTEXT, rich_markup_mode=None)
    root.callback(invoke_without_command=True, epilog=f"Example: {COMMANDS[0].example}")(_root)
    parents: dict[tuple[str, ...], typer.Typer] = {(): root}
    for name, text in GROUPS.items():
        example = next(command.example for command in COMMANDS if command.words[0] == name)
        parents[(name,)] = typer.Typer(context_settings=CONTEXT, rich_markup_mode=None)
        root.add_typer(parents[(name,)], name=name, help=text, epilog=f"Example: {example}")
    for command in COMMANDS:
        epilog = f"Example: {command.example}"
        parents[command.words[:-1]].command(command.words[-1], epilog=epilog, context_settings=CONTEXT)(command.function)
    return root


def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    """Pictures and videos in the style of paintings, with control over how much of each."""
    if version:
        print(f"hicast {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Leave through all `finally` blocks, so that no half-written file stays behind."""
    raise SystemExit(TERMINATED)

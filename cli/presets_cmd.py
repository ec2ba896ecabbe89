"""`hicast presets`: list, show and copy named looks, and the presets of training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from hicast.config.presets import SUFFIXES, TRAINING, kind_of, list_presets, read_preset
from hicast.config.stylize import load_style_preset
from hicast.config.train_layers import load_training_preset
from hicast.errors import UsageError
from hicast.io.files import atomic_path
from hicast.training.run import STAGES

from . import options

Name = Annotated[str, typer.Argument(metavar="NAME", help="A preset's name, or a path to a YAML file.", show_default=False)]


def list_command(ctx: typer.Context, as_json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """List the presets that ship with hicast and your own ones."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    looks = {name: load_style_preset(name) for name in list_presets()}
    runs = {name: _training(name) for name in list_presets(TRAINING)}
    if as_json:
        console.document([{"name": name, **values} for presets in (looks, runs) for name, values in presets.items()])
        return
    rows = [(name, f"{values.get('style_scale', 1):g}", values["description"]) for name, values in looks.items()]
    console.table(("preset", "style scale", "description"), rows)
    console.result("")
    console.table(("training", "stage", "description"), [(name, str(values.get("stage", "any")), values["description"]) for name, values in runs.items()])


def show_preset(
    ctx: typer.Context, name: Name, as_json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False
) -> None:
    """Print a preset as YAML, with everything it inherits."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    values = _load(name)
    console.document({"name": name, **values})
    console.result(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip())


def copy_preset(
    ctx: typer.Context,
    name: Name,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: NAME.yaml here.", show_default=False)] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Copy a preset's file, to change it and use it with --preset FILE."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    _load(name)
    preset = read_preset(name, kind_of(name))
    target = output or Path(f"{Path(name).stem}.yaml")
    if target.suffix not in SUFFIXES:
        raise UsageError(f"--output {target}: expected a name that --preset takes, ending in {' or '.join(SUFFIXES)}, found {target.suffix or 'no suffix'}; add .yaml")
    with atomic_path(target, overwrite) as draft:
        draft.write_text(preset.text, encoding="utf-8")
    console.document({"name": name, "output": str(target)})
    console.result(str(target))


def _load(name: str) -> dict[str, Any]:
    """Keys and values of a look or of a training preset, checked."""
    return _training(name) if kind_of(name) == TRAINING else load_style_preset(name)


def _training(name: str) -> dict[str, Any]:
    return load_training_preset(name, {stage: kind.settings for stage, kind in STAGES.items()})

"""`hicast presets`: list, show and copy named looks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from hicast.config.presets import list_presets, read_preset
from hicast.config.stylize import load_style_preset
from hicast.io.files import atomic_path

from . import options

Name = Annotated[str, typer.Argument(metavar="NAME", help="A preset's name, or a path to a YAML file.", show_default=False)]


def list_command(ctx: typer.Context, as_json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """List the presets that ship with hicast and your own ones."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    presets = {name: load_style_preset(name) for name in list_presets()}
    if as_json:
        console.document([{"name": name, **values} for name, values in presets.items()])
        return
    rows = [(name, f"{values.get('style_scale', 1):g}", values["description"]) for name, values in presets.items()]
    console.table(("preset", "style scale", "description"), rows)


def show_preset(
    ctx: typer.Context, name: Name, as_json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False
) -> None:
    """Print a preset as YAML, with everything it inherits."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    values = load_style_preset(name)
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
    load_style_preset(name)
    preset = read_preset(name)
    target = output or Path(f"{Path(name).stem}.yaml")
    with atomic_path(target, overwrite) as draft:
        draft.write_text(preset.text, encoding="utf-8")
    console.document({"name": name, "output": str(target)})
    console.result(str(target))

"""What a stylizing command is asked for, checked before a model is loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hicast import __version__
from hicast.config.layers import Layer, parse_set
from hicast.config.stylize import StylizeSettings, resolve_stylize, stylize_layers
from hicast.errors import UsageError
from hicast.io.files import FileKind, PlannedOutput, plan_outputs
from hicast.io.images import Picture, load_picture

from . import options
from .guides import check_guides
from .recorded import Record
from .words import look_flags, swept, weighted_files

if TYPE_CHECKING:
    import typer


@dataclass(frozen=True)
class Request:
    """What a run is asked for: settings by layers, paintings with their weights, and where everything goes."""

    layers: list[Layer]
    settings: StylizeSettings
    styles: list[tuple[Picture, float]]
    style_files: list[tuple[Path, float]]
    plan: list[PlannedOutput]
    header: dict[str, Any]
    """What a result remembers beside its settings."""
    sweeps: list[tuple[str, list[Any]]]
    """Keys with the values that a sheet shows; none for results of their own."""

    def cell(self, *values: Any) -> list[Layer]:
        """The layers of a sheet's picture, which has one of the values of each sweep."""
        return [*self.layers, *(Layer("--sweep", swept(key, value)) for (key, _), value in zip(self.sweeps, values, strict=True))]


def read_request(
    ctx: typer.Context, command: str, kind: FileKind, record: Record | None = None, more_flags: dict[str, Any] | None = None,
    sweeps: list[tuple[str, list[Any]]] | None = None,
) -> Request:  # fmt: skip
    """Everything that the options of a stylizing command say, checked before a model is loaded.

    `record` is that of `--from-settings`, `more_flags` are settings from options that are not named like them, `sweeps` what a
    sheet shows. Raises UsageError, SettingsError and InputError.
    """
    given = ctx.params
    if given["overwrite"] and given["skip_existing"]:
        raise UsageError("expected --overwrite or --skip-existing, found both; leave one out")
    files = weighted_files(given["style"]) if given["style"] else list(record.styles if record else ())
    flags = options.given_flags(ctx, StylizeSettings) | look_flags(given) | (more_flags or {})
    name, layers = stylize_layers(command, given["preset"], record and record.layer, parse_set(given["set_words"] or []), flags)
    settings, sweeps = resolve_stylize(layers), sweeps or []
    check_guides(_first_of(sweeps, layers))
    paths = [path for path, _ in files]
    named = [path.stem for path in paths] + (["sweep"] if sweeps else [])
    read = [*paths, *(Path(region.style) for region in settings.regions if region.style), *map(Path, settings.controls.values())]
    plan = plan_outputs(given["inputs"], named, given["output"], protected=read, kind=kind)
    if any(item.target is None for item in plan) and sys.stdout.isatty():
        raise UsageError("--output -: expected a file or another program behind standard output, found a terminal; add > FILE, or name a file by --output")
    styles = [(load_picture(path, settings.max_megapixels), weight) for path, weight in files if weight > 0]
    header = {
        "hicast": __version__,
        "command": command,
        "preset": given["preset"] or (record and record.preset) or name,
        "styles": [{"file": str(path), "weight": weight} for path, weight in files],
    }
    return Request(layers, settings, styles, files, plan, header, sweeps)


def _first_of(sweeps: list[tuple[str, list[Any]]], layers: list[Layer]) -> StylizeSettings:
    """The settings with the first value of every sweep; raises SettingsError where any of its values is wrong."""
    for key, values in sweeps:
        for value in values:
            resolve_stylize([*layers, Layer("--sweep", swept(key, value))])
    return resolve_stylize([*layers, *(Layer("--sweep", swept(key, values[0])) for key, values in sweeps)])


def check_device(settings: StylizeSettings) -> None:
    """Raise UsageError for a device that is not there, and for float16 on a CPU."""
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(settings.device, True):
        raise UsageError(f"--device {settings.device}: expected such a device, found none; take --device auto or cpu")
    if settings.offload != "none" and not (present["cuda"] and settings.device in ("auto", "cuda")):
        raise UsageError(f"--offload {settings.offload}: expected a CUDA device, found none to be used; leave it out")
    on_cpu = settings.device == "cpu" or (settings.device == "auto" and not any(present.values()))
    if on_cpu and settings.dtype == "float16":
        raise UsageError("--dtype float16: expected a GPU, found the CPU, which is far too slow at it; take --dtype bfloat16 or float32")


def chosen_engine(settings: StylizeSettings, tell: Callable[[str], None]) -> str:
    """The engine to ask for: a net that PyTorch compiles runs on PyTorch, which `tell` is told where another was asked for."""
    if settings.compile and settings.engine == "openvino":
        tell("engine openvino: expected a net that is not compiled, found --compile; goes on with torch")
    return "torch" if settings.compile else settings.engine

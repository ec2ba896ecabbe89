"""`hicast stylize-image`: pictures in the style of one or several paintings."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import typer

from hicast import __version__
from hicast.config.layers import Layer, parse_set, read_yaml
from hicast.config.stylize import StylizeSettings, refuse_unavailable, resolve_stylize, stylize_layers
from hicast.errors import InputError, ModelError, UsageError
from hicast.io.files import PlannedOutput, check_target, plan_outputs
from hicast.io.images import Picture, load_picture, save_picture, to_pixels, to_tensor

from . import options
from .console import Console, OnProgress
from .failures import explain

if TYPE_CHECKING:
    from hicast.encoders.style import StyleCode
    from hicast.pipeline import HiCastPipeline

COMMAND = "stylize-image"
OF_THIS_MACHINE = {"device", "max_megapixels"}
"""Settings that say nothing about the result and are not kept with it."""


def stylize_image(
    ctx: typer.Context,
    inputs: options.Inputs,
    style: options.Style,
    output: options.Output = None,
    preset: options.Preset = None,
    style_scale: options.StyleScale = None,
    content_scale: options.ContentScale = None,
    size: options.Size = None,
    keep_size: options.KeepSize = None,
    steps: options.Steps = None,
    scheduler: options.Scheduler = None,
    seed: options.Seed = None,
    from_settings: options.FromSettings = None,
    set_words: options.Set = None,
    overwrite: options.Overwrite = False,
    skip_existing: options.SkipExisting = False,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    tile: options.Tile = None,
    max_megapixels: options.MaxMegapixels = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Paint pictures in the style of one or several paintings."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    if overwrite and skip_existing:
        raise UsageError("expected --overwrite or --skip-existing, found both; leave one out")
    files = options.weighted_files(style)
    record = _recorded_layer(from_settings) if from_settings else None
    flags = options.given_flags(ctx, StylizeSettings)
    name, layers = stylize_layers(COMMAND, preset, record, parse_set(set_words or []), flags)
    settings = resolve_stylize(layers)
    refuse_unavailable(settings)
    paths = [path for path, _ in files]
    plan = plan_outputs(inputs, [path.stem for path in paths], output, protected=paths)
    console.results_to_stderr = any(item.target is None for item in plan)
    styles = [(load_picture(path, settings.max_megapixels), weight) for path, weight in files if weight > 0]
    header = {
        "hicast": __version__,
        "command": COMMAND,
        "preset": name,
        "styles": [{"file": path.name, "weight": weight} for path, weight in files],
    }
    batch = Batch(console, layers, settings, styles, header, overwrite, skip_existing)
    batch.run(plan)
    console.document(batch.report())
    if batch.failed:
        raise typer.Exit(1)


@dataclass
class Batch:
    """Many pictures with one model, which is loaded when the first readable picture has been read."""

    console: Console
    layers: list[Layer]
    settings: StylizeSettings
    styles: list[tuple[Picture, float]]
    header: dict[str, Any]
    overwrite: bool
    skip_existing: bool
    pipeline: HiCastPipeline | None = None
    code: StyleCode | None = None
    """What the paintings are to the net; encoded once for all pictures."""
    results: list[dict[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def run(self, plan: list[PlannedOutput]) -> None:
        """Do all of `plan`; a file that cannot be done is reported and left behind.

        Raises UsageError, ModelError and all that loading the model raises, which no other file would escape.
        """
        ready = [item for item in plan if self._is_open(item)]
        for number, item in enumerate(ready, start=1):
            label = f"{_name(item.source)} ({number}/{len(ready)})"
            try:
                picture = load_picture(item.source or sys.stdin.buffer, self.settings.max_megapixels)
            except Exception as error:
                self._leave(item, error)
                continue
            if self.pipeline is None:
                self._open_pipeline()
            try:
                self._stylize(item, picture, label)
            except (UsageError, ModelError):
                raise
            except Exception as error:
                self._leave(item, error)
        if self.failed and len(plan) > 1:
            self.console.info(f"{len(self.failed)} of {len(plan)} pictures failed")

    def report(self) -> dict[str, Any]:
        """The JSON document of the run."""
        return {**self._record(), "results": self.results, "skipped": self.skipped, "failed": self.failed}

    def _is_open(self, item: PlannedOutput) -> bool:
        """Whether `item` can and should be done, as far as file names tell."""
        if self.skip_existing and item.target and item.target.is_file():
            self.console.info(f"{item.target}: already there, left as it is")
            self.skipped.append(str(item.target))
            return False
        try:
            if item.source and not item.source.exists():
                raise InputError(f"{item.source}: expected a picture, found no such file; check the path")
            if item.target:
                check_target(item.target, self.overwrite)
        except Exception as error:
            self._leave(item, error)
            return False
        return True

    def _stylize(self, item: PlannedOutput, picture: Picture, label: str) -> None:
        """Stylize and write one picture."""
        start = perf_counter()
        with self.console.progress(label) as on_progress:
            result = self._paint(picture, on_progress)
        self.console.detail(f"{label}: {perf_counter() - start:.2f} s")
        save_picture(result, item.target or sys.stdout.buffer, settings=self._record(), overwrite=self.overwrite)
        self.results.append({"input": _name(item.source), "output": _name(item.target)})
        self.console.result(str(item.target))

    def _paint(self, picture: Picture, on_progress: OnProgress) -> Picture:
        """The stylized picture, with the alpha of its source."""
        settings = self.settings
        image = self.pipeline.stylize_image(
            to_tensor(picture.pixels),
            self.code,
            style_scale=settings.style_scale,
            content_scale=settings.content_scale,
            steps=settings.steps,
            scheduler=settings.scheduler,
            seed=settings.seed,
            size=settings.size,
            keep_size=settings.keep_size,
            tile=settings.tile,
            on_progress=on_progress,
        )
        pixels = to_pixels(image)
        return Picture(pixels, _fit_alpha(picture, pixels.shape[:2]))

    def _open_pipeline(self) -> None:
        """Load the model and lay its defaults under all other settings."""
        check_device(self.settings)
        from hicast.pipeline import HiCastPipeline

        start = perf_counter()
        self.pipeline = HiCastPipeline.from_pretrained(self.settings.model, device=self.settings.device, dtype=self.settings.dtype)
        self.settings = resolve_stylize(self.layers, self.pipeline.defaults)
        self.code = self.pipeline.encode_style([(to_tensor(style.pixels), weight) for style, weight in self.styles])
        self.console.detail(f"model {self.settings.model} loaded in {perf_counter() - start:.2f} s")
        self.console.detail(f"settings: {self.settings.model_dump_json()}")

    def _record(self) -> dict[str, Any]:
        """What a result remembers of its making."""
        return {**self.header, "settings": self.settings.model_dump(mode="json", exclude=OF_THIS_MACHINE)}

    def _leave(self, item: PlannedOutput, error: Exception) -> None:
        self.console.failure(error)
        self.failed.append({"input": _name(item.source), "error": explain(error)[0]})


def check_device(settings: StylizeSettings) -> None:
    """Raise UsageError for a device that is not there, and for float16 on a CPU."""
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(settings.device, True):
        raise UsageError(f"--device {settings.device}: expected such a device, found none; take --device auto or cpu")
    on_cpu = settings.device == "cpu" or (settings.device == "auto" and not any(present.values()))
    if on_cpu and settings.dtype == "float16":
        raise UsageError("--dtype float16: expected a GPU, found the CPU, which is far too slow at it; take --dtype bfloat16 or float32")


def _recorded_layer(path: Path) -> Layer:
    """The settings of `--from-settings`: a YAML or JSON file, or what an earlier result has embedded."""
    if path.suffix.lower() in (".json", ".yaml", ".yml"):
        values = read_yaml(path)
    else:
        values = load_picture(path).settings
        if values is None:
            raise UsageError(f"{path}: expected a picture made by hicast, found no settings in it; name another picture or a .yaml file")
    inner = values.get("settings", values)
    if not isinstance(inner, dict):
        raise UsageError(f"{path}: settings: expected keys with values, found {inner}; correct the file")
    return Layer(str(path), inner)


def _fit_alpha(picture: Picture, size: tuple[int, int]) -> Any:
    """The alpha of `picture`, uint8 (height, width), resampled to `size` where the result is not as large as its source."""
    if picture.alpha is None or picture.alpha.shape == size:
        return picture.alpha
    import numpy as np
    from PIL import Image

    return np.asarray(Image.fromarray(picture.alpha).resize(size[::-1], Image.Resampling.BICUBIC))


def _name(path: Path | None) -> str:
    return "-" if path is None else str(path)

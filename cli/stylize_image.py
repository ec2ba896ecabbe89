"""`hicast stylize-image`: pictures in the style of one or several paintings."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Any

import typer

from hicast.io.files import IMAGES, PlannedOutput
from hicast.io.images import Picture, load_picture, save_picture, to_pixels, to_tensor

from . import options
from .batch import Batch, name_of, read_request
from .console import OnProgress
from .foresight import look_ahead
from .recorded import recorded_layer

COMMAND = "stylize-image"


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
    compile: options.Compile = None,
    offload: options.Offload = None,
    max_megapixels: options.MaxMegapixels = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Paint pictures in the style of one or several paintings."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    request = read_request(ctx, COMMAND, IMAGES, recorded_layer(from_settings))
    console.results_to_stderr = any(item.target is None for item in request.plan)
    batch = PictureBatch(console, request, overwrite, skip_existing)
    batch.run(request.plan)
    console.document(batch.report())
    if batch.failed:
        raise typer.Exit(1)


class PictureBatch(Batch):
    """Many pictures with one model."""

    noun = "picture"

    def read(self, item: PlannedOutput) -> Picture:
        """The decoded picture."""
        return load_picture(item.source or sys.stdin.buffer, self.settings.max_megapixels)

    def look_ahead(self, content: Picture) -> None:
        """What one picture takes."""
        look_ahead(self.console, self.settings, self.settings.model, content.pixels.shape[:2])

    def stylize(self, item: PlannedOutput, content: Picture, label: str) -> None:
        """Stylize and write one picture."""
        start = perf_counter()
        with self.console.progress(label) as on_progress:
            result = self._paint(content, on_progress)
        self.console.detail(f"{label}: {perf_counter() - start:.2f} s")
        save_picture(result, item.target or sys.stdout.buffer, settings=self.record(), overwrite=self.overwrite)
        self.results.append({"input": name_of(item.source), "output": name_of(item.target)})
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
            content_latent=settings.content_latent,
            square=settings.square,
            on_progress=on_progress,
        )
        pixels = to_pixels(image)
        return Picture(pixels, _fit_alpha(picture, pixels.shape[:2]))


def _fit_alpha(picture: Picture, size: tuple[int, int]) -> Any:
    """The alpha of `picture`, uint8 (height, width), resampled to `size` where the result is not as large as its source."""
    if picture.alpha is None or picture.alpha.shape == size:
        return picture.alpha
    import numpy as np
    from PIL import Image

    return np.asarray(Image.fromarray(picture.alpha).resize(size[::-1], Image.Resampling.BICUBIC))

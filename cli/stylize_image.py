"""`hicast stylize-image`: pictures in the style of one or several paintings."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Any

import typer

from hicast.config.stylize import StylizeSettings, resolve_stylize
from hicast.errors import UsageError
from hicast.io.files import IMAGES, PlannedOutput
from hicast.io.images import Picture, load_picture, save_picture, to_pixels, to_tensor

from . import options
from .batch import Batch
from .console import OnProgress
from .foresight import look_ahead
from .recorded import read_record
from .request import read_request
from .shared import LOOK, RUN, VOICE, takes
from .sheet import paint_sheet
from .words import sweeps_of

COMMAND = "stylize-image"


@takes(LOOK, RUN, VOICE)
def stylize_image(
    ctx: typer.Context,
    inputs: options.Inputs,
    style: options.Style = None,
    output: options.Output = None,
    texture: options.Texture = None,
    sweep: options.Sweep = None,
    **shared: Any,
) -> None:
    """Paint pictures in the style of one or several paintings."""
    console = options.open_console(ctx, shared["as_json"], shared["quiet"], shared["verbose"])
    record = read_record(shared["from_settings"])
    if not style and not (record and record.styles):
        raise UsageError("--style: expected a painting, found none; name one, or --from-settings with a result, which knows its own")
    request = read_request(ctx, COMMAND, IMAGES, record, sweeps=sweeps_of(sweep or []))
    console.results_to_stderr = any(item.target is None for item in request.plan)
    batch = PictureBatch(console, request, shared["overwrite"], shared["skip_existing"], shared["save_settings"])
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
        """Stylize and write one picture, or a sheet of it."""
        start = perf_counter()
        guides = {"controls": self.guides.controls(item, content.pixels.shape[:2]), "regions": self.guides.regions(item, content.pixels.shape[:2])}
        with self.console.progress(label) as on_progress:
            result = (self._sheet if self.request.sweeps else self._paint)(content, guides, on_progress)
        self.console.detail(f"{label}: {perf_counter() - start:.2f} s")
        save_picture(result, item.target or sys.stdout.buffer, settings=self.record(), overwrite=self.overwrite)
        self.done(item)

    def record(self) -> dict[str, Any]:
        """As of every result; a sheet also tells what it shows."""
        return super().record() | ({"sweep": dict(self.request.sweeps)} if self.request.sweeps else {})

    def _paint(self, picture: Picture, guides: dict[str, Any], on_progress: OnProgress) -> Picture:
        """The stylized picture, with the alpha of its source."""
        image = self.pipeline.stylize_image(to_tensor(picture.pixels), self.code, **self.look(), texture=self.settings.texture, **guides,
                                            on_progress=on_progress)  # fmt: skip
        pixels = to_pixels(image)
        return Picture(pixels, _fit_alpha(picture, pixels.shape[:2]))

    def _sheet(self, picture: Picture, guides: dict[str, Any], on_progress: OnProgress) -> Picture:
        """A sheet of the picture in all looks that are swept."""
        settings, pipeline = self.settings, self.pipeline
        scene = pipeline.prepare(to_tensor(picture.pixels), self.code, size=settings.size, tile=settings.tile, square=settings.square,
                                 content_latent=settings.content_latent, seed=settings.seed, **guides)  # fmt: skip

        def settings_of(*values: Any) -> StylizeSettings:
            return resolve_stylize(self.request.cell(*values), pipeline.defaults).model_copy(update={"tile": settings.tile})

        return Picture(paint_sheet(pipeline, scene, self.request.sweeps, settings_of, on_progress))


def _fit_alpha(picture: Picture, size: tuple[int, int]) -> Any:
    """The alpha of `picture`, uint8 (height, width), resampled to `size` where the result is not as large as its source."""
    if picture.alpha is None or picture.alpha.shape == size:
        return picture.alpha
    import numpy as np
    from PIL import Image

    return np.asarray(Image.fromarray(picture.alpha).resize(size[::-1], Image.Resampling.BICUBIC))

"""`--sweep`: one labelled sheet of a picture painted with several values of a setting or two, its shared work done once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hicast.config.stylize import StylizeSettings
from hicast.io.images import to_pixels
from hicast.io.sheets import contact_sheet

if TYPE_CHECKING:
    from hicast.pipeline import HiCastPipeline
    from hicast.repainting.scene import Look, Scene

TILE = 320
"""Side of a picture on the sheet, in pixels."""


def look_of(settings: StylizeSettings, scene: Scene) -> Look:
    """The settings of painting a scene that is ready; adapters whose maps it lacks are left out."""
    from hicast.repainting.scene import Look

    adapters = {name: use for name, use in settings.adapters.items() if name in scene.features}
    return Look(settings.style_scale, settings.content_scale, settings.steps, settings.scheduler, settings.tile, adapters,
                settings.keep_outside, settings.preserve_color, settings.texture)  # fmt: skip


def paint_sheet(
    pipeline: HiCastPipeline, scene: Scene, sweeps: Sequence[tuple[str, Sequence[Any]]],
    settings_of: Callable[..., StylizeSettings], on_progress: Callable[[int, int], None],
) -> np.ndarray:  # fmt: skip
    """The sheet, uint8 (height, width, 3): values of the first sweep from left to right, those of a second from top to bottom.

    `settings_of` gives the settings for a value of each.
    """
    (key, columns), *second = sweeps
    row_key, row_values = second[0] if second else ("", [None])
    total, rows = len(columns) * len(row_values), []
    for row_value in row_values:
        row = []
        for value in columns:
            chosen = settings_of(value, row_value) if second else settings_of(value)
            row.append(to_pixels(pipeline.paint(scene, look_of(chosen, scene), seed=chosen.seed, keep_size=True)))
            on_progress(len(rows) * len(columns) + len(row), total)
        rows.append(row)
    labels = [f"{row_key} {value}" if second else "" for value in row_values]
    return contact_sheet(rows, labels, [f"{key} {value}" for value in columns], TILE)

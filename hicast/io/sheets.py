"""Contact sheets: pictures in a labelled grid, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from hicast.errors import UsageError

BACKGROUND = (255, 255, 255)
LETTERBOX = (232, 232, 232)
INK = (32, 32, 32)
GAP = 8
LEAST_FONT = 10


def contact_sheet(
    tiles: Sequence[Sequence[np.ndarray]], row_labels: Sequence[str], column_labels: Sequence[str], tile: int = 256
) -> np.ndarray:
    """Draw rows of pictures, uint8 (height, width, 3) of any size, into one uint8 (height, width, 3).

    Every picture is scaled to fit a square of `tile` pixels, its aspect kept. Labels stand above the columns and left
    of the rows and are shortened where they do not fit. Raises UsageError where pictures and labels do not match.
    """
    if not row_labels or not column_labels or [len(row) for row in tiles] != [len(column_labels)] * len(row_labels):
        raise UsageError(
            f"expected {len(row_labels)} rows of {len(column_labels)} pictures, one for each label, "
            f"found rows of {[len(row) for row in tiles]}; give every picture a label"
        )
    font = ImageFont.load_default(size=max(LEAST_FONT, tile // 14))
    rows = [_shortened(label, font, tile) for label in row_labels]
    columns = [_shortened(label, font, tile) for label in column_labels]
    left = round(max(font.getlength(label) for label in rows)) + 2 * GAP
    top = sum(font.getmetrics()) + 2 * GAP
    step = tile + GAP
    sheet = Image.new("RGB", (left + len(columns) * step, top + len(rows) * step), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, label in enumerate(columns):
        draw.text((left + index * step + tile // 2, top // 2), label, INK, font, anchor="mm")
    for index, label in enumerate(rows):
        draw.text((left - GAP, top + index * step + tile // 2), label, INK, font, anchor="rm")
        for column, pixels in enumerate(tiles[index]):
            picture = ImageOps.pad(Image.fromarray(pixels), (tile, tile), Image.Resampling.LANCZOS, LETTERBOX)
            sheet.paste(picture, (left + column * step, top + index * step))
    return np.array(sheet)


def _shortened(label: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """`label` on one line, cut and ended by three dots where it is wider than `width` pixels."""
    label = " ".join(label.split())
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(f"{label}...") > width:
        label = label[:-1]
    return f"{label}..."

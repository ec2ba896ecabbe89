"""Draw the README's picture from the other examples: rows of photo, artwork and result.

    python examples/make_strip.py --output examples/strip.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from hicast import HiCastPipeline
from hicast.io.images import load_picture, to_pixels, to_tensor

HERE = Path(__file__).parent
ROWS = (("coffee.jpg", "dusk.jpg"), ("cat.jpg", "woodcut.jpg"), ("coffee.jpg", "safe-landing.jpg"))
TILE = (360, 240)
"""Width and height of one picture in the strip."""

GAP = 6
LARGEST = 200_000
"""Bytes that the strip may take; the JPEG quality is lowered until it does."""


def stylized_row(pipeline: HiCastPipeline, photo: Path, painting: Path) -> list[np.ndarray]:
    """Photo, painting and result, each uint8 (height, width, 3)."""
    sources = [load_picture(path).pixels for path in (photo, painting)]
    content, style = (to_tensor(pixels) for pixels in sources)
    return [*sources, to_pixels(pipeline.stylize_image(content, [(style, 1.0)]))]


def draw(rows: list[list[np.ndarray]]) -> Image.Image:
    """All pictures, cropped to tiles, on white."""
    width, height = TILE
    strip = Image.new("RGB", (len(rows[0]) * (width + GAP) - GAP, len(rows) * (height + GAP) - GAP), "white")
    for line, row in enumerate(rows):
        for column, pixels in enumerate(row):
            tile = ImageOps.fit(Image.fromarray(pixels), TILE, Image.Resampling.LANCZOS)
            strip.paste(tile, (column * (width + GAP), line * (height + GAP)))
    return strip


def save(strip: Image.Image, target: Path) -> None:
    """Write a JPEG of the best quality that keeps it below `LARGEST` bytes."""
    for quality in range(90, 40, -5):
        strip.save(target, "JPEG", quality=quality, optimize=True)
        if target.stat().st_size <= LARGEST:
            return


def main() -> None:
    """Stylize every row with the model and settings of the default preset."""
    parser = argparse.ArgumentParser(description="Draw the README's picture from the examples.")
    parser.add_argument("--model", default="compact", help="a shipped model's name or a model folder")
    parser.add_argument("--output", type=Path, default=HERE / "strip.jpg")
    words = parser.parse_args()
    pipeline = HiCastPipeline.from_pretrained(words.model)
    save(draw([stylized_row(pipeline, HERE / photo, HERE / painting) for photo, painting in ROWS]), words.output)
    print(words.output)


if __name__ == "__main__":
    main()

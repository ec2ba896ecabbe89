"""Draw the README's pictures from the other examples: results, what each control holds, what each preset does.

    python examples/make_figures.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from hicast import HiCastPipeline
from hicast.config.presets import list_presets
from hicast.config.stylize import load_style_preset
from hicast.controls import find_extractor
from hicast.io.images import load_picture, to_pixels, to_tensor
from hicast.io.sheets import contact_sheet

HERE = Path(__file__).parent
ROWS = (("coffee.jpg", "dusk.jpg"), ("cat.jpg", "woodcut.jpg"), ("coffee.jpg", "safe-landing.jpg"))
CONTROLLED, PRESET = ("cat.jpg", "woodcut.jpg"), ("cat.jpg", "dusk.jpg")
"""Photo and artwork of the sheets of controls and of presets."""

WEIGHTS = (0.0, 0.5, 1.0, 1.5)
ROWS_OF_PRESETS = 2
TILE = (360, 240)
"""Width and height of one picture in the strip."""

SIDE, GAP = 240, 6
LARGEST = 200_000
"""Bytes that a figure may take; the JPEG quality is lowered until it does."""


def strip(pipeline: HiCastPipeline) -> Image.Image:
    """Rows of photo, artwork and result, cropped to tiles, on white."""
    width, height = TILE
    sheet = Image.new("RGB", (3 * (width + GAP) - GAP, len(ROWS) * (height + GAP) - GAP), "white")
    for line, names in enumerate(ROWS):
        content, style = pair = [to_tensor(load_picture(HERE / name).pixels) for name in names]
        for column, image in enumerate((*pair, pipeline.stylize_image(content, [(style, 1.0)]))):
            tile = ImageOps.fit(Image.fromarray(to_pixels(image)), TILE, Image.Resampling.LANCZOS)
            sheet.paste(tile, (column * (width + GAP), line * (height + GAP)))
    return sheet


def controls(pipeline: HiCastPipeline) -> Image.Image:
    """A row for each control of the model: its map, and one photo under four weights of its adapter."""
    content, style = (to_tensor(load_picture(HERE / name).pixels) for name in CONTROLLED)
    code, rows = pipeline.encode_style([(style, 1.0)]), []
    for name in pipeline.adapters.names:
        drawn = _draw(pipeline, name, content)
        results = [pipeline.stylize_image(content, code, controls={name: drawn}, adapters={name: weight}) for weight in WEIGHTS]
        rows.append([_square(2 * drawn - 1), *(_square(image) for image in results)])
    return Image.fromarray(contact_sheet(rows, pipeline.adapters.names, ["map", *(f"{weight:g}" for weight in WEIGHTS)], SIDE))


def presets(pipeline: HiCastPipeline) -> Image.Image:
    """One photo by every preset that is meant for this model, the photo and the artwork first."""
    content, style = (to_tensor(load_picture(HERE / name).pixels) for name in PRESET)
    found, labels = [_square(content), _square(style)], ["photo", "artwork"]
    for name in sorted(list_presets()):
        if name.startswith("published"):
            continue
        settings = load_style_preset(name)
        given = {control: weight for control, weight in settings.get("adapters", {}).items() if control in pipeline.adapters.names}
        maps = {control: _draw(pipeline, control, content) for control in given}
        chosen = {key: settings[key] for key in ("style_scale", "content_scale", "texture", "steps", "size") if settings.get(key) is not None}
        found.append(_square(pipeline.stylize_image(content, [(style, 1.0)], controls=maps, adapters=given, **chosen)))
        labels.append(name)
    width = -(-len(found) // ROWS_OF_PRESETS)
    found += [np.full((SIDE, SIDE, 3), 255, np.uint8)] * (ROWS_OF_PRESETS * width - len(found))
    labels += [" "] * (len(found) - len(labels))
    cuts = [slice(at, at + width) for at in range(0, len(found), width)]
    return Image.fromarray(np.concatenate([contact_sheet([found[cut]], [" "], labels[cut], SIDE) for cut in cuts]))


def _square(image: Tensor) -> np.ndarray:
    """The middle of an image (1, 3, height, width) in [-1, 1], uint8."""
    return np.asarray(ImageOps.fit(Image.fromarray(to_pixels(image)), (SIDE, SIDE), Image.Resampling.LANCZOS))


def _draw(pipeline: HiCastPipeline, control: str, content: Tensor) -> Tensor:
    """The map in [0, 1] that the adapter for `control` was trained with."""
    return find_extractor(control, pipeline.about[control]["extractor"])[1].open(None, pipeline.device, pipeline.dtype)(content).float()


def save(figure: Image.Image, target: Path) -> None:
    """Write a JPEG of the best quality that keeps it below `LARGEST` bytes."""
    for quality in range(90, 40, -5):
        figure.save(target, "JPEG", quality=quality, optimize=True)
        if target.stat().st_size <= LARGEST:
            return


def main() -> None:
    """Draw all figures with one model."""
    parser = argparse.ArgumentParser(description="Draw the README's pictures from the examples.")
    parser.add_argument("--model", default="compact", help="a shipped model's name or a model folder")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    words = parser.parse_args()
    pipeline = HiCastPipeline.from_pretrained(words.model)
    for draw in (strip, controls, presets):
        target = words.output / f"{draw.__name__}.jpg"
        save(draw(pipeline), target)
        print(target)


if __name__ == "__main__":
    main()

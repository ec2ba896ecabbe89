"""Stylize every row of a pairs file into 000.png, 001.png, ..., for scoring and contact sheets.

    python benchmarks/stylize_pairs.py PAIRS.csv OUTPUT [--preset bold] [--style-scale X] [--size 256]

PAIRS.csv has the columns content,style: names in the folders `content` and `style` beside it.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def main() -> None:
    """Load the model once and write one picture per row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--style-scale", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size", type=int, default=256, help="short side to work at; results have the photo's size")
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()

    from hicast.config.stylize import load_style_preset
    from hicast.io.images import Picture, load_picture, save_picture, to_pixels, to_tensor
    from hicast.pipeline import HiCastPipeline

    preset = load_style_preset(arguments.preset)
    scale = preset.get("style_scale", 1.0) if arguments.style_scale is None else arguments.style_scale
    pipeline = HiCastPipeline.from_pretrained(arguments.model)
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = list(csv.DictReader(arguments.pairs.open()))[: arguments.limit]
    for index, row in enumerate(rows):
        photo, painting = (to_tensor(load_picture(arguments.pairs.parent / kind / row[kind]).pixels) for kind in ("content", "style"))
        image = pipeline.stylize_image(
            photo, [(painting, 1.0)], style_scale=scale, content_scale=preset.get("content_scale", 1.0),
            texture=preset.get("texture", 1.0), steps=arguments.steps or preset.get("steps"), size=arguments.size,
        )  # fmt: skip
        save_picture(Picture(to_pixels(image)), arguments.output / f"{index:03d}.png", overwrite=True)


if __name__ == "__main__":
    main()

"""Lattices of results at the net's own working sizes, of several periods, in whole pictures and in their flattest windows, beside the photos' own.

    python benchmarks/lattices.py PAIRS.csv [--sizes 256,384] [--peer magenta=FOLDER]

PAIRS.csv has the columns content,style: names in the folders `content` and `style` beside it; a peer's folder holds the result of row k as `000.png` and so on. By chance
alone a lattice of a period has the root of its share in the pixels: 1 / 8 at period 8 in a window of 64 pixels.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
from PIL import Image

WINDOW, STRIDE = 64, 8
"""Side of the windows, and pixels from one to the next."""

WHOLE, FLAT = (4, 8, 16), (4, 8)
"""Periods that are looked for in whole pictures and in windows."""


def main() -> None:
    """Paint every pair at every size and print a line of means for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--sizes", type=lambda text: [int(word) for word in text.split(",")], default=[256, 384], metavar="A,B", help="short sides to work at (default: 256,384)")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FOLDER", help="results of another method; repeat for several")
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()

    from hicast.io.images import load_picture, resize_image, to_pixels, to_tensor, working_size
    from hicast.pipeline import HiCastPipeline

    pipeline, found = HiCastPipeline.from_pretrained(arguments.model), {}
    peers = dict(word.split("=", 1) for word in arguments.peer)
    rows = list(csv.DictReader(arguments.pairs.open()))[: arguments.limit]
    for index, row in enumerate(rows):
        photo, painting = (load_picture(arguments.pairs.parent / kind / row[kind]).pixels for kind in ("content", "style"))
        code = pipeline.encode_style([(to_tensor(painting), 1.0)])
        pictures = {f"photo, {size} pixels": to_pixels(resize_image(to_tensor(photo), working_size(photo.shape[:2], size, 1))) for size in arguments.sizes}
        pictures |= {f"ours, {size} pixels": to_pixels(pipeline.stylize_image(to_tensor(photo), code, size=size, keep_size=True)) for size in arguments.sizes}
        pictures |= {name: load_picture(next(Path(folder).glob(f"{index:03d}.*"))).pixels for name, folder in peers.items()}
        for name, picture in pictures.items():
            found.setdefault(name, []).append(shares(picture, photo))
    heads = [*(f"period {period}" for period in WHOLE), *(f"flattest window, {period}" for period in FLAT)]
    print(f"{len(rows)} pairs\n\n| | {' | '.join(heads)} |\n|{' --- |' * (len(heads) + 1)}")
    for name, each in found.items():
        print(f"| {name} | {' | '.join(f'{share:.3f}' for share in np.mean(each, axis=0))} |")


def shares(picture: np.ndarray, photo: np.ndarray) -> list[float]:
    """Lattices of a `picture`, uint8 (height, width, 3), for each period, and of its window where `photo`, of any size, varies least."""
    from hicast.evaluation.lattice import lattice

    window = flattest(photo, picture.shape[:2])
    return [*(lattice(picture, period) for period in WHOLE), *(lattice(picture[window], period) for period in FLAT)]


def flattest(photo: np.ndarray, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the window where the luma of `photo` varies least once it has this `size` (height, width); all of it where that is smaller."""
    grey = np.asarray(Image.fromarray(photo).convert("L").resize(size[::-1], Image.Resampling.LANCZOS)).astype(float)
    corners = [(top, left) for top in range(0, max(size[0] - WINDOW, 0) + 1, STRIDE) for left in range(0, max(size[1] - WINDOW, 0) + 1, STRIDE)]
    top, left = min(corners, key=lambda corner: grey[corner[0] : corner[0] + WINDOW, corner[1] : corner[1] + WINDOW].std())
    return slice(top, top + WINDOW), slice(left, left + WINDOW)


if __name__ == "__main__":
    main()

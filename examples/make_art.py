"""Draw the two artworks of ours in this folder, `dusk.jpg` (oil strokes) and `woodcut.jpg` (a print from three blocks).

    python examples/make_art.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Field = NDArray[np.float64]
HEIGHT, WIDTH = 512, 672
OVERSAMPLING = 2


def smooth_noise(random: np.random.Generator, shape: tuple[int, int], cell: float) -> Field:
    """Noise in [0, 1] of `shape` (height, width) whose features measure about `cell` pixels."""
    small = tuple(max(2, round(side / cell)) for side in shape)
    grains = Image.fromarray((random.random(small) * 255).astype(np.uint8))
    return np.asarray(grains.resize(shape[::-1], Image.Resampling.BICUBIC), dtype=float) / 255


def grid(scale: int = 1) -> tuple[Field, Field]:
    """Rows and columns of the canvas, both from 0 to 1."""
    rows, columns = HEIGHT * scale, WIDTH * scale
    y, x = np.mgrid[0:rows, 0:columns]
    return y / rows, x / columns


def ramp(values: Field, colors: list[str]) -> Field:
    """Colours (height, width, 3) in [0, 255] for `values` in [0, 1], evenly spaced along `colors`."""
    stops = np.linspace(0, 1, len(colors))
    table = np.array([tuple(bytes.fromhex(color)) for color in colors], dtype=float)
    return np.stack([np.interp(values, stops, table[:, channel]) for channel in range(3)], axis=-1)


def dusk_scene(random: np.random.Generator) -> tuple[Field, Field]:
    """What the oil painting shows: colours (height, width, 3), and the direction of its strokes in radians."""
    y, x = grid()
    skyline = 0.56 - 0.16 * np.exp(-(((x - 0.24) / 0.13) ** 2)) - 0.10 * np.exp(-(((x - 0.62) / 0.2) ** 2))
    field = 0.70 + 0.05 * np.sin(5 * x + 0.6)
    curl = smooth_noise(random, x.shape, 130)
    colors = ramp(np.clip(y / 0.6 + 0.35 * (curl - 0.5), 0, 1), ["16214d", "234a8c", "3f86b5", "8cc0b0", "f1cf78", "ee8b45"])
    angle = 5 * (curl - 0.5) + 0.5 * np.sin(7 * x)
    for row, column, size in ((0.20, 0.70, 0.14), (0.15, 0.20, 0.06), (0.34, 0.44, 0.045)):
        down, right = (y - row) * HEIGHT / WIDTH, x - column
        distance = np.hypot(down, right)
        glow = np.exp(-((distance / size) ** 2))[..., None]
        colors = colors * (1 - glow) + glow * ramp(np.clip(distance / size, 0, 1), ["fff6c4", "fbd24e", "f0a03c"])
        near = (distance < 2.1 * size) & (distance > 0.02)
        angle[near] = np.arctan2(down, right)[near] + np.pi / 2
    hills, meadow = y > skyline, y > field
    colors[hills] = ramp(np.clip((y - skyline) / 0.25, 0, 1), ["3a4f8f", "2b6a78", "1d4a4f"])[hills]
    angle[hills] = (0.9 * np.sign(np.gradient(skyline, axis=1)) + 1.2 * (curl - 0.5))[hills]
    colors[meadow] = ramp(smooth_noise(random, x.shape, 45), ["1f5a3c", "7c9a35", "d9b13b", "c65a2e", "e7d27a"])[meadow]
    angle[meadow] = (0.35 * np.sin(9 * x + 14 * y) - 0.2)[meadow]
    return colors, angle


def paint(colors: Field, angle: Field, random: np.random.Generator) -> Image.Image:
    """An oil painting of `colors`: layers of curved strokes along `angle`, broad ones first, lit from the upper left."""
    size = (WIDTH * OVERSAMPLING, HEIGHT * OVERSAMPLING)
    canvas, relief = Image.fromarray(colors.astype(np.uint8)).resize(size), Image.new("L", size, 0)
    pens = ImageDraw.Draw(canvas), ImageDraw.Draw(relief)
    for count, length, bristles in ((2200, 60, 22), (4200, 40, 14), (5200, 26, 8)):
        starts = random.random((count, 2)) * (HEIGHT + 40, WIDTH + 40) - 20
        for start in starts:
            draw_stroke(pens, colors, angle, start, length * random.uniform(0.6, 1.2), bristles, random)
    ridges = np.asarray(relief.filter(ImageFilter.GaussianBlur(1.2)), dtype=float)
    light = np.gradient(ridges, axis=0) + np.gradient(ridges, axis=1)
    lit = np.asarray(canvas, dtype=float) + 1.5 * np.clip(light, -22, 22)[..., None]
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def draw_stroke(pens: tuple[ImageDraw.ImageDraw, ...], colors: Field, angle: Field, start: Field, length: float,
                bristles: int, random: np.random.Generator) -> None:
    """One stroke from `start` (row, column): parallel bristles of one colour, each with its own shade and height."""
    row, column = np.clip(start, 0, (HEIGHT - 1, WIDTH - 1)).astype(int)
    base = colors[row, column] + random.normal(0, 9, 3) + random.normal(0, 13)
    path, at = [], start.copy()
    for _ in range(6):
        row, column = np.clip(at, 0, (HEIGHT - 1, WIDTH - 1)).astype(int)
        path.append(at.copy())
        at += np.array([np.sin(angle[row, column]), np.cos(angle[row, column])]) * length / 6
    points = np.array(path) * OVERSAMPLING
    ahead = np.gradient(points, axis=0)
    across = np.stack([ahead[:, 1], -ahead[:, 0]], axis=1) / (np.hypot(*ahead.T)[:, None] + 1e-6)
    for bristle in np.linspace(-bristles / 2, bristles / 2, bristles):
        line = [tuple(point[::-1]) for point in points + across * bristle]
        shade = np.clip(base + random.normal(0, 11), 0, 255).astype(int)
        pens[0].line(line, fill=tuple(shade.tolist()), width=2)
        pens[1].line(line, fill=int(random.uniform(70, 255)), width=2)


def woodcut(random: np.random.Generator) -> Image.Image:
    """A coast with mountain and surf, printed from an ochre, a red and an indigo block on paper."""
    y, x = grid(OVERSAMPLING)
    shape = y.shape
    wobble = smooth_noise(random, shape, 40) - 0.5
    waves = 0.035 * np.sin(11 * x + 1) + 0.02 * np.sin(23 * x)
    slope = np.abs(x - 0.40) * 1.05 + 0.02 * np.sin(60 * x) * np.abs(x - 0.4)
    mountain = (y > 0.20 + slope) & (y < 0.66 + waves)
    snow = mountain & (y < 0.33 + 0.35 * np.abs(x - 0.4) + 0.03 * np.sin(75 * x))
    sea = y > 0.66 + waves
    crest = np.abs(((y - 0.66 - waves) * 6 + 0.16 * np.sin(17 * x + 8 * y)) % 1 - 0.5)
    sun = np.hypot((y - 0.24) * HEIGHT / WIDTH, x - 0.78)
    layers = [
        (np.ones(shape, bool), 24 * y + 0.8 * np.sin(5 * x + 2) + 0.5 * wobble, 0.86 - 0.45 * np.clip(1 - y / 0.5, 0, 1)),
        (mountain, 34 * (y + 0.9 * np.abs(x - 0.4)) + 2 * wobble, 0.42 - 0.25 * (x > 0.4)),
        (snow, 30 * x + 2 * wobble, 0.93 - 0.25 * (x > 0.42)),
        (sea, 26 * (y - waves * (1.4 - y)) + 0.5 * np.sin(31 * x + 9 * y) + wobble, 0.30 + 1.2 * (crest < 0.07 + 0.1 * wobble)),
        (sun < 0.095, np.zeros(shape), 2.0),
    ]
    phase, tone = np.zeros(shape), np.ones(shape)
    for place, lines, lightness in layers:
        phase = np.where(place, lines, phase)
        tone = np.where(place, lightness, tone)
    cut = np.abs(phase % 1 - 0.5) * 2 + 0.25 * (smooth_noise(random, shape, 5) - 0.5)
    grain = smooth_noise(random, shape, 2.5) > 0.06
    print_ = np.broadcast_to(np.array([240.0, 228, 200]), (*shape, 3)) + 10 * (smooth_noise(random, shape, 3)[..., None] - 0.5)
    blocks = [
        (~sea & ~mountain & (y > 0.36 + 0.3 * wobble), (226, 171, 92)),
        ((sea & (crest > 0.17 + 0.1 * wobble)) | (mountain & ~snow & (x < 0.43 + 0.2 * wobble)), (74, 138, 150)),
        (sun < 0.09, (205, 62, 40)),
        ((cut > tone) & grain, (28, 36, 66)),
    ]
    for block, ink in blocks:
        print_ = np.where((block & grain)[..., None], np.array(ink, float), print_)
    printed = Image.fromarray(np.clip(print_, 0, 255).astype(np.uint8))
    return printed.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def main(folder: Path) -> None:
    """Write both pictures to `folder`."""
    random = np.random.default_rng(7)
    paint(*dusk_scene(random), random).save(folder / "dusk.jpg", quality=86)
    woodcut(np.random.default_rng(3)).save(folder / "woodcut.jpg", quality=84)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

"""Views of photos and clips with what a teacher net says of them, computed once and kept in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from hicast.controls import find_extractor
from hicast.io.files import VIDEOS, find_images
from hicast.io.images import load_picture
from hicast.io.video_read import VideoReader
from hicast.training.data import sample_generator
from PIL import Image
from tqdm import tqdm

Teacher = Callable[[np.ndarray], np.ndarray]
"""A function from a picture uint8 (height, width, 3) to its values float32 (height, width)."""


@dataclass(frozen=True)
class Kind:
    """What a net learns: the size (height, width) of its views, the aspect ratios that are cut, and whether clips are shown."""

    size: tuple[int, int]
    aspects: tuple[float, float]
    shares: tuple[float, float]
    clips: bool = False


KINDS = {
    "soft": Kind((256, 256), (1.0, 1.0), (0.66, 1.0)),
    "depth": Kind((192, 320), (0.7, 2.0), (0.6, 1.0), clips=True),
    "person": Kind((256, 256), (0.6, 1.8), (0.5, 1.0), clips=True),
}


@dataclass(frozen=True)
class Views:
    """Pictures uint8 (count, height, width, 3) and values float16 (count, height, width).

    `pairs` are the rows that are followed by their clip's next frame, `filled` those whose values have a mean of 0.02 and more.
    """

    pictures: np.ndarray
    values: np.ndarray
    pairs: np.ndarray
    filled: np.ndarray


def open_teacher(kind: str, weights: Path) -> Teacher:
    """The net that teaches `kind`."""
    if kind == "soft":
        net = find_extractor("edge", "hed")[1].open(weights, torch.device("cpu"), torch.bfloat16)

        def edges(picture: np.ndarray) -> np.ndarray:
            image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            with torch.inference_mode():
                return net(image)[0, 0].numpy()

        return edges
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    planes = kind == "depth"

    def values(picture: np.ndarray) -> np.ndarray:
        pixels = picture.astype(np.float32)
        pixels = pixels.transpose(2, 0, 1) if planes else pixels / 255
        return session.run(None, {name: pixels[None]})[0].squeeze()

    return values


def collect(kind: str, photos: Sequence[Path], clips: Sequence[Path], teacher: Teacher, cache: Path, count: int, seed: int) -> Views:
    """About `count` views of the photos and, where wanted, frames of clips; read from `cache` where it has them."""
    names = [cache / f"{kind}-{part}.npy" for part in ("pictures", "values", "pairs", "filled")]
    if not names[3].is_file():
        cache.mkdir(parents=True, exist_ok=True)
        files = [file for folder in photos for file in find_images(folder)]
        moving = [file for folder in clips for file in find_images(folder, VIDEOS)] if KINDS[kind].clips else []
        found = list(tqdm(_views(KINDS[kind], files, moving, count, seed), desc="views"))
        values = np.empty((len(found), *KINDS[kind].size), np.float16)
        for row, (picture, _) in enumerate(tqdm(found, desc="teacher")):
            values[row] = teacher(picture)
        np.save(names[0], np.stack([picture for picture, _ in found]))
        np.save(names[1], values)
        np.save(names[2], np.flatnonzero([paired for _, paired in found]))
        np.save(names[3], np.flatnonzero(values.mean((1, 2), dtype=np.float32) >= 0.02))
    return Views(*(np.load(name, mmap_mode="r") for name in names))


def _views(kind: Kind, files: Sequence[Path], clips: Sequence[Path], count: int, seed: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Views, each with whether the one after it is the clip's next frame."""
    for index in range(count):
        random = sample_generator(seed, index)
        pixels = load_picture(files[index % len(files)]).pixels
        yield _stretched(pixels, _window(pixels.shape[:2], kind, random), kind.size), False
    for number, clip in enumerate(clips):
        random = sample_generator(seed, count + number)
        reader = VideoReader(clip)
        start, first = int(random.integers(0, 4)), None
        for frame in islice(reader.frames(), start, start + 60):
            place = (frame.index - start) % 6
            if place == 0:
                pixels = reader.pixels(frame)
                window = _window(pixels.shape[:2], kind, random)
                first = _stretched(pixels, window, kind.size)
            elif place == 1 and first is not None:
                yield first, True
                yield _stretched(reader.pixels(frame), window, kind.size), False
                first = None


def _window(size: tuple[int, int], kind: Kind, random: np.random.Generator) -> tuple[int, int, int, int]:
    """A part (left, top, right, bottom) of a picture of `size` (height, width); half of the time as large as can be."""
    height, width = size
    aspect = float(np.clip(width / height if random.random() < 0.5 else random.uniform(*kind.aspects), *kind.aspects))
    share = 1.0 if random.random() < 0.5 else random.uniform(*kind.shares)
    wide = round(min(width, height * aspect) * share)
    high = min(round(wide / aspect), height)
    left, top = (int(random.integers(0, room + 1)) for room in (width - wide, height - high))
    return left, top, left + wide, top + high


def _stretched(pixels: np.ndarray, window: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC, box=window, reducing_gap=3.0))

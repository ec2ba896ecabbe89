"""Views of photos and paintings as features of VGG-16 at a low resolution, with what a closer look and a detector of faces say of them, computed once and kept in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from hicast.encoders.figures import TAP, figures_in
from hicast.encoders.vgg import Vgg16
from hicast.io.images import load_picture, to_tensor
from hicast.models.subject import SIDE, TAPS, seen_by
from hicast.training.data import sample_generator
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

PLACES = SIDE // 8
"""Side in places of what is told of a view."""

GROWN = 1.15
"""How much larger than the detector's box the ellipse of a face is."""

Box = tuple[float, float, float, float, float]
"""Left, top, right and bottom of a face in pixels, and how sure the detector is."""


@dataclass(frozen=True)
class SubjectViews:
    """Features `relu4_3` and `relu5_3`, `figures` and `faces` (count, `PLACES`, `PLACES`), float16; `picture` (count,) that each is of."""

    relu4_3: Tensor
    relu5_3: Tensor
    figures: Tensor
    faces: Tensor
    picture: Tensor

    def save(self, path: Path) -> None:
        """Write them to `path`."""
        save_file({field.name: getattr(self, field.name).contiguous() for field in fields(self)}, path)

    @classmethod
    def load(cls, paths: Sequence[Path]) -> SubjectViews:
        """Those of all files in `paths` together."""
        parts = [load_file(path) for path in paths]
        return cls(**{field.name: torch.cat([part[field.name] for part in parts]) for field in fields(cls)})


@torch.inference_mode()
def collect_views(files: Sequence[Path], boxes: Mapping[str, Sequence[Box]], sure: float, vgg: Vgg16, numbers: Sequence[int], seed: int) -> SubjectViews:
    """Views with these `numbers`, of the `files` in turn; faces are those `boxes` that the detector is `sure` of."""
    found = {field.name: [] for field in fields(SubjectViews)}
    for number in tqdm(numbers):
        random = sample_generator(seed, number)
        file = files[number % len(files)]
        pixels = load_picture(file).pixels
        height, width = pixels.shape[:2]
        side = round(min(height, width) * (1 if random.random() < 0.4 else random.uniform(0.5, 1)))
        left, top = int(random.integers(0, width - side + 1)), int(random.integers(0, height - side + 1))
        part, mirrored = pixels[top : top + side, left : left + side], random.random() < 0.5
        part = recolored(part[:, ::-1] if mirrored else part, random)
        kept = [box for box in boxes.get(str(file), ()) if box[4] >= sure]
        mask = faces_mask(kept, left, top, side)
        seen = to_tensor(np.asarray(Image.fromarray(np.ascontiguousarray(part)).resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)))
        for name, values in seen_by(vgg, seen).items():
            found[name].append(values[0].half())
        found["figures"].append(figures_in(vgg(seen, (TAP,)))[0])
        found["faces"].append(mask.flip(1) if mirrored else mask)
        found["picture"].append(torch.tensor(number % len(files)))
    stacked = {name: torch.stack(values) for name, values in found.items()}
    return SubjectViews(**{name: values if name == "picture" else values.half() for name, values in stacked.items()})


def recolored(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """`pixels` as they are, or with other colours, contrast and brightness, or grey."""
    if random.random() < 0.5:
        return pixels
    mixing = np.eye(3) + random.choice([0.1, 0.3]) * random.normal(size=(3, 3))
    if random.random() < 0.15:
        mixing = np.full((3, 3), 1 / 3)
    values = (pixels / 255.0) ** np.exp(0.35 * random.normal()) @ mixing.T
    return np.clip(values * 255, 0, 255).astype(np.uint8)


def faces_mask(boxes: Sequence[Box], left: int, top: int, side: int) -> Tensor:
    """Share (`PLACES`, `PLACES`) of each place of a square part of a picture that belongs to a face, an ellipse in its box."""
    fine = 4 * PLACES
    rows, columns = torch.meshgrid(*[(torch.arange(fine) + 0.5) * side / fine] * 2, indexing="ij")
    mask = torch.zeros(fine, fine)
    for x0, y0, x1, y1, _ in boxes:
        across, down = GROWN * (x1 - x0) / 2, GROWN * (y1 - y0) / 2
        away = ((columns + left - (x0 + x1) / 2) / across).square() + ((rows + top - (y0 + y1) / 2) / down).square()
        mask = torch.maximum(mask, (away < 1).float())
    return functional.avg_pool2d(mask[None, None], 4)[0, 0]


"""How much more of the photo's edges or depth an adapter keeps, seen by a net that no loss has used.

    python benchmarks/adapters.py edge PAIRS.csv hed.safetensors --limit 12
    python benchmarks/adapters.py depth PAIRS.csv depth.onnx --limit 12

PAIRS.csv as for stylize_pairs.py. Pictures are squashed to 256 pixels a side; edges are compared by HED and correlation, depth by the
ONNX teacher (`pip install onnxruntime`) at 192 x 320 pixels and rank correlation. `closed` is the share of the gap between weight 0 and the
photo's way through the autoencoder (style scale 0).
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
import torch
from control_teachers import KINDS, open_teacher
from hicast.controls import find_extractor
from hicast.io.images import load_picture, to_pixels, to_tensor
from hicast.pipeline import HiCastPipeline
from PIL import Image

SIDE = 256
WEIGHTS = (0.0, 0.5, 1.0, 1.5)
TEACHERS = {"edge": "soft", "depth": "depth"}


def main() -> None:
    """Print the mean likeness at each weight."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("control", choices=TEACHERS)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("teacher", type=Path, help="weights of HED, or the ONNX file of the depth teacher")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    pipeline = HiCastPipeline.from_pretrained(options.model)
    control, teacher = options.control, open_teacher(TEACHERS[options.control], options.teacher)
    height, width = KINDS["depth"].size if control == "depth" else (SIDE, SIDE)

    def seen(pixels: np.ndarray) -> np.ndarray:
        values = teacher(np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))).astype(np.float64).ravel()
        return values.argsort().argsort() if control == "depth" else values

    draw = find_extractor(control, pipeline.about[control]["extractor"])[1].open(None, pipeline.device, torch.float32)
    found: dict[str, list[float]] = {}
    for row in list(csv.DictReader(options.pairs.open()))[: options.limit]:
        photo, painting = (to_tensor(squashed(options.pairs.parent / kind / row[kind])) for kind in ("content", "style"))
        code, target = pipeline.encode_style([(painting, 1.0)]), seen(to_pixels(photo))
        with torch.inference_mode():
            controls = {control: draw(photo.to(pipeline.device))}
        results = {f"{weight:g}": pipeline.stylize_image(photo, code, controls=controls, adapters={control: weight}) for weight in WEIGHTS}
        results["autoencoder"] = pipeline.stylize_image(photo, code, style_scale=0.0)
        for name, image in results.items():
            found.setdefault(name, []).append(float(np.corrcoef(seen(to_pixels(image)), target)[0, 1]))
    means = {name: np.mean(values) for name, values in found.items()}
    for name, mean in means.items():
        print(f"{name:<12}{mean:8.4f}  closed {(mean - means['0']) / (means['autoencoder'] - means['0']):6.1%}")


def squashed(path: Path) -> np.ndarray:
    """A picture as uint8 (256, 256, 3)."""
    return np.asarray(Image.fromarray(load_picture(path).pixels).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()

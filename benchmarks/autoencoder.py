"""Round trip of pictures through a model's autoencoder: PSNR and share of fine detail that survives.

    python benchmarks/autoencoder.py FOLDER... [--model compact] [--size 256]

Pictures are resized to SIZE x SIZE. Detail is the energy of the Laplacian of the result over that of the source.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def main() -> None:
    """Print one line of means per folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()

    import numpy as np
    import torch
    from hicast.encoders.autoencoder import LatentCodec
    from hicast.io.files import find_images
    from hicast.io.images import load_picture, to_tensor
    from hicast.losses.perceptual import laplacian
    from hicast.pipeline import HiCastPipeline
    from PIL import Image

    pipeline = HiCastPipeline.from_pretrained(arguments.model)
    codec = LatentCodec(pipeline.autoencoder)
    side = (arguments.size, arguments.size)
    for folder in arguments.folders:
        noise, detail = [], []
        for file in find_images(folder):
            pixels = Image.fromarray(load_picture(file).pixels).resize(side, Image.Resampling.LANCZOS)
            image = to_tensor(np.asarray(pixels))
            with torch.inference_mode():
                result = codec.decode(codec.encode(image)).float().clamp(-1, 1)
            noise.append(-10 * torch.log10(((result - image) / 2).square().mean()).item())
            detail.append((laplacian(result).square().mean() / laplacian(image).square().mean()).item())
        print(f"{folder}: PSNR {np.mean(noise):.2f} dB, detail {np.mean(detail):.3f} ({len(noise)} pictures)")


if __name__ == "__main__":
    main()

"""Finds the centroids of `regions`: main axes and clusters of VGG-16 features of photos.

    python benchmarks/control_regions.py PHOTOS... --output regions.safetensors [--count 16] [--seed 0]

Another seed gives other centroids, for measuring with regions that no net has learned from.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
import torch
from hicast.controls.regions import SHORT_SIDE, load_vgg, raw_features, smoothed
from hicast.io.files import find_images
from hicast.io.images import load_picture, to_tensor
from hicast.io.weights import save_safetensors
from PIL import Image
from torch import Tensor
from tqdm import tqdm

PLACES = 96
"""Places that are drawn from a photo."""

ROUNDS = 60


def main() -> None:
    """Read the photos, find axes and clusters, and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=16, help="regions")
    parser.add_argument("--dimensions", type=int, default=24, help="main axes")
    parser.add_argument("--limit", type=int, default=800, help="photos that are read")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    generator = torch.Generator().manual_seed(given.seed)
    files = [file for folder in given.photos for file in find_images(folder)]
    chosen = torch.randperm(len(files), generator=generator)[: given.limit].tolist()
    vgg = load_vgg().to(torch.bfloat16)
    # the places of smoothed features lie nearer to the mean than single ones: clusters are those of the former
    single, smooth = [], []
    with torch.inference_mode():
        for at in tqdm(chosen, desc="photos"):
            raw = raw_features(vgg, reduced(files[at]))
            single.append(places(raw, generator))
            smooth.append(places(smoothed(raw), generator))
    points = torch.cat(single)
    mean = points.mean(0)
    torch.manual_seed(given.seed)
    _, _, axes = torch.svd_lowrank(points - mean, given.dimensions + 8, niter=4)
    axes = axes[:, : given.dimensions].contiguous()
    axes = axes / ((points - mean) @ axes).std(0).sqrt()
    centroids = cluster((torch.cat(smooth) - mean) @ axes, given.count, generator)
    about = {"kind": "regions", "photos": str(len(chosen)), "seed": str(given.seed)}
    save_safetensors({"mean": mean.half(), "axes": axes.half(), "centroids": centroids.half()}, given.output, about)
    print(f"{given.output}: {len(centroids)} centroids, {given.output.stat().st_size} bytes")


def reduced(file: Path) -> Tensor:
    """The photo (1, 3, h, w) at the short side at which regions are seen."""
    photo = Image.fromarray(load_picture(file).pixels)
    scale = SHORT_SIDE / min(photo.size)
    return to_tensor(np.asarray(photo.resize(tuple(round(side * scale) for side in photo.size), Image.Resampling.BICUBIC)))


def places(features: Tensor, generator: torch.Generator) -> Tensor:
    """Features (PLACES, channels) of random places."""
    rows = features[0].flatten(1).T
    return rows[torch.randint(len(rows), (PLACES,), generator=generator)].float()


def cluster(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centroids (count, dimensions) by k-means, begun by k-means++, in the order of their first axis."""
    centroids = points[torch.randint(len(points), (1,), generator=generator)]
    while len(centroids) < count:
        nearest = torch.cdist(points, centroids).square().amin(1)
        centroids = torch.cat([centroids, points[torch.multinomial(nearest, 1, generator=generator)]])
    for _ in range(ROUNDS):
        labels = torch.cdist(points, centroids).argmin(1)
        centroids = torch.stack([points[labels == at].mean(0) if (labels == at).any() else centroids[at] for at in range(count)])
    return centroids[centroids[:, 0].argsort()]


if __name__ == "__main__":
    main()

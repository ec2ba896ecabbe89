"""Judges of what a control keeps: how far the edges, depth or regions of a result are the photo's, seen by nets that no loss has used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from control_regions import cluster, places
from control_teachers import KINDS, open_teacher
from controls import EDGE, best_f_score, edge_counts, spearman
from hicast.controls.regions import smoothed
from hicast.evaluation.content import map_correlation
from hicast.evaluation.eye import Eye
from hicast.evaluation.sight import Sight, squared
from hicast.io.files import find_images
from hicast.io.images import load_picture
from PIL import Image
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

REGION_TAPS = ("relu4_1", "relu5_1")
REGION_COUNT = 20
REGION_SEED = 4
"""Layers, clusters and seed of the judge of regions; those that ship have relu4_3 and relu5_3, 16 and 0."""


class Judge(Protocol):
    """Scores pairs one by one, and says at the end what the sum of their scores means."""

    def score(self, result: Sight, photo: Sight) -> np.ndarray:
        """Numbers of one pair, of one shape for all, to be added up over pairs."""

    def figures(self, total: np.ndarray, pairs: int) -> dict[str, float]:
        """What the sum over `pairs` pairs says, by name; a name in `LIKENESS` is a likeness, higher where more is kept."""


LIKENESS = {
    "edge": {"edge_f_score": "edge F", "edge_correlation": "edge r"},
    "depth": {"depth_rank_correlation": "depth r"},
    "seg": {"region_agreement": "regions"},
}
"""Names of the likenesses by control, with their headings in tables; the first of a control is its fidelity."""


class EdgeJudge:
    """HED: F-score at the threshold that suits all pairs best, against where it is above 0.5 in the photo, within one pixel; and the
    correlation of its values, mean over pairs.
    """

    def __init__(self, weights: Path) -> None:
        self._net = open_teacher("soft", weights)

    def score(self, result: Sight, photo: Sight) -> np.ndarray:
        """The counts at each threshold, then the correlation."""
        ours, target = (sight.once("edges", lambda sight=sight: self._net(sight.pixels)) for sight in (result, photo))
        correlation = map_correlation(torch.from_numpy(ours), torch.from_numpy(target))
        return np.append(edge_counts(ours, target > EDGE, 1), correlation)

    def figures(self, total: np.ndarray, pairs: int) -> dict[str, float]:
        """F-score, correlation, and the threshold."""
        score, threshold = best_f_score(total[:-1].reshape(-1, 4))
        return {"edge_f_score": score, "edge_correlation": total[-1] / pairs, "edge_threshold": threshold}


class DepthJudge:
    """The ONNX net that taught the shipped one: rank correlation, mean over pairs."""

    def __init__(self, weights: Path) -> None:
        self._net = open_teacher("depth", weights)

    def score(self, result: Sight, photo: Sight) -> np.ndarray:
        """The rank correlation of both depths."""
        return np.array(spearman(*(sight.once("depth", lambda sight=sight: self._depth(sight.pixels)) for sight in (result, photo))))

    def figures(self, total: np.ndarray, pairs: int) -> dict[str, float]:
        """The mean."""
        return {"depth_rank_correlation": float(total / pairs)}

    def _depth(self, pixels: np.ndarray) -> np.ndarray:
        return self._net(np.asarray(Image.fromarray(pixels).resize(KINDS["depth"].size[::-1], Image.Resampling.LANCZOS)))


class RegionJudge:
    """Clusters of VGG-16 features with centroids of their own: share of pixels with the same label, mean over pairs."""

    def __init__(self, centroids: Tensor) -> None:
        """`centroids` (count, channels) of `region_features`."""
        self._centroids = centroids

    def score(self, result: Sight, photo: Sight) -> np.ndarray:
        """The share of pixels whose labels agree."""
        ours, target = (sight.once("regions", lambda sight=sight: self.labels(sight)) for sight in (result, photo))
        return (ours == target).double().mean().numpy()

    def figures(self, total: np.ndarray, pairs: int) -> dict[str, float]:
        """The mean."""
        return {"region_agreement": float(total / pairs)}

    def labels(self, sight: Sight) -> Tensor:
        """The nearest centroid (1, height, width) of each pixel, distances being interpolated between places."""
        features = region_features(sight.features)
        distances = torch.cdist(features[0].flatten(1).T, self._centroids).T.unflatten(1, features.shape[-2:])
        return functional.interpolate(distances[None], size=sight.pixels.shape[:2], mode="bilinear").argmin(1)


def region_features(features: Mapping[str, Tensor]) -> Tensor:
    """Those (1, channels, h, w) at `REGION_TAPS`, of length 1 in each layer, the coarser enlarged; means over neighbours."""
    fine, coarse = (functional.normalize(features[tap], dim=1) for tap in REGION_TAPS)
    return smoothed(torch.cat([fine, functional.interpolate(coarse, size=fine.shape[-2:], mode="bilinear")], dim=1))


def fit_regions(eye: Eye, folder: Path, size: int, limit: int) -> RegionJudge:
    """The judge by k-means over random places of at most `limit` photos of `folder`, squashed to `size`; the same for the same photos."""
    generator = torch.Generator().manual_seed(REGION_SEED)
    files = find_images(folder)
    chosen = torch.randperm(len(files), generator=generator)[:limit].tolist()
    found = []
    for at in tqdm(chosen, desc="photos"):
        features = eye.look(sight_of(files[at], eye, size).image, REGION_TAPS, quick=True)
        found.append(places(region_features(features), generator))
    return RegionJudge(cluster(torch.cat(found), REGION_COUNT, generator))


def sight_of(file: Path, eye: Eye, size: int) -> Sight:
    """The picture of a file, squashed to `size` pixels a side."""
    return Sight(squared(load_picture(file).pixels, size), eye)


def open_judges(eye: Eye, size: int, *, hed: Path | None, depth: Path | None, photos: Path | None, limit: int) -> dict[str, Judge]:
    """Judges by control: of edges with the weights of `hed`, of `depth` with an ONNX file, of regions with a folder of `photos`."""
    judges: dict[str, Judge] = {}
    if hed:
        judges["edge"] = EdgeJudge(hed)
    if depth:
        judges["depth"] = DepthJudge(depth)
    if photos:
        judges["seg"] = fit_regions(eye, photos, size, limit)
    return judges

"""Metrics whose definition is restated by hand on toys: statistics, Gram matrices, drift, lattices, and what sums them up."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hicast.evaluation import style
from hicast.evaluation.clips import drift
from hicast.evaluation.eye import Eye
from hicast.evaluation.lattice import lattice
from hicast.evaluation.metrics import open_metrics
from hicast.evaluation.pairing import Pair
from hicast.evaluation.runner import Column, Evaluation
from hicast.evaluation.sight import Sight
from hicast.evaluation.tables import document, worst_lines


class Steps:
    """A net of fixed random projections whose features halve in size from block to block."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.maps = {block: torch.randn(block + 3, 3, generator=random) for block in range(1, 6)}

    def __call__(self, image, taps):
        small = {block: F.avg_pool2d(image, 2 ** (block - 1)) for block in self.maps}
        return {tap: torch.einsum("dc,bchw->bdhw", self.maps[int(tap[4])], small[int(tap[4])]).relu() * int(tap[6]) for tap in taps}


@pytest.fixture
def two() -> tuple[Sight, Sight]:
    """A result and a painting."""
    eye = Eye("steps", Steps(), torch.device("cpu"))
    return tuple(Sight(np.random.default_rng(seed).integers(0, 256, (32, 48, 3), dtype=np.uint8), eye) for seed in (0, 1))


def by_hand(sight: Sight, tap: str, image: torch.Tensor | None = None) -> np.ndarray:
    """Features (channels, height, width) in double precision."""
    return Steps()(sight.image if image is None else image, [tap])[tap][0].double().numpy()


def test_statistics(two):
    gaps = []
    for tap in ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"):
        ours, own = (np.concatenate([f.std((1, 2), ddof=1), f.mean((1, 2))]) for f in (by_hand(sight, tap) for sight in two))
        gaps.append(np.linalg.norm(ours - own) / np.linalg.norm(own))
    assert style.statistics_distance(*two) == pytest.approx(np.mean(gaps), rel=1e-5)


def test_gram_matrices(two):
    def matrix(features: np.ndarray) -> np.ndarray:
        flat = features.reshape(len(features), -1)
        return flat @ flat.T

    ours, own = (matrix(f) / (f[0].size ** 2) for f in (by_hand(sight, "relu1_2") for sight in two))
    assert style.gram_training(*two) == pytest.approx(np.square(ours - own).sum(), rel=1e-4)
    sums = []
    for tap in ("relu2_2", "relu3_2", "relu4_2"):
        features = [by_hand(sight, tap, sight.image / 2 + 0.5) for sight in two]
        ours, own = (matrix(f / len(f)) / f.shape[1] for f in features)
        sums.append(np.square(ours - own).sum())
    assert style.gram_published(*two) == pytest.approx(np.mean(sums), rel=1e-4)


def test_drift_goes_from_first_to_last(two):
    first, last = two
    moves = []
    for tap in style.STYLE_TAPS:
        begun, ended = (np.concatenate([f.std((1, 2), ddof=1), f.mean((1, 2))]) for f in (by_hand(sight, tap) for sight in (first, last)))
        moves.append(np.linalg.norm(ended - begun) / np.linalg.norm(begun))
    between = Sight(np.zeros((32, 48, 3), np.uint8), first.eye)
    assert drift([first, between, last]) == pytest.approx(np.mean(moves), rel=1e-5)
    assert drift([first, between, first]) == 0


def test_lattice():
    picture = np.random.default_rng(2).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    padded = np.pad(picture.astype(float), ((4, 4), (4, 4), (0, 0)), mode="reflect")
    means = np.stack([[padded[y : y + 9, x : x + 9].mean((0, 1)) for x in range(32)] for y in range(24)])
    high = picture - means
    tile = np.mean([high[y : y + 8, x : x + 8] for y in range(0, 24, 8) for x in range(0, 32, 8)], axis=0)
    wanted = tile.reshape(64, 3).std(0, ddof=1) / high.reshape(-1, 3).std(0, ddof=1)
    assert lattice(picture) == pytest.approx(wanted.mean(), rel=1e-4)


def test_qs3_is_the_sum_of_its_parts(two):
    result, painting = two
    metrics = open_metrics(result.eye, ["cf", "ge", "lp", "qs3"])
    photo = Sight(np.random.default_rng(3).integers(0, 256, (32, 48, 3), dtype=np.uint8), result.eye)
    cf, ge, lp, qs3 = (metric.score(result, photo, painting) for metric in metrics)
    assert [metric.name for metric in metrics] == ["cf", "ge", "lp", "qs3"] and qs3 == pytest.approx(cf + ge + lp)


def test_worst_pairs_are_named(tmp_path):
    pairs = [Pair(key, tmp_path / f"{key}.png", tmp_path / "art.png") for key in "abcd"]
    scores = {"content": {"short": [0.0] * 4}, "ours": {"short": [0.1, 0.4, float("nan"), 0.2]}}
    done = Evaluation([Column("short", "warp", False, "time")], pairs, scores, files={"ours": {}})
    assert done.leading == "short" and worst_lines(done) == ["ours, by short: b (0.4000)"]
    assert document(done)["worst"] == {"by": "short", "pairs": {"ours": ["b"]}}

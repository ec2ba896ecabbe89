"""Metrics whose definition is restated by hand on toys: statistics, Gram matrices, drift, lattices, and what sums them up."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from hicast.errors import UsageError
from hicast.evaluation import content, frechet, runner, style
from hicast.evaluation.clips import drift
from hicast.evaluation.eye import Eye
from hicast.evaluation.lattice import lattice
from hicast.evaluation.metrics import Metric, open_metrics
from hicast.evaluation.pairing import Pair, Pairing
from hicast.evaluation.runner import Column, Evaluation, evaluate
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


def test_sets_are_compared_pair_by_pair_and_small_ones_left_out(two, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "LEAST", 4)
    monkeypatch.setattr(frechet, "LEAST", 4)
    for seed, name in enumerate([*"abcde", "p", "q", *(f"r{k}" for k in range(5)), "s0"]):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    pairs = [Pair(str(k), tmp_path / f"{name}.png", tmp_path / f"{'pq'[k % 2]}.png") for k, name in enumerate("abcde")]
    results = {"ours": {str(k): tmp_path / f"r{k}.png" for k in range(4)}, "few": {"0": tmp_path / "s0.png"}}

    def inception(images):
        return np.stack([image.mean((0, 2, 3)).double().numpy() for image in images])

    gap = Metric("lpips", "LPIPS", False, "content", lambda r, c, s: (r.image - c.image).abs().mean().item())
    done = evaluate(Pairing(pairs, results), [gap], two[0].eye, size=40, inception=inception, set_metrics=["fid", "artfid"])
    colors = {name: np.asarray(Image.open(tmp_path / f"{name}.png")).mean((0, 1)) / 127.5 - 1 for name in ("p", "q", "r0", "r1", "r2", "r3")}
    ours, own = (np.stack([colors[name] for name in names]) for names in (("r0", "r1", "r2", "r3"), "pqpq"))
    a, b = np.cov(ours.T), np.cov(own.T)
    fid = np.square(ours.mean(0) - own.mean(0)).sum() + np.trace(a) + np.trace(b) - 2 * np.sqrt(np.linalg.eigvals(a @ b).clip(0).real).sum()
    assert done.whole["ours"]["fid"] == pytest.approx(fid, abs=1e-6)
    assert done.whole["ours"]["artfid"] == pytest.approx((1 + fid) * (1 + np.mean(done.scores["ours"]["lpips"][:4])), abs=1e-6)
    assert np.isnan(done.whole["few"]["fid"]) and "few: 1 results are too few for fid and artfid, which need 4" in done.notes
    with pytest.raises(UsageError, match="fid: expected 4 pairs or more, found 2"):
        evaluate(Pairing(pairs[:2], results), [gap], two[0].eye, size=40, inception=inception, set_metrics=["fid"])


def test_depth_is_compared_without_the_slope_that_nearly_all_pictures_share():
    x, y = (torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    down, across = np.mgrid[0:12, 0:20]
    plane = np.stack([np.ones(240), down.ravel(), across.ravel()], 1)
    rests = [v[0, 0].double().numpy().ravel() - plane @ np.linalg.lstsq(plane, v[0, 0].double().numpy().ravel(), rcond=None)[0] for v in (x, y)]
    assert content.without_plane(x)[0, 0].numpy().ravel() == pytest.approx(rests[0], abs=1e-9)
    slope = torch.from_numpy(5.0 * down + 0.5 * across).float()
    eye = Eye("none", None, torch.device("cpu"))
    assert content.map_correlation(x + slope, y + slope) > 0.98  # the slope hides that they have nothing in common
    sights = [Sight(np.full((12, 20, 3), at, np.uint8), eye) for at in (0, 255)]

    def extractor(image):
        return (x if image.mean() < 0 else y)[:, :1].expand(-1, 3, -1, -1) + slope

    assert content.control_fidelity(*sights, "depth", extractor) == pytest.approx(np.corrcoef(*rests)[0, 1], abs=1e-5)
    flat = content.without_plane(slope.expand(1, 3, -1, -1))
    assert content.map_correlation(flat, flat) == 1 and content.map_correlation(flat, content.without_plane(x)) == 0

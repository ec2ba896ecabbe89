"""The metrics of pictures: each definition restated by hand, and what must hold for a photo, a painting and anything between."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hicast.errors import ModelError, UsageError
from hicast.evaluation import content, frechet, style
from hicast.evaluation.anchors import recolored
from hicast.evaluation.eye import TAPS, Eye, Vgg19, load_tensors, open_eye
from hicast.evaluation.lattice import lattice
from hicast.evaluation.metrics import check_metrics, open_metrics
from hicast.evaluation.perceptual import Lpips
from hicast.evaluation.sight import Sight, look_at, squared
from hicast.evaluation.summary import bootstrap, extremes, pareto

SIDE = 64


def picture(seed: int, side: int = SIDE) -> np.ndarray:
    """Smooth random colours, uint8 (side, side, 3)."""
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1) * 255)[0].permute(1, 2, 0).round().byte().numpy()


@pytest.fixture(scope="module")
def eye() -> Eye:
    return open_eye()


@pytest.fixture
def three(eye) -> tuple[Sight, Sight, Sight]:
    """A result, its photo and its painting."""
    return tuple(Sight(picture(seed), eye) for seed in (1, 2, 3))


def test_cf_by_hand(three):
    result, photo, _ = three
    cosines = []
    for tap in ("relu4_1", "relu5_1"):
        x, y = (sight.features[tap].numpy().ravel().astype(float) for sight in (result, photo))
        cosines.append(x @ y / np.sqrt((x @ x) * (y @ y)))
    assert content.content_fidelity(result, photo) == pytest.approx(np.mean(cosines), abs=1e-5)


def test_ge_by_hand(three):
    result, _, painting = three
    cosines = []
    for tap in ("relu2_1", "relu3_1", "relu4_1", "relu5_1"):
        x, y = (np.einsum("chw,dhw->cd", *[sight.features[tap][0].numpy().astype(float)] * 2).ravel() for sight in (result, painting))
        cosines.append(x @ y / np.sqrt((x @ x) * (y @ y)))
    colours = []
    for c in range(3):
        x, y = (np.histogram(sight.pixels[..., c], 128, (0, 256))[0].astype(float) for sight in (result, painting))
        colours.append(x @ y / np.sqrt((x @ x) * (y @ y)))
    assert style.global_effects(result, painting) == pytest.approx((np.mean(cosines) + np.mean(colours)) / 2, abs=1e-5)


def test_lp_by_hand(three):
    result, _, painting = three
    scores = []
    for tap in ("relu3_1", "relu4_1"):
        ours, own = (sight.features[tap][0].numpy().astype(float) for sight in (result, painting))

        def cut(features, step):
            _, h, w = features.shape
            rows = [features[:, y : y + 3, x : x + 3].ravel() for y in range(0, h - 2, step) for x in range(0, w - 2, step)]
            return np.stack([row / np.linalg.norm(row) for row in rows])

        keys = cut(own, 1)
        likeness, used = cut(ours, 2) @ keys.T, (cut(own, 2) @ keys.T).argmax(1)
        scores.append(likeness.max(1).mean() / 2 + len(set(likeness.argmax(1))) / len(set(used)) / 2)
    assert style.local_patterns(result, painting) == pytest.approx(np.mean(scores), abs=2e-3)


def test_matches_do_not_depend_on_the_chunk():
    features = torch.rand(1, 6, 9, 11, generator=torch.Generator().manual_seed(0))
    keys = style.patches(features)
    whole, parts = style.best_matches(features, keys, 2, 1000), style.best_matches(features, keys, 2, 7)
    assert torch.equal(whole[1], parts[1]) and torch.allclose(whole[0], parts[0])
    own = [y * 9 + x for y in range(0, 7, 2) for x in range(0, 9, 2)]
    assert whole[1].tolist() == own and torch.allclose(whole[0], torch.ones(20))


def test_a_photo_is_itself_and_a_painting_too(three, eye):
    _, photo, painting = three
    scores = {metric.name: metric for metric in open_metrics(eye)}
    kept = {name: scores[name].score(photo, photo, painting) for name in scores}
    assert kept["cf"] == pytest.approx(1, abs=1e-5) and kept["ssim"] == pytest.approx(1) and kept["edge"] == pytest.approx(1)
    assert kept["cfsd"] == pytest.approx(0, abs=1e-6)
    taken = {name: scores[name].score(Sight(painting.pixels, eye), photo, painting) for name in scores}
    assert taken["ge"] == pytest.approx(1, abs=1e-5) and taken["lp"] == pytest.approx(1, abs=1e-3)
    assert [taken[name] for name in ("gram", "gram-published", "statistics", "colors")] == pytest.approx([0, 0, 0, 0], abs=1e-4)
    assert taken["qs3"] == pytest.approx(sum(taken[name] for name in ("cf", "ge", "lp")))
    assert taken["cf"] < 0.97 and kept["ge"] < 0.97 and kept["statistics"] > 0.1


def test_ssim_by_hand():
    x, y = (torch.rand(1, 1, 11, 11, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    line = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    window = np.outer(line, line) / np.outer(line, line).sum()
    a, b = x[0, 0].numpy(), y[0, 0].numpy()
    mean_a, mean_b = (window * a).sum(), (window * b).sum()
    var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
    both = (window * (a - mean_a) * (b - mean_b)).sum()
    wanted = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4) / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
    assert content.ssim(x, y) == pytest.approx(wanted, rel=1e-9)


def test_self_similarity_and_its_divergence_by_hand(three):
    features = torch.rand(1, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    rows = features[0].flatten(1).T.numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    wanted = np.exp(rows @ rows.T) / np.exp(rows @ rows.T).sum(1, keepdims=True)
    assert content.self_similarity(features).exp().numpy() == pytest.approx(wanted, rel=1e-5)
    assert content.self_similarity(features, 2).exp().numpy() == pytest.approx(wanted[[0, 2, 8, 10]], rel=1e-5)
    result, photo, _ = three
    p, q = (content.self_similarity(sight.features["relu3_1"], 2).double().exp() for sight in (photo, result))
    assert content.structural_distance(result, photo) == pytest.approx((p * (p / q).log()).sum(1).mean().item(), rel=1e-3)


def test_control_maps_are_compared():
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert content.map_correlation(x, y) == pytest.approx(np.corrcoef(x.flatten(), y.flatten())[0, 1], abs=1e-6)
    assert content.map_correlation(x, 0.3 * x + 0.2) == pytest.approx(1) and content.map_correlation(x, -x) == pytest.approx(-1)
    assert content.map_correlation(x, torch.zeros_like(x)) == 0 and content.map_correlation(torch.zeros_like(x), torch.zeros_like(x)) == 1
    regions = torch.zeros(1, 3, 4, 4)
    other = regions.clone()
    other[:, 1, 0] = 1
    assert content.map_agreement(regions, other) == 0.75


def test_colours_by_hand():
    dark, bright = (np.full((4, 4, 3), value, np.uint8) for value in (10, 10 + 2 * 32))
    eye = Eye("none", None, torch.device("cpu"))
    assert style.histogram_distance(Sight(dark, eye), Sight(bright, eye)) == pytest.approx(32 / 128)
    assert style.histogram_cosine(dark, bright) == 0 and style.histogram_cosine(dark, dark) == pytest.approx(1)
    moved = recolored(picture(0), picture(1)).astype(float)
    assert moved.mean((0, 1)) == pytest.approx(picture(1).mean((0, 1)), abs=6) and moved.shape == (SIDE, SIDE, 3)


def test_a_lattice_is_found():
    noise = np.random.default_rng(0).integers(100, 156, (64, 64, 3), dtype=np.uint8)
    tile = np.random.default_rng(1).integers(0, 2, (8, 8, 1), dtype=np.uint8) * 90
    assert lattice(noise) < 0.25 < 0.75 < lattice(noise + np.tile(tile, (8, 8, 3)).astype(np.uint8))


def test_batches_and_sizes_change_nothing(eye):
    alone = [Sight(picture(seed), eye) for seed in range(3)]
    together = [Sight(picture(seed), eye) for seed in range(3)]
    look_at(together, 2)
    for one, other in zip(alone, together):
        assert set(one.features) == set(other.features) == set(TAPS)
        for tap in TAPS:
            assert torch.allclose(one.features[tap], other.features[tap], rtol=1e-4, atol=1e-2)
    assert squared(picture(0), SIDE) is not None and squared(picture(0)[:40], 32).shape == (32, 32, 3)


def test_lpips_by_hand():
    random = torch.Generator().manual_seed(0)
    shapes = {"0": (4, 3, 11, 11), "3": (5, 4, 5, 5), "6": (6, 5, 3, 3), "8": (6, 6, 3, 3), "10": (5, 6, 3, 3)}
    state = {f"features.{at}.weight": 0.2 * torch.randn(shape, generator=random) for at, shape in shapes.items()}
    state |= {f"features.{at}.bias": torch.rand(shape[0], generator=random) for at, shape in shapes.items()}
    state |= {f"lin{k}.model.1.weight": torch.rand(1, shape[0], 1, 1, generator=random) for k, shape in enumerate(shapes.values())}
    x, y = (torch.rand(1, 3, 64, 64, generator=random) * 2 - 1 for _ in range(2))
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 11, 4, 2), torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2), torch.nn.Conv2d(4, 5, 5, 1, 2), torch.nn.ReLU(),
        torch.nn.MaxPool2d(3, 2), torch.nn.Conv2d(5, 6, 3, 1, 1), torch.nn.ReLU(), torch.nn.Conv2d(6, 6, 3, 1, 1), torch.nn.ReLU(),
        torch.nn.Conv2d(6, 5, 3, 1, 1), torch.nn.ReLU(),
    )  # fmt: skip
    net.load_state_dict({key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")})
    a, b = ((v - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1) for v in (x, y))
    wanted, level = 0.0, 0
    with torch.no_grad():
        for layer in net:
            a, b = layer(a), layer(b)
            if isinstance(layer, torch.nn.ReLU):
                gap = (a / a.norm(dim=1, keepdim=True).clamp_min(1e-10) - b / b.norm(dim=1, keepdim=True).clamp_min(1e-10)).square()
                wanted += (gap * state[f"lin{level}.model.1.weight"]).sum(1).mean().item()
                level += 1
    assert Lpips(state)(x, y) == pytest.approx(wanted, rel=1e-4) and Lpips(state)(x, x) == 0
    del state["lin3.model.1.weight"]
    with pytest.raises(ModelError, match="LPIPS: expected a folder with .* found no 'lin3.model.1.weight'"):
        Lpips(state)


def test_vgg19_is_torchvisions(tmp_path):
    net, random, channels = torch.nn.Sequential(), torch.Generator().manual_seed(0), 3
    for block, count in enumerate((2, 2, 4, 4, 4)):
        for _ in range(count):
            net.extend([torch.nn.Conv2d(channels, 4, 3, padding=1), torch.nn.ReLU()])
            channels = 4
        net.append(torch.nn.MaxPool2d(2))
    torch.save({f"features.{key}": value for key, value in net.state_dict().items()}, tmp_path / "vgg19.pth")
    image = torch.rand(1, 3, 32, 32, generator=random) * 2 - 1
    found = Vgg19(load_tensors(tmp_path / "vgg19.pth"))(image, ["relu3_1", "relu4_1", "relu5_1"])
    fed = ((image + 1) / 2 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        for tap, end in (("relu3_1", 12), ("relu4_1", 21), ("relu5_1", 30)):
            assert torch.allclose(found[tap], net[:end](fed), atol=1e-6)
    with pytest.raises(ModelError, match="expected torchvision's 'features.0.weight' and its bias, found neither"):
        Vgg19({})
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"expected bare weights \(safetensors, .pth or .pt\), found something else in .*bad.pth; save them as safetensors"):
        load_tensors(tmp_path / "bad.pth")


def test_frechet_distance_by_hand_and_its_least_number():
    random = np.random.default_rng(0)
    x, y = random.normal(0, 1, (400, 3)), random.normal(0, 1, (400, 3)) @ np.diag([1, 2, 3]) + [1, 0, 0]
    a, b = np.cov(x.T), np.cov(y.T)
    roots = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    wanted = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a) + np.trace(b) - 2 * roots
    assert frechet.frechet_distance(x, y) == pytest.approx(wanted) and frechet.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet.art_fid(9, 0.5) == 15
    with pytest.raises(UsageError, match="fid: expected 2048 pairs or more, found 40, with which it means nothing; leave fid out of --metrics"):
        frechet.check_number(40)


@pytest.mark.slow
def test_inception_pools_as_the_original():
    inception3 = pytest.importorskip("torchvision.models").Inception3
    torch.manual_seed(0)
    net = inception3(num_classes=1008, aux_logits=False, transform_input=False, init_weights=False).eval()
    features = frechet.Inception(net.state_dict())([torch.rand(1, 3, 64, 64) * 2 - 1])
    assert features.shape == (1, 2048) and np.isfinite(features).all()
    block, x = frechet.Inception(net.state_dict())._net, torch.rand(1, 192, 9, 9)
    with torch.no_grad():
        pooled = block.Mixed_5b.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        assert torch.allclose(pooled, net.Mixed_5b.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)), atol=1e-5)


def test_metrics_are_checked_by_name(eye):
    with pytest.raises(UsageError, match="--metrics: expected names of metrics, found cff; did you mean cf?"):
        check_metrics(["cff"], {})
    with pytest.raises(UsageError, match="--metrics fid: expected its weights, found none; add --weights inception=FILE"):
        check_metrics(["fid"], {})
    assert [metric.label for metric in open_metrics(eye, ["lp", "cf", "colors"])] == ["CF (VGG-16)", "LP (VGG-16)", "colours"]
    assert [metric.label for metric in open_metrics(eye, ["edge"], extractors={"edge": "canny"})] == ["edge (canny)"]
    with pytest.raises(ModelError, match="extractor hed"):
        open_metrics(eye, ["edge"], extractors={"edge": "hed"}, weights={"hed": Path("none")})


def test_intervals_extremes_and_front():
    values = np.random.default_rng(0).normal(5, 1, 60)
    found = bootstrap(values)
    assert found.mean == pytest.approx(values.mean()) and found.count == 60
    assert found.low == pytest.approx(5 - 1.96 / 60**0.5, abs=0.3) and found.low < found.mean < found.high
    assert bootstrap(values[::-1]) == found and bootstrap([*values, float("nan")]) == found
    assert bootstrap([3.0]).low == bootstrap([3.0]).high == 3 and bootstrap([]).count == 0
    assert extremes([0.1, float("nan"), 0.9, 0.5], True, 1) == ([2], [0])
    assert extremes([0.1, float("nan"), 0.9, 0.5], False, 5) == ([0, 3], [2])
    assert pareto([(0, 1), (1, 0), (0.4, 0.4), (0.5, 0.5), (0.5, 0.2)]) == [0, 3, 1]

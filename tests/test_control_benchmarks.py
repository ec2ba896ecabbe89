"""The scripts that teach and measure the nets of control maps: figures by hand, teaching that teaches, views that are cut right."""

import importlib
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hicast.controls.map_net import MapNet
from hicast.evaluation.content import content_fidelity
from hicast.evaluation.eye import Eye, open_eye
from hicast.evaluation.sight import Sight
from hicast.io.images import to_pixels
from hicast.pipeline import HiCastPipeline
from hicast.training.data import sample_generator

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = ("controls", "control_teachers", "teach_controls", "control_regions", "adapters", "adapter_judges", "adapter_cost", "timing")


@pytest.fixture
def scripts(monkeypatch):
    """A function that imports a script of the folder, its neighbours beside it, without traces in the process."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "1")
    yield importlib.import_module
    for name in SCRIPTS:
        sys.modules.pop(name, None)


def test_the_f_score_is_that_of_its_definition(scripts):
    measure = scripts("controls")
    wanted = np.zeros((6, 6), bool)
    wanted[2, 1:5] = True
    found = np.zeros((6, 6))
    found[3, 1:5], found[5, 5], found[2, 1] = 0.9, 0.7, 0.6

    def score(reach: int, *masks: np.ndarray, threshold: float = 0.5) -> float:
        return measure.f_scores(sum(measure.edge_counts(found, mask, reach, [threshold]) for mask in masks))[0]

    assert score(0, wanted) == pytest.approx(2 * (1 / 6) * (1 / 4) / (1 / 6 + 1 / 4))
    assert score(1, wanted) == pytest.approx(2 * (5 / 6) * 1 / (5 / 6 + 1))
    precision, recall = (1 + 5) / 12, (1 + 5) / (4 + 32)
    assert score(0, wanted, ~wanted) == pytest.approx(2 * precision * recall / (precision + recall))
    assert score(0, wanted, threshold=2.0) == 0
    best, threshold = measure.best_f_score(measure.edge_counts(found, wanted, 1))
    assert best == pytest.approx(2 * 1 * 1 / (1 + 1)) and 0.7 <= threshold <= 0.8  # the stray pixel is left out


def test_rank_correlation_and_flicker_are_those_of_their_definitions(scripts):
    measure = scripts("controls")
    first = np.array([[1.0, 5.0], [2.0, 9.0]])
    assert measure.spearman(first, np.exp(first)) == pytest.approx(1) and measure.spearman(first, -first) == pytest.approx(-1)
    assert measure.spearman(first, np.array([[1.0, 9.0], [2.0, 5.0]])) == pytest.approx(1 - 6 * 2 / (4 * 15))
    clip = [np.array([[0.0, 2.0]]), np.array([[1.0, 2.0]]), np.array([[1.0, 5.0]])]
    assert measure.flicker(clip) == pytest.approx(((1 + 0 + 0 + 3) / 4) / np.std([0, 2, 1, 2, 1, 5]))


def test_going_on_with_a_net_changes_nothing_at_first(scripts):
    teach = scripts("teach_controls")
    torch.manual_seed(0)
    plain, image = MapNet((4, 6)).eval(), torch.rand(4, 3, 64, 64) * 2 - 1
    again = teach.unfolded(plain, image)
    assert torch.allclose(again(image), plain(image), atol=1e-2)  # the variance is that of the sample
    assert torch.allclose(teach.unfolded(plain, image).eval().folded()(image), plain(image), atol=1e-4)


def test_a_second_of_teaching_brings_a_net_nearer_to_its_teacher(scripts, monkeypatch):
    teach, teachers = scripts("teach_controls"), scripts("control_teachers")
    monkeypatch.setitem(teach.WIDTHS, "soft", (4, 8))
    monkeypatch.setattr(teach, "look", lambda random: lambda image, generator: image)
    clock = itertools.count()
    monkeypatch.setattr(teach, "process_time", lambda: next(clock) / 200)
    random = np.random.default_rng(0)
    pictures = random.integers(0, 255, (6, 8, 8, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    values = (pictures.mean(-1) > 128).astype(np.float16)
    views = teachers.Views(pictures, values, np.zeros(0, int), np.arange(6))
    torch.manual_seed(0)
    *_, net = teach.teach("soft", views, 1.5, 3e-3, 0, None)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) or hasattr(part, "gain") for part in net.modules())
    image = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        found = net(image)[:, 0].sigmoid().numpy()
    assert np.corrcoef(found.ravel(), values.ravel())[0, 1] > 0.7


def test_pairs_of_frames_are_changed_alike_and_all_values_follow_their_picture(scripts):
    teach, teachers = scripts("teach_controls"), scripts("control_teachers")
    pictures = np.random.default_rng(0).integers(0, 255, (10, 8, 8, 3), dtype=np.uint8)
    pictures[1::2] = pictures[::2]
    views = teachers.Views(pictures, pictures[..., 0].astype(np.float16), np.arange(0, 10, 2), np.arange(10))
    for step in range(4):
        image, target, pairs = teach.draw("depth", views, sample_generator(0, step))
        assert pairs == 2 and image.shape == (12, 3, 8, 8) and image.abs().max() <= 1
        assert torch.equal(target[-4::2], target[-3::2]) and (image[-4::2] - image[-3::2]).abs().mean() < 0.15
        originals = {values.tobytes() for values in (*views.values, *views.values[..., ::-1])}
        assert all(values[0].numpy().astype(np.float16).tobytes() in originals for values in target)


def test_views_are_cut_in_the_right_shape_and_kept(scripts, tmp_path):
    teachers = scripts("control_teachers")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (200, 120), (80 * number, 10, 20)).save(tmp_path / "photos" / f"{number}.png")
    seen = []

    def teacher(picture: np.ndarray) -> np.ndarray:
        seen.append(picture)
        return picture[..., 0].astype(np.float32) / 255

    for _ in range(2):
        views = teachers.collect("depth", [tmp_path / "photos"], [], teacher, tmp_path / "cache", 5, 0)
        assert views.pictures.shape == (5, 192, 320, 3) and len(seen) == 5
        assert views.values[:, 5, 5] == pytest.approx([0, 80 / 255, 160 / 255, 0, 80 / 255], abs=0.01)
        assert views.filled.tolist() == [1, 2, 4] and not len(views.pairs)


def test_clusters_are_found(scripts):
    regions = scripts("control_regions")
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[5.0, 0.0], [-5.0, 1.0], [0.0, 8.0]])
    points = (centres[:, None] + 0.3 * torch.randn(3, 50, 2, generator=generator)).flatten(0, 1)
    found = regions.cluster(points, 3, generator)
    assert torch.allclose(found, centres[centres[:, 0].argsort()], atol=0.3)


@pytest.fixture
def pairs(folders, tmp_path) -> Path:
    """A list of two pairs, its photos and paintings beside it."""
    for name, folder in zip(("content", "style"), folders, strict=True):
        (tmp_path / name).symlink_to(folder / "sub")
    (tmp_path / "pairs.csv").write_text("content,style\n0.png,0.png\n1.png,2.png\n")
    return tmp_path / "pairs.csv"


def test_figures_of_adapters_are_those_of_the_engine_and_fit_together(scripts, make_pipeline, folders, pairs, tmp_path, monkeypatch, capsys):
    """A model without an adapter for depth is judged for it at weight 0, and a single adapter for its own control alone."""
    adapters, judges = scripts("adapters"), scripts("adapter_judges")
    monkeypatch.setattr(judges, "open_teacher", lambda kind, weights: lambda picture: picture.mean(2, dtype=np.float32) / 255)
    made = make_pipeline("edge", "seg", side_range=[64, 1024])
    made.model.unet.conv_out.weight.data.mul_(300)  # its output would be next to nothing
    made.save_pretrained(tmp_path / "model")
    words = ["--pairs", str(pairs), "--hed", "a", "--depth", "b", "--photos", str(folders[0]), "--model", str(tmp_path / "model"), "--size", "64"]
    adapters.main([*words, "--threads", str(torch.get_num_threads()), "--json", str(tmp_path / "out.json")])
    report, text = json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out
    looks = report["looks"]
    assert list(looks) == ["weight 0", *(f"{name} {weight}" for name in ("edge", "seg") for weight in ("0.5", "1", "1.5")), "all at 1", "autoencoder"]
    assert all(name in text for name in looks) and f"{looks['seg 1']['region_agreement']:.4f}" in text
    assert "edge_f_score" not in looks["seg 1"] and {"edge_f_score", "region_agreement", "depth_rank_correlation"} < set(looks["all at 1"])
    low, high, at = (looks[name] for name in ("weight 0", "autoencoder", "seg 1"))
    assert at["ge_change"] == pytest.approx(at["ge"] / low["ge"] - 1) and low["lp_change"] == 0 and list(report["controls"]) == ["edge", "seg"]
    gap = high["region_agreement"] - low["region_agreement"]
    assert at["region_agreement_closed"] == (pytest.approx((at["region_agreement"] - low["region_agreement"]) / gap) if gap > 0 else None)
    pipeline, eye = HiCastPipeline.from_pretrained(tmp_path / "model"), open_eye()
    found = []
    for row in ((0, 0), (1, 2)):
        photo, painting = (judges.sight_of(folder / "sub" / f"{number}.png", eye, 64) for folder, number in zip(folders, row, strict=True))
        maps = {name: draw(photo.image) for name, draw in adapters.open_drawers(pipeline, ["seg"]).items()}
        image = pipeline.stylize_image(photo.image, [(painting.image, 1.0)], controls=maps, adapters={"seg": 1.0})
        found.append(content_fidelity(Sight(to_pixels(image), eye), photo))
    assert at["cf"] == pytest.approx(np.mean(found)) != low["cf"]


def test_judge_of_regions_is_the_same_for_the_same_photos_and_knows_a_picture_again(scripts, folders, vgg):
    judges, eye = scripts("adapter_judges"), Eye("VGG-16", vgg, torch.device("cpu"))
    first, second = (judges.fit_regions(eye, folders[0], 64, 3) for _ in range(2))
    photo, other = (judges.sight_of(folders[0] / "sub" / f"{number}.png", eye, 64) for number in (0, 1))
    assert first.labels(photo).shape == (1, 64, 64) and torch.equal(first.labels(photo), second.labels(photo))
    assert first.score(photo, photo) == 1 > first.score(other, photo)
    assert first.figures(first.score(photo, photo) + 0.5, 2) == {"region_agreement": 0.75}


def test_cost_of_adapters_is_the_median_of_rounds(scripts, make_pipeline, monkeypatch):
    cost, order = scripts("adapter_cost"), []

    def two_rounds(runs, rounds):
        order.extend((*name, run() is not None) for name, run in runs.items())
        return dict(zip(runs, ([1.0, 2.0], [1.2, 2.6], [0.1, 0.4], [0.2, 0.5]), strict=True)), {}

    monkeypatch.setattr(cost, "interleaved", two_rounds)
    found = cost.adapter_cost(make_pipeline("edge", "seg", side_range=[32, 64]), 2, 64)
    assert order == [(name, 64, True) for name in ("without", "with", "features", "painting")] and found["adapters"] == ["edge", "seg"]
    assert found["added"] == pytest.approx(0.25) and found["features"] == pytest.approx(0.15) and found["net"] == pytest.approx(0.1)
    assert found["added_to_painted"] == pytest.approx((0.2 / 0.8 + 0.6 / 1.5) / 2) and found["seconds"]["with"] == pytest.approx(1.9)
    assert "edge, seg add 25.0%" in scripts("adapters").cost_line(found)

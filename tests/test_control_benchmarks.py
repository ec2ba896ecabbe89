"""The scripts that teach and measure the nets of control maps: figures by hand, teaching that teaches, views that are cut right."""

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hicast.controls.map_net import MapNet
from hicast.training.data import sample_generator

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = ("controls", "control_teachers", "teach_controls", "control_regions")


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
    assert measure.f_score([found], [wanted], 0.5, 0) == pytest.approx(2 * (1 / 6) * (1 / 4) / (1 / 6 + 1 / 4))
    assert measure.f_score([found], [wanted], 0.5, 1) == pytest.approx(2 * (5 / 6) * 1 / (5 / 6 + 1))
    both = measure.f_score([found, found], [wanted, ~wanted], 0.5, 0)
    precision, recall = (1 + 5) / 12, (1 + 5) / (4 + 32)
    assert both == pytest.approx(2 * precision * recall / (precision + recall))
    assert measure.f_score([found], [wanted], 2.0, 0) == 0


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

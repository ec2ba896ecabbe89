"""The scripts that teach the net which tells things and faces: views that are cut right, teaching that teaches; and what the shipped net says."""

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hicast.encoders.figures import TAP, figures_in
from hicast.io.files import find_images
from hicast.io.images import load_picture, resize_image, to_tensor
from hicast.models.subject import CHANNELS, seen_by
from hicast.pipeline import HiCastPipeline

ROOT = Path(__file__).parents[1]


@pytest.fixture
def scripts(monkeypatch):
    """A function that imports a script, its neighbours beside it, without traces in the process."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "1")
    yield importlib.import_module
    for name in ("subject_views", "teach_subject"):
        sys.modules.pop(name, None)


def test_a_face_is_an_ellipse_in_its_box(scripts):
    views = scripts("subject_views")
    mask = views.faces_mask([(40.0, 20.0, 80.0, 60.0, 1.0)], 20, 0, 160)
    assert mask.shape == (views.PLACES, views.PLACES) and mask[4, 4] == 1 and mask[12, 12] == 0  # 10 pixels a place
    assert mask.sum() == pytest.approx(np.pi * (views.GROWN * 2) ** 2, rel=0.05)
    assert views.faces_mask([], 0, 0, 160).sum() == 0


def test_views_hold_what_is_seen_and_told_and_are_kept(scripts, folders, vgg, tmp_path):
    views = scripts("subject_views")
    files = find_images(folders[0])
    boxes = {str(files[0]): [[20.0, 20.0, 60.0, 60.0, 0.99], [0.0, 0.0, 20.0, 20.0, 0.5]], str(files[1]): [[0.0, 0.0, 80.0, 80.0, 0.5]]}
    found = views.collect_views(files, boxes, 0.9, vgg, range(6), 0)
    assert found.relu4_3.shape == (6, CHANNELS, 16, 16) and found.relu5_3.shape == (6, CHANNELS, 8, 8)
    assert found.figures.shape == found.faces.shape == (6, 16, 16) and found.picture.tolist() == [0, 1, 2, 3, 0, 1]
    assert found.faces[0].max() > 0 and found.faces[4].max() > 0 and found.faces[[1, 2, 3, 5]].max() == 0
    assert not torch.equal(found.relu4_3[0], found.relu4_3[4])  # the same picture, cut or coloured otherwise
    found.save(tmp_path / "views.safetensors")
    read = views.SubjectViews.load([tmp_path / "views.safetensors"] * 2)
    assert torch.equal(read.faces, torch.cat([found.faces] * 2)) and len(read.picture) == 12


def test_teaching_teaches_and_judges_by_what_was_kept_out(scripts, monkeypatch):
    teach, views = scripts("teach_subject"), scripts("subject_views")
    clock, random = itertools.count(), torch.Generator().manual_seed(0)
    monkeypatch.setattr(teach, "process_time", lambda: next(clock) / 100)
    where = torch.rand(60, 4, 4, generator=random).repeat_interleave(4, 1).repeat_interleave(4, 2)
    features = 0.1 * torch.randn(60, CHANNELS, 16, 16, generator=random)
    features[:, :100] += (where > 0.5).float()[:, None]
    features[:, 100:200] += 2 * where[:, None]
    coarse = torch.zeros(60, CHANNELS, 8, 8)
    seen = views.SubjectViews(features.half(), coarse.half() + 0.1, (2 * where).half(), (where > 0.5).half(), torch.arange(60))
    told = teach.judged(teach.taught(seen, 1.0, 3e-3), seen)
    numbers = [float(word.strip(",")) for word in told.split() if word[0].isdigit()]
    assert min(numbers) > 0.8 and told.endswith("(3 views)")


def test_the_shipped_net_tells_what_a_closer_look_shows():
    pipeline = HiCastPipeline.from_pretrained("compact", engine="torch")
    picture = to_tensor(load_picture(ROOT / "examples" / "cat.jpg").pixels)
    square = resize_image(picture[..., : min(picture.shape[-2:]), : min(picture.shape[-2:])], (256, 256))
    with torch.inference_mode():
        told, shown = pipeline.model.subject_of(square, pipeline.style_encoder.vgg), figures_in(pipeline.style_encoder.vgg(square, (TAP,)))
    alike = torch.corrcoef(torch.stack([(told[0, 0] + 0.3).log().flatten(), (shown[0] + 0.3).log().flatten()]))[0, 1]
    assert alike > 0.5 and told[0, 1].max() < 0.5  # a cat is a thing to it, not a face of a person
    assert told.shape == (1, 2, 16, 16) and torch.equal(told, pipeline.model.subject(seen_by(pipeline.style_encoder.vgg, square)))

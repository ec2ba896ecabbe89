"""The script that measures steadiness: motion that is known, methods that are told apart, borders of windows that are found."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from hicast.evaluation.eye import open_eye
from hicast.models.temporal import TemporalLayers

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def steadiness(monkeypatch):
    """The script, its neighbours beside it, without traces in the process."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "1")
    script = importlib.import_module("steadiness")
    monkeypatch.setattr(script, "SIDE", 64)
    monkeypatch.setattr(script, "magenta_networks", lambda threads: None)
    yield script
    for name in ("steadiness", "rivals"):
        sys.modules.pop(name, None)


@pytest.fixture
def photo() -> np.ndarray:
    coarse = np.random.default_rng(3).integers(0, 256, (12, 15, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((16, 16, 1), np.uint8))


def test_known_motion_is_that_of_the_camera(steadiness, photo):
    frames, motion = steadiness.moving(photo, 5, seed=1)
    moved = np.abs(frames[0].astype(int) - frames[4]).mean()
    assert moved > 5, "the camera moves"
    assert motion.measure(frames).short < 0.3 * moved / 255
    assert motion.measure(frames[::-1]).short > motion.measure(frames).short, "backwards it is another motion"


def test_methods_and_borders_are_told_apart(steadiness, photo, make_pipeline, tmp_path, monkeypatch):
    pipeline = make_pipeline()
    pipeline.temporal = TemporalLayers.for_unet(pipeline.model.unet)
    pipeline.save_pretrained(tmp_path / "model")
    painters = steadiness.Painters(str(tmp_path / "model"), "balanced", 1)
    assert painters.names == [steadiness.OWN_NOISE, steadiness.ONE_NOISE, steadiness.TEMPORAL]

    def flickering(name, frames, painting):
        """Every frame as it is, those that begin a window brighter by 20 levels where there are temporal layers."""
        border = [at % painters.step == 0 and at > 0 and name == steadiness.TEMPORAL for at in range(len(frames))]
        return [np.clip(frame.astype(int) + 20 * bright, 0, 255).astype(np.uint8) for frame, bright in zip(frames, border, strict=True)]

    monkeypatch.setattr(painters, "paint", flickering)
    monkeypatch.setattr(steadiness, "LOOP", 2 * painters.step + 2)
    found = steadiness.loop(painters, open_eye(), photo, photo[:, ::-1])["loop"]
    assert found[steadiness.ONE_NOISE]["style_drift"] < 1e-3 > found[steadiness.ONE_NOISE]["pixels_apart"]
    assert found[steadiness.TEMPORAL]["seams"] > 1.5 * found[steadiness.ONE_NOISE]["seams"]


def test_tables_hold_every_clip_and_the_means(steadiness):
    figures = {"short": 0.25, "long": 0.5, "ge": 0.7, "lp": 0.6, "sharp": 1.0}
    rows = [{"kind": "clip", "clip": name, "method": "temporal layers"} | figures | {"short": short} for name, short in (("a", 0.2), ("b", 0.4))]
    text = "\n".join(steadiness.lines({"rows": rows}))
    assert "| clip | a | temporal layers | 0.200 | 0.500 |" in text and "| clip | mean | temporal layers | 0.300 | 0.500 |" in text

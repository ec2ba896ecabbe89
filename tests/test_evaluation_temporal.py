"""Steadiness of clips: the definition by hand on toys, and what must and must not lower it."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from hicast.errors import InputError
from hicast.evaluation.flow import Correspondence, carried, correspondence
from hicast.evaluation.temporal import SourceMotion, gradient, warping_error


def texture(seed: int = 0, side: int = 96) -> np.ndarray:
    """Smooth random colours, uint8 (side, side, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (side // 6, side // 6, 3), dtype=np.uint8)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)


def panning(frames: int = 6, step: int = 2, seed: int = 0) -> list[np.ndarray]:
    """A texture of 64 pixels that moves left by `step` pixels a frame."""
    wide = texture(seed, 96)
    return [np.ascontiguousarray(wide[16:80, 4 + step * t : 68 + step * t]) for t in range(frames)]


def shifted(step: float, side: int = 64) -> Correspondence:
    """Every pixel was `step` to its right."""
    columns, rows = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32))
    return Correspondence(columns + step, rows, columns + step <= side - 1)


def test_flow_finds_a_pan_and_what_came_in():
    earlier, later = panning(2, 3)
    found = correspondence(earlier, later)
    columns = np.arange(64)
    inner = (slice(8, -8), slice(8, -10))
    assert np.abs(found.x - columns - 3)[inner].mean() < 0.2 and found.seen[inner].mean() > 0.95
    assert not found.seen[:, 63].any()
    assert np.abs(carried(earlier, found).astype(int) - later)[inner].mean() < 2


@pytest.mark.parametrize("there, seen", [(3.0, True), (2.4, True), (2.2, False), (-3.0, False)])
def test_pixels_whose_flow_does_not_come_back_are_hidden(monkeypatch, there, seen):
    def flow(to_earlier: float) -> np.ndarray:
        return np.stack([np.full((16, 24), to_earlier, np.float32), np.zeros((16, 24), np.float32)], -1)

    answers = iter([flow(-3.0), flow(there)])  # back: 3 pixels to the left
    stand_in = SimpleNamespace(calc=lambda first, second, start: next(answers))
    monkeypatch.setattr(cv2, "DISOpticalFlow_create", lambda preset: stand_in)
    found = correspondence(*(np.zeros((16, 24, 3), np.uint8) for _ in range(2)))
    assert not found.seen[:, :3].any() and (found.seen[:, 3:] == seen).all()
    assert (found.x == np.arange(24) - 3).all() and (found.y == np.arange(16)[:, None]).all()
    error = (there - 3.0) ** 2
    assert (error <= 0.01 * (9 + there**2) + 0.5) == seen


def test_warping_error_by_hand():
    clip = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8) for seed in range(3)]
    motion = {1: shifted(2), 2: shifted(2)}
    wanted = [np.sqrt(np.square((clip[t - 1][:, 2:].astype(float) - clip[t][:, :-2]) / 255).mean()) for t in (1, 2)]
    assert warping_error(clip, motion, 1) == pytest.approx(np.mean(wanted), rel=1e-5)
    assert warping_error(panning(3, 2), motion, 1) == 0
    unseen = Correspondence(shifted(0).x, shifted(0).y, np.zeros((64, 64), bool))
    assert warping_error(clip, {1: unseen}, 1) == 0


def test_gradient_of_a_ramp():
    ramp = np.repeat(np.arange(0, 200, 5, dtype=np.uint8)[None], 40, 0)
    assert gradient([np.stack([ramp] * 3, -1)] * 20) == pytest.approx(5 / 255)


def test_figures_fit_together():
    source = panning(8)
    motion = SourceMotion(source, gap=4)
    noisy = [np.clip(frame + np.random.default_rng(t).normal(0, 20, frame.shape), 0, 255).astype(np.uint8) for t, frame in enumerate(source)]
    found, own = motion.measure(noisy), motion.measure(source)
    assert (own.excess_short, own.excess_long, own.difference, own.sharp) == (0, 0, 0, 1)
    assert found.short > own.short and found.sharp > 1
    assert found.rel_short == pytest.approx(found.short / gradient(noisy)) and found.rel_long == pytest.approx(found.long / gradient(noisy))
    assert found.excess_long == pytest.approx(found.rel_long - own.rel_long)
    differences = [(b.astype(float) - a) - (d.astype(float) - c) for a, b, c, d in zip(noisy, noisy[1:], source, source[1:])]
    assert found.difference == pytest.approx(np.sqrt(np.mean(np.square(differences))) / 255, rel=1e-5)


def test_muting_lowers_the_error_but_not_the_figure():
    motion = SourceMotion(panning())
    flicker = [np.clip(f.astype(int) + (12 if t % 2 else -12), 40, 215).astype(np.uint8) for t, f in enumerate(panning())]
    muted = [(128 + (f.astype(float) - 128) / 2).round().astype(np.uint8) for f in flicker]
    loud, quiet = motion.measure(flicker), motion.measure(muted)
    assert quiet.short < 0.6 * loud.short
    assert quiet.excess_short == pytest.approx(loud.excess_short, rel=0.05)


def test_a_picture_that_follows_the_motion_is_steady_and_one_that_sticks_to_the_screen_is_not():
    motion = SourceMotion(panning(), gap=3)
    follows, sticks = motion.measure(panning(seed=5)), motion.measure([panning(seed=5)[0]] * 6)
    assert abs(follows.excess_short) < 0.1 < 0.5 < sticks.excess_short
    assert sticks.excess_long > 3 * abs(follows.excess_long)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(InputError, match="expected 2 frames or more to measure steadiness, found 1"):
        SourceMotion(panning(1))
    with pytest.raises(InputError, match="expected 6 frames of .* like the source, found 5"):
        SourceMotion(panning()).measure(panning(5))

"""Clips with known motion: moving crops of stills are exact, real ones are followed, both are mixed by the sample."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from hicast.config.train import TemporalTraining
from hicast.errors import InputError
from hicast.losses.warping import carried
from hicast.training.clip_source import ClipSource
from hicast.training.data import sample_generator
from hicast.training.moving_stills import MOST_PAN, Camera, camera_path, moving_still
from hicast.training.tracks import TrackedClip, follow, frame_pairs
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """Smooth random colours, uint8 (height, width, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def warped_errors(clip: TrackedClip) -> np.ndarray:
    """Mean absolute difference in levels, by pair, between later frames and earlier ones moved onto them, where seen."""
    errors = []
    for (earlier, later), places, seen in zip(frame_pairs(len(clip.frames)), clip.places, clip.seen, strict=True):
        frame = torch.from_numpy(clip.frames[earlier]).permute(2, 0, 1)[None].float()
        moved = carried(frame, torch.from_numpy(places)[None])[0].permute(1, 2, 0).numpy()
        errors.append(np.abs(moved - clip.frames[later])[seen].mean())
    return np.array(errors)


def test_pairs_are_neighbours_then_the_first_with_all():
    assert frame_pairs(4) == [(0, 1), (1, 2), (2, 3), (0, 2), (0, 3)] and frame_pairs(2) == [(0, 1)]


@pytest.mark.parametrize("index", range(6))
def test_moving_stills_know_where_every_pixel_comes_from(index):
    clip = moving_still(picture(), 5, 48, (0.4, 0.9), sample_generator(0, index))
    assert clip.frames.shape == (5, 48, 48, 3) and clip.frames.dtype == np.uint8
    assert clip.places.shape == (7, 48, 48, 2) and clip.places.dtype == np.float32 and clip.seen.dtype == bool
    assert warped_errors(clip).max() < 4 and clip.seen.mean() > 0.6
    still = TrackedClip(clip.frames, np.stack([_still(48)] * 7), clip.seen)
    assert warped_errors(still)[:4].mean() >= warped_errors(clip)[:4].mean() - 0.5


def _still(side: int) -> np.ndarray:
    middles = ((np.arange(side) + 0.5) * 2 / side - 1).astype(np.float32)
    return np.stack(np.meshgrid(middles, middles), -1)


def test_stills_that_move_fast_would_be_told_from_still_ones():
    clips = [moving_still(picture(seed), 5, 48, (0.4, 0.6), sample_generator(1, seed)) for seed in range(8)]
    moved = [np.abs(clip.places - _still(48)).max() for clip in clips]
    fast = clips[int(np.argmax(moved))]
    unaware = TrackedClip(fast.frames, np.stack([_still(48)] * 7), fast.seen)
    assert warped_errors(unaware).mean() > 4 * warped_errors(fast).mean()


def test_what_lies_outside_the_earlier_frame_is_not_seen():
    for index in range(6):
        clip = moving_still(picture(), 5, 32, (0.4, 0.6), sample_generator(2, index))
        outside = (np.abs(clip.places) > 1).any(-1)
        assert not clip.seen[outside].any() and clip.seen[(np.abs(clip.places) < 1 - 2 / 32).all(-1)].all()


def test_a_camera_sees_what_its_matrix_says():
    corners = np.array([[0, 0, 1], [8, 0, 1], [4, 4, 1]], float).T
    level = Camera(20.0, 30.0, 16.0, 0.0).matrix(8) @ corners
    np.testing.assert_allclose(level[:2].T, [[12, 22], [28, 22], [20, 30]])
    turned = Camera(20.0, 30.0, 16.0, np.pi / 2).matrix(8) @ corners
    np.testing.assert_allclose(turned[:2].T, [[28, 22], [28, 38], [20, 30]], atol=1e-9)


@pytest.mark.parametrize("size", [(40, 90), (200, 130)])
def test_the_camera_stays_over_the_picture_and_moves_evenly(size):
    for index in range(40):
        path = camera_path(size, 6, 48, (0.3, 1.0), sample_generator(3, index))
        corners = np.array([[0, 0, 1], [48, 0, 1], [0, 48, 1], [48, 48, 1]], float).T
        seen = np.stack([(camera.matrix(48) @ corners)[:2].T for camera in path])
        assert seen.min() > -1e-6 and (seen.max((0, 1)) < np.array(size[::-1]) + 1e-6).all()
        steps = np.diff([[camera.x, camera.y] for camera in path], axis=0)
        np.testing.assert_allclose(steps, steps[:1].repeat(5, 0), atol=1e-9)
        assert np.hypot(*steps[0]) <= MOST_PAN * path[0].extent + 1e-9


def test_clips_are_followed_by_flow():
    wide = picture(1, (96, 128))
    frames = np.stack([wide[16:80, 4 + 2 * t : 68 + 2 * t] for t in range(4)])
    clip = follow(frames)
    moved = (clip.places - _still(64))[:, 10:-10, 10:-14] * 32
    for (earlier, later), row in zip(frame_pairs(4), moved, strict=True):
        assert np.abs(row - [2 * (later - earlier), 0]).mean() < 0.35
    assert warped_errors(clip).max() < 6


def _video(path: Path) -> None:
    wide = picture(1, (96, 160))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        for k in range(24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(wide[:, 2 * k : 2 * k + 96]), format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with a video and one with a picture."""
    for name in ("clips", "photos"):
        (tmp_path / name).mkdir()
    _video(tmp_path / "clips" / "a.mp4")
    Image.fromarray(picture()).save(tmp_path / "photos" / "a.png")
    return tmp_path / "clips", tmp_path / "photos"


def _source(**changes: object) -> ClipSource:
    return ClipSource(TemporalTraining(**({"frames": 3, "crop": 32, "image_side": 128} | changes)))


def test_each_kind_alone_and_both_by_their_share(places):
    clips, photos = places
    only_clips, only_stills = _source(video=clips, stills=0.9), _source(content=photos, stills=0.0)
    for source in (only_clips, only_stills):
        drawn = [source.draw(sample_generator(0, index)) for index in (0, 0, 1)]
        assert (drawn[0].frames == drawn[1].frames).all() and (drawn[0].places == drawn[1].places).all()
        assert (drawn[0].frames != drawn[2].frames).any() and drawn[0].frames.shape == (3, 32, 32, 3)
    both = _source(video=clips, content=photos, stills=0.3)
    kinds = [(both.draw(sample_generator(0, index)).frames == only_stills.draw(sample_generator(0, index)).frames).all() for index in range(60)]
    assert 0.15 < np.mean(kinds) < 0.45


def test_slower_rates_give_longer_motion(places):
    moved = []
    for rate in (4.0, 24.0):
        source = _source(video=places[0], frame_rate=rate, zoom=(1.0, 1.0))
        clips = [source.draw(sample_generator(0, index)) for index in range(6)]
        moved.append(np.median([np.abs(clip.places[0, 8:-8, 8:-8] - _still(32)[8:-8, 8:-8]).max(-1) for clip in clips]))
    assert moved[0] > 3 * moved[1] > 0


def test_grain_is_its_own_in_every_frame(places):
    clean, grained = (_source(content=places[1], grain=grain).draw(sample_generator(0, 3)) for grain in (0.0, 8.0))
    noise = grained.frames.astype(float) - clean.frames
    assert 0.3 < noise.std() <= 8.5 and (noise[0] != noise[1]).any() and (grained.places == clean.places).all()


def test_a_missing_place_is_an_error(tmp_path):
    with pytest.raises(InputError, match="found nothing of that kind"):
        _source(video=tmp_path / "nowhere")

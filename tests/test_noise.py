"""Noise of the frames of a clip, against its definition written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from hicast.diffusion.noise import SHARED, copy_unmoved, draw_clip_noise, frame_generator, residual_mask
from hicast.errors import UsageError

SHAPE = (4, 24, 24)


def draw(frames, shared_noise=0.0, seed=3):
    own = [frame_generator(seed, frame) for frame in frames]
    return draw_clip_noise(SHAPE, own, frame_generator(seed, SHARED), shared_noise)


def correlation(noise):
    return torch.corrcoef(noise.flatten(1))[0, 1].item()


def test_a_frame_has_the_same_noise_in_every_window():
    for shared_noise in (0.0, 0.5, 1.0):
        assert torch.equal(draw(range(6), shared_noise)[4:], draw(range(4, 6), shared_noise))
    assert not torch.equal(draw(range(2)), draw(range(2), seed=4))


def test_shared_noise_is_the_common_part_of_the_variance():
    for shared_noise in (0.0, 0.3, 1.0):
        noise = draw(range(2), shared_noise)
        assert noise.std().item() == pytest.approx(1, abs=0.05)
        assert correlation(noise) == pytest.approx(shared_noise, abs=0.06)
    assert torch.equal(*draw(range(2), 1.0))


def test_shared_noise_outside_its_range_is_refused():
    with pytest.raises(UsageError, match="shared_noise: expected a number from 0 to 1, found 1.5"):
        draw(range(2), 1.5)


def test_mask_by_hand():
    """One pixel changes fully, another by less than the threshold of the greatest change."""
    maps = torch.zeros(3, 3, 4, 4)
    maps[1:, :, 0, 0] = 0.5
    maps[2, :, 3, 3] = 0.1
    moved = residual_mask(maps, (4, 4), 0.3)
    assert moved.nonzero().tolist() == [[0, 0, 0]]
    assert residual_mask(maps, (4, 4), 0.1).nonzero().tolist() == [[0, 0, 0], [1, 3, 3]]


def test_mask_of_another_size_is_interpolated_before_the_threshold():
    maps = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    change = (maps[1:] - maps[:-1]).abs()
    expected = functional.interpolate(change / change.max(), size=(8, 8), mode="bilinear", antialias=False)
    assert torch.equal(residual_mask(maps, (8, 8), 0.3), expected.mean(1) > 0.3)


def test_a_clip_that_rests_has_moved_nowhere_and_no_threshold_means_everywhere():
    rest = torch.full((3, 1, 8, 8), 0.4)
    assert not residual_mask(rest, (4, 4), 0.15).any()
    assert residual_mask(rest, (4, 4), 0).all()
    assert residual_mask(rest[:1], (4, 4), 0.15).shape == (0, 4, 4)


def test_unmoved_pixels_keep_the_noise_of_where_they_came_to_rest():
    noise = torch.arange(1.0, 5.0).view(4, 1, 1, 1).expand(4, 1, 1, 3)
    moved = torch.tensor([[[0, 1, 1]], [[0, 0, 1]], [[0, 0, 1]]], dtype=torch.bool)
    assert copy_unmoved(noise, moved)[:, 0, 0].tolist() == [[1, 1, 1], [1, 2, 2], [1, 2, 3], [1, 2, 4]]
    assert torch.equal(copy_unmoved(noise, torch.ones_like(moved)), noise)

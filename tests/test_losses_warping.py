"""The flicker loss by hand on toys, and what must not lower it."""

import pytest
import torch

from hicast.losses.warping import carried, squared_gradient, warping_distance

PAIRS = [(0, 1), (1, 2), (0, 2)]
SIDE = 8


def clips(seed: int = 0, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def shifts(*pixels: int, batch: int = 2) -> torch.Tensor:
    """Places for pairs whose pixels were so many to the right, (batch, pairs, height, width, 2)."""
    middles = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    return torch.stack([torch.stack([x + 2 * pixel / SIDE, y], -1) for pixel in pixels]).expand(batch, -1, -1, -1, -1)


def inside(*pixels: int, batch: int = 2) -> torch.Tensor:
    columns = torch.arange(SIDE).expand(SIDE, SIDE)
    return torch.stack([columns + pixel < SIDE for pixel in pixels]).expand(batch, -1, -1, -1)


def test_frames_are_carried_by_whole_pixels():
    frame = clips()[:, 0]
    moved = carried(frame, shifts(2)[:, 0])
    torch.testing.assert_close(moved[..., :-2], frame[..., 2:])
    torch.testing.assert_close(carried(frame, shifts(0)[:, 0]), frame)


def test_distance_by_hand():
    decoded, still = clips(), clips(1)[:, :1].expand(-1, 3, -1, -1, -1)
    found = warping_distance(decoded, still, PAIRS, shifts(0, 0, 0), inside(0, 0, 0))
    values = (decoded + 1) / 2
    error = torch.stack([(values[:, a] - values[:, b]).square().mean((1, 2, 3)) for a, b in PAIRS]).mean(0)
    slope = torch.zeros(2)
    for row in range(SIDE - 1):
        for column in range(SIDE - 1):
            here = values[..., row, column]
            slope += ((values[..., row + 1, column] - here) ** 2 + (values[..., row, column + 1] - here) ** 2).mean((1, 2)) / (SIDE - 1) ** 2
    torch.testing.assert_close(squared_gradient(decoded), slope)
    torch.testing.assert_close(found, error / slope)


def test_a_clip_that_follows_the_motion_has_no_distance_and_hidden_pixels_do_not_count():
    wide = torch.rand(2, 3, SIDE, SIDE + 4)
    moving = torch.stack([wide[..., 2 * t : 2 * t + SIDE] for t in range(3)], 1) * 2 - 1
    way = (-2, -2, -4)
    places, seen = shifts(*way), torch.stack([torch.arange(SIDE).expand(SIDE, SIDE) + p >= 0 for p in (2, 2, 4)]).expand(2, -1, -1, -1)
    backwards = moving.flip(1)
    shown = torch.stack([torch.arange(SIDE).expand(SIDE, SIDE) + p >= 0 for p in way]).expand(2, -1, -1, -1)
    assert warping_distance(backwards, backwards, PAIRS, places, shown).max() < 1e-9
    assert warping_distance(backwards, backwards * 0, PAIRS, places, seen).min() > 0.01


def test_doubtful_pixels_count_less():
    decoded = clips()
    still = clips(1)[:, :1].expand(-1, 3, -1, -1, -1).clone()
    decoded[:, :, :, :, :4] = decoded[:, :1, :, :, :4]  # flickers on the right only
    trusted = warping_distance(decoded, still, PAIRS, shifts(0, 0, 0), inside(0, 0, 0))
    still[:, 1, :, :, 4:] *= -1
    assert (warping_distance(decoded, still, PAIRS, shifts(0, 0, 0), inside(0, 0, 0)) < 0.8 * trusted).all()


def test_muted_and_blurred_clips_gain_nothing():
    decoded, still = clips(), clips(1)[:, :1].expand(-1, 3, -1, -1, -1)
    places, seen = shifts(0, 0, 0), inside(0, 0, 0)
    whole = warping_distance(decoded, still, PAIRS, places, seen)
    torch.testing.assert_close(warping_distance(decoded * 0.3, still, PAIRS, places, seen), whole)
    blurred = torch.nn.functional.avg_pool2d(decoded.flatten(0, 1), 3, 1, 1, count_include_pad=False).unflatten(0, (2, 3))
    assert (warping_distance(blurred, still, PAIRS, places, seen) > whole).all()


def test_nothing_seen_is_no_distance_and_gradients_are_finite():
    decoded = torch.zeros(2, 3, 3, SIDE, SIDE, requires_grad=True)
    loss = warping_distance(decoded, clips(), PAIRS, shifts(0, 1, 2), torch.zeros(2, 3, SIDE, SIDE, dtype=torch.bool))
    assert loss.tolist() == [0, 0]
    moving = clips().requires_grad_()
    (gradient,) = torch.autograd.grad(warping_distance(moving, clips(1), PAIRS, shifts(0, 1, 2), inside(0, 1, 2)).sum(), moving)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    flat = warping_distance(torch.ones(2, 3, 3, SIDE, SIDE), clips(1), PAIRS, shifts(0, 0, 0), inside(0, 0, 0))
    assert flat.tolist() == pytest.approx([0, 0])

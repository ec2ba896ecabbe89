"""Clouds and stripes of colour that the photo does not have."""

from __future__ import annotations

import torch
from hicast.losses.clouds import cloudiness

WALL = torch.zeros(1, 3, 64, 64)


def checks(side: int, height: float) -> torch.Tensor:
    """A red board whose fields have `side` pixels and rise by `height`."""
    odd = torch.arange(64) // side % 2
    board = WALL.clone()
    board[0, 0] = height * (odd[:, None] ^ odd)
    return board


def test_blocks_on_a_wall_count_by_their_height() -> None:
    none, low, high = (cloudiness(checks(8, height), WALL).item() for height in (0.02, 0.2, 0.4))
    assert none == 0 and high > 2 * low > 0
    # one of two distances and one of three colours sees each step of the square cells, whose axes share one of three places
    assert abs(low - (0.2 - 0.02) / 3 / 2 / 3) < 1e-6


def test_strokes_finer_than_a_cell_pass() -> None:
    assert cloudiness(checks(2, 0.4), WALL).item() == 0


def test_steps_that_the_photo_has_in_another_colour_pass() -> None:
    photo = checks(8, 0.4).roll(1, 1)
    assert cloudiness(checks(8, 0.5), photo).item() == 0 < cloudiness(checks(8, 0.9), photo).item()


def test_faint_stripes_along_either_axis_are_found_where_blocks_as_faint_pass() -> None:
    stripes = WALL.clone()
    stripes[..., ::8] = stripes[..., 1::8] = 0.08  # 0.04 in the mean of every other cell of 4 pixels
    along, across = cloudiness(stripes, WALL).item(), cloudiness(stripes.transpose(2, 3), WALL).item()
    assert along > 0 and abs(along - across) < 1e-7
    scattered = WALL.clone()
    scattered[..., ::8, ::8] = 0.08
    assert cloudiness(scattered, WALL).item() == 0


def test_it_has_a_gradient_and_one_value_per_sample() -> None:
    image = torch.cat([checks(8, 0.4), WALL]).requires_grad_()
    values = cloudiness(image, torch.cat([WALL, WALL]))
    values.sum().backward()
    assert values.shape == (2,) and values[1] == 0 and image.grad[0].abs().sum() > 0 == image.grad[1].abs().sum()

"""Edges along the borders of cells."""

from __future__ import annotations

import torch
from hicast.losses.blocks import blockiness
from torch.nn import functional


def mosaic(cell: int) -> torch.Tensor:
    """Cells of random colours, (1, 3, 64, 64)."""
    torch.manual_seed(0)
    colors = torch.rand(1, 3, 64 // cell, 64 // cell) * 2 - 1
    return functional.interpolate(colors, scale_factor=cell, mode="nearest")


def test_a_mosaic_of_the_period_is_found_and_no_other_picture() -> None:
    smooth = functional.interpolate(mosaic(8)[..., ::8, ::8], size=(64, 64), mode="bicubic")
    assert blockiness(mosaic(8)).item() > 0.75
    for clean in (smooth, mosaic(8).roll((4, 4), (2, 3)), torch.rand(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)):
        assert blockiness(clean).item() < 0.02


def test_a_faint_mosaic_counts_less_and_both_axes_alike() -> None:
    picture = mosaic(8)
    faint, turned = blockiness(0.05 * picture).item(), blockiness(picture.transpose(2, 3)).item()
    assert faint < 0.9 * blockiness(picture).item() and abs(turned - blockiness(picture).item()) < 1e-6


def test_value_by_hand() -> None:
    picture = torch.zeros(1, 3, 40, 40)
    picture[..., 16:] = 0.5  # one of the four borders whose neighbourhood lies inside
    steep = 0.5 / (0.5 + 0.02)
    assert abs(blockiness(picture).item() - (steep / 4 - 0.1) / 2) < 1e-6


def test_it_has_a_gradient_and_one_value_per_sample() -> None:
    pictures = torch.cat([mosaic(8), torch.zeros(1, 3, 64, 64)]).requires_grad_()
    values = blockiness(pictures)
    values.sum().backward()
    assert values.shape == (2,) and values[1] == 0 and pictures.grad[0].abs().sum() > 0

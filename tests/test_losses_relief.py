"""Fine light and shade: what the term `relief` sees and what it does not."""

import pytest
import torch

from hicast.losses.perceptual import relief_distance


def _photo(side: int = 64) -> torch.Tensor:
    return (torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(1)) - 0.5).expand(1, 3, -1, -1)


def test_colours_and_broad_light_are_free():
    photo = _photo()
    slope = torch.linspace(-0.3, 0.3, 64).expand(1, 3, 64, -1)
    tint = torch.tensor([0.587, -0.299, 0.0]).view(1, 3, 1, 1)  # luma 0
    assert relief_distance(photo, photo) == 0
    assert relief_distance(photo + slope + 0.2 * tint, photo).item() < 0.01


def test_what_has_none_is_one_away_and_the_opposite_four():
    photo = _photo()
    assert relief_distance(torch.zeros_like(photo), photo).item() == pytest.approx(1, abs=0.03)
    assert relief_distance(-photo, photo).item() == pytest.approx(4, abs=0.1)


def test_a_faint_photo_does_not_count_more_than_one_sees():
    faint, other = 1e-4 * _photo(), torch.zeros(1, 3, 64, 64)
    assert relief_distance(other, faint).item() < 1e-3
    assert relief_distance(torch.cat([_photo()] * 2), torch.cat([_photo()] * 2)).shape == (2,)

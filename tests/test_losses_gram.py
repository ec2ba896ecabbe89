"""Distances of Gram matrices: what each says of a picture that is paler than the painting."""

from __future__ import annotations

import math

import torch
from hicast.losses.perceptual import gram, gram_angle, gram_distance

LAYERS = {"one": 2.0}


def test_angle_of_equal_and_of_brighter_features() -> None:
    features = torch.rand(3, 4, 5, 6)
    target = {"one": gram(features)}
    torch.testing.assert_close(gram_angle({"one": features}, target, LAYERS), torch.zeros(3), atol=1e-6, rtol=0)
    brighter = gram_angle({"one": features * 1.5}, target, LAYERS)
    torch.testing.assert_close(brighter, torch.full((3,), 2 * (2 * math.log(1.5)) ** 2))


def test_angle_of_features_of_two_channels() -> None:
    """Gram matrices diag(1, 0) and diag(1, 1) / 2: 45 degrees apart, norms 1 and 1/sqrt(2)."""
    ours, theirs = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    ours[0, 0] = 1
    theirs[0, 0, 0, 0] = theirs[0, 1, 0, 1] = 1
    found = gram_angle({"one": ours}, {"one": gram(theirs)}, {"one": 1.0})
    torch.testing.assert_close(found, torch.tensor([1 - math.sqrt(0.5) + math.log(math.sqrt(2)) ** 2]))


def test_paleness_pays_in_squares_and_not_by_the_angle() -> None:
    """What points elsewhere comes nearer in squares by growing paler."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.rand(1, 6, 8, 8, generator=generator), torch.rand(1, 6, 8, 8, generator=generator)
    theirs[:, :3] = 0
    target = {"one": gram(theirs)}
    ours = ours * (target["one"].norm() / gram(ours).norm()).sqrt()
    paler = ours * 0.8
    assert gram_distance({"one": paler}, target, LAYERS) < gram_distance({"one": ours}, target, LAYERS)
    assert gram_angle({"one": paler}, target, LAYERS) > gram_angle({"one": ours}, target, LAYERS) + 0.1


def test_strength_of_a_nearly_flat_painting_counts_no_more() -> None:
    features = torch.rand(1, 4, 8, 8)
    distances = [gram_angle({"one": features}, {"one": gram(features) * scale}, {"one": 1.0}).item() for scale in (0.01, 100)]
    assert abs(distances[0] - distances[1]) < 1e-3 and distances[0] < 25

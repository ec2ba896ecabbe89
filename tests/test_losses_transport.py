"""Distances that match neighbourhoods, restated position by position."""

from __future__ import annotations

import math

import torch
from hicast.losses.transport import contextual_distance, transport_distance


def cubes(features: torch.Tensor) -> list[torch.Tensor]:
    return [features[0, :, y : y + 3, x : x + 3].flatten() for y in range(3) for x in range(3)]


def test_definition_position_by_position() -> None:
    ours, target = torch.rand(1, 2, 5, 5), torch.rand(1, 2, 5, 5)

    def nearest(ones: list[torch.Tensor], others: list[torch.Tensor]) -> float:
        best = [max(torch.cosine_similarity(one, other, 0).item() for other in others) for one in ones]
        return sum(best) / len(best)

    wanted = 1 - (nearest(cubes(ours), cubes(target)) + nearest(cubes(target), cubes(ours))) / 2
    found = transport_distance({"one": ours}, {"one": target}, {"one": 2.0})
    torch.testing.assert_close(found, torch.tensor([2 * wanted]))


def test_places_do_not_count_but_what_is_missing_does() -> None:
    target = torch.rand(1, 4, 8, 16)
    left, moved = target[..., :8].repeat(1, 1, 1, 2), target.roll(8, -1)
    distances = [transport_distance({"one": picture}, {"one": target}, {"one": 1.0}).item() for picture in (target, moved, left)]
    assert abs(distances[0]) < 1e-5 and distances[1] < distances[2]


def test_contextual_distance_position_by_position() -> None:
    ours, target = torch.rand(1, 2, 5, 5), torch.rand(1, 2, 5, 5)
    shares = []
    for one in cubes(ours):
        distances = [1 - torch.cosine_similarity(one, other, 0).item() for other in cubes(target)]
        near = [math.exp((1 - distance / (min(distances) + 1e-5)) / 0.2) for distance in distances]
        shares.append([value / sum(near) for value in near])
    wanted = -math.log(sum(max(column) for column in zip(*shares, strict=True)) / 9)
    found = contextual_distance({"one": ours}, {"one": target}, {"one": 2.0})
    torch.testing.assert_close(found, torch.tensor([2 * wanted]))


def test_one_pattern_everywhere_is_far_in_context_although_each_piece_is_at_home() -> None:
    target = torch.rand(1, 4, 8, 16)
    stamped = target[..., :4].repeat(1, 1, 1, 4)
    distances = [contextual_distance({"one": picture}, {"one": target}, {"one": 1.0}).item() for picture in (target, target.roll(8, -1), stamped)]
    assert distances[0] < 1e-3 and distances[1] < distances[2]

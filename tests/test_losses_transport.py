"""The relaxed earth mover's distance of neighbourhoods, restated position by position."""

from __future__ import annotations

import torch
from hicast.losses.transport import transport_distance


def test_definition_position_by_position() -> None:
    ours, target = torch.rand(1, 2, 5, 5), torch.rand(1, 2, 5, 5)

    def cubes(features: torch.Tensor) -> list[torch.Tensor]:
        return [features[0, :, y : y + 3, x : x + 3].flatten() for y in range(3) for x in range(3)]

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

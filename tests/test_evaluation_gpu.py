"""On a GPU: the same figures as on a CPU, and memory as it is allocated."""

import pytest
import torch

from hicast.evaluation import bench
from hicast.evaluation.eye import open_eye
from hicast.evaluation.metrics import open_metrics
from hicast.evaluation.sight import Sight, look_at

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device at hand")]


def test_figures_are_those_of_a_cpu():
    pictures, found = [bench.made_up(96, seed) for seed in range(3)], []
    for device in ("cpu", "cuda"):
        eye = open_eye(device=device)
        sights = [Sight(pixels, eye) for pixels in pictures]
        look_at(sights, 2)
        found.append({metric.name: metric.score(*sights) for metric in open_metrics(eye)})
    assert found[1] == pytest.approx(found[0], rel=2e-2, abs=5e-3)


def test_memory_is_what_is_allocated():
    peak, run = bench.peak_memory(lambda: torch.ones(64 * 2**20, dtype=torch.uint8, device="cuda").sum(), "cuda")
    assert peak >= run and 64 <= run < 80

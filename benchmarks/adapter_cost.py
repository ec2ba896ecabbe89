"""What the adapters of a model cost on a default picture, their maps being given."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from hicast.evaluation.bench import PAINTING_SIDE, made_up
from hicast.io.images import to_tensor
from hicast.pipeline import HiCastPipeline
from timing import interleaved
from torch import Tensor


def adapter_cost(pipeline: HiCastPipeline, rounds: int, side: int = 512) -> dict[str, Any]:
    """Seconds of a made-up picture of `side` pixels without and with all adapters at weight 1, and the shares they add.

    The runs take turns for `rounds` rounds. `added` is the share of the picture's time that all adapters add, of which `features` is
    that of their nets and `net` the rest; `added_to_painted` leaves out of the picture's time that of encoding the painting.
    """
    photo, painting = to_tensor(made_up(side, 0)), to_tensor(made_up(PAINTING_SIDE, 1))
    maps, weights = dict.fromkeys(pipeline.adapters.names, photo / 2 + 0.5), dict.fromkeys(pipeline.adapters.names, 1.0)
    there = {name: control.to(pipeline.device) for name, control in maps.items()}
    runs = {
        "without": lambda: pipeline.stylize_image(photo, [(painting, 1.0)], size=side),
        "with": lambda: pipeline.stylize_image(photo, [(painting, 1.0)], size=side, controls=maps, adapters=weights),
        "features": lambda: _features(pipeline, there),
        "painting": lambda: pipeline.encode_style([(painting, 1.0)]).vector.cpu(),
    }
    found, _ = interleaved({(name, side): run for name, run in runs.items()}, rounds)
    seconds = {name: found[name, side] for name in runs}
    each = [dict(zip(seconds, values, strict=True)) for values in zip(*seconds.values(), strict=True)]
    added, features = (median(value(one) / one["without"] for one in each) for value in (_added, lambda one: one["features"]))
    painted = median(_added(one) / (one["without"] - one["painting"]) for one in each)
    return {"adapters": list(maps), "side": side, "rounds": rounds, "threads": torch.get_num_threads(),
            "seconds": {name: median(values) for name, values in seconds.items()},
            "added": added, "features": features, "net": added - features, "added_to_painted": painted}  # fmt: skip


def _added(seconds: Mapping[str, float]) -> float:
    """What the adapters add in one round."""
    return seconds["with"] - seconds["without"]


@torch.inference_mode()
def _features(pipeline: HiCastPipeline, maps: Mapping[str, Tensor]) -> list[Tensor]:
    """The coarsest features of each adapter, on the CPU, so that all are done."""
    return [levels[-1].cpu() for levels in pipeline.adapters.features(maps).values()]

"""A stage of one linear layer, for tests of the loop, and what tells its runs apart."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hicast.config.train_run import TrainSettings
from hicast.training.data import sample_generator


class Settings(TrainSettings):
    """Settings of the stage below."""

    stage: str = "toy"


class Stage:
    """Learns to double three numbers."""

    def __init__(self, **changes):
        values = {"steps": 8, "batch_size": 4, "warmup": 2, "checkpoint_every": 3, "log_every": 1, "sheet_every": 0, "tensorboard": False}
        self.settings = Settings(losses={"square": 2.0, "size": 0.1}, **(values | changes))
        self.device = torch.device("cpu")
        torch.manual_seed(0)
        self.net = nn.Linear(3, 3)
        self.seen = []
        self.origins = {"weights of the net": "1", "files of content": "2"}

    def trainable(self):
        return {"net": self.net}

    def stands_on(self):
        return dict(self.origins)

    def batch(self, step, rows):
        drawn = [sample_generator(0, step * self.settings.batch_size + row).normal(size=3) for row in rows]
        return torch.tensor(np.stack(drawn), dtype=torch.float32)

    def step(self, batch, step):
        self.seen.append((step, len(batch)))
        return {"square": (self.net(batch) - 2 * batch).square().mean(), "size": self.net(batch).abs().mean()}

    def preview(self):
        return np.full((8, 8, 3), 100, np.uint8)

    def save(self, folder):
        (folder / "net").mkdir(exist_ok=True)
        save_file(self.net.state_dict(), folder / "net" / "diffusion_pytorch_model.safetensors")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What the run in `folder` came to."""
    return load_file(folder / "net" / "diffusion_pytorch_model.safetensors")


def rows(folder: Path) -> list[dict]:
    """The log of the run in `folder`."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same_weights(one: Path, other: Path) -> bool:
    """Whether the runs of both folders ended bit by bit alike."""
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)

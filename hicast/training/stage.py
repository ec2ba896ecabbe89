"""What the training loop asks of a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from hicast.config.train_run import TrainSettings
from hicast.losses.terms import LossTerms


class Stage(Protocol):
    """A training stage: what trains, on what, against which loss, and what is saved.

    The loss of a step is one sum with one backward pass. A discriminator is one more trainable module: its own term is
    computed on detached pictures, the term that it gives the net with its weights detached (`torch.func.functional_call`).
    Terms must be means over samples, in one step the same ones on every process, and reach every trainable parameter.
    """

    settings: TrainSettings
    device: torch.device

    def trainable(self) -> dict[str, nn.Module]:
        """Modules by name whose parameters train; everything else is frozen."""

    def stands_on(self) -> dict[str, str]:
        """Digests of the frozen nets and the data, by what messages call them: none of it is saved with a checkpoint."""

    def batch(self, step: int, rows: range) -> Any:
        """The part `rows` of the batch of `step`, with all that is random in it; called on other threads.

        Sample `row` is keyed by `step * batch_size + row`; what is drawn for a whole batch is drawn whole and cut, so
        that any number of processes computes the same.
        """

    def step(self, batch: Any, step: int) -> LossTerms:
        """Loss terms of one part of a batch, with gradients."""

    def preview(self) -> np.ndarray | None:
        """A contact sheet of fixed samples, uint8 (height, width, 3), or None."""

    def save(self, folder: Path) -> None:
        """Write the model as it stands to `folder` (diffusers layout)."""

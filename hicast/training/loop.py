"""The training loop: optimizer, rate, clipping, averaging, logging, saving and resuming, for any stage."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from hicast.config.train import TrainSettings
from hicast.errors import ModelError, UsageError
from hicast.losses.terms import LossTerms, weighted_sum
from hicast.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint

OnProgress = Callable[[int, int, dict[str, float]], None]
MAX_BAD_STEPS = 20


class Stage(Protocol):
    """A training stage: what trains, on what, against which loss, and what is saved."""

    settings: TrainSettings

    def trainable(self) -> dict[str, nn.Module]:
        """Modules by name whose parameters train; everything else is frozen."""

    def batches(self, first: int, last: int) -> Iterator[object]:
        """Batches of the steps `first` to `last - 1`, the same for the same seed and step."""

    def step(self, batch: object, step: int) -> LossTerms:
        """Loss terms of one batch, with gradients."""

    def save(self, folder: Path) -> None:
        """Write the model as it stands to `folder` (diffusers layout)."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the last step, whether all steps are done, and the model folder."""

    step: int
    finished: bool
    folder: Path


def train(stage: Stage, output: Path, *, max_minutes: float | None = None, resume: bool = True,
          on_progress: OnProgress | None = None) -> Outcome:
    """Run `stage` to its number of steps, resuming from `output/checkpoints`, and write the model to `output`.

    A signal raised as KeyboardInterrupt or SystemExit saves a checkpoint and goes on up. Raises UsageError when the
    run in `output` had other settings, ModelError when the loss stays NaN or infinite.
    """
    run = _Run(stage, output)
    first = run.restore() if resume else 0
    started, step = time.monotonic(), first
    try:
        for batch in stage.batches(first, stage.settings.steps):
            values = run.advance(batch, step)
            step += 1
            if on_progress:
                on_progress(step, stage.settings.steps, values)
            out_of_time = max_minutes is not None and time.monotonic() - started > 60 * max_minutes
            if step % stage.settings.checkpoint_every == 0 or out_of_time:
                run.save(step)
            if out_of_time:
                break
    except (KeyboardInterrupt, SystemExit):
        run.save(step)
        raise
    run.save(step)
    run.export()
    return Outcome(step, step >= stage.settings.steps, output)


class _Run:
    """One run's optimizer, averages and log."""

    def __init__(self, stage: Stage, output: Path) -> None:
        self.stage, self.settings, self.output = stage, stage.settings, output
        self.modules = stage.trainable()
        self.parameters = {
            f"{name}.{key}": value
            for name, module in self.modules.items()
            for key, value in module.named_parameters()
            if value.requires_grad
        }
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=self.settings.learning_rate,
            betas=self.settings.betas,
            weight_decay=self.settings.weight_decay,
        )
        self.ema = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.bad_steps = 0
        self.output.mkdir(parents=True, exist_ok=True)

    def advance(self, batch: object, step: int) -> dict[str, float]:
        """One optimizer step; the values of every loss term by name."""
        rate = learning_rate(self.settings, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms = self.stage.step(batch, step)
        loss = weighted_sum(terms, self.settings.losses)
        values = {name: float(value.detach()) for name, value in terms.items()} | {"loss": float(loss.detach())}
        if not math.isfinite(values["loss"]):
            self._skip(step)
            return values
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip)
        if torch.isfinite(norm):
            self.bad_steps = 0
            self.optimizer.step()
            self._average(step)
        else:
            self._skip(step)
        self.optimizer.zero_grad(set_to_none=True)
        if (step + 1) % self.settings.log_every == 0:
            self._log({"step": step + 1, "rate": rate, "norm": float(norm), **values})
        return values

    def _skip(self, step: int) -> None:
        self.bad_steps += 1
        self._log({"step": step + 1, "skipped": "the loss or its gradient is not finite"})
        if self.bad_steps >= MAX_BAD_STEPS:
            raise ModelError(
                f"expected a finite loss, found {self.bad_steps} steps in a row without one; the last good checkpoint "
                f"is in {self.output / 'checkpoints'}: lower learning_rate"
            )

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = min(self.settings.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.ema.values()), list(self.parameters.values()), 1 - decay)

    def _log(self, row: dict[str, object]) -> None:
        with (self.output / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")

    def save(self, step: int) -> None:
        """Write a checkpoint of `step`."""
        state = {"settings": self.settings.model_dump(mode="json"), "bad_steps": self.bad_steps}
        save_checkpoint(self.output / "checkpoints", step, self.modules, self.optimizer, self.ema, state,
                        self.settings.keep_checkpoints)

    def restore(self) -> int:
        """Load the newest checkpoint, if any; the step to go on from."""
        found = list_checkpoints(self.output / "checkpoints")
        if not found:
            return 0
        state = load_checkpoint(found[-1], self.modules, self.optimizer, self.ema)
        now = self.settings.model_dump(mode="json")
        differing = sorted(key for key in now if now[key] != state["settings"].get(key))
        if differing:
            raise UsageError(
                f"the run in {self.output} has other settings for {', '.join(differing)}: use them again, "
                "another --output, or --no-resume"
            )
        self.bad_steps = state["bad_steps"]
        return state["step"]

    @torch.no_grad()
    def export(self) -> None:
        """Write the model with the averaged weights, then put the trained ones back."""
        current = {name: value.detach().clone() for name, value in self.parameters.items()}
        _copy_into(self.parameters, self.ema)
        try:
            self.stage.save(self.output)
        finally:
            _copy_into(self.parameters, current)


def _copy_into(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].data.copy_(value)


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Linear warm-up, then a cosine from `learning_rate` down to `final_rate` times it."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return settings.learning_rate * (settings.final_rate + (1 - settings.final_rate) * cosine)

"""One optimizer step after another, on one process or several, in one precision or two; knows of no files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hicast.config.train_run import TrainSettings
from hicast.losses.terms import LossTerms, weighted_sum
from hicast.training.checkpoint import Training
from hicast.training.stage import Stage


class Trainer:
    """A stage's weights, their optimizer and their averages."""

    def __init__(self, stage: Stage, processes: Accelerator) -> None:
        """Share the step of `stage` among `processes`."""
        self.settings, self.device, self.processes = stage.settings, stage.device, processes
        modules = stage.trainable()
        self.parameters = {
            f"{name}.{key}": value
            for name, module in modules.items()
            for key, value in module.named_parameters()
            if value.requires_grad
        }
        settings = self.settings
        optimizer = torch.optim.AdamW(_groups(settings, modules), lr=settings.learning_rate, fused=True)
        averages = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.training = Training(modules, optimizer, averages)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled="float16" in (settings.autocast, settings.frozen_dtype))
        self.module = processes.prepare_model(_Step(stage, modules))

    def advance(self, batch: Sequence[Any], step: int, wishes: Sequence[bool] = ()) -> tuple[dict[str, float], list[bool]]:
        """One step on the parts of a batch: the mean of every term with `loss`, `norm` and `rate`, and the wishes.

        A step whose loss or gradient is not finite changes nothing. A wish comes back as true where any process has it,
        so that all of them do the same after the same step.
        """
        optimizer, rate = self.training.optimizer, learning_rate(self.settings, step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        torch.manual_seed((self.settings.seed * 1_000_003 + step) * self.processes.num_processes + self.processes.process_index)
        means = self._backward(batch, step)
        self.scaler.unscale_(optimizer)
        means["norm"] = self._clipped()
        values, granted = self._agreed(means, wishes)
        finite = is_finite(values)
        if finite or self.scaler.is_enabled():  # the scaler leaves a bad step out itself, and lowers its scale
            self.scaler.step(optimizer)
            self.scaler.update()
        if finite:
            self._average(step)
        optimizer.zero_grad(set_to_none=True)
        return values | {"rate": rate}, granted

    @contextmanager
    def averages(self) -> Iterator[None]:
        """The averaged weights in place of the trained ones for as long as the block runs."""
        current = {name: value.detach().clone() for name, value in self.parameters.items()}
        _copy_into(self.parameters, self.training.ema)
        try:
            yield
        finally:
            _copy_into(self.parameters, current)

    def _backward(self, batch: Sequence[Any], step: int) -> dict[str, Tensor]:
        """Gradients of the mean over all parts; the mean of every term and of the whole loss."""
        means: dict[str, Tensor] = {}
        for number, part in enumerate(batch, 1):
            with self.processes.no_sync(self.module) if number < len(batch) else nullcontext():
                terms = self.module(part, step)
                loss = weighted_sum(terms, self.settings.losses)
                self.scaler.scale(loss / len(batch)).backward()
            for name, value in {**terms, "loss": loss}.items():
                means[name] = means.get(name, 0) + value.detach().float() / len(batch)
        return means

    def _agreed(self, means: dict[str, Tensor], wishes: Sequence[bool]) -> tuple[dict[str, float], list[bool]]:
        """`means` over all processes, fetched from the device at once, and which of the wishes any of them has."""
        asked = torch.tensor([float(wish) for wish in wishes], device=self.device)
        numbers = self.processes.reduce(torch.cat([torch.stack([*means.values()]), asked]), "mean").tolist()
        return dict(zip(means, numbers)), [share > 0 for share in numbers[len(means) :]]

    def _clipped(self) -> Tensor:
        """Norm of the whole gradient, before that of each group of modules is held within `clip`."""
        norms = [
            torch.nn.utils.clip_grad_norm_(group["params"], self.settings.clip) for group in self.training.optimizer.param_groups
        ]
        return torch.stack(norms).norm()

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = min(self.settings.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.training.ema.values()), list(self.parameters.values()), 1 - decay)


class _Step(nn.Module):
    """A stage's step as a module that holds what it trains, so that accelerate can share it among processes."""

    def __init__(self, stage: Stage, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(modules)
        self.stage = stage

    def forward(self, batch: Any, step: int) -> LossTerms:
        return self.stage.step(batch, step)


def _groups(settings: TrainSettings, modules: Mapping[str, nn.Module]) -> list[dict[str, Any]]:
    """Trained weights by the options of their optimizer, modules of equal options together."""
    groups: list[dict[str, Any]] = []
    for name, module in modules.items():
        options = settings.optimizer(name)
        trained = [value for value in module.parameters() if value.requires_grad]
        same = [group for group in groups if {**group, "params": None} == {**options, "params": None}]
        if same:
            same[0]["params"] += trained
        else:
            groups.append({"params": trained, **options})
    return [group for group in groups if group["params"]]


def is_finite(values: dict[str, float]) -> bool:
    """Whether the loss of a step and its gradient are neither NaN nor infinite."""
    return math.isfinite(values["loss"]) and math.isfinite(values["norm"])


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Linear warm-up, then `learning_rate`, constant or on a cosine down to `final_rate` times it."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    if settings.rate == "constant":
        return settings.learning_rate
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return settings.learning_rate * (settings.final_rate + (1 - settings.final_rate) * cosine)


def _copy_into(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].data.copy_(value)

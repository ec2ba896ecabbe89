"""What a net's prediction means: the clean latents that follow from it, and what it should have been."""

from __future__ import annotations

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from hicast.errors import ModelError

SMALLEST_SIGNAL = 1e-3
"""Least share of the clean latents that is divided by; predicted noise says nothing of them where there is none."""

KINDS = ("epsilon", "v_prediction", "sample")


def clean_estimate(scheduler: SchedulerMixin, prediction: Tensor, noisy: Tensor, timestep: int) -> Tensor:
    """The clean latents, of the shape of `noisy` (batch, channels, height, width), that `prediction` at `timestep` stands for.

    By the scheduler's prediction type. Source: arXiv 2006.11239 (noise), arXiv 2202.00512 (velocity). Raises ModelError for
    another type.
    """
    signal, noise = _shares(scheduler, timestep)
    kind = prediction_kind(scheduler)
    if kind == "sample":
        return prediction
    if kind == "epsilon":
        return (noisy - noise * prediction) / max(signal, SMALLEST_SIGNAL)
    return signal * noisy - noise * prediction


def regression_target(scheduler: SchedulerMixin, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
    """What a net should predict at `timestep` for `clean` latents to which `noise` was added; all of one shape.

    Raises ModelError for an unknown prediction type.
    """
    signal, strength = _shares(scheduler, timestep)
    kind = prediction_kind(scheduler)
    if kind == "sample":
        return clean
    return noise if kind == "epsilon" else signal * noise - strength * clean


def prediction_for(scheduler: SchedulerMixin, clean: Tensor, noisy: Tensor, timestep: int) -> Tensor:
    """The prediction at `timestep` that stands for the `clean` latents where they are `noisy` now: what `clean_estimate` undoes.

    Raises ModelError for an unknown prediction type.
    """
    signal, strength = _shares(scheduler, timestep)
    noise = (noisy - signal * clean) / max(strength, SMALLEST_SIGNAL)
    return regression_target(scheduler, clean, noise, timestep)


def prediction_kind(scheduler: SchedulerMixin) -> str:
    """What the net of `scheduler` predicts: one of `KINDS`; raises ModelError for anything else."""
    kind = scheduler.config.prediction_type
    if kind not in KINDS:
        raise ModelError(f"scheduler: expected prediction_type to be one of {', '.join(KINDS)}, found {kind}; correct its config")
    return kind


def _shares(scheduler: SchedulerMixin, timestep: int) -> tuple[float, float]:
    """By how much clean latents and noise are multiplied at `timestep`."""
    kept = torch.as_tensor(scheduler.alphas_cumprod[timestep]).double()
    return float(kept.sqrt()), float((1 - kept).sqrt())

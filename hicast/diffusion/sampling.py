"""The sampling loop: any denoise callable, any diffusers scheduler, explicit noise."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import diffusers
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from hicast.config.problems import name_advice
from hicast.errors import UsageError

SCHEDULERS: dict[str, str] = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpmpp": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "lcm": "LCMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Names of schedulers for users, and their classes in diffusers."""


class Denoise(Protocol):
    """What a sampler knows of a net."""

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Prediction of the shape of `latents` (batch, channels, height, width), of the kind the scheduler expects."""


def make_scheduler(name: str, config: Mapping[str, Any]) -> SchedulerMixin:
    """The scheduler called `name`, with what it knows of `config` (the noise schedule of the model).

    Keys that only other schedulers have are left out. Raises UsageError for an unknown name.
    """
    if name not in SCHEDULERS:
        raise UsageError(f"scheduler: expected the name of one, found {name}; {name_advice(name, SCHEDULERS)}")
    scheduler = getattr(diffusers, SCHEDULERS[name])
    known = inspect.signature(scheduler.__init__).parameters
    return scheduler(**{key: value for key, value in config.items() if key in known})


def draw_noise(
    shape: Sequence[int], seed: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Normal noise of `shape`, drawn on the CPU in float32, so that a seed means the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator).to(device, dtype)


def sample(
    denoise: Denoise,
    latents: Tensor,
    scheduler: SchedulerMixin,
    steps: int,
    generator: torch.Generator | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Latents (batch, channels, height, width) after `steps` steps from the noise `latents`, which stay as they are.

    `scheduler` is copied, not changed. `generator` feeds the schedulers that add noise on the way (lcm, ddpm);
    `on_progress(done, total)` is called after each step. Raises UsageError if `steps` does not suit the scheduler.
    """
    scheduler = copy.deepcopy(scheduler)
    timesteps = _set_steps(scheduler, steps, latents.device)
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    latents = latents * scheduler.init_noise_sigma
    for done, timestep in enumerate(timesteps, 1):
        prediction = denoise(scheduler.scale_model_input(latents, timestep), timestep)
        latents = scheduler.step(prediction, timestep, latents, **extra).prev_sample
        if on_progress is not None:
            on_progress(done, len(timesteps))
    return latents


def timesteps_of(scheduler: SchedulerMixin, steps: int) -> list[float]:
    """The timesteps at which `sample` calls the net, in their order; raises UsageError as it does."""
    return [float(timestep) for timestep in _set_steps(copy.deepcopy(scheduler), steps, torch.device("cpu"))]


def clean_estimate(prediction: Tensor, noisy: Tensor, timestep: int, scheduler: SchedulerMixin) -> Tensor:
    """Clean latents that a `prediction` for the latents `noisy` at `timestep` amounts to, by the scheduler's kind of prediction.

    Source: reference, 7.1, for noise; arXiv 2202.00512 for velocity.
    """
    kind = scheduler.config.prediction_type
    signal = scheduler.alphas_cumprod[timestep].sqrt().to(noisy)
    noise = (1 - scheduler.alphas_cumprod[timestep]).sqrt().to(noisy)
    if kind == "epsilon":
        return (noisy - noise * prediction) / signal
    return signal * noisy - noise * prediction if kind == "v_prediction" else prediction


def _set_steps(scheduler: SchedulerMixin, steps: int, device: torch.device) -> Tensor:
    most = scheduler.config.num_train_timesteps
    if not 1 <= steps <= most:
        raise UsageError(f"steps: expected 1 to {most}, found {steps}; change it")
    try:
        scheduler.set_timesteps(steps, device=device)
    except ValueError as error:
        name = type(scheduler).__name__
        raise UsageError(f"steps: expected a number that {name} accepts, found {steps}: {error}; change it, or take another scheduler") from error
    return scheduler.timesteps

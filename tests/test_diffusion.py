"""Guidance and sampling with analytic denoisers: no net is needed to know the right answer."""

from __future__ import annotations

import pytest
import torch

from hicast.diffusion.guidance import FULL, NO_CONTENT, NO_STYLE, guide, guide_stacked, plan_guidance
from hicast.diffusion.sampling import SCHEDULERS, draw_noise, make_scheduler, sample
from hicast.errors import UsageError

ZERO_SNR = {
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "sample",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}
SHAPE = (1, 2, 4, 4)
TARGET = torch.linspace(-2, 2, 32).view(SHAPE)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", range(1, 9))
def test_every_scheduler_reaches_the_only_sample(name, steps):
    """A denoiser that always answers with the one picture there is must end at that picture."""
    done = []
    found = sample(
        lambda latents, timestep: TARGET,
        draw_noise(SHAPE, 0),
        make_scheduler(name, ZERO_SNR),
        steps,
        torch.Generator().manual_seed(0),
        lambda i, total: done.append((i, total)),
    )
    assert done == [(i, steps) for i in range(1, steps + 1)]
    assert torch.allclose(found, TARGET, atol=2e-2)


def test_ddim_follows_the_line_between_noise_and_sample():
    """With zero terminal SNR the latents stay sqrt(abar) x + sqrt(1 - abar) noise all the way, from pure noise."""
    scheduler, noise, seen = make_scheduler("ddim", ZERO_SNR), draw_noise(SHAPE, 3), []

    def denoise(latents, timestep):
        seen.append((int(timestep), latents))
        return TARGET

    assert torch.allclose(sample(denoise, noise, scheduler, 4), TARGET, atol=1e-5)
    assert [timestep for timestep, _ in seen] == [999, 749, 499, 249]
    for timestep, latents in seen:
        abar = scheduler.alphas_cumprod[timestep]
        assert torch.allclose(latents, abar.sqrt() * TARGET + (1 - abar).sqrt() * noise, atol=1e-5)
    assert scheduler.alphas_cumprod[999] == 0


def test_sampling_leaves_its_arguments_alone():
    scheduler, noise = make_scheduler("dpmpp", ZERO_SNR), draw_noise(SHAPE, 1)
    before, timesteps = noise.clone(), scheduler.timesteps.clone()
    sample(lambda latents, timestep: latents * 0.5, noise, scheduler, 3)
    assert torch.equal(noise, before) and torch.equal(scheduler.timesteps, timesteps)


@pytest.mark.parametrize("name", ["lcm", "ddpm"])
def test_same_generator_same_bytes(name):
    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return sample(lambda x, t: x * 0.5, draw_noise(SHAPE, 0), make_scheduler(name, ZERO_SNR), 4, generator)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_noise_depends_on_the_seed_only():
    assert torch.equal(draw_noise(SHAPE, 5), draw_noise(SHAPE, 5))
    assert not torch.equal(draw_noise(SHAPE, 5), draw_noise(SHAPE, 6))


def test_unknown_scheduler_and_impossible_steps():
    with pytest.raises(UsageError) as caught:
        make_scheduler("dimm", {})
    assert str(caught.value) == "scheduler: expected the name of one, found dimm; did you mean ddim? known: ddim, ddpm, dpmpp, euler, lcm, unipc"
    with pytest.raises(UsageError, match="expected 1 to 1000, found 0; change it"):
        sample(lambda x, t: x, draw_noise(SHAPE, 0), make_scheduler("ddim", ZERO_SNR), 0)
    with pytest.raises(UsageError, match="LCMScheduler .*; change it, or take another scheduler"):
        sample(lambda x, t: x, draw_noise(SHAPE, 0), make_scheduler("lcm", ZERO_SNR), 51)


@pytest.mark.parametrize(
    ("style_scale", "content_scale", "needed"),
    [
        (1, 1, {FULL}),
        (1.5, 1, {FULL, NO_STYLE}),
        (1, 0.8, {FULL, NO_CONTENT}),
        (0, 1, {NO_STYLE}),
        (0.7, 0.3, {NO_STYLE, NO_CONTENT}),
        (2, 2, {FULL, NO_STYLE, NO_CONTENT}),
    ],
)
def test_only_branches_that_count_are_evaluated(style_scale, content_scale, needed):
    values = {FULL: 3.0, NO_STYLE: 1.0, NO_CONTENT: -2.0}
    called = []

    def branch(name):
        def denoise(latents, timestep):
            called.append(name)
            return torch.full_like(latents, values[name])

        return denoise

    guidance = plan_guidance(style_scale, content_scale)
    found = guide({name: branch(name) for name in values}, guidance)(torch.zeros(SHAPE), 1)
    full, plain, free = values.values()
    expected = plain + style_scale * (full - plain) + free + content_scale * (full - free) - full
    assert set(called) == needed and len(called) == len(needed)
    assert torch.allclose(found, torch.tensor(expected))

    order = list(guidance.coefficients)
    stacked = guide_stacked(
        lambda x, t: torch.stack([torch.full(SHAPE[1:], values[name]) for name in order]), guidance
    )
    assert torch.allclose(stacked(torch.zeros(SHAPE), 1), found)


def test_neutral_guidance_changes_no_bit():
    noise = draw_noise(SHAPE, 2)
    assert guide({FULL: lambda x, t: noise}, plan_guidance())(noise, 1) is noise


@pytest.mark.parametrize(
    ("style_scale", "coefficients", "told"),
    [
        (0.5, {FULL: 1}, 0.5),
        (2.0, {FULL: 1}, 2.0),
        (3.0, {FULL: 1.5, NO_STYLE: -0.5}, 2.0),
        (0.0, {NO_STYLE: 1}, 0.0),
    ],
)
def test_embedded_scale_saves_the_second_branch(style_scale, coefficients, told):
    guidance = plan_guidance(style_scale, embedded=True)
    assert dict(guidance.coefficients) == coefficients
    assert guidance.embedded_scale == told

"""The published video method, reproduced from its stored weights: see tests/data/parity/README.md for every tensor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import T2IAdapter

from hicast.diffusion.guidance import FULL, NO_CONTENT, NO_STYLE, guide, plan_guidance
from hicast.diffusion.noise import copy_unmoved, residual_mask
from hicast.diffusion.sampling import make_scheduler, sample
from hicast.errors import ModelError
from hicast.io.weights import load_safetensors
from hicast.models.adapters import AdapterSet, adapter_widths, combine
from hicast.models.conditions import Conditions
from hicast.models.published_video import convert_video_unet

FOLDER = Path(__file__).parent / "data" / "parity"
FORWARD, SAMPLED = 1e-4, 5e-4
FRAMES, STEPS = 4, 4

SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def load(name):
    return {key: tensor.float() for key, tensor in load_safetensors(FOLDER / f"{name}.safetensors").items()}


def config(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def assert_close(found, expected, tolerance=FORWARD):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def weights(published_layout):
    return {**load("video_unet_weights"), **published_layout.vgg_by_rule()}


@pytest.fixture(scope="module")
def parts(weights):
    return convert_video_unet(weights, config("video_unet_config"))


@pytest.fixture(scope="module")
def model(parts):
    return parts.image.model()


@pytest.fixture(scope="module")
def layers(parts, model):
    layers = parts.layers()
    layers.inject(model.unet)
    yield layers
    layers.eject()


@pytest.fixture(scope="module")
def unet_io():
    return load("video_unet_io")


@pytest.fixture(scope="module")
def run_io():
    return load("video_pipeline_io")


def fold(clip):
    """(batch, channels, frames, ...) of the fixtures to our (batch * frames, channels, ...)."""
    return clip.transpose(1, 2).flatten(0, 1)


def conditions(content, vector, context, frames, residuals=None):
    """Per-frame conditions; the content is normalised already, so its own mean and std play no part."""
    zero = torch.zeros(len(content), content.shape[1], 1, 1)
    per_frame = (tensor.repeat_interleave(frames, 0) for tensor in (vector, context))
    return Conditions(content, zero, zero + 1, *per_frame, residuals)


@pytest.fixture(scope="module")
def given(unet_io):
    return conditions(fold(unet_io["content"]), unet_io["style_vector"], unet_io["context"], 3)


@pytest.fixture(scope="module")
def residuals(unet_io):
    return tuple(fold(unet_io[f"residual_{level}"]) for level in range(4))


def test_the_whole_checkpoint_is_used(parts, layers):
    assert len(layers.convolutions) == 52 and len(layers.attentions) == 16 and not layers.offsets


def test_clip_forward_and_what_happens_inside(model, layers, unet_io, given):
    names = [name.removeprefix("act/") for name in unet_io if name.startswith("act/") and "content_in" not in name]
    found, handles = {}, []
    for name in names:
        module = model.unet.get_submodule(name.replace("conv_in_new", "conv_in"))
        handles.append(module.register_forward_hook(lambda m, i, output, name=name: found.update({name: output})))
    with layers.clip(3):
        output = model(fold(unet_io["sample"]), unet_io["timesteps"].repeat_interleave(3), given)
    for handle in handles:
        handle.remove()
    assert_close(output, fold(unet_io["out_content_style"]))
    assert len(names) == 9
    for name in names:
        expected = unet_io[f"act/{name}"]
        output = found[name][0] if isinstance(found[name], tuple) else found[name]
        assert_close(output, fold(expected) if expected.ndim == 5 else expected)


def test_clip_forward_with_residuals(model, layers, unet_io, given, residuals):
    with layers.clip(3):
        timesteps = unet_io["timesteps"].repeat_interleave(3)
        found = model(fold(unet_io["sample"]), timesteps, replace(given, residuals=residuals))
    assert_close(found, fold(unet_io["out_residuals"]))


def test_clip_of_one_frame(model, layers, unet_io):
    one = conditions(unet_io["content"][:, :, 0], unet_io["style_vector"], unet_io["context"], 1)
    with layers.clip(1):
        found = model(unet_io["sample"][:, :, 0], unet_io["timesteps"], one)
    assert_close(found, unet_io["out_single_frame_clip"][:, :, 0])


def test_pictures_when_no_clip_is_told(model, layers, unet_io, given, residuals):
    first = conditions(given.content[:3], unet_io["style_vector"][:1], unet_io["context"][:1], 3)
    latents = fold(unet_io["sample"])[:3]
    assert_close(model(latents, 501, first), unet_io["out_image_mode"])
    first = replace(first, residuals=tuple(residual[:3] for residual in residuals))
    assert_close(model(latents, 501, first), unet_io["out_image_mode_residuals"])


def test_idle_layers_are_left_out_without_a_difference(weights, unet_io, given):
    """As the published weights are expected: nothing learnt on the way down, temporal attention only its bias."""
    tame, bias = dict(weights), "attn_temporal.to_out.0.bias"
    for key, tensor in weights.items():
        down = key.startswith("down_blocks")
        if "attn_temporal" in key and (down or not key.endswith(bias)):
            tame[key] = torch.zeros_like(tensor)
        elif "conv_temporal" in key and down:
            tame[key] = torch.nn.init.dirac_(tensor.clone()) if tensor.ndim == 3 else torch.zeros_like(tensor)
    parts = convert_video_unet(tame, config("video_unet_config"))
    lean, model = parts.layers(), parts.image.model()
    assert len(lean.convolutions) == 52 - 19 and not lean.attentions and len(lean.offsets) == 10
    whole = convert_video_unet(weights, config("video_unet_config")).layers()
    for module in whole.attentions.values():
        for linear in (module.attention.to_q, module.attention.to_k, module.attention.to_v, module.attention.to_out[0]):
            linear.weight.zero_()
    for name, parameter in whole.named_parameters():
        if "down_blocks" in name and name.startswith("convolutions"):
            torch.nn.init.dirac_(parameter) if parameter.ndim == 3 else parameter.zero_()
        elif "down_blocks" in name and name.endswith("to_out.0.bias"):
            parameter.zero_()
    results = []
    for each in (lean, whole):
        each.inject(model.unet)
        with each.clip(3):
            results.append(model(fold(unet_io["sample"]), 501, given))
        each.eject()
    assert_close(*results, tolerance=1e-5)


def test_a_checkpoint_that_lacks_or_adds_a_tensor_is_refused(weights):
    key = "mid_block.resnets.0.conv1.conv_temporal.bias"
    with pytest.raises(ModelError, match="found no convolutions.mid_block-resnets-0-conv1.bias"):
        convert_video_unet({k: v for k, v in weights.items() if k != key}, config("video_unet_config"))
    with pytest.raises(ModelError, match="in transformer blocks, found convolutions.nowhere.bias"):
        convert_video_unet({**weights, "nowhere.conv_temporal.bias": weights[key]}, config("video_unet_config"))


@pytest.mark.parametrize("threshold", ["0.15", "0.3"])
def test_residual_masks(run_io, threshold):
    moved = residual_mask(run_io["map_hed"][0].expand(-1, 3, -1, -1), (16, 16), float(threshold))
    assert torch.equal(moved, run_io[f"residual_mask_{threshold}"].bool())


def test_noise_of_unmoved_pixels(run_io):
    moved = residual_mask(run_io["map_hed"][0], (16, 16), 0.15)
    assert_close(copy_unmoved(fold(run_io["latents0"]), moved), fold(run_io["init_latents_thres0.15"]))


@pytest.fixture(scope="module")
def features(model):
    stored, run = load("adapters_weights"), load("video_pipeline_io")
    built = {name: T2IAdapter(**config("adapter_config")) for name in ("hed", "depth")}
    for name, adapter in built.items():
        prefix = f"{name}/"
        own = {key.removeprefix(prefix): tensor for key, tensor in stored.items() if key.startswith(prefix)}
        adapter.load_state_dict(own)
    maps = {name: run[f"map_{name}"][0].expand(-1, 3, -1, -1) for name in built}
    return AdapterSet(built, adapter_widths(model.unet)).features(maps)


@pytest.fixture(scope="module")
def styles(parts, run_io):
    """The style code of the runs' style image, and the null style."""
    encoder = parts.image.style_encoder()
    return encoder(run_io["style_image"]), encoder.null(1)


@pytest.mark.parametrize(
    ("name", "published_content", "published_style", "adapters", "threshold", "control_steps"),
    [
        ("pipe_default", 0.8, 1.0, (0.1, 0.1), 0.15, 1),
        ("pipe_noresid", 0.8, 1.0, (0.1, 0.1), 0.0, 1),
        ("pipe_resid2", 1.0, 1.3, (0.5, 0.2), 0.3, 2),
    ],
)
def test_runs(
    model, layers, features, styles, run_io, name,
    published_content, published_style, adapters, threshold, control_steps,
):  # fmt: skip
    style, null = styles
    residuals = combine(features, dict(zip(("hed", "depth"), adapters, strict=True)))
    full = conditions(fold(run_io["content_feature"]), style.vector, run_io["prompt_embeds"], FRAMES, residuals)
    each = {FULL: full, NO_STYLE: full.without_style(null), NO_CONTENT: full.without_content()}
    calls = {branch: lambda x, t, c=c: model(x, t, c) for branch, c in each.items()}
    denoise = guide(calls, plan_guidance(style_scale=published_content, content_scale=published_style))
    moved = residual_mask(run_io["map_hed"][0], (16, 16), threshold)
    with layers.clip(FRAMES):
        latents = controlled_steps(denoise, fold(run_io["latents0"]), moved, control_steps)
    assert_close(latents[0], fold(run_io[f"{name}_step0"]), SAMPLED)
    assert_close(latents[-1], fold(run_io[f"{name}_latents"]), SAMPLED)


def controlled_steps(denoise, latents, moved, control_steps):
    """The latents after each step, unmoved pixels copied before the first `control_steps` of them.

    One control step is the sampling loop as it is, given other noise.
    """
    scheduler, after = make_scheduler("ddim", SCHEDULE), []
    if control_steps == 1:

        def watched(latents, timestep):
            after.append(latents)
            return denoise(latents, timestep)

        last = sample(watched, copy_unmoved(latents, moved), scheduler, STEPS)
        return [*after[1:], last]
    scheduler.set_timesteps(STEPS)
    for step, timestep in enumerate(scheduler.timesteps):
        if step < control_steps:
            latents = copy_unmoved(latents, moved)
        latents = scheduler.step(denoise(latents, timestep), timestep, latents).prev_sample
        after.append(latents)
    return after

"""The published image method, reproduced from its stored weights: see tests/data/parity/README.md for every tensor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, T2IAdapter

from hicast.diffusion.guidance import FULL, NO_CONTENT, NO_STYLE, combine_branches, guide, guide_stacked, plan_guidance
from hicast.diffusion.sampling import make_scheduler, sample
from hicast.io.weights import load_safetensors, save_json, save_safetensors
from hicast.models.adapters import AdapterSet, adapter_widths, combine
from hicast.models.conditions import Conditions, stack_conditions
from hicast.models.published import convert_unet
from hicast.models.unet import normalize_content

FOLDER = Path(__file__).parent / "data" / "parity"
CONTROLS = ("hed", "depth", "seg")
VAE_SCALE = 0.18215
FORWARD, SAMPLED = 1e-4, 5e-4

SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def load(name):
    tensors = load_safetensors(FOLDER / f"{name}.safetensors")
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


def config(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def assert_close(found, expected, tolerance=FORWARD):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def parts(published_layout):
    return convert_unet({**load("image_unet_weights"), **published_layout.vgg_by_rule()}, config("image_unet_config"))


@pytest.fixture(scope="module")
def model(parts):
    return parts.model()


@pytest.fixture(scope="module")
def encoder(parts):
    return parts.style_encoder()


@pytest.fixture(scope="module")
def unet_io():
    return load("image_unet_io")


@pytest.fixture(scope="module")
def adapters(model):
    built = {name: T2IAdapter(**config("adapter_config")) for name in CONTROLS}
    for name, adapter in built.items():
        adapter.load_state_dict(adapter_weights(name))
    return AdapterSet(built, adapter_widths(model.unet))


def adapter_weights(name):
    stored, prefix = load("adapters_weights"), f"{name}/"
    return {key.removeprefix(prefix): tensor for key, tensor in stored.items() if key.startswith(prefix)}


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    save_json(config("vae_config"), folder / "config.json")
    save_safetensors(load("vae_weights"), folder / "diffusion_pytorch_model.safetensors", {})
    return AutoencoderKL.from_pretrained(folder)


@pytest.fixture(scope="module")
def run_io():
    return load("image_pipeline_io")


def conditions(content, vector, context, residuals=None):
    """The content is normalised already, so its own mean and std play no part."""
    zero = torch.zeros(len(content), content.shape[1], 1, 1)
    return Conditions(content, zero, zero + 1, vector, context, residuals)


@pytest.fixture(scope="module")
def given(unet_io):
    return conditions(unet_io["content"], unet_io["style_vector"], unet_io["context"])


def test_vgg_taps(encoder, unet_io):
    features = encoder.vgg(unet_io["style_image"])
    for number, feature in enumerate(features.values(), 1):
        assert_close(feature[0, :4].contiguous(), unet_io[f"vgg_slice{number}_sample"])


def test_style_vectors(encoder, unet_io):
    assert_close(encoder(unet_io["style_image"]).vector, unet_io["style_vector"])
    assert_close(encoder(unet_io["style_image_rect"]).vector, unet_io["style_vector_rect"])
    assert_close(encoder(unet_io["style_image"], unet_io["style_flag"]).vector, unet_io["style_vector_flagged"])
    assert_close(encoder.null(1).vector[0], unet_io["style_vector_flagged"][1])


def test_embedding_and_content(model, unet_io):
    time = model.unet.time_embedding(model.unet.get_time_embed(unet_io["sample"], unet_io["timesteps"]))
    assert_close(time, unet_io["time_emb"])
    embedding = model.embed(unet_io["sample"], unet_io["timesteps"], unet_io["style_vector"])
    assert_close(embedding, unet_io["emb_with_style"])
    projected = model.content_projection(unet_io["content"], embedding)
    assert_close(projected, unet_io["content_in_out"])
    joined = model.unet.conv_in(torch.cat([unet_io["sample"], projected], 1))
    assert_close(joined, unet_io["conv_in_new_out"])


def test_forward(model, unet_io, given):
    assert_close(model(unet_io["sample"], unet_io["timesteps"], given), unet_io["out_content_style"])


def test_forward_null_branches(model, encoder, unet_io, given):
    without_content = model(unet_io["sample"], unet_io["timesteps"], given.without_content())
    assert_close(without_content, unet_io["out_null_content"])
    without_style = model(unet_io["sample"], unet_io["timesteps"], given.without_style(encoder.null(1)))
    assert_close(without_style, unet_io["out_null_style"])


def test_forward_of_an_oblong(model, unet_io):
    oblong = conditions(unet_io["content_12x20"], unet_io["style_vector"][:1], unet_io["context"][:1])
    assert_close(model(unet_io["sample_12x20"], 250, oblong), unet_io["out_12x20_t250"])


def test_forward_with_residuals(model, unet_io, given):
    residuals = tuple(unet_io[f"residual_{level}"] for level in range(4))
    before = [residual.clone() for residual in residuals]
    for _ in range(2):
        found = model(unet_io["sample"], unet_io["timesteps"], replace(given, residuals=residuals))
        assert_close(found, unet_io["out_residuals"])
    assert all(torch.equal(a, b) for a, b in zip(residuals, before, strict=True))


def test_adapters(adapters):
    io = load("adapters_io")
    features = adapters.features({name: io[f"map_{name}"] for name in CONTROLS})
    for name in CONTROLS:
        for level, feature in enumerate(features[name]):
            assert_close(feature, io[f"features_{name}_{level}"])
    chosen = combine(features, {"hed": 0.1, "depth": 0.7, "seg": 1.5})
    thirds = combine(features, dict.fromkeys(CONTROLS, 1 / 3))
    for level in range(4):
        assert_close(chosen[level], io[f"multi_0.1_0.7_1.5_{level}"])
        assert_close(thirds[level], io[f"multi_default_{level}"])


def test_light_adapter_gives_one_feature_per_level():
    io = load("adapters_io")
    light = T2IAdapter(channels=[16, 32, 48], num_res_blocks=2, adapter_type="light_adapter")
    light.load_state_dict(adapter_weights("light"))
    for widths in ((16, 32, 48), (16, 32, 48, 48)):
        features = AdapterSet({"light": light}, widths).features({"light": io["map_hed"]})["light"]
        assert len(features) == len(widths)
        for level, feature in enumerate(features):
            assert_close(feature, io[f"features_light_{level}"])


def test_content_feature(vae, run_io):
    posterior = vae.encode(run_io["content_image"]).latent_dist
    assert_close(posterior.mean, run_io["posterior_mean"])
    assert_close(posterior.std, run_io["posterior_std"])
    drawn = posterior.mean + posterior.std * run_io["content_noise"]
    assert_close(normalize_content(drawn * VAE_SCALE)[0], run_io["content_feature"])
    assert_close(normalize_content(posterior.mode() * VAE_SCALE)[0], run_io["content_feature_mode"])


def test_decode(vae, run_io):
    assert_close(vae.decode(run_io["decode_latents_in"] / VAE_SCALE).sample, run_io["decoded_raw"])


@pytest.mark.parametrize(("published_content", "published_style"), [("1.0", "1.0"), ("0.8", "1.2"), ("2.0", "0.5")])
def test_guidance_algebra(run_io, published_content, published_style):
    predictions = {FULL: run_io["guid_full"], NO_STYLE: run_io["guid_nostyle"], NO_CONTENT: run_io["guid_nocontent"]}
    guidance = plan_guidance(style_scale=float(published_content), content_scale=float(published_style))
    assert_close(combine_branches(predictions, guidance), run_io[f"guid_cs{published_content}_ss{published_style}"])


def run_conditions(encoder, run_io, residuals=None):
    vector = encoder(run_io["style_image"]).vector
    return conditions(run_io["content_feature"], vector, run_io["prompt_embeds"], residuals)


def branches(model, encoder, full):
    null = encoder.null(1)
    each = {FULL: full, NO_STYLE: full.without_style(null), NO_CONTENT: full.without_content()}
    return {name: lambda x, t, c=c: model(x, t, c) for name, c in each.items()}, each


def residuals_of(adapters, run_io, weights):
    features = adapters.features({name: run_io[f"map_{name}"] for name in CONTROLS})
    return combine(features, dict(zip(CONTROLS, weights, strict=True)))


def test_guidance_branches(model, encoder, run_io):
    calls, _ = branches(model, encoder, run_conditions(encoder, run_io))
    for name, tensor in ((FULL, "guid_full"), (NO_STYLE, "guid_nostyle"), (NO_CONTENT, "guid_nocontent")):
        assert_close(calls[name](run_io["latents0"], 751), run_io[tensor])


@pytest.mark.parametrize("steps", [4, 20])
def test_scheduler_timesteps(run_io, steps):
    scheduler = make_scheduler("ddim", SCHEDULE)
    scheduler.set_timesteps(steps)
    assert torch.equal(scheduler.timesteps, run_io[f"scheduler_timesteps_{steps}"])


def test_default_run_step_by_step(model, encoder, adapters, vae, run_io):
    full = run_conditions(encoder, run_io, residuals_of(adapters, run_io, (0.1, 0.1, 0.1)))
    calls, _ = branches(model, encoder, full)
    denoise, seen = guide(calls, plan_guidance(1.0, 1.0)), []

    def watched(latents, timestep):
        seen.append(latents)
        return denoise(latents, timestep)

    latents = sample(watched, run_io["latents0"], make_scheduler("ddim", SCHEDULE), 4)
    for step, found in enumerate([*seen[1:], latents]):
        assert_close(found, run_io[f"pipe_default_step{step}"], SAMPLED)
    assert_close(latents, run_io["pipe_default_latents"], SAMPLED)
    image = (vae.decode(latents / VAE_SCALE).sample / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0)
    assert_close(image, run_io["pipe_default_image_hwc01"][0], SAMPLED)
    levels = (image * 255).round().to(torch.int16) - run_io["pipe_default_image_uint8"].to(torch.int16)
    assert levels.abs().max() <= 1


@pytest.mark.parametrize(
    ("tensor", "published_content", "published_style", "weights"),
    [
        ("pipe_cs0.8_ss1.2_latents", 0.8, 1.2, (0.1, 0.2, 0.3)),
        ("pipe_cs1.5_ss0.6_noadapter_latents", 1.5, 0.6, (0, 0, 0)),
    ],
)
@pytest.mark.parametrize("stacked", [False, True])
def test_guided_runs(model, encoder, adapters, run_io, tensor, published_content, published_style, weights, stacked):
    full = run_conditions(encoder, run_io, residuals_of(adapters, run_io, weights))
    assert (full.residuals is None) == (weights == (0, 0, 0))
    guidance = plan_guidance(style_scale=published_content, content_scale=published_style)
    calls, each = branches(model, encoder, full)
    if stacked:
        together = stack_conditions([each[name] for name in guidance.coefficients])
        denoise = guide_stacked(lambda latents, timestep: model(latents, timestep, together), guidance)
    else:
        denoise = guide(calls, guidance)
    scheduler = DDIMScheduler(**SCHEDULE)
    assert_close(sample(denoise, run_io["latents0"], scheduler, 4), run_io[tensor], SAMPLED)

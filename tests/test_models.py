"""The net and its conditions, as a tiny random model laid out like the compact one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from hicast.encoders.style import StyleCode
from hicast.errors import ModelError
from hicast.models.conditions import Conditions, stack_conditions
from hicast.models.hicast_model import HiCastModel
from hicast.models.unet import ContentProjection, normalize_content

CHANNELS = 24
WIDTHS = (32, 64, 96)
SHAPE = {"attention_head_dim": 8, "cross_attention_dim": 128, "time_cond_proj_dim": 64, "norm_num_groups": 32}


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def build_model(make_model):
    """A function that makes the net of these tests; keys of its U-Net can be changed."""
    return lambda **changes: make_model(WIDTHS, CHANNELS, CHANNELS, **{**SHAPE, **changes}).eval()


@pytest.fixture(scope="module")
def model(build_model):
    return build_model()


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_conditions(batch=1, side=16, seed=1, **more):
    code = StyleCode(random(batch, 2944, seed=seed), random(batch, 4, 768, seed=seed))
    return Conditions.of(random(batch, CHANNELS, side, side, seed=seed + 1) * 2 + 1, code, **more)


def test_padding_mode_reaches_every_3x3_convolution(model):
    modes = {c.padding_mode for c in model.unet.modules() if isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3)}
    assert modes == {"replicate"} and model.unet.config.conv_padding_mode == "replicate"
    conv = model.unet.conv_in
    image = random(1, 2 * CHANNELS, 5, 7)
    padded = nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    assert torch.allclose(conv(image), nn.functional.conv2d(padded, conv.weight, conv.bias), atol=1e-6)


def test_replicate_padding_hides_the_border(build_model):
    """On constant input a net with replicate padding gives a constant; with zero padding its border differs."""
    spreads = {}
    for mode in ("replicate", "zeros"):
        net = build_model(conv_padding_mode=mode)
        flat = Conditions.of(torch.ones(1, CHANNELS, 16, 16), StyleCode(random(1, 2944), random(1, 4, 768)))
        spreads[mode] = net(torch.ones(1, CHANNELS, 16, 16), 500, flat).std(dim=(2, 3)).max().item()
    assert spreads["replicate"] < 1e-4 < 1e-2 < spreads["zeros"]


def test_unet_config_is_checked(make_model, build_model):
    with pytest.raises(ModelError, match="found also block_widths"):
        build_model(block_widths=(1, 2))
    with pytest.raises(ModelError, match="zeros, replicate, found 'mirror'"):
        build_model(conv_padding_mode="mirror")
    with pytest.raises(ModelError, match="expected in_channels 27"):
        make_model(WIDTHS, CHANNELS, 3, in_channels=2 * CHANNELS)


def test_normalize_content_by_hand():
    latents = random(2, 3, 4, 5) * 3 + 7
    normalized, mean, std = normalize_content(latents)
    assert torch.allclose(normalized.mean(dim=(2, 3)), torch.zeros(2, 3), atol=1e-5)
    assert torch.allclose((normalized**2).sum(dim=(2, 3)), torch.full((2, 3), 19.0), rtol=1e-4)
    assert torch.allclose(normalized * std + mean, latents, atol=1e-5)


@pytest.mark.parametrize("size", [(4, 4), (1, 1)])
def test_constant_content_is_finite(size):
    normalized, mean, std = normalize_content(torch.full((1, CHANNELS, *size), 0.7))
    assert normalized.abs().max() < 1e-2 and std.isfinite().all()
    assert torch.allclose(normalized * std + mean, torch.tensor(0.7))


def test_projection_by_hand():
    projection = ContentProjection(4, 3, 8)
    content, embedding = random(2, 4, 5, 5), random(2, 8)
    assert torch.equal(projection.modulate(content, embedding), content)
    projection.modulation[2].bias.copy_(torch.arange(8.0))
    expected = content * (1 + torch.arange(4.0, 8.0).view(1, 4, 1, 1)) + torch.arange(4.0).view(1, 4, 1, 1)
    assert torch.allclose(projection.modulate(content, embedding), expected)


@pytest.mark.parametrize("side", [16, 12, 9])
def test_forward_of_any_size(model, side):
    assert model(random(1, CHANNELS, side, side), 999, some_conditions(side=side)).shape == (1, CHANNELS, side, side)


def test_style_tokens_and_scale_are_inputs(model):
    latents, given = random(1, CHANNELS, 16, 16), some_conditions()
    plain = model(latents, 500, given)
    changes = (
        {"style": given.style + 1},
        {"context": given.context + 1},
        {"content": given.content.flip(-1)},
        {"style_scale": torch.tensor([1.5])},
    )
    for change in changes:
        assert not torch.allclose(model(latents, 500, replace(given, **change)), plain, atol=1e-4)
    assert torch.equal(model(latents, 500, replace(given, style_scale=torch.ones(1))), plain)


def test_style_scale_zero_gives_back_the_photo(build_model):
    model = build_model()
    nn.init.zeros_(model.unet.conv_out.weight)
    nn.init.zeros_(model.unet.conv_out.bias)
    photo = random(1, CHANNELS, 16, 16, seed=2) * 2 + 1
    code = StyleCode(random(1, 2944), random(1, 4, 768))
    noise = random(1, CHANNELS, 16, 16, seed=9)
    given = Conditions.of(photo, code, style_scale=0.0)
    assert torch.allclose(model(noise, 999, given), photo, atol=1e-5)
    null = StyleCode(torch.zeros(1, 2944), torch.zeros(1, 4, 768))
    assert torch.allclose(model(noise, 999, replace(given, style_scale=None).without_style(null)), photo, atol=1e-5)
    styled = model(noise, 999, replace(given, style_scale=torch.ones(1)))
    assert torch.allclose(styled, given.content, atol=1e-5)
    half = model(noise, 999, replace(given, style_scale=torch.full((1,), 0.5)))
    assert torch.allclose(half, (photo + styled) / 2, atol=1e-5)


def test_null_conditions():
    given = some_conditions(batch=2)
    without = given.without_style(StyleCode(torch.full((1, 2944), 3.0), torch.zeros(1, 4, 768)))
    assert (without.style == 3).all() and (without.context == 0).all() and not without.keep_style.any()
    vector_only = given.without_style(StyleCode(torch.zeros(1, 2944)))
    assert torch.equal(vector_only.context, given.context)
    free = given.without_content()
    assert not any(tensor.any() for tensor in (free.content, free.content_mean, free.content_std))
    assert torch.equal(free.style, given.style)
    with pytest.raises(ModelError, match="expected a context or style tokens"):
        Conditions.of(torch.zeros(1, CHANNELS, 4, 4), StyleCode(torch.zeros(1, 2944)))


def test_stacked_conditions_give_each_branch_its_own_result(model):
    residuals = tuple(random(1, width, side, side) for width, side in zip(WIDTHS, (16, 8, 4), strict=True))
    given = some_conditions(residuals=residuals, style_scale=1.3)
    null = StyleCode(torch.zeros(1, 2944), torch.zeros(1, 4, 768))
    parts = [given, given.without_style(null), given.without_content()]
    latents = random(1, CHANNELS, 16, 16)
    together = model(torch.cat([latents] * 3), 500, stack_conditions(parts))
    for row, part in zip(together, parts, strict=True):
        assert torch.allclose(row, model(latents, 500, part)[0], atol=1e-4)


def test_saved_model_gives_the_same_prediction(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = HiCastModel.from_pretrained(tmp_path)
    latents, given = random(1, CHANNELS, 12, 12), some_conditions(side=12)
    assert again.content_skip and again.has_embedded_scale
    assert torch.equal(again(latents, 250, given), model(latents, 250, given))


def test_saved_in_half_precision_loads_in_float32(model, tmp_path):
    model.save_pretrained(tmp_path, torch.float16)
    again = HiCastModel.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    (tmp_path / "hicast.json").unlink()
    with pytest.raises(ModelError, match="hicast.json', found no such file"):
        HiCastModel.from_pretrained(tmp_path)


def test_bfloat16_net_keeps_float32_latents(build_model):
    model = build_model().to(torch.bfloat16)
    assert model(random(1, CHANNELS, 8, 8), 999, some_conditions(side=8)).dtype == torch.float32


def test_every_part_gets_a_gradient(build_model):
    with torch.enable_grad():
        net = build_model()
        nn.init.normal_(net.content_projection.modulation[2].weight, std=0.1)
        net(random(1, CHANNELS, 8, 8), 500, some_conditions(side=8)).square().mean().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []

"""The net, its conditions and its adapters, as tiny random models laid out like the compact one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import T2IAdapter
from torch import nn

from hicast.encoders.style import StyleCode
from hicast.errors import ModelError, UsageError
from hicast.models.adapters import AdapterSet, adapter_widths, combine
from hicast.models.hicast_model import Conditions, HiCastModel, stack_conditions
from hicast.models.published import convert_unet
from hicast.models.unet import ContentProjection, build_unet, normalize_content

CHANNELS = 24
WIDTHS = (32, 64, 96)
COMPACT = {
    "sample_size": None,
    "in_channels": 2 * CHANNELS,
    "out_channels": CHANNELS,
    "block_out_channels": WIDTHS,
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "only_cross_attention": [True, True, False],
    "attention_head_dim": 8,
    "cross_attention_dim": 128,
    "encoder_hid_dim": 768,
    "encoder_hid_dim_type": "text_proj",
    "resnet_time_scale_shift": "scale_shift",
    "time_cond_proj_dim": 64,
    "conv_padding_mode": "replicate",
}


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def build_model(**changes):
    torch.manual_seed(0)
    unet = build_unet({**COMPACT, **changes})
    return HiCastModel(unet, ContentProjection(CHANNELS, CHANNELS, 4 * WIDTHS[0]), content_skip=True).eval()


@pytest.fixture(scope="module")
def model():
    return build_model()


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_conditions(batch=1, side=16, seed=1, **more):
    code = StyleCode(random(batch, 2944, seed=seed), random(batch, 4, 768, seed=seed))
    return Conditions.of(random(batch, CHANNELS, side, side, seed=seed + 1) * 2 + 1, code, **more)


def random_adapters(kind="light_adapter", channels=WIDTHS, names=("edge", "depth"), widths=WIDTHS):
    torch.manual_seed(3)
    adapters = {name: T2IAdapter(channels=list(channels), adapter_type=kind).eval() for name in names}
    return AdapterSet(adapters, widths)


def test_padding_mode_reaches_every_3x3_convolution(model):
    modes = {c.padding_mode for c in model.unet.modules() if isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3)}
    assert modes == {"replicate"} and model.unet.config.conv_padding_mode == "replicate"
    conv = model.unet.conv_in
    image = random(1, 2 * CHANNELS, 5, 7)
    padded = nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    assert torch.allclose(conv(image), nn.functional.conv2d(padded, conv.weight, conv.bias), atol=1e-6)


def test_replicate_padding_hides_the_border():
    """On constant input a net with replicate padding gives a constant; with zero padding its border differs."""
    spreads = {}
    for mode in ("replicate", "zeros"):
        net = build_model(conv_padding_mode=mode)
        flat = Conditions.of(torch.ones(1, CHANNELS, 16, 16), StyleCode(random(1, 2944), random(1, 4, 768)))
        spreads[mode] = net(torch.ones(1, CHANNELS, 16, 16), 500, flat).std(dim=(2, 3)).max().item()
    assert spreads["replicate"] < 1e-4 < 1e-2 < spreads["zeros"]


def test_unet_config_is_checked():
    with pytest.raises(ModelError, match="found also block_widths"):
        build_unet({**COMPACT, "block_widths": (1, 2)})
    with pytest.raises(ModelError, match="zeros, replicate, found 'mirror'"):
        build_unet({**COMPACT, "conv_padding_mode": "mirror"})
    with pytest.raises(ModelError, match="expected in_channels 27"):
        HiCastModel(build_unet(COMPACT), ContentProjection(CHANNELS, 3, 128))


def test_normalize_content_by_hand():
    latents = random(2, 3, 4, 5) * 3 + 7
    normalized, mean, std = normalize_content(latents)
    assert torch.allclose(normalized.mean(dim=(2, 3)), torch.zeros(2, 3), atol=1e-5)
    assert torch.allclose((normalized**2).sum(dim=(2, 3)), torch.full((2, 3), 19.0), rtol=1e-4)
    assert torch.allclose(normalized * std + mean, latents, atol=1e-5)


@pytest.mark.parametrize("size", [(4, 4), (1, 1)])
def test_constant_content_is_finite(model, size):
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


def test_style_scale_zero_gives_back_the_photo():
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
    adapters = random_adapters()
    residuals = combine(adapters.features({"edge": torch.rand(1, 3, 128, 128)}), {"edge": 1.0})
    given = some_conditions(residuals=residuals, style_scale=1.3)
    null = StyleCode(torch.zeros(1, 2944), torch.zeros(1, 4, 768))
    parts = [given, given.without_style(null), given.without_content()]
    latents = random(1, CHANNELS, 16, 16)
    together = model(torch.cat([latents] * 3), 500, stack_conditions(parts))
    for row, part in zip(together, parts, strict=True):
        assert torch.allclose(row, model(latents, 500, part)[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["light_adapter", "full_adapter"])
def test_every_adapter_level_changes_the_output(model, kind):
    adapters = random_adapters(kind, names=("edge",), widths=adapter_widths(model.unet))
    features = adapters.features({"edge": torch.rand(1, 3, 128, 128)})
    residuals = combine(features, {"edge": 1.0})
    assert [tuple(r.shape[1:]) for r in residuals] == [(32, 16, 16), (64, 8, 8), (96, 4, 4)]
    latents, given = random(1, CHANNELS, 16, 16), some_conditions()
    plain = model(latents, 500, given)
    for level in range(3):
        only = tuple(r if i == level else torch.zeros_like(r) for i, r in enumerate(residuals))
        assert not torch.allclose(model(latents, 500, replace(given, residuals=only)), plain, atol=1e-5)


def test_zero_weight_is_no_adapter(model):
    adapters = random_adapters()
    features = adapters.features({name: torch.rand(1, 3, 128, 128) for name in adapters.names})
    assert combine(features, {"edge": 0.0, "depth": 0}) is None
    alone, both = combine(features, {"edge": 0.7}), combine(features, {"edge": 0.7, "depth": 0.0})
    assert all(torch.equal(a, b) for a, b in zip(alone, both, strict=True))
    summed = combine(features, {"edge": 0.7, "depth": 2.0})
    expected = 0.7 * features["edge"][1] + 2 * features["depth"][1]
    assert torch.allclose(summed[1], expected)


def change_by_half(model, residuals, reference):
    """Mean absolute change of the output from `reference` to `residuals`, in the left and in the right half."""
    latents, given = random(1, CHANNELS, 32, 32), some_conditions(side=32)
    after, before = (model(latents, 500, replace(given, residuals=r)) for r in (residuals, reference))
    change = (after - before).abs().mean(dim=(0, 1, 2))
    return change[:16].mean().item(), change[16:].mean().item()


def noise_map(seed):
    return torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(seed))


def test_control_on_half_of_a_picture_changes_mainly_that_half(model):
    """A new drawing in the left half acts there. One injected beside nothing also shifts the means that the group
    norms share over the picture, so that more of it is seen on the right; still the left changes more."""
    adapters = random_adapters("full_adapter", names=("edge",))
    drawing, redrawn, injected = noise_map(4), noise_map(4), torch.zeros(1, 3, 256, 256)
    redrawn[..., :128] = injected[..., :128] = noise_map(5)[..., :128]
    features = [adapters.features({"edge": m}) for m in (drawing, redrawn, torch.zeros_like(injected), injected)]
    before, after, blank, half = (combine(f, {"edge": 1.0}) for f in features)
    left, right = change_by_half(model, after, before)
    assert left > 2 * right > 0
    left, right = change_by_half(model, half, blank)
    assert left > 1.2 * right > 0


def test_mask_keeps_an_adapter_to_its_place(model):
    features = random_adapters(names=("edge",)).features({"edge": noise_map(6)})
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    masked = combine(features, {"edge": 1.0}, {"edge": mask})
    for whole, kept in zip(features["edge"], masked, strict=True):
        middle = whole.shape[-1] // 2
        assert torch.equal(kept[..., :middle], whole[..., :middle]) and not kept[..., middle:].any()
    left, right = change_by_half(model, masked, None)
    assert left > 1.2 * right


def test_adapters_that_do_not_fit():
    with pytest.raises(ModelError, match=r"'edge': expected levels of widths \(32, 64, 96\), found \(32, 48, 64\)"):
        random_adapters("full_adapter", channels=(32, 48, 64))
    with pytest.raises(ModelError, match="found none in block 0"):
        plain_first = ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
        adapter_widths(build_unet({**COMPACT, "down_block_types": plain_first}))
    adapters = random_adapters()
    with pytest.raises(UsageError, match="expected one of edge, depth, found 'seg'"):
        adapters.features({"seg": torch.zeros(1, 3, 64, 64)})
    with pytest.raises(UsageError, match="multiples of 8, found 60x64"):
        adapters.features({"edge": torch.zeros(1, 3, 60, 64)})
    with pytest.raises(UsageError, match="expected some of none, found edge"):
        combine({}, {"edge": 1.0})


def test_residuals_that_do_not_fit(model):
    residuals = combine(random_adapters().features({"edge": torch.zeros(1, 3, 64, 64)}), {"edge": 1.0})
    latents = random(1, CHANNELS, 16, 16)
    with pytest.raises(ModelError, match=r"residual of level 0: expected .* \(32, 16, 16\), found \(32, 8, 8\)"):
        model(latents, 1, some_conditions(residuals=residuals))
    with pytest.raises(ModelError, match="expected 3, one per down block, found 2"):
        model(latents, 1, some_conditions(residuals=residuals[:2]))


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


def test_bfloat16_net_keeps_float32_latents():
    model = build_model().to(torch.bfloat16)
    assert model(random(1, CHANNELS, 8, 8), 999, some_conditions(side=8)).dtype == torch.float32


def test_every_part_gets_a_gradient(model):
    with torch.enable_grad():
        net = build_model()
        nn.init.normal_(net.content_projection.modulation[2].weight, std=0.1)
        net(random(1, CHANNELS, 8, 8), 500, some_conditions(side=8)).square().mean().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_published_checkpoint_with_strange_tensors():
    config = {"block_out_channels": (16, 32, 48, 64), "cross_attention_dim": 32, "norm_num_groups": 8}
    with pytest.raises(ModelError, match="U-Net has unknown motion.weight.*style encoder lacks null_style"):
        convert_unet({"motion.weight": torch.zeros(1)}, config)

"""Temporal layers one by one: what each computes and where it stands in the net."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import nn
from torch.nn import functional

from hicast.config.presets import load_preset
from hicast.models.temporal import TemporalLayers
from hicast.models.temporal_layers import TemporalAttention, TemporalConvolution, first_and_previous
from hicast.models.unet import build_unet

WIDTHS = (16, 24, 32)


@pytest.fixture
def unet(make_model):
    return make_model(WIDTHS).eval().unet


def fresh(unet, **choices):
    torch.manual_seed(1)
    return TemporalLayers.for_unet(unet, **choices)


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_first_and_previous_by_hand():
    tokens = torch.arange(8.0).view(8, 1, 1)
    assert first_and_previous(tokens, 4).squeeze(-1).tolist() == [
        [0, 0], [0, 0], [0, 1], [0, 2], [4, 4], [4, 4], [4, 5], [4, 6],
    ]  # fmt: skip


def test_cross_attention_in_the_first_place_is_left_alone(unet):
    blocks = [m for m in unet.modules() if isinstance(m, BasicTransformerBlock)]
    layers = fresh(unet)
    layers.inject(unet)
    assert {block.only_cross_attention for block in blocks} == {True, False}
    for block in blocks:
        assert bool(block.attn1._forward_pre_hooks) != block.only_cross_attention


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_convolution_is_conv1d_over_the_frames(groups, padding):
    layer = TemporalConvolution(6, groups, padding)
    hidden = random(2 * 4, 6, 3, 5)
    assert torch.equal(layer(hidden, 4), hidden)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    pixels = hidden.view(2, 4, 6, 15).permute(0, 3, 2, 1).reshape(-1, 6, 4)
    padded = functional.pad(pixels, (1, 1), mode="constant" if padding == "zeros" else "replicate")
    expected = functional.conv1d(padded, layer.weight, layer.bias, groups=groups)
    expected = expected.view(2, 15, 6, 4).permute(0, 3, 2, 1).reshape(8, 6, 3, 5)
    assert torch.allclose(layer(hidden, 4), expected, atol=1e-5)


def test_clip_norm_takes_its_statistics_over_all_frames(unet):
    layers = fresh(unet, conv_groups=(0, 0, 0), temporal_attention=False)
    layers.inject(unet)
    norm = unet.down_blocks[0].resnets[0].norm1
    with torch.no_grad(), layers.clip(3):
        hidden = random(6, WIDTHS[0], 4, 4) * torch.arange(1.0, 7.0).view(6, 1, 1, 1)
        seen = norm(hidden)
    groups = hidden.view(2, 3, 8, 2, 4, 4)
    variance, mean = torch.var_mean(groups, dim=(1, 3, 4, 5), correction=0, keepdim=True)
    assert torch.allclose(seen, ((groups - mean) / (variance + norm.eps).sqrt()).view_as(hidden), atol=1e-5)


def test_the_published_start_of_temporal_attention_is_a_dead_point():
    layer = TemporalAttention(8, 2, zero_start=True)
    layer(random(4, 5, 8), 4).square().mean().backward()
    assert {name for name, p in layer.named_parameters() if p.grad.any()} == {"attention.to_out.0.bias"}


def test_layers_of_the_compact_model_are_small():
    compact = load_preset("compact", "models")
    with torch.device("meta"):
        unet = build_unet(compact["unet"])
        for choices in ({}, compact["temporal"]):
            layers = TemporalLayers.for_unet(unet, **choices)
            assert 2 * sum(parameter.numel() for parameter in layers.parameters()) <= 5.5e6


def test_levels_choose_the_places(unet):
    layers = fresh(unet, **load_preset("compact", "models")["temporal"] | {"conv_groups": (0, 8, 1)})
    names = set(layers.config.conv_places)
    assert {"conv_in", "conv_out"} <= names
    assert not any(name.startswith(("down_blocks.0.", "up_blocks.2.")) for name in names)
    assert layers.config.conv_places["up_blocks.1.resnets.0.conv1"] == (24, 8)
    assert layers.config.conv_places["mid_block.resnets.0.conv2"] == (32, 1)
    assert {name.partition(".attentions")[0] for name in layers.config.attention_places} == {
        "down_blocks.1", "mid_block", "up_blocks.1",
    }  # fmt: skip

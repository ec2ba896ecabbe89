"""Temporal layers together, in a tiny random net laid out like the compact one."""

from __future__ import annotations

import pytest
import torch

from hicast.config.presets import load_preset
from hicast.encoders.style import StyleCode
from hicast.errors import ModelError
from hicast.io.weights import load_module, save_module
from hicast.models.conditions import Conditions
from hicast.models.temporal import TemporalLayers

CHANNELS, WIDTHS, SIDE = 4, (16, 24, 32), 8
CHOICES = pytest.mark.parametrize("choices", [{}, load_preset("compact", "models")["temporal"]], ids=["published", "compact"])


@pytest.fixture
def model(make_model):
    return make_model(WIDTHS, CHANNELS, CHANNELS).eval()


def fresh(unet, **choices):
    torch.manual_seed(1)
    return TemporalLayers.for_unet(unet, **choices)


def shaken(unet, **choices):
    """Layers as training may leave them."""
    layers = fresh(unet, **choices)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return layers


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clip_input(frames, static=False):
    """Latents and conditions of one clip."""
    latents, content = (random(frames, CHANNELS, SIDE, SIDE, seed=seed) for seed in (5, 6))
    if static:
        latents, content = (tensor[:1].expand_as(tensor).contiguous() for tensor in (latents, content))
    return latents, Conditions.of(content, StyleCode(random(1, 2944), random(1, 3, 768)))


def run(model, layers, frames, **kind):
    latents, conditions = clip_input(frames, **kind)
    with torch.no_grad(), layers.clip(frames):
        return model(latents, 300, conditions)


def first_frames(model, layers, frames, of):
    """The prediction for the first frames of a longer clip."""
    latents, conditions = clip_input(of)
    shorter = Conditions.of(conditions.content[:frames], StyleCode(conditions.style[:1], conditions.context[:1]))
    with torch.no_grad(), layers.clip(frames):
        return model(latents[:frames], 300, shorter)


def anatomy(unet):
    """All that tells an injected U-Net from an untouched one: print, keys, and what hangs on its modules."""
    hanging = [{key: str(value) for key, value in vars(m).items() if key != "training"} for m in unet.modules()]
    return str(unet), list(unet.state_dict()), [len(m) for m in hanging], [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._forward_hooks_with_kwargs), "forward" in vars(m))
        for m in unet.modules()
    ]  # fmt: skip


@CHOICES
def test_eject_is_the_inverse_of_inject(model, choices):
    latents, conditions = clip_input(3)
    with torch.no_grad():
        plain, before = model(latents, 300, conditions), anatomy(model.unet)
        layers = shaken(model.unet, **choices)
        layers.inject(model.unet)
        injected = anatomy(model.unet)
        assert injected[:3] == before[:3] and injected != before
        assert not torch.allclose(run(model, layers, 3), plain, atol=1e-3)
        assert torch.equal(model(latents, 300, conditions), plain), "outside a clip the net works on pictures"
        layers.eject()
        assert anatomy(model.unet) == before
        with layers.clip(3):
            assert torch.equal(model(latents, 300, conditions), plain)


@CHOICES
def test_fresh_layers_leave_a_clip_that_stands_still(model, choices):
    layers = fresh(model.unet, **choices)
    latents, conditions = clip_input(4, static=True)
    with torch.no_grad():
        plain = model(latents, 300, conditions)
    layers.inject(model.unet)
    assert torch.allclose(run(model, layers, 4, static=True), plain, atol=1e-5)


def test_trained_layers_keep_a_still_clip_still_unless_they_pad_with_zeros(model):
    spreads = {}
    for padding in ("replicate", "zeros"):
        layers = shaken(model.unet, padding=padding)
        layers.inject(model.unet)
        spreads[padding] = run(model, layers, 4, static=True).std(dim=0).max().item()
        layers.eject()
    assert spreads["replicate"] < 1e-5 < 1e-2 < spreads["zeros"]


def test_clips_of_a_batch_do_not_touch(model):
    layers = shaken(model.unet)
    layers.inject(model.unet)
    latents, conditions = clip_input(6)
    with torch.no_grad(), layers.clip(3):
        together = model(latents, 300, conditions)
    assert torch.allclose(together[:3], first_frames(model, layers, 3, of=6), atol=1e-5)


def test_looking_back_does_not_depend_on_the_length_of_the_clip(model):
    """Convolutions and temporal attention left out, a frame depends on the first one, the previous one and itself."""
    alone = {"conv_groups": (0, 0, 0), "temporal_attention": False, "norm": "frame"}
    for attention, same in (("first_previous", True), ("joint", False)):
        layers = fresh(model.unet, attention=attention, **alone)
        layers.inject(model.unet)
        long, short = run(model, layers, 6), first_frames(model, layers, 4, of=6)
        assert torch.allclose(long[:4], short, atol=1e-6) == same
        layers.eject()


@CHOICES
def test_every_temporal_parameter_learns(model, choices):
    """The first step moves what is next to the output, the second all: no dead point. The U-Net stays as it is."""
    model.requires_grad_(False)
    layers = fresh(model.unet, **choices)
    layers.inject(model.unet)
    optimizer = torch.optim.SGD(layers.parameters(), lr=1e-2)
    latents, conditions = clip_input(4)
    for _ in range(2):
        optimizer.zero_grad()
        with layers.clip(4):
            model(latents, 300, conditions).square().mean().backward()
        optimizer.step()
    still = [name for name, parameter in layers.named_parameters() if not parameter.grad.any()]
    assert still == [] and all(parameter.grad is None for parameter in model.parameters())


def test_gradient_checkpointing_gives_the_same_gradients(model):
    latents, conditions = clip_input(3)
    gradients = []
    for checkpointing in (False, True):
        layers = shaken(model.unet)
        layers.inject(model.unet)
        model.unet.train()
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
        with layers.clip(3):
            model(latents, 300, conditions).square().mean().backward()
        gradients.append([parameter.grad for parameter in layers.parameters()])
        layers.eject()
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.allclose(plain, checkpointed, atol=1e-6)


def test_half_precision_net_with_layers_in_float32(model):
    layers = shaken(model.unet)
    exact = run_in(model, layers, torch.float32)
    assert torch.allclose(run_in(model, layers, torch.bfloat16), exact, atol=0.15 * exact.abs().max().item())
    assert layers.dtype == torch.float32


def run_in(model, layers, dtype):
    model.to(dtype)
    layers.inject(model.unet)
    found = run(model, layers, 3)
    layers.eject()
    return found


@CHOICES
def test_layers_keep_in_a_folder_of_their_own(model, choices, tmp_path):
    layers = shaken(model.unet, **choices)
    save_module(layers, tmp_path / "temporal")
    again = load_module(lambda config: TemporalLayers(**config), tmp_path / "temporal")
    results = []
    for each in (layers, again):
        each.inject(model.unet)
        results.append(run(model, each, 3))
        each.eject()
    assert torch.equal(*results)


def test_mistakes_are_named(model, make_model):
    layers = fresh(model.unet)
    layers.inject(model.unet)
    with pytest.raises(ModelError, match="expected a batch of whole clips of 3 frames, found 4 frames"):
        latents, conditions = clip_input(4)
        with layers.clip(3):
            model(latents, 300, conditions)
    with pytest.raises(ModelError, match="found them in a U-Net: eject them first"):
        layers.inject(model.unet)
    with pytest.raises(ModelError, match="expected 'down_blocks.2.resnets.0.conv1' of width 32 in the U-Net, found 40"):
        fresh(model.unet).inject(make_model((16, 24, 40)).unet)
    with pytest.raises(ModelError, match="expected 'down_blocks.0.resnets.1.conv1' of width 16 .*found no such layer"):
        fresh(make_model(WIDTHS, layers_per_block=2).unet).inject(model.unet)
    with pytest.raises(ModelError, match="expected attention to be one of joint, first_previous, frame, found 'all'"):
        fresh(model.unet, attention="all")
    with pytest.raises(ModelError, match="expected conv_groups for 3 levels, found 2"):
        fresh(model.unet, conv_groups=(1, 1))

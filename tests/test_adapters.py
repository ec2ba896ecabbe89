"""Adapters beside a tiny random net: every level counts, weight 0 is none, masks keep them to their place, misfits are named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import T2IAdapter

from hicast.encoders.style import StyleCode
from hicast.errors import ModelError, UsageError
from hicast.models.adapters import AdapterSet, adapter_widths, combine
from hicast.models.conditions import Conditions

WIDTHS = (32, 64, 96)


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(WIDTHS).eval().requires_grad_(False)


def some_latents(side=16, seed=0):
    return torch.randn(1, 8, side, side, generator=torch.Generator().manual_seed(seed))


def some_conditions(side=16, **more):
    generator = torch.Generator().manual_seed(1)
    code = StyleCode(torch.randn(1, 2944, generator=generator), torch.randn(1, 4, 768, generator=generator))
    return Conditions.of(some_latents(side, seed=2) * 2 + 1, code, **more)


def random_adapters(kind="light_adapter", channels=WIDTHS, names=("edge", "depth"), widths=WIDTHS):
    torch.manual_seed(3)
    adapters = {name: T2IAdapter(channels=list(channels), adapter_type=kind).eval().requires_grad_(False) for name in names}
    return AdapterSet(adapters, widths)


@pytest.mark.parametrize("kind", ["light_adapter", "full_adapter"])
def test_every_adapter_level_changes_the_output(model, kind):
    adapters = random_adapters(kind, names=("edge",), widths=adapter_widths(model.unet))
    features = adapters.features({"edge": torch.rand(1, 3, 128, 128)})
    residuals = combine(features, {"edge": 1.0})
    assert [tuple(r.shape[1:]) for r in residuals] == [(32, 16, 16), (64, 8, 8), (96, 4, 4)]
    latents, given = some_latents(), some_conditions()
    plain = model(latents, 500, given)
    for level in range(3):
        only = tuple(r if i == level else torch.zeros_like(r) for i, r in enumerate(residuals))
        assert not torch.allclose(model(latents, 500, replace(given, residuals=only)), plain, atol=1e-5)


def test_zero_weight_is_no_adapter():
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
    latents, given = some_latents(32), some_conditions(side=32)
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


def test_adapters_that_do_not_fit(make_model):
    with pytest.raises(ModelError, match=r"'edge': expected levels of widths \(32, 64, 96\), found \(32, 48, 64\)"):
        random_adapters("full_adapter", channels=(32, 48, 64))
    with pytest.raises(ModelError, match="found none in block 0"):
        plain_first = ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
        adapter_widths(make_model(WIDTHS, down_block_types=plain_first).unet)
    adapters = random_adapters()
    with pytest.raises(UsageError, match="expected one of edge, depth, found 'seg'; leave its map out, or join it when the model is loaded"):
        adapters.features({"seg": torch.zeros(1, 3, 64, 64)})
    with pytest.raises(UsageError, match="multiples of 8, found 60x64"):
        adapters.features({"edge": torch.zeros(1, 3, 60, 64)})
    with pytest.raises(UsageError, match="expected some of none, found edge; give their maps as controls, or leave them out"):
        combine({}, {"edge": 1.0})


def test_residuals_that_do_not_fit(model):
    residuals = combine(random_adapters().features({"edge": torch.zeros(1, 3, 64, 64)}), {"edge": 1.0})
    latents = some_latents()
    with pytest.raises(ModelError, match=r"residual of level 0: expected .* \(32, 16, 16\), found \(32, 8, 8\)"):
        model(latents, 1, some_conditions(residuals=residuals))
    with pytest.raises(ModelError, match="expected 3, one per down block, found 2"):
        model(latents, 1, some_conditions(residuals=residuals[:2]))

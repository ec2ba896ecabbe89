"""Whitening and coloring of latents by the moments of a painting's, alone and as the last step of a net."""

from __future__ import annotations

import json

import pytest
import torch

from hicast.encoders.autoencoder import LatentCodec
from hicast.encoders.latent_moments import LatentMoments, mix_moments, painting_moments
from hicast.encoders.style import StyleCode, blend_styles
from hicast.errors import ModelError, UsageError
from hicast.models import coloring
from hicast.models.coloring import InverseRoot, colored
from hicast.models.conditions import Conditions, stack_conditions
from hicast.models.hicast_model import FLAGS_FILE, HiCastModel
from hicast.models.tiling import predict_in_tiles
from hicast.training.start import check_coloring

CHANNELS = 8


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mixed(*shape, seed=0):
    """Latents whose channels go together."""
    batch, channels, *places = shape
    return torch.einsum("ij,bj...->bi...", random(channels, channels, seed=seed + 50), random(*shape, seed=seed)) + random(channels, *(1 for _ in places))


def code(seed=0, moments=None):
    return StyleCode(random(1, 2944, seed=seed), random(1, 4, 768, seed=seed), moments)


@pytest.fixture
def net(make_model):
    made = make_model((32, 32, 32), CHANNELS, 4, attention_head_dim=8, cross_attention_dim=32, norm_num_groups=8, time_cond_proj_dim=64).eval()
    made.coloring = 0.5
    return made.requires_grad_(False)


def test_gradient_of_inverse_roots_is_exact_and_finite_where_eigenvalues_meet():
    half = torch.randn(2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrices = (half @ half.mT + 0.1 * torch.eye(5)).requires_grad_()
    assert torch.autograd.gradcheck(lambda one: InverseRoot.apply((one + one.mT) / 2), (matrices,))
    same = torch.eye(4)[None].requires_grad_()
    InverseRoot.apply(same).sum().backward()
    assert torch.allclose(same.grad, torch.full((1, 4, 4), -0.5), atol=1e-5)  # the derivative of x ** -0.5 at 1


def test_full_strength_gives_the_paintings_moments(monkeypatch):
    monkeypatch.setattr(coloring, "FLOOR", 1e-6)
    latents, style = mixed(2, CHANNELS, 12, 10), LatentMoments.of(mixed(2, CHANNELS, 9, 14, seed=5) * 3)
    found = LatentMoments.of(colored(latents, style, torch.ones(2)))
    assert torch.allclose(found.mean, style.mean, atol=1e-4)
    assert torch.allclose(found.covariance, style.covariance, rtol=2e-3, atol=0.05)


def test_strength_counts_row_by_row_and_the_map_is_the_nearest_one():
    latents, style = mixed(3, CHANNELS, 8, 8), LatentMoments.of(mixed(3, CHANNELS, 8, 8, seed=7))
    none, half, full = colored(latents, style, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(none, latents[0])
    whole = colored(latents, style, torch.ones(3))
    assert torch.allclose(half, (latents[1] + whole[1]) / 2, atol=1e-5) and torch.equal(full, whole[2])
    own = LatentMoments.of(latents)
    assert torch.allclose(colored(latents, own, torch.ones(3)), latents, atol=2e-4)


def test_flat_latents_are_not_blown_up():
    style = LatentMoments.of(mixed(1, CHANNELS, 16, 16))
    nearly_flat = 0.3 + 1e-3 * random(1, CHANNELS, 16, 16)
    result = colored(nearly_flat, style, torch.ones(1))
    assert result.isfinite().all() and result.std((2, 3)).max() < 1e-2


def test_moments_of_a_mixture_are_those_of_all_places_together():
    one, two = mixed(1, CHANNELS, 6, 6), mixed(1, CHANNELS, 6, 6, seed=3)
    together = LatentMoments.of(torch.cat([one, two, two], dim=2))
    found = mix_moments([LatentMoments.of(one), LatentMoments.of(two)], [1 / 3, 2 / 3])
    assert torch.allclose(found.mean, together.mean, atol=1e-5) and torch.allclose(found.covariance, together.covariance, atol=1e-4)
    blend = blend_styles([(code(0, LatentMoments.of(one)), 1.0), (code(1, LatentMoments.of(two)), 2.0)])
    assert torch.allclose(blend.moments.covariance, together.covariance, atol=1e-4)
    assert blend_styles([(code(0), 1.0), (code(1), 1.0)]).moments is None


def test_net_colors_what_it_predicts_as_strongly_as_the_style_counts(net):
    content, noise, style = random(1, CHANNELS, 16, 16), torch.zeros(1, CHANNELS, 16, 16), LatentMoments.of(mixed(1, CHANNELS, 16, 16, seed=3))
    for scale, share in ((0.0, 0.0), (0.5, 0.25), (1.0, 0.5), (1.5, 0.75), (3.0, 1.0)):
        given = Conditions.of(content, code(moments=style), style_scale=scale)
        plain = net.predict(noise, 999, given)
        assert torch.allclose(net(noise, 999, given), colored(plain, style, torch.tensor([share])), atol=1e-6)
    null = given.without_style(StyleCode(torch.zeros(1, 2944), torch.zeros(1, 4, 768)))
    assert torch.equal(net(noise, 999, null), net.predict(noise, 999, null))
    both = net(noise.expand(2, -1, -1, -1), 999, stack_conditions([given, null]))
    assert torch.allclose(both, torch.cat([net(noise, 999, given), net(noise, 999, null)]), atol=1e-4)
    with pytest.raises(ModelError, match="expected moments of the painting's latents, found none"):
        net(noise, 999, Conditions.of(content, code()))


def test_tiles_are_colored_together(net):
    content, noise = random(1, CHANNELS, 96, 96), torch.zeros(1, CHANNELS, 96, 96)
    content[..., 48:] += 3
    given = Conditions.of(content, code(moments=LatentMoments.of(mixed(1, CHANNELS, 16, 16, seed=3))))
    whole, cut = net(noise, 999, given), predict_in_tiles(net, noise, torch.tensor(999), given, 80)
    net.coloring = 0.0
    plain = (predict_in_tiles(net, noise, torch.tensor(999), given, 80) - net(noise, 999, given)).abs().max()
    assert (whole - cut).abs().max() < 5 * plain + 1e-3


def test_flag_travels_with_the_model(net, tmp_path):
    net.save_pretrained(tmp_path)
    assert HiCastModel.from_pretrained(tmp_path).coloring == 0.5
    (tmp_path / FLAGS_FILE).write_text(json.dumps({"content_skip": True}))
    assert HiCastModel.from_pretrained(tmp_path).coloring == 0.0
    for wrong in (5, "half", True):
        (tmp_path / FLAGS_FILE).write_text(json.dumps({"coloring": wrong}))
        with pytest.raises(ModelError, match="coloring: expected a number from 0 to 4"):
            HiCastModel.from_pretrained(tmp_path)


def test_pipeline_colors_by_the_painting(make_pipeline):
    pipeline = make_pipeline()
    photo, painting = random(1, 3, 64, 96).clamp(-1, 1), (random(1, 3, 70, 50, seed=4) / 3).clamp(-1, 1)
    assert pipeline.encode_style([(painting, 1.0)]).moments is None
    plain = pipeline.stylize_image(photo, [(painting, 1.0)], size=64)
    pipeline.model.coloring = 1.0
    styled = pipeline.encode_style([(painting, 1.0)])
    expected = painting_moments(LatentCodec(pipeline.autoencoder), painting, pipeline.index["style_side"])
    assert torch.allclose(styled.moments.mean, expected.mean)
    result = pipeline.stylize_image(photo, styled, size=64)
    assert not torch.allclose(result, plain, atol=1e-3)

    def away(image):
        return (LatentMoments.of(LatentCodec(pipeline.autoencoder).encode(image)).mean - expected.mean).norm()

    assert away(result) < away(plain)


def test_only_a_net_that_predicts_latents_can_color_them():
    check_coloring("coloring", 0.5, {"prediction_type": "sample"})
    check_coloring("coloring", 0.0, {})
    with pytest.raises(UsageError, match="coloring: expected 0 for a net that predicts epsilon, not latents, found 0.5; set coloring=0"):
        check_coloring("coloring", 0.5, {})
    with pytest.raises(UsageError, match="matching: expected 0 for a net that predicts epsilon, not latents, found 1; set matching=0"):
        check_coloring("matching", 1.0, {})

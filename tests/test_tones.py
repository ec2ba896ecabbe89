"""Colours of a painting: how they are spread over its places, and how latents come to be spread so."""

from __future__ import annotations

import torch
from accelerate import cpu_offload
from diffusers import AutoencoderKL

from hicast.encoders.aim import Aim
from hicast.encoders.autoencoder import LatentCodec, ResidualAutoencoder
from hicast.encoders.latent_moments import LatentMoments, mix_moments, painting_moments
from hicast.encoders.tones import STEEPEST, Tones
from hicast.models.matching import matched

CHANNELS = 8
COLORS = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(0)))[0][:3]


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tones_of(places: torch.Tensor) -> Tones:
    return Tones.of(places, COLORS[None])


def colors_of(latents: torch.Tensor) -> torch.Tensor:
    return COLORS @ latents.flatten(2)


def test_colors_come_to_be_spread_as_the_paintings_and_nothing_else_changes():
    painting, latents = 1.5 * normal(1, CHANNELS, 5000).abs(), normal(2, CHANNELS, 40, 50, seed=2)
    change = tones_of(painting).change(latents, 1)
    shares = torch.linspace(0.01, 0.99, 99)
    for found in colors_of(latents + change):
        assert torch.allclose(found.quantile(shares, dim=1), colors_of(painting)[0].quantile(shares, dim=1), atol=0.1)
    others = torch.linalg.svd(COLORS)[2][3:]
    assert (others @ change.flatten(2)).abs().max() < 1e-4


def test_no_two_tones_change_places():
    latents = normal(1, CHANNELS, 30, 30, seed=3)
    before, after = colors_of(latents)[0], colors_of(latents + tones_of(normal(1, CHANNELS, 900).exp()).change(latents, 1))[0]
    order = before.argsort(1)
    assert (after.gather(1, order).diff(dim=1) > -1e-4).all()


def test_small_differences_are_not_torn_apart():
    latents = 3 + 1e-3 * normal(1, CHANNELS, 30, 30, seed=4)
    after = latents + tones_of(normal(1, CHANNELS, 900)).change(latents, 1)
    assert (colors_of(after).std(2) <= 1.01 * STEEPEST * colors_of(latents).std(2)).all()
    assert torch.allclose(colors_of(after).mean(2), colors_of(normal(1, CHANNELS, 900)).mean(2), atol=0.02)


def test_what_stands_still_in_a_clip_keeps_its_tones_and_windows_follow_the_light():
    still = normal(1, CHANNELS, 20, 20, seed=5).expand(12, -1, -1, -1)
    change = tones_of(normal(1, CHANNELS, 900).exp()).change(still, 12)
    assert (change - change[:1]).abs().max() < 1e-4
    darker = still - torch.linspace(0, 2, 12)[:, None, None, None]
    levels = colors_of(darker + tones_of(normal(1, CHANNELS, 900)).change(darker, 12)).mean(2)
    alone = colors_of(darker + tones_of(normal(1, CHANNELS, 900)).change(darker, 1)).mean(2)
    falls = (colors_of(darker).mean(2)[0] - colors_of(darker).mean(2)[-1]).abs()
    assert ((levels[0] - levels[-1]).abs() > 0.2 * falls).all() and ((levels[0] - levels[-1]).abs() < 0.95 * falls).all()
    assert ((alone[0] - alone[-1]).abs() < 0.1 * falls).all()


def test_colors_that_nobody_knows_are_left_alone():
    latents = normal(1, CHANNELS, 9, 9)
    assert not Tones.of(normal(1, CHANNELS, 50), torch.zeros(1, 3, CHANNELS)).change(latents, 1).any()
    assert not LatentMoments.of(latents).colors.any()


def test_a_codec_tells_what_its_latents_add_to_colors():
    torch.manual_seed(0)
    autoencoder = ResidualAutoencoder(12, (8, 8, 8)).eval()
    autoencoder.fit_linear(torch.rand(500, 192) * 2 - 1)
    codec = LatentCodec(autoencoder)
    assert codec.colors().shape == (3, 12)
    latents, added = normal(1, 12, 6, 6), 0.3 * normal(12)
    with torch.no_grad():
        change = autoencoder.unproject(latents + added[:, None, None]) - autoencoder.unproject(latents)
    assert torch.allclose(change.mean((0, 2, 3)), codec.colors() @ added, atol=1e-5)
    kept = painting_moments(codec, torch.rand(1, 3, 64, 64) * 2 - 1, 64).colors
    assert torch.equal(kept[0], codec.colors())
    published = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, latent_channels=4)
    assert torch.equal(LatentCodec(published).colors(), torch.zeros(3, 4))


def test_a_codec_whose_layers_wait_until_they_compute_tells_the_same():
    torch.manual_seed(0)
    autoencoder = ResidualAutoencoder(12, (8, 8, 8)).eval()
    expected = LatentCodec(autoencoder).colors()
    cpu_offload(autoencoder, execution_device=torch.device("cpu"))
    assert autoencoder.unproject.weight.is_meta
    assert torch.allclose(LatentCodec(autoencoder).colors(), expected, atol=1e-6) and expected.abs().max() > 1e-3


def test_matching_ends_with_the_paintings_colors_by_its_strength():
    painting, latents = normal(1, CHANNELS, 40, 40).exp(), normal(1, CHANNELS, 24, 24, seed=6)
    plain, told = LatentMoments.of(painting).aim(), LatentMoments.of(painting, colors=COLORS).aim()

    def apart(found: torch.Tensor) -> float:
        shares = torch.linspace(0.02, 0.98, 49)
        return (colors_of(found)[0].quantile(shares, dim=1) - colors_of(painting)[0].quantile(shares, dim=1)).abs().mean().item()

    def away(strength: float, aim: Aim) -> float:
        return apart(matched(latents, aim, torch.tensor([strength]), texture=False))

    assert away(0.0, told) == away(0.0, plain) > away(0.5, told) > away(1.0, told)
    assert away(1.0, told) < 0.5 * away(1.0, plain)
    clip = matched(latents.expand(2, -1, -1, -1), told, torch.ones(2), frames=2, texture=False)
    assert apart(matched(latents, told, torch.ones(1), texture=False)) < apart(clip[:1]) < apart(matched(latents, plain, torch.ones(1), texture=False))
    mixed = mix_moments([LatentMoments.of(painting, colors=COLORS)] * 2, [0.5, 0.5])
    assert torch.equal(mixed.colors[0], COLORS)

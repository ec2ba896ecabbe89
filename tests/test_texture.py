"""Texture of a painting's latents: from which blocks, how often each, and where it is laid."""

from __future__ import annotations

import torch

from hicast.encoders import texture
from hicast.encoders.aim import Aim
from hicast.encoders.latent_moments import LatentMoments
from hicast.encoders.texture import BOLD, DISSOLVED, FIGURES, LEAST, OFTEN, SEEN, SPREAD
from hicast.models import matching
from hicast.models.matching import matched

CHANNELS = 8


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def aim_of(latents: torch.Tensor, figures: torch.Tensor | None = None) -> Aim:
    return LatentMoments.of(latents, figures).aim()


def ripples(period: float = 4.0) -> torch.Tensor:
    """Latents (1, `CHANNELS`, 40, 40): dark and rippled above, bright and smooth below."""
    wave = torch.sin(2 * torch.pi * torch.arange(40) / period).expand(26, 40)
    return torch.cat([wave - 3, torch.full((14, 40), 3.0)]).expand(1, CHANNELS, 40, 40)


def test_texture_is_laid_where_the_painting_has_it():
    rippled = aim_of(ripples()).texture
    dark, bright = (rippled.laid(torch.full((1, CHANNELS, 25, 31), value)) for value in (-3.0, 3.0))
    assert dark.shape == (1, CHANNELS, 25, 31) and torch.equal(dark, rippled.laid(torch.full((1, CHANNELS, 25, 31), -3.0)))
    assert dark.std() > 0.3 and dark.std() > 2 * bright.std()
    assert dark.mean().abs() < 0.2  # texture alone, no tone
    assert rippled.laid(normal(2, CHANNELS, 3, 2)).shape == (2, CHANNELS, 3, 2)


def test_blocks_that_hold_figures_are_left_alone():
    surface = 0.1 * normal(1, CHANNELS, 60, 60)
    detail, outline = surface.clone(), surface.clone()
    detail[..., 20:40, 20:40] += 5 * normal(1, CHANNELS, 20, 20, seed=1)
    outline[..., 30:50, :] += torch.linspace(0, 8, 20)[:, None]
    for painting in (detail, outline):
        held = aim_of(painting).texture
        assert (held.against > BOLD).any() and (held.against == 0).float().mean() > 0.15
        assert held.laid(torch.zeros(1, CHANNELS, 40, 40)).abs().max() < 0.5


def test_what_shows_figures_is_laid_seldom_and_faintly():
    wave = torch.sin(2 * torch.pi * torch.arange(64) / 4.0)
    painting = torch.cat([wave[:, None].expand(64, 32), wave[:32].expand(64, 32)], dim=1).expand(1, CHANNELS, 64, 64)  # ripples across, then along
    shown = torch.tensor([0.0, 2.0]).repeat_interleave(8).expand(1, 16, 16)  # figures on its right half
    plain, told = aim_of(painting).texture, aim_of(painting, shown).texture
    right = told.against[0] > 0.99 * FIGURES * 2
    strengths = told.surface[0, right].norm() / plain.surface[0, right].norm()
    assert 0.4 < right.float().mean() < 0.5 and 0.5 * DISSOLVED < strengths < 1.5 * DISSOLVED
    assert torch.equal(told.surface[0, told.against[0] == 0], plain.surface[0, told.against[0] == 0])
    along, across = (told.laid(torch.zeros(1, CHANNELS, 40, 40)).diff(dim=dim).square().mean() for dim in (3, 2))
    assert along < 0.1 * across and aim_of(painting).texture.laid(torch.zeros(1, CHANNELS, 40, 40)).diff(dim=3).square().mean() > 3 * along


def test_figures_are_laid_fainter_and_crowds_without_their_outlines():
    surface = torch.zeros(1, 3, CHANNELS, 6, 6)
    surface[..., 2:4, :] = torch.linspace(-1, 1, CHANNELS)[:, None, None]  # a stripe, of other tones than what is beside it
    surface -= surface.mean((3, 4), keepdim=True)
    shown = torch.tensor([0.0, 0.2, 10.0]).reshape(1, 3, 1, 1, 1)
    bare, faint, crowd = texture._without_figures(surface, shown)[0]
    assert torch.equal(bare, surface[0, 0])
    assert torch.allclose(faint, (LEAST + (1 - LEAST) / (1 + (0.2 / SEEN) ** 2)) * surface[0, 1], atol=0.01)
    assert torch.allclose(torch.fft.rfft2(crowd).abs(), DISSOLVED * torch.fft.rfft2(surface[0, 2]).abs(), atol=0.02)  # its frequencies are all there
    shares = crowd.flatten(1) @ crowd.flatten(1).T / (surface[0, 2].flatten(1) @ surface[0, 2].flatten(1).T)
    assert torch.allclose(shares, torch.full_like(shares, DISSOLVED**2), rtol=0.02)  # and how its channels go together
    alike = torch.cosine_similarity(crowd.flatten(), surface[0, 2].flatten(), dim=0)
    assert alike.abs() < 0.9 and torch.equal(crowd, texture._without_figures(surface, shown)[0, 2])


def test_no_part_is_laid_stronger_than_the_weakest():
    strong = torch.tensor([1.0, 4.0]).repeat_interleave(32) * normal(1, CHANNELS, 64, 64)  # a painting that is rough on its right half
    parts = aim_of(strong).texture
    strength = (parts.surface / parts.scale[..., None, None]).square().mean((2, 3, 4)).sqrt()
    assert strength.max() < 1.5 * strength.min()
    rough = parts.roughness > parts.roughness.median()
    assert 0.7 < strength[rough].mean() / strength[~rough].mean() < 1.4 and parts.roughness.max() > 2.5 * parts.roughness.min()


def test_texture_goes_up_to_outlines_and_stays_out_of_what_is_small():
    latents = torch.full((1, CHANNELS, 24, 40), -3.0)
    latents[..., 20:] = 3 * normal(1, CHANNELS, 24, 20)
    latents[..., 28:33] = -3.0  # flat, but narrower than the squares that must be
    aim = aim_of(ripples())
    strength = matching._seeds(latents, aim.texture, aim.variance[..., None, None], matching.UNTOLD).square().mean((0, 1, 2)).sqrt()
    assert strength[17:20].mean() > 0.5 * strength[:10].mean() and strength[29:32].mean() < 0.2 * strength[:10].mean()


def test_texture_of_one_tone_comes_from_many_blocks():
    places, blocks = 100, 50
    drawn = texture._drawn(torch.zeros(2, places, blocks))
    assert torch.equal(drawn, texture._drawn(torch.zeros(2, places, blocks))) and torch.equal(drawn[0], drawn[1])
    assert len(drawn[0].unique()) > 0.75 * blocks
    liked = torch.zeros(1, places, blocks)
    liked[..., 0] = -3 * SPREAD  # twenty times as likely as any other
    assert 0.5 * OFTEN <= (texture._drawn(liked) == 0).sum() / (places / blocks) <= 2 * OFTEN
    assert (texture._drawn(liked[:, :3]) == 0).float().mean() < 1  # even where there are fewer places than blocks


def test_likely_blocks_are_drawn_as_often_as_they_are_likely(monkeypatch):
    monkeypatch.setattr(texture, "OFTEN", 100.0)
    away = torch.tensor([0.0, SPREAD, 2 * SPREAD]).expand(1, 3000, 3)
    shares = torch.nn.functional.one_hot(texture._drawn(away)[0], 3).float().mean(0)
    assert torch.allclose(shares, (-torch.arange(3.0)).softmax(0), atol=0.03)


def test_flat_areas_get_texture_in_pictures_and_none_in_clips():
    latents = torch.full((2, CHANNELS, 24, 24), -3.0)
    latents[..., 12:] = 3 * normal(1, CHANNELS, 24, 12)
    aim = aim_of(ripples())
    seeds = matching._seeds(latents, aim.texture, aim.variance[..., None, None], matching.UNTOLD)
    assert seeds[..., :8].std() > 0.2 and seeds[..., :8].std() > 3 * seeds[..., 16:].std()
    still, clip, held = (
        matched(latents, aim, torch.ones(2), **given)[0, :, :, :8].std((1, 2)).max() for given in ({}, {"frames": 2}, {"loose": torch.zeros(2)})
    )
    assert still > 0.2 and clip < 0.6 * still and held < 0.6 * still
    alone = matched(latents, aim, torch.ones(2), texture=False)[0, :, :, :8].std((1, 2)).max()
    assert clip < alone < 0.9 * still


def test_a_strength_above_one_means_more_texture_and_nothing_else(monkeypatch):
    latents, aim = torch.full((1, CHANNELS, 24, 24), -3.0), aim_of(ripples())
    half, once, twice = (torch.tensor([strength]) for strength in (0.5, 1.0, 2.0))
    assert torch.equal(matched(latents, aim, once, texture=False), matched(latents, aim, twice, texture=False))
    monkeypatch.setattr(matching, "_on_scale", lambda moved, *rest: torch.zeros_like(moved))
    texture = matched(latents, aim, once) - latents
    assert texture.std() > 0.2
    assert torch.allclose(matched(latents, aim, twice) - latents, 2 * texture, atol=1e-5)
    assert torch.allclose(matched(latents, aim, half) - latents, texture / 4, atol=1e-5)  # half of the texture, half of the way
    for asked in (0.0, 0.3, 2.0):
        assert torch.allclose(matched(latents, aim, once, texture=asked) - latents, asked * texture, atol=1e-5)

"""Latents whose neighbourhoods are matched to a painting's, alone and as the last step of a net."""

from __future__ import annotations

import json

import pytest
import torch

from hicast.encoders import over_time
from hicast.encoders.aim import AXES, SIDE, Aim, axes_of
from hicast.encoders.latent_moments import BLOCK, KEPT_BLOCKS, ROWS, LatentMoments, mean_and_covariance, mix_moments
from hicast.encoders.style import StyleCode
from hicast.errors import ModelError
from hicast.models import hicast_model, matching
from hicast.models.coloring import colored
from hicast.models.conditions import MOST_HELD, Conditions, stack_conditions
from hicast.models.hicast_model import BEYOND, FLAGS_FILE, HiCastModel
from hicast.models.matching import matched
from hicast.models.tiling import predict_in_tiles

CHANNELS = 8


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clumps(*places: int, seed: int = 0) -> torch.Tensor:
    """Latents (1, `CHANNELS`, *places) that lie around three points, which no mean and covariance tells of."""
    points, chosen = normal(3, CHANNELS, seed=60), torch.randint(3, places, generator=torch.Generator().manual_seed(seed))
    return 3 * points[chosen].movedim(-1, 0)[None] + 0.1 * normal(1, CHANNELS, *places, seed=seed)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean distance of sorted values along 40 directions (sliced Wasserstein) of neighbourhoods of latents (1, channels, height, width) of one size."""
    directions = torch.nn.functional.normalize(normal(40, one.shape[1] * SIDE**2, seed=9), dim=1)
    along = [torch.sort(directions @ torch.nn.functional.unfold(latents, SIDE)[0], dim=1).values for latents in (one, other)]
    return (along[0] - along[1]).abs().mean().item()


def blocks_of(latents: torch.Tensor) -> torch.Tensor:
    return LatentMoments.of(latents).blocks.unflatten(2, (-1, BLOCK, BLOCK))


def aim_of(latents: torch.Tensor) -> Aim:
    return LatentMoments.of(latents).aim()


def stripes(seed: int = 0) -> torch.Tensor:
    """Latents (1, `CHANNELS`, 32, 32) that go up and down from row to row, which no value of a place tells of."""
    return normal(1, CHANNELS, 1, 1, seed=seed) * torch.tensor([1.0, -1.0]).repeat(16)[:, None] + 0.1 * normal(1, CHANNELS, 32, 32, seed=seed)


def test_axes_come_from_the_painting_are_orthogonal_and_always_the_same():
    patches = normal(2, 40 * SIDE**2, 500)
    found = axes_of(patches, 5)
    assert found.shape == (2, 5, AXES, 40 * SIDE**2) and torch.equal(axes_of(patches, 5), found)
    assert torch.allclose(found @ found.mT, torch.eye(AXES).expand(2, 5, -1, -1), atol=0.01)
    first = torch.nn.functional.cosine_similarity(found[0, 0, 0][:, None], patches[0] - patches[0].mean(1, keepdim=True), dim=0)
    assert first.max() > 0.999  # one of the painting's own
    assert axes_of(torch.full((1, CHANNELS * SIDE**2, 20), 3.0), 2).abs().max() < 1e-3  # fewer places than axes, and all alike


def test_full_strength_gives_the_paintings_distribution_where_moments_alone_do_not(monkeypatch):
    monkeypatch.setattr(matching, "GRAIN", 1.0)
    latents, painting = normal(1, CHANNELS, 32, 32), clumps(32, 32, seed=3)
    by_moments = colored(latents, LatentMoments.of(painting), torch.ones(1))
    result = matched(by_moments, aim_of(painting), torch.ones(1))
    assert apart(result, painting) < 0.4 * apart(by_moments, painting)
    assert apart(matched(latents, aim_of(painting), torch.ones(1)), painting) < 0.4 * apart(latents, painting)


def test_patterns_of_neighbourhoods_come_over_where_single_values_are_alike(monkeypatch):
    monkeypatch.setattr(matching, "GRAIN", 1.0)
    painting = stripes()
    latents = painting[..., torch.randperm(32, generator=torch.Generator().manual_seed(2)), :]  # the same values, no stripes

    def alternation(of):
        return (of[..., 1:, :] * of[..., :-1, :]).mean() / of.square().mean()

    assert alternation(matched(latents, aim_of(painting), torch.ones(1))) < alternation(latents) - 0.3


def test_strength_counts_row_by_row_and_what_is_alike_stays(monkeypatch):
    monkeypatch.setattr(matching, "SEED", 0.0)  # of texture random values have enough
    latents, painting = normal(3, CHANNELS, 16, 16), aim_of(clumps(16, 16))
    none, half, full = matched(latents, painting, torch.tensor([0.0, 0.5, 1.0]))
    whole = matched(latents, painting, torch.ones(3))
    assert torch.equal(none, latents[0]) and torch.allclose(half, (latents[1] + whole[1]) / 2, atol=1e-5) and torch.equal(full, whole[2])
    own = normal(1, CHANNELS, 32, 32)
    assert (matched(own, aim_of(own), torch.ones(1)) - own).abs().mean() < 0.06 * own.std()


def test_every_row_of_a_batch_has_its_own_painting():
    latents, paintings = normal(2, CHANNELS, 16, 16), torch.cat([clumps(16, 16), stripes()[..., :16, :16]])
    together = matched(latents, aim_of(paintings), torch.ones(2))
    alone = torch.cat([matched(latents[row, None], aim_of(paintings[row, None]), torch.ones(1)) for row in range(2)])
    assert (together - alone).abs().mean() < 0.05 * (together - latents).abs().mean()  # rounding shifts some values by a level
    shared = LatentMoments.of(paintings[:1]).expand(2)
    assert len(shared.aim().variance) == 1  # computed once for all that share it
    assert (matched(latents, shared.aim(), torch.ones(2))[:1] - together[:1]).abs().mean() < 0.05 * (together - latents)[:1].abs().mean()


def test_gradient_passes_as_it_is():
    latents = normal(1, CHANNELS, 8, 8).requires_grad_()
    (matched(latents, aim_of(clumps(16, 16)), torch.ones(1)) * 3).sum().backward()
    assert torch.equal(latents.grad, torch.full_like(latents, 3))


@pytest.mark.parametrize("flat", [torch.zeros(1, CHANNELS, 8, 8), torch.full((1, CHANNELS, 8, 8), 50.0)])
def test_flat_pictures_and_paintings_stay_finite(flat):
    assert matched(flat, aim_of(clumps(16, 16)), torch.ones(1)).isfinite().all()
    result = matched(normal(1, CHANNELS, 8, 8), aim_of(flat), torch.ones(1))
    assert result.isfinite().all()


def test_a_flat_area_gets_no_more_texture_than_its_share(monkeypatch):
    monkeypatch.setattr(matching, "SEED", 0.0)
    latents = normal(1, CHANNELS, 32, 32)
    latents[..., 16:] = 0.5 + 0.01 * normal(1, CHANNELS, 32, 16, seed=4)
    painting = aim_of(3 * normal(1, CHANNELS, 32, 32, seed=5))

    def texture(grain):
        monkeypatch.setattr(matching, "GRAIN", grain)
        return matched(latents, painting, torch.ones(1))[..., 20:].std((2, 3)).mean()

    none, some, full = texture(0.0), texture(0.4), texture(1.0)
    assert none < 0.5 * full and none < some < 0.7 * full


def test_blocks_are_spread_over_the_painting_and_mixed_by_shares():
    rows = torch.arange(64.0).view(1, 1, 64, 1).expand(1, CHANNELS, 64, 48)
    blocks = blocks_of(rows)
    assert blocks.shape == (1, KEPT_BLOCKS, CHANNELS, BLOCK, BLOCK) and blocks.mean() == pytest.approx(31.5, abs=0.1)
    assert torch.equal(blocks[..., 1:, :] - blocks[..., :-1, :], torch.ones(1, KEPT_BLOCKS, CHANNELS, BLOCK - 1, BLOCK))
    assert blocks.min() == 0 and blocks.max() == 63  # up to the borders
    columns = blocks_of(rows.transpose(2, 3)).unflatten(1, (ROWS, ROWS))
    assert torch.equal(columns[:, 0], columns[:, -1]) and (columns.diff(dim=2) > 0).all()
    assert blocks_of(rows[..., :1, :5]).shape == (1, KEPT_BLOCKS, CHANNELS, BLOCK, BLOCK)  # smaller than a block
    nought, one = LatentMoments.of(torch.zeros(1, CHANNELS, 9, 9)), LatentMoments.of(torch.ones(1, CHANNELS, 9, 9))
    mixture = mix_moments([nought, one], [0.25, 0.75])
    assert mixture.blocks.shape == nought.blocks.shape and mixture.blocks.mean() == pytest.approx(0.75, abs=0.01)
    assert torch.equal(mix_moments([nought, one], [0.0, 1.0]).blocks, one.blocks)


@pytest.fixture
def net(make_model):
    made = make_model((32, 32, 32), CHANNELS, 4, attention_head_dim=8, cross_attention_dim=32, norm_num_groups=8, time_cond_proj_dim=64).eval()
    made.matching = 0.5
    return made.requires_grad_(False)


def code(moments: LatentMoments | None = None) -> StyleCode:
    return StyleCode(normal(1, 2944), normal(1, 4, 768), moments)


def test_net_matches_after_it_colors_as_strongly_as_the_style_counts(net):
    content, noise, style = normal(1, CHANNELS, 16, 16), torch.zeros(1, CHANNELS, 16, 16), LatentMoments.of(clumps(16, 16))
    for coloring in (0.0, 0.5):
        net.coloring = coloring
        for scale, share in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (1.5, 1.5), (3.0, 2.0)):
            given = Conditions.of(content, code(style), style_scale=scale)
            expected = colored(net.predict(noise, 999, given), style, torch.tensor([share * coloring]))
            expected = matched(expected, style.aim(), torch.tensor([scale * 0.5]))
            assert torch.allclose(net(noise, 999, given), expected, atol=1e-5)
    with pytest.raises(ModelError, match="expected moments of the painting's latents, found none"):
        net(noise, 999, Conditions.of(content, code()))


def test_tiles_are_matched_together(net, monkeypatch):
    monkeypatch.setattr(matching, "SEED", 0.0)  # which block a place takes turns on the least difference
    content, noise = normal(1, CHANNELS, 96, 96), torch.zeros(1, CHANNELS, 96, 96)
    content[..., 48:] += 3
    given = Conditions.of(content, code(LatentMoments.of(2 * normal(1, CHANNELS, 16, 16, seed=3))))
    whole, cut = net(noise, 999, given), predict_in_tiles(net, noise, torch.tensor(999), given, 80)
    net.matching = 0.0
    plain = (predict_in_tiles(net, noise, torch.tensor(999), given, 80) - net(noise, 999, given)).abs().max()
    assert (whole - cut).abs().max() < 5 * plain + 1e-2


def test_flag_travels_with_the_model(net, tmp_path):
    net.save_pretrained(tmp_path)
    assert HiCastModel.from_pretrained(tmp_path).matching == 0.5
    (tmp_path / FLAGS_FILE).write_text(json.dumps({"matching": -1}))
    with pytest.raises(ModelError, match="matching: expected a number from 0 to 4, found -1; mend the file"):
        HiCastModel.from_pretrained(tmp_path)


def test_pipeline_matches_by_the_painting(make_pipeline):
    pipeline = make_pipeline()
    photo, painting = normal(1, 3, 64, 96).clamp(-1, 1), (normal(1, 3, 70, 50, seed=4) / 3).clamp(-1, 1)
    plain = pipeline.stylize_image(photo, [(painting, 1.0)], size=64)
    pipeline.model.matching = 1.0
    styled = pipeline.encode_style([(painting, 1.0)])
    assert styled.aim is not None and Conditions.of(normal(1, pipeline.model.unet.config.out_channels, 8, 8), styled).aim is styled.aim
    assert styled.moments.blocks.shape == (1, KEPT_BLOCKS, pipeline.model.unet.config.out_channels * BLOCK**2)
    assert styled.moments.figures.std() > 0 and styled.aim.texture.against.std() > 0
    assert not torch.allclose(pipeline.stylize_image(photo, styled, size=64), plain, atol=1e-3)


def test_pictures_get_as_much_texture_as_is_asked_for(make_pipeline, monkeypatch):
    asked = []
    monkeypatch.setattr(hicast_model, "matched", lambda latents, *given: asked.append(given[5]) or latents)
    pipeline, photo, painting = make_pipeline(), normal(1, 3, 64, 64).clamp(-1, 1), normal(1, 3, 64, 64, seed=4).clamp(-1, 1)
    pipeline.model.matching = 1.0
    for texture in (1.0, 0.3, 0.0):
        pipeline.stylize_image(photo, [(painting, 1.0)], size=64, texture=texture)
    assert asked == [1.0, 0.3, 0.0]


def test_frames_get_no_texture_even_one_by_one(make_pipeline, monkeypatch):
    asked = []
    monkeypatch.setattr(hicast_model, "matched", lambda latents, *given: asked.append(given[5]) or latents)
    pipeline, photo, painting = make_pipeline(), normal(1, 3, 64, 64).clamp(-1, 1), normal(1, 3, 64, 64, seed=4).clamp(-1, 1)
    pipeline.model.matching = 1.0
    assert pipeline.temporal is None and len(list(pipeline.stylize_video([photo, photo], [(painting, 1.0)], size=64))) == 2
    assert asked and not any(asked)


def test_what_residuals_hold_gets_less_texture(net, monkeypatch):
    monkeypatch.setattr(matching, "SEED", 0.0)  # else not linear in how far they hold
    content, noise, style = normal(1, CHANNELS, 16, 16), torch.zeros(1, CHANNELS, 16, 16), LatentMoments.of(2 * normal(1, CHANNELS, 32, 32, seed=3) ** 3)
    residuals = tuple(torch.zeros(1, *shape) for shape in ((32, 16, 16), (32, 8, 8), (32, 4, 4)))
    plain = Conditions.of(content, code(style))
    prediction, share = net.predict(noise, 999, plain), torch.tensor([0.5])
    loose, half, held = (matched(prediction, style.aim(), share, loose=torch.tensor([value])) for value in (1.0, 0.5, 0.0))
    assert torch.equal(net(noise, 999, plain), loose) and torch.equal(loose, matched(prediction, style.aim(), share))
    assert torch.allclose(half, (loose + held) / 2, atol=1e-5) and not torch.allclose(loose, held, atol=1e-2)
    beyond = matched(prediction, style.aim(), share * (1 - BEYOND), loose=torch.zeros(1))
    assert (beyond - prediction).abs().mean() < 0.8 * (held - prediction).abs().mean()
    for hold, expected in ((None, held), (MOST_HELD, beyond), (1.0, held), (0.5, half), (0.0, loose)):
        assert torch.allclose(net(noise, 999, Conditions.of(content, code(style), residuals=residuals, hold=hold)), expected, atol=1e-4)
    both = stack_conditions([Conditions.of(content, code(style), residuals=residuals, hold=hold) for hold in (1.0, 0.0)])
    away = net(noise.expand(2, -1, -1, -1), 999, both) - torch.cat([held, loose])
    assert away.abs().mean() < 0.05 * (held - loose).abs().mean()


def test_frames_of_a_clip_are_colored_alike(net):
    frames, style, one = normal(4, CHANNELS, 16, 16), LatentMoments.of(2 * normal(1, CHANNELS, 32, 32, seed=3) ** 3), torch.ones(4)
    whole = frames.view(1, 4, CHANNELS, 16, 16).transpose(1, 2).reshape(1, CHANNELS, 64, 16)  # one above the other
    alone, together = colored(frames, style.expand(4), one), colored(frames, style.expand(4), one, 4)
    joined = together.view(1, 4, CHANNELS, 16, 16).transpose(1, 2).reshape(1, CHANNELS, 64, 16)
    assert (joined - colored(whole, style, one[:1])).abs().mean() < 0.1 * (alone - together).abs().mean()
    net.coloring = 0.5
    conditions = Conditions.of(frames, code(style), frames=4)
    prediction = net.predict(frames, 999, conditions)
    expected = matched(colored(prediction, style.expand(4), one / 2, 4), style.aim(), one / 2, 4)
    assert torch.allclose(net(frames, 999, conditions), expected, atol=1e-4)


def test_a_clip_is_matched_as_a_whole_and_flickers_less(monkeypatch):
    monkeypatch.setattr(matching, "SEED", 0.0)  # which clips do without
    aim, one = aim_of(2 * normal(1, CHANNELS, 32, 32, seed=3) ** 3), torch.ones(6)
    still = 3 * torch.nn.functional.interpolate(normal(1, CHANNELS, 4, 4), size=(16, 16), mode="bilinear")
    frames = still + 0.1 * normal(6, CHANNELS, 16, 16, seed=5)
    alone, together = matched(frames, aim, one), matched(frames, aim, one, 6)

    def flicker(of):
        return of.diff(dim=0).abs().mean()

    assert flicker(together) < 0.85 * flicker(alone)
    back = matched(frames.flip(0), aim, one, 6).flip(0)
    assert (together - back).abs().mean() < 0.05 * (together - frames).abs().mean()  # the order of frames tells nothing
    light = frames + torch.linspace(-1, 1, 6)[:, None, None, None] * 4
    drift = (matched(light, aim, one, 6).mean((2, 3))[-1] - matched(light, aim, one, 6).mean((2, 3))[0]).mean()
    assert drift > 4 * (matched(light, aim, one).mean((2, 3))[-1] - matched(light, aim, one).mean((2, 3))[0]).mean().abs()  # a fade stays one


def test_windows_of_a_film_that_share_frames_nearly_meet(monkeypatch):
    rise = torch.linspace(0.5, 2, 44).view(-1, 1, 1, 1)
    film, windows = rise * normal(44, CHANNELS, 16, 16) + rise, (slice(0, 24), slice(20, 44))
    spread = aim_of(clumps(24, 24)).spreads[-1]
    along = rise * normal(44, 16, 16, spread.step.shape[1])

    def jumps() -> torch.Tensor:
        moments = [mean_and_covariance(film[window], 24) for window in windows]
        changes = [spread.change(along[window], 24) for window in windows]
        pairs = [*zip(*moments, strict=True), tuple(changes)]
        return torch.stack([(one[-1] - next_[3]).abs().mean() for one, next_ in pairs])  # of the same frame

    followed = jumps()
    monkeypatch.setattr(over_time, "FOLLOWED", 0.0)
    assert (followed < 0.85 * jumps()).all()
    whole = film[:24].transpose(0, 1).flatten(1)
    mean, covariance = mean_and_covariance(film[:24], 24)
    assert torch.allclose(mean[5], whole.mean(1), atol=1e-5) and torch.allclose(covariance[5], torch.cov(whole, correction=0), atol=1e-4)

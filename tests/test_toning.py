"""Tones of results moved towards the painting's: the curves alone, and as the last step of a pipeline."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import avg_pool2d

from hicast.encoders.style import StyleCode
from hicast.errors import ModelError, UsageError
from hicast.io.bases import INDEX_FILE
from hicast.io.images import resize_image
from hicast.models.temporal import TemporalLayers
from hicast.pipeline import HiCastPipeline
from hicast.repainting.scene import Region
from hicast.repainting.toning import LEVELS, remembered, smooth, tone_shares, toned


def picture(seed: int, power: float = 1.0, size: tuple[int, int] = (64, 96)) -> torch.Tensor:
    """A random picture (1, 3, height, width) that is darker for a higher `power`."""
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed)) ** power * 2 - 1


PHOTO, PAINTING, OTHER = picture(1), picture(2, 3.0, (70, 50)), picture(3, 0.4)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean earth mover's distance, in levels, of shares."""
    return (one.cumsum(2) - other.cumsum(2)).abs().sum(2).mean().item()


def test_shares_count_levels_and_weights_choose_places():
    flat = torch.full((1, 3, 8, 8), -1.0)
    flat[..., 4:] = 1.0
    shares = tone_shares(flat)
    assert shares.sum(2) == pytest.approx(1, abs=1e-5)
    assert shares[..., :20].sum(2) == pytest.approx(0.5, abs=1e-5) and shares[..., -20:].sum(2) == pytest.approx(0.5, abs=1e-5)
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 0.3
    assert torch.allclose(tone_shares(flat, left), tone_shares(flat[..., :4]), atol=1e-6)
    assert tone_shares(flat, torch.zeros(1, 1, 8, 8)).abs().max() == 0


def test_tones_become_the_paintings_and_keep_their_order():
    ramp = torch.linspace(-1, 1, 256).expand(1, 3, 64, 256)
    own, wanted = tone_shares(ramp), tone_shares(PAINTING)
    result = toned(ramp, own, wanted)
    assert distance(tone_shares(result), wanted) < 6 < 40 < distance(own, wanted)
    assert (result[0, 0, 0].diff() > -1e-3).all()
    assert (toned(ramp, own, own) - ramp).abs().max() < 0.5 / LEVELS


def test_fine_light_and_shade_stays():
    grain = 0.03 * (picture(5) > 0)
    flat = grain - 0.5 + torch.linspace(0, 0.2, 96)  # a narrow range, which the painting's tones stretch
    result = toned(flat, tone_shares(flat), tone_shares(OTHER))
    fine = [image - avg_pool2d(image, 5, 1, 2, count_include_pad=False) for image in (flat, result)]
    assert result.std() > 3 * flat.std()
    assert 0.8 < (fine[1].std() / fine[0].std()).item() < 1.5


def test_smooth_keeps_outlines_and_takes_grain_away():
    step = torch.zeros(1, 1, 32, 32)
    step[..., 16:] = 1.0
    grain = 0.05 * torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    assert (smooth(step) - step).abs().max() < 0.15
    assert smooth(grain).std() < 0.25 * grain.std()
    assert smooth(step[..., :3, :5]).shape == (1, 1, 3, 5)


def test_flat_pictures_stay_flat():
    flat = torch.full((1, 3, 16, 16), 0.2)
    result = toned(flat, tone_shares(flat), tone_shares(PAINTING))
    assert result.isfinite().all() and (result.std((2, 3)) < 1e-6).all()


def test_frames_remember_the_tones_before_them():
    shares = torch.rand(5, 3, LEVELS)
    found = remembered(shares, 2)
    assert torch.allclose(found[0], shares[0]) and torch.allclose(found[1], shares[:2].mean(0)) and torch.allclose(found[4], shares[2:].mean(0))


@pytest.fixture
def pipeline(make_pipeline) -> HiCastPipeline:
    return make_pipeline(side_range=[32, 256], toning=0.5)


def test_pipeline_tones_as_strongly_as_the_style_counts(pipeline):
    style = pipeline.encode_style([(PAINTING, 1.0)])
    seen = resize_image(PAINTING, (358, 256))  # as it is encoded
    assert torch.allclose(style.tones, tone_shares(seen), atol=1e-4)
    for scale, share in ((0.0, 0.0), (0.5, 0.25), (1.0, 0.5), (1.5, 0.5)):
        result = pipeline.stylize_image(PHOTO, style, style_scale=scale)
        pipeline.index["toning"] = 0.0
        plain = pipeline.stylize_image(PHOTO, style, style_scale=scale)
        pipeline.index["toning"] = 0.5
        expected = torch.lerp(plain, toned(plain, tone_shares(plain), style.tones), share)
        assert torch.equal(result, expected) and (share == 0 or not torch.equal(result, plain))
    with pytest.raises(ModelError, match="expected the tones of the painting, found none; encode the style by the pipeline"):
        pipeline.stylize_image(PHOTO, StyleCode(style.vector, style.tokens))


def test_blended_paintings_have_the_tones_of_the_mixture(pipeline):
    one, other = (pipeline.encode_style([(image, 1.0)]).tones for image in (PAINTING, OTHER))
    blend = pipeline.encode_style([(PAINTING, 3.0), (OTHER, 1.0)])
    assert torch.allclose(blend.tones, 0.75 * one + 0.25 * other, atol=1e-6)


def test_regions_are_toned_by_their_own_paintings(pipeline):
    style, other = (pipeline.encode_style([(image, 1.0)]) for image in (PAINTING, OTHER))
    left = torch.zeros(1, 1, 64, 96)
    left[..., :48] = 1
    whole = pipeline.stylize_image(PHOTO, style)
    assert torch.allclose(pipeline.stylize_image(PHOTO, style, regions=[Region(left, style_scale=1.0)]), whole, atol=2e-3)
    both = pipeline.stylize_image(PHOTO, style, regions=[Region(left, code=other)])
    seen = [tone_shares(both[..., part]) for part in (slice(0, 48), slice(48, 96))]
    assert distance(seen[0], other.tones) < distance(seen[0], style.tones)
    assert distance(seen[1], style.tones) < distance(seen[1], other.tones)
    kept = pipeline.stylize_image(PHOTO, style, style_scale=0.0, regions=[Region(left, style_scale=1.0)])
    pipeline.index["toning"] = 0.0
    plain = pipeline.stylize_image(PHOTO, style, style_scale=0.0, regions=[Region(left, style_scale=1.0)])
    assert torch.equal(kept[..., 48:], plain[..., 48:]) and not torch.equal(kept, plain)


def test_clips_are_toned_alike_wherever_work_begins(pipeline):
    frames = [picture(seed, 1 + seed / 4) for seed in range(7)]
    style = pipeline.encode_style([(PAINTING, 1.0)])
    alone = list(pipeline.stylize_video(frames, style, window=4, overlap=3))
    for at, frame in enumerate(frames):  # no frame knows of another
        assert torch.allclose(alone[at], next(iter(pipeline.stylize_video([frame], style))), atol=2e-3)
    torch.manual_seed(3)
    pipeline.temporal = TemporalLayers.for_unet(pipeline.model.unet, zero_start=True).requires_grad_(False).eval()
    ways = ({"window": 7, "overlap": 0}, {"window": 5, "overlap": 3})
    whole, cut = (list(pipeline.stylize_video(frames, style, **way)) for way in ways)
    later = list(pipeline.stylize_video(frames[1:], style, first=1, lead=3, **ways[1]))
    assert len(later) == 3 and all(torch.equal(one, other) for one, other in zip(later, cut[4:], strict=True))
    pipeline.index["toning"] = 0.0
    for found, way in ((whole, ways[0]), (cut, ways[1])):
        plain = list(pipeline.stylize_video(frames, style, **way))
        own = remembered(torch.cat([tone_shares(frame) for frame in plain]), 3)
        for at, frame in enumerate(plain):
            expected = torch.lerp(frame, toned(frame, own[at, None], style.tones), 0.5)
            assert torch.allclose(found[at], expected, atol=5e-3)


def test_toning_travels_with_the_model(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    assert HiCastPipeline.from_pretrained(tmp_path, "cpu").index["toning"] == 0.5
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    (tmp_path / INDEX_FILE).write_text(json.dumps(index | {"toning": 2}))
    with pytest.raises((ModelError, UsageError), match="toning"):
        HiCastPipeline.from_pretrained(tmp_path, "cpu")

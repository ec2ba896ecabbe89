"""Adapters, regions, kept colours and kept pixels, on a tiny random model."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from hicast.config.adapters import AdapterUse
from hicast.diffusion.guidance import Guidance
from hicast.diffusion.prediction import clean_estimate, prediction_for
from hicast.diffusion.regions import guide_regions, shares_of
from hicast.diffusion.sampling import SCHEDULERS, make_scheduler
from hicast.encoders.autoencoder import LatentCodec
from hicast.encoders.style import StyleCode
from hicast.errors import InputError, UsageError
from hicast.pipeline import HiCastPipeline
from hicast.repainting.finish import LUMA, keep_color, keep_outside, union
from hicast.repainting.maps import fit_control, fit_mask
from hicast.repainting.scene import Look, Region

@pytest.fixture(scope="module")
def pipeline(make_pipeline) -> HiCastPipeline:
    return make_pipeline("edge", "depth", "seg", side_range=[32, 256])


def random_image(seed: int, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def content() -> torch.Tensor:
    return random_image(1)


@pytest.fixture(scope="module")
def style(pipeline) -> StyleCode:
    return pipeline.encode_style([(random_image(2), 1.0)])


@pytest.fixture(scope="module")
def other(pipeline) -> StyleCode:
    return pipeline.encode_style([(random_image(3).abs(), 1.0)])


@pytest.fixture(scope="module")
def maps() -> dict[str, torch.Tensor]:
    return {name: random_image(seed) / 2 + 0.5 for seed, name in enumerate(("edge", "depth", "seg"), 10)}


@pytest.fixture(scope="module")
def left() -> torch.Tensor:
    """A mask of the left third."""
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., :32] = 1
    return mask


def round_trip(pipeline, image) -> torch.Tensor:
    codec = LatentCodec(pipeline.autoencoder)
    return codec.decode(codec.encode(image)).clamp(-1, 1)


def test_every_adapter_counts_and_their_order_does_not(pipeline, content, style, maps):
    weights = {"edge": 0.5, "depth": 1.0, "seg": 0.25}
    together = pipeline.stylize_image(content, style, controls=maps, adapters=weights)
    turned = dict(reversed(weights.items()))
    assert torch.equal(together, pipeline.stylize_image(content, style, controls=dict(reversed(maps.items())), adapters=turned))
    for name in weights:
        changed = pipeline.stylize_image(content, style, controls=maps, adapters={**weights, name: 2.0})
        assert not torch.allclose(changed, together, atol=1e-4)


def test_no_weight_is_no_adapter_and_draws_no_map(pipeline, content, style):
    def never(image):
        raise AssertionError

    plain = pipeline.stylize_image(content, style)
    assert torch.equal(plain, pipeline.stylize_image(content, style, controls={"edge": never}, adapters={"edge": 0.0}))
    assert torch.equal(plain, pipeline.stylize_image(content, style, controls={"edge": never}))


def test_an_adapter_does_not_act_where_it_has_nothing_to_say(make_pipeline):
    pipeline = make_pipeline("edge", "depth", side_range=[32, 256])
    style = pipeline.encode_style([(random_image(2), 1.0)])
    for name, parameter in pipeline.adapters.named_parameters():
        if name.startswith("adapters.edge.") and name.endswith(".bias"):
            parameter.zero_()
    wide, right = random_image(5, 64, 256), slice(200, 256)  # far from what the map shows
    given = {name: random_image(seed, 64, 256) / 2 + 0.5 for seed, name in enumerate(("edge", "depth"), 10)}
    given["edge"][..., 64:] = 0
    plain, alone, other, both = (
        pipeline.stylize_image(wide, style, size=64, controls=given, adapters=weights)
        for weights in ({}, {"edge": 3.0}, {"depth": 1.0}, {"depth": 1.0, "edge": 3.0})
    )
    assert torch.allclose(alone[..., right], plain[..., right], atol=1e-4) and not torch.allclose(alone[..., :64], plain[..., :64], atol=1e-2)
    assert torch.allclose(both[..., right], other[..., right], atol=1e-4) and not torch.allclose(both[..., :64], other[..., :64], atol=1e-2)
    nothing = pipeline.stylize_image(wide, style, size=64, controls={"edge": 0 * given["edge"]}, adapters={"edge": 3.0})
    assert torch.allclose(nothing, plain, atol=1e-4)
    left = torch.zeros(1, 1, 64, 256)
    left[..., :128] = 1
    kept = pipeline.stylize_image(wide, style, size=64, controls=given, adapters={"edge": 3.0}, style_scale=0.0, regions=[Region(left, style_scale=1.0)])
    assert torch.allclose(kept[..., right], round_trip(pipeline, wide)[..., right], atol=1e-3)


def test_a_share_of_the_steps(pipeline, content, style, maps):
    def painted(use, steps=4):
        return pipeline.stylize_image(content, style, steps=steps, controls=maps, adapters={"edge": use})

    whole, none = painted(1.0), painted(0.0)
    assert torch.equal(painted(AdapterUse(1.0, 0, 1)), whole)
    assert torch.equal(painted(AdapterUse(1.0, 0.9, 1)), none)
    first, last = painted(AdapterUse(1.0, 0, 0.5)), painted(AdapterUse(1.0, 0.5, 1))
    assert not any(torch.equal(one, two) for one, two in ((first, last), (first, whole), (last, none)))
    assert torch.equal(painted(AdapterUse(1.0, 0, 0.6), steps=1), painted(1.0, steps=1))


def test_the_middle_of_a_step_decides():
    assert [AdapterUse(2.0, 0, 0.6).at(step, 5) for step in range(5)] == [2, 2, 2, 0, 0]
    assert [AdapterUse(2.0, 0.25, 1).at(step, 2) for step in range(2)] == [2, 2]
    assert [bool(AdapterUse(1.0, 0, 0.5).at(step, 4)) or bool(AdapterUse(1.0, 0.5, 1).at(step, 4)) for step in range(4)] == [True] * 4


def test_an_extractor_is_called_once_and_equals_its_map(pipeline, content, style):
    calls = []

    def draw(image):
        calls.append(tuple(image.shape))
        return image.abs()

    drawn = pipeline.stylize_image(content, style, steps=3, controls={"edge": draw}, adapters={"edge": 1.0})
    assert calls == [(1, 3, 64, 96)]
    assert torch.equal(drawn, pipeline.stylize_image(content, style, steps=3, controls={"edge": content.abs()}, adapters={"edge": 1.0}))


def test_labels_are_not_mixed_and_other_maps_are():
    two = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 3, 4, 2)
    picture = torch.zeros(1, 3, 30, 60)
    seg, edge = (fit_control(name, two, picture, 32) for name in ("seg", "edge"))
    assert seg.shape == edge.shape == (1, 3, 32, 64) and set(seg.unique().tolist()) == {0.0, 1.0}
    assert len(edge.unique()) > 2


def test_a_mask_of_zeros_stays_zero_at_any_size():
    mask = torch.zeros(1, 1, 37, 53)
    mask[..., 40:] = 0.7
    fitted = fit_mask(mask, torch.zeros(1, 3, 64, 91))
    assert fitted.shape == (1, 1, 64, 91) and not fitted[..., :60].any() and torch.allclose(fitted[..., -5:], torch.tensor(0.7))


def test_shares_by_hand():
    one, two = torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), 0.25)
    assert [share.item() for share in shares_of([one, two])] == [0.75 * 0.5, 0.75 * 0.5, 0.25]


def test_regions_blend_predictions_and_the_rest_fills_up():
    shares = [torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 1, 3)]
    called = []

    def stacked(batch, timestep):
        called.append(len(batch))
        return torch.cat([torch.full((1, 1, 1, 3), value) for value in (2.0, 10.0)])

    plan = Guidance({"full": 2.0, "no_style": -1.0})
    denoise = guide_regions(stacked, [plan], shares, lambda latents, timestep: torch.full((1, 1, 1, 3), 4.0))
    assert denoise(torch.zeros(1, 1, 1, 3), torch.tensor(1)).flatten().tolist() == [-6.0, -1.0, 4.0] and called == [2]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_prediction_for_latents_stands_for_them(kind):
    scheduler = make_scheduler("ddim", {"prediction_type": kind})
    clean, noisy = torch.randn(2, 1, 4, 4, 4)
    assert torch.allclose(clean_estimate(scheduler, prediction_for(scheduler, clean, noisy, 600), noisy, 600), clean, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_outside_of_a_region_the_photo_comes_back(pipeline, content, style, left, name, steps):
    region = Region(left, style_scale=1.0)
    result = pipeline.stylize_image(content, style, style_scale=0.0, regions=[region], steps=steps, scheduler=name)
    expected = round_trip(pipeline, content)
    assert torch.allclose(result[..., 64:], expected[..., 64:], atol=1e-4)
    assert (result[..., :24] - expected[..., :24]).abs().mean() > 0.01


def test_where_a_region_covers_all_it_is_the_picture(pipeline, content, style, other):
    everywhere = torch.ones(1, 1, 64, 96)
    for region, given in ((Region(everywhere, 0.5), {"style_scale": 0.5}), (Region(everywhere, code=other), {"styles": other})):
        expected = pipeline.stylize_image(content, **{"styles": style, **given})
        assert torch.allclose(pipeline.stylize_image(content, style, regions=[region]), expected, atol=1e-4)
    assert torch.allclose(pipeline.stylize_image(content, style, regions=[Region(0 * everywhere, 0.3)]), pipeline.stylize_image(content, style), atol=1e-4)


def test_later_regions_lie_over_earlier_ones(pipeline, content, style, other, left):
    both = pipeline.stylize_image(content, style, regions=[Region(left, 0.2), Region(left, code=other)])
    assert torch.allclose(both, pipeline.stylize_image(content, style, regions=[Region(left, code=other)]), atol=1e-5)


def test_a_soft_mask_leaves_no_seam(pipeline, style, other):
    """On a flat picture a ramp from one style to another has no step larger than a few of a ramp's own."""
    flat = torch.full((1, 3, 64, 128), 0.2)
    ramp = torch.linspace(0, 1, 128).view(1, 1, 1, 128).expand(1, 1, 64, 128)
    ends = [pipeline.stylize_image(flat, code).mean((0, 1, 2)) for code in (style, other)]
    mixed = pipeline.stylize_image(flat, style, regions=[Region(ramp, code=other)]).mean((0, 1, 2))
    own = max((end[1:] - end[:-1]).abs().max() for end in ends)
    assert (mixed[1:] - mixed[:-1]).abs().max() <= own + 4 * (ends[0] - ends[1]).abs().max() / 128


def test_guidance_in_regions(pipeline, content, style, left):
    """A content scale holds in regions too: where they cover nothing, the picture is that of the scale alone."""
    expected = pipeline.stylize_image(content, style, content_scale=1.5)
    assert torch.allclose(pipeline.stylize_image(content, style, content_scale=1.5, regions=[Region(0 * left, 0.3)]), expected, atol=1e-4)


def test_keep_outside_keeps_the_very_pixels(pipeline, style):
    content, mask = random_image(4, 70, 101), torch.zeros(1, 1, 70, 101)
    mask[..., :30] = 1
    result = pipeline.stylize_image(content, style, size=64, regions=[Region(mask)], keep_outside=True)
    assert torch.equal(result[..., 30:], content[..., 30:]) and not torch.allclose(result[..., :28], content[..., :28], atol=0.05)
    clip = torch.cat(list(pipeline.stylize_video([content] * 2, style, size=64, regions=[Region(mask)], keep_outside=True)))
    assert torch.equal(clip[..., 30:], content[..., 30:].expand(2, -1, -1, -1)) and not torch.allclose(clip[..., :28], content[..., :28], atol=0.05)
    with pytest.raises(UsageError, match="keep_outside: expected a region, found none"):
        pipeline.stylize_image(content, style, keep_outside=True)


def test_kept_pixels_by_hand():
    image, photo, half = torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1), torch.full((1, 1, 1, 1), 0.5)
    assert keep_outside(image, photo, half).flatten().tolist() == [0.5] * 3
    assert union((half, half)).item() == 0.75


def test_kept_colour_has_the_lightness_of_the_result_and_the_chroma_of_the_photo():
    image, photo = random_image(5) * 0.3, random_image(6) * 0.3
    kept = keep_color(image, photo)
    weights = torch.tensor(LUMA).view(1, 3, 1, 1)
    luma = [(x * weights).sum(1, keepdim=True) for x in (kept, image, photo)]
    assert torch.allclose(luma[0], luma[1], atol=1e-5) and torch.allclose(kept - luma[0], photo - luma[2], atol=1e-5)
    bright = keep_color(torch.full((1, 3, 1, 1), 0.9), torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1))
    assert (bright * weights).sum().item() == pytest.approx(0.9) and bright.max() <= 1 and bright[0, 0] > bright[0, 1]


def test_preserved_colour_reaches_the_pipeline(pipeline, content, style):
    result = pipeline.stylize_image(content, style, preserve_color=True)
    assert torch.equal(result, keep_color(pipeline.stylize_image(content, style), content))


def test_a_scene_is_encoded_once_for_several_looks(pipeline, content, style, maps, monkeypatch):
    calls = []
    encode, features = LatentCodec.encode, pipeline.adapters.features
    monkeypatch.setattr(LatentCodec, "encode", lambda self, *given: calls.append("encode") or encode(self, *given))
    monkeypatch.setattr(pipeline.adapters, "features", lambda maps: calls.append("features") or features(maps))
    scene = pipeline.prepare(content, style, controls={"edge": maps["edge"]})
    images = [pipeline.paint(scene, Look(style_scale=scale, adapters={"edge": AdapterUse(1.0)})) for scale in (0.5, 1.0)]
    assert sorted(calls) == ["encode", "features"]
    alone = pipeline.stylize_image(content, style, style_scale=0.5, controls=maps, adapters={"edge": 1.0})
    assert torch.equal(images[0], alone) and not torch.equal(*images)


def clip(pipeline, frames, style, **settings) -> torch.Tensor:
    return torch.cat(list(pipeline.stylize_video(iter(frames), style, **settings)))


def test_frames_are_painted_as_pictures_are(pipeline, style, other, maps, left):
    frames = [random_image(seed) for seed in range(3)]
    given = {"controls": {"edge": maps["edge"]}, "adapters": {"edge": 1.0}, "regions": [Region(left, 0.5, other)], "preserve_color": True}
    film = clip(pipeline, frames, style, shared_noise=1.0, window=2, **given)
    again = clip(pipeline, frames, style, shared_noise=1.0, window=3, **given)
    assert film.shape == (3, 3, 64, 96) and torch.allclose(film, again, atol=1e-4)
    plain = clip(pipeline, frames, style, shared_noise=1.0)
    assert (film - plain).abs().mean() > 1e-3


def test_maps_and_masks_of_a_clip_go_with_its_frames(pipeline, style, maps):
    frames, calls = [random_image(seed) for seed in range(4)], []

    def draw(image):
        calls.append(len(image))
        return image.abs()

    moving = [torch.zeros(1, 1, 64, 96) for _ in frames]
    moving[2] = torch.ones(1, 1, 64, 96)
    settings = {"adapters": {"edge": 1.0}, "style_scale": 0.0, "keep_outside": True, "window": 2, "overlap": 1}
    film = clip(pipeline, frames, style, controls={"edge": draw}, regions=[Region(moving, 1.0)], **settings)
    assert calls == [1] * 4
    assert [torch.equal(one, frame[0]) for one, frame in zip(film, frames, strict=True)] == [True, True, False, True]
    given = clip(pipeline, frames, style, controls={"edge": [frame.abs() for frame in frames]}, regions=[Region(moving, 1.0)], **settings)
    assert torch.equal(given, film)
    with pytest.raises(InputError, match="maps of 'edge': expected one for every frame, found 2; give those of the whole clip"):
        clip(pipeline, frames, style, controls={"edge": [maps["edge"]] * 2}, adapters={"edge": 1.0})

"""Clips through the pipeline: windows, noise, and frames that equal pictures, on a tiny random model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hicast.diffusion.windows import cut_windows
from hicast.encoders.style import StyleCode
from hicast.errors import UsageError
from hicast.io.images import resize_image
from hicast.models.temporal import TemporalLayers
from hicast.pipeline import HiCastPipeline
from hicast.repainting import painter
from hicast.repainting.scene import Region

@pytest.fixture(scope="module")
def pipeline(make_pipeline) -> HiCastPipeline:
    return make_pipeline(levels=2)


@pytest.fixture(scope="module")
def style(pipeline: HiCastPipeline) -> StyleCode:
    return pipeline.encode_style([(torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(2)) * 2 - 1, 1.0)])


@pytest.fixture(scope="module")
def frames() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(1, 3, 48, 70, generator=generator) * 2 - 1 for _ in range(7)]


def stylized(pipeline, frames, style, **settings) -> torch.Tensor:
    return torch.cat(list(pipeline.stylize_video(iter(frames), style, **{"size": 64, **settings})))


def test_windows_by_hand():
    cut = [(window.frames, window.context, window.first) for window in cut_windows(range(8), 4, 1)]
    assert cut == [((0, 1, 2), 0, 0), ((2, 3, 4, 5), 1, 2), ((5, 6, 7), 1, 5)]
    assert [window.frames for window in cut_windows(range(5), 2, 0)] == [(0, 1), (2, 3), (4,)]
    assert list(cut_windows([], 4, 1)) == []


def test_windows_are_the_same_where_work_begins_later():
    whole = list(cut_windows(range(20), 6, 2))
    assert list(cut_windows(range(6, 20), 6, 2, first=6, lead=2)) == whole[2:]
    with pytest.raises(UsageError, match="first frame: expected a multiple of 4, found 7"):
        next(cut_windows(range(20), 6, 2, first=6, lead=1))
    with pytest.raises(UsageError, match="video.overlap: expected less than the window of 4 frames, found 4"):
        next(cut_windows(range(20), 4, 4))


def test_one_window_is_taken_at_a_time():
    taken = []
    windows = cut_windows((taken.append(number) or number for number in range(100)), 5, 1)
    next(windows), next(windows)
    assert len(taken) == 8


def test_frames_keep_their_size_and_equal_frames_their_picture(pipeline, frames, style):
    result = stylized(pipeline, [frames[0]] * 5, style, window=3)
    assert result.shape == (5, 3, 48, 70) and result.isfinite().all() and result.abs().max() <= 1
    assert torch.allclose(result, result[:1].expand_as(result), atol=1e-5)
    assert not torch.allclose(stylized(pipeline, frames, style)[0], stylized(pipeline, frames, style)[1], atol=1e-2)


def test_noise_of_its_own_makes_equal_frames_differ(pipeline, frames, style):
    still = [frames[0]] * 2
    one, other = stylized(pipeline, still, style, shared_noise=0.0)
    assert not torch.allclose(one, other, atol=1e-3)
    assert torch.allclose(stylized(pipeline, still, style, shared_noise=0.0, first=2, window=1)[0],
                          stylized(pipeline, [frames[0]] * 3, style, shared_noise=0.0, window=1)[2], atol=1e-5)  # fmt: skip


def test_windows_and_batches_change_nothing(pipeline, frames, style, monkeypatch):
    expected = stylized(pipeline, frames, style, window=16, shared_noise=0.3)
    for settings in ({"window": 2}, {"window": 5, "overlap": 2}, {"window": 1}):
        assert torch.allclose(stylized(pipeline, frames, style, shared_noise=0.3, **settings), expected, atol=1e-4)
    monkeypatch.setattr("hicast.repainting.clip.AT_ONCE", 1)
    assert torch.allclose(stylized(pipeline, frames, style, window=16, shared_noise=0.3), expected, atol=1e-4)


def test_work_that_begins_later_gives_the_same_frames(pipeline, frames, style):
    whole = stylized(pipeline, frames, style, window=4, overlap=1, shared_noise=0.3)
    later = stylized(pipeline, frames[2:], style, window=4, overlap=1, shared_noise=0.3, first=2, lead=1)
    assert torch.equal(later, whole[3:])


def test_pixels_that_are_not_square_are_evened_out_for_the_work(pipeline, frames, style):
    kept = stylized(pipeline, frames[:1], style, pixel_aspect=2.0, keep_size=True)
    assert kept.shape == (1, 3, 64, round(140 * 64 / 48))
    assert stylized(pipeline, frames[:1], style, pixel_aspect=2.0).shape == (1, 3, 48, 70)


def test_frames_are_given_back_while_others_are_still_to_come(pipeline, frames, style):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield frames[0]

    clip = pipeline.stylize_video(endless(), style, size=64, window=3)
    for _ in range(4):
        next(clip)
    clip.close()
    assert len(taken) == 6


@pytest.fixture
def steady(pipeline) -> Iterator[HiCastPipeline]:
    """The pipeline with temporal layers that move something."""
    torch.manual_seed(3)
    layers = TemporalLayers.for_unet(pipeline.model.unet, attention="first_previous", norm="frame", padding="replicate")
    for parameter in layers.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    pipeline.temporal = layers.requires_grad_(False).eval()
    yield pipeline
    pipeline.temporal = None


def test_temporal_layers_see_the_other_frames_of_a_window(steady, frames, style):
    assert steady.looks_back
    settings = {"window": 4, "overlap": 2}
    found = stylized(steady, frames, style, **settings)
    assert found.shape == (7, 3, 48, 70)
    changed = [frames[0], -frames[1], *frames[2:]]
    other = stylized(steady, changed, style, **settings)
    assert (found[0] - other[0]).abs().max() > 1e-4
    assert torch.equal(found[6], other[6])


def test_windows_with_temporal_layers_are_the_same_where_work_begins_later(steady, frames, style):
    settings = {"window": 4, "overlap": 2}
    whole = stylized(steady, frames, style, **settings)
    later = stylized(steady, frames[2:], style, first=2, lead=2, **settings)
    assert torch.equal(later, whole[4:])


def test_regions_with_temporal_layers(steady, frames, style):
    """Every layer of the picture is a clip of its own: a region that covers nothing, or all with the same look, changes nothing."""
    expected = stylized(steady, frames, style, window=4, overlap=2)
    for covered in (0.0, 1.0):
        region = Region(torch.full((1, 1, 48, 70), covered), style_scale=1.0)
        assert torch.allclose(stylized(steady, frames, style, window=4, overlap=2, regions=[region]), expected, atol=1e-4)


def test_pictures_know_nothing_of_temporal_layers(pipeline, frames, style, steady):
    with_layers = steady.stylize_image(frames[0], style, size=64)
    steady.temporal = None
    assert torch.equal(with_layers, pipeline.stylize_image(frames[0], style, size=64))


def test_pixels_that_do_not_move_keep_the_noise_of_the_frame_before(make_pipeline, frames, style, monkeypatch):
    """As published (reference, section 6): what moves is told by the map of edges, else by the frames; 0 leaves the noise alone."""
    pipeline, seen = make_pipeline("depth", "edge", levels=2), []
    sample = painter.sample
    monkeypatch.setattr(painter, "sample", lambda denoise, latents, *more: seen.append(latents) or sample(denoise, latents, *more))

    def noise(clip, window=4, **settings):
        seen.clear()
        stylized(pipeline, clip, style, window=window, shared_noise=0.0, **settings)
        return torch.cat(seen)

    still = [frames[0]] * 4
    plain = noise(still)
    copied = noise(still, residual_threshold=0.15)
    assert torch.equal(copied, plain[:1].expand_as(plain)) and not torch.equal(plain[0], plain[1])
    two = noise(still, window=2, residual_threshold=0.15)
    assert torch.equal(two, plain[[0, 0, 2, 2]]), "the chain begins anew with every window"
    corner = frames[0].clone()
    corner[..., :16, :16] = -corner[..., :16, :16]
    moved = noise([frames[0], corner], residual_threshold=0.15)
    assert torch.equal(moved[1, :, 4:, 4:], plain[0, :, 4:, 4:]) and torch.equal(moved[1, :, 1, 1], plain[1, :, 1, 1])
    dark, light = torch.zeros(1, 3, 48, 70), torch.ones(1, 3, 48, 70)
    maps = {"depth": [dark, light], "edge": [dark, dark]}
    by_edges = noise([frames[0], corner], controls=maps, adapters={"depth": 0.1, "edge": 0.1}, residual_threshold=0.15)
    assert torch.equal(by_edges[1], plain[0]), "edges stand still, so all does"
    by_depth = noise([frames[0], corner], controls=maps, adapters={"depth": 0.1}, residual_threshold=0.15)
    assert torch.equal(by_depth[1], plain[1])


def test_square_squashes_paintings_too(pipeline, frames, style):
    painting = torch.rand(1, 3, 40, 90, generator=torch.Generator().manual_seed(4)) * 2 - 1
    squashed = resize_image(painting, (64, 64))
    assert torch.equal(pipeline.encode_style([(painting, 1.0)], square=True, size=64).vector, pipeline.style_encoder(squashed).vector)
    assert not torch.equal(pipeline.encode_style([(painting, 1.0)]).vector, pipeline.style_encoder(squashed).vector)
    by_hand = stylized(pipeline, frames[:1], [(squashed, 1.0)], square=True, keep_size=True)
    assert torch.equal(stylized(pipeline, frames[:1], [(painting, 1.0)], square=True, keep_size=True), by_hand)
    assert by_hand.shape[-2:] == (64, 64)

"""Cuts between scenes: found between two frames, windows begin anew at them, and temporal layers do not look across."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hicast.config.presets import load_preset
from hicast.diffusion.scenes import is_cut
from hicast.diffusion.windows import cut_windows
from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.style import StyleEncoder
from hicast.io.images import to_tensor
from hicast.models.hicast_model import HiCastModel
from hicast.models.temporal import TemporalLayers
from hicast.models.unet import ContentProjection, build_unet
from hicast.pipeline import HiCastPipeline


def _scene(seed: int, shift: int = 0) -> torch.Tensor:
    """One frame (1, 3, 48, 64) of a scene of smooth colours, seen `shift` pixels to the right."""
    rough = np.random.default_rng(seed).integers(0, 256, (4, 7, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(rough).resize((128, 48), Image.Resampling.BICUBIC))
    return to_tensor(np.ascontiguousarray(wide[:, shift : shift + 64]))


def test_another_scene_is_a_cut_and_motion_and_light_are_not():
    assert all(is_cut(_scene(one), _scene(other)) for one, other in ((0, 1), (1, 2), (2, 3), (3, 0)))
    assert not any(is_cut(_scene(seed), _scene(seed, shift)) for seed in range(4) for shift in (0, 2, 6))
    frame = _scene(0)
    assert not is_cut(frame, frame * 0.9 + 0.05)
    flipped = frame.flip(3)  # the same colours elsewhere: a fast pan, not a cut
    assert not is_cut(frame, flipped)
    assert not is_cut(frame, (frame + 0.02 * torch.randn(frame.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1))


def _scenes(*lengths: int) -> list[str]:
    return [f"{letter}{number}" for letter, length in zip("abcdef", lengths, strict=False) for number in range(length)]


def _differ(one: str, other: str) -> bool:
    return one[0] != other[0]


def test_windows_begin_anew_at_a_cut_and_keep_to_their_places_in_the_film():
    found = [(window.frames, window.context, window.first) for window in cut_windows(_scenes(5, 6), 4, 1, is_cut=_differ)]
    assert found == [
        (("a0", "a1", "a2"), 0, 0),
        (("a2", "a3", "a4"), 1, 2), (("b0",), 0, 5),
        (("b0", "b1", "b2", "b3"), 1, 5),
        (("b3", "b4", "b5"), 1, 8),
    ]  # fmt: skip
    assert [window.frames for window in cut_windows(_scenes(4, 2), 6, 2, is_cut=_differ)] == [("a0", "a1", "a2", "a3"), ("b0", "b1")]


@pytest.mark.parametrize("lengths", [(5, 6), (3, 3, 9), (1, 1, 1, 8), (20,)])
@pytest.mark.parametrize("size, overlap", [(4, 1), (6, 2), (5, 0), (6, 3)])
def test_every_frame_is_done_once_with_its_own_scene_and_work_can_begin_at_any_window(lengths, size, overlap):
    frames = _scenes(*lengths)
    windows = list(cut_windows(frames, size, overlap, is_cut=_differ))
    assert [frame for window in windows for frame in window.frames[window.context :]] == frames
    assert all(len({frame[0] for frame in window.frames}) == 1 and len(window.frames) > window.context for window in windows)
    assert all(window.frames == tuple(frames[window.first : window.first + len(window.frames)]) for window in windows)
    step = size - overlap
    for begin in range(step, len(frames), step):
        lead = min(overlap, begin)
        rest = list(cut_windows(frames[begin - lead :], size, overlap, begin - lead, lead, _differ))
        done = lambda window: window.first + window.context  # noqa: E731
        assert rest == [window for window in windows if done(window) >= begin]


@pytest.fixture
def steady() -> HiCastPipeline:
    """A tiny net with temporal layers that do something."""
    config = load_preset("debug", "models")
    torch.manual_seed(0)
    model = HiCastModel(build_unet(config["unet"]), ContentProjection(8, 4, 64), content_skip=True)
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    layers = TemporalLayers.for_unet(model.unet, conv_groups=(8, 8, 1), temporal_attention=(1, 2), padding="replicate")
    for parameter in layers.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made = HiCastPipeline(model, ResidualAutoencoder(8, (4, 8, 8)), StyleEncoder("caffe", 2, 6.0), config["scheduler"],
                          index={"defaults": {"steps": 1}, "style_side": 32}, temporal=layers)  # fmt: skip
    return made.to("cpu", "float32")


def test_temporal_layers_do_not_look_across_a_cut(steady, monkeypatch):
    code = steady.encode_style([(_scene(9), 1.0)])
    films = [[_scene(first, at) for at in range(3)] + [_scene(1, at) for at in range(3)] for first in (0, 2)]
    differences = []
    for cuts in (True, False):
        if not cuts:
            monkeypatch.setattr("hicast.repainting.clip.is_cut", lambda before, after: False)
        results = [list(steady.stylize_video(film, code, window=6, overlap=1, size=32)) for film in films]
        assert [len(result) for result in results] == [6, 6]
        differences.append(max((one - other).abs().max().item() for one, other in zip(*(result[3:] for result in results), strict=True)))
    assert differences[0] == 0 < 1e-3 < differences[1]

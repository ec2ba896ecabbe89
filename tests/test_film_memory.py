"""The memory that painting a video takes: by the parts that it is made of, and told before the work begins."""

from types import SimpleNamespace

import pytest

from hicast.cli import film_memory, foresight
from hicast.cli.main import run
from hicast.config.stylize import StylizeSettings, VideoSettings
from hicast.pipeline import HiCastPipeline


@pytest.fixture(scope="module")
def pipeline():
    whole = HiCastPipeline.from_pretrained("compact", "cpu", "float32")
    whole.temporal = None  # frame by frame, unless a test puts them back
    return whole


def _expected(pipeline, height=256, width=256, **video):
    settings = StylizeSettings(size=256, video=VideoSettings(**video))
    return film_memory.expected_bytes(pipeline, settings, SimpleNamespace(height=height, width=width, pixel_aspect=1))


def test_it_is_libraries_weights_frames_and_the_largest_layer(pipeline):
    parts = (pipeline.model, pipeline.autoencoder, pipeline.style_encoder, pipeline.adapters)
    weights = 4 * sum(value.numel() for part in parts for value in part.state_dict().values())
    rest = _expected(pipeline, window=4, overlap=0) - film_memory.LIBRARIES - weights - 3 * 4 * 256**2 * (3 * 4 + film_memory.WAITING + 2 * 4)
    assert rest == film_memory.COPIES * film_memory._largest_layer(pipeline, 4, 256, 256) > 0


def test_it_grows_with_the_frames_that_are_painted_together_and_no_further(pipeline):
    layers = [film_memory._largest_layer(pipeline, frames, 256, 256) for frames in (1, 4)]
    assert layers[1] == 4 * layers[0] > 4 * 3 * 256**2
    own = 3 * 4 * (3 + 2) * 256**2  # worked at, and waiting before and behind
    assert _expected(pipeline, window=64, overlap=0) - _expected(pipeline, window=32, overlap=0) == 32 * own
    assert pipeline.frames_at_once((256, 256)) == 8 and pipeline.frames_at_once((2048, 2048)) == 1


def test_with_temporal_layers_the_whole_window_is_painted_together(monkeypatch):
    whole = HiCastPipeline.from_pretrained("compact", "cpu", "float32")
    steady = _expected(whole, window=16, overlap=4)
    weights = 4 * sum(value.numel() for value in whole.temporal.state_dict().values())
    layers = [film_memory._largest_layer(whole, frames, 256, 256) for frames in (8, 16)]
    monkeypatch.setattr(whole, "temporal", None)
    assert steady - _expected(whole, window=16, overlap=4) == weights + film_memory.COPIES * (layers[1] - layers[0])


def test_it_stands_in_the_line_before_the_work(workplace, capsys):
    assert run(["stylize-video", "clip.mp4", "--style", "painting.jpg", "--size", "32", "--preview", "80ms", "-o", "out.mp4"]) == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if "frames of 64 x 48 pixels" in line)
    assert line.endswith("25 a second, 0.1 s; expects 1.1 GiB of memory")


def test_large_models_tell_it_once_and_part_by_part(workplace, monkeypatch, capsys):
    monkeypatch.setattr(foresight, "LARGE", 1)
    assert run(["stylize-video", "clip.mp4", "--style", "painting.jpg", "--size", "32", "--preview", "80ms", "-o", "out.mp4"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "GiB of memory" in line]
    assert len(told) == 1 and told[0].startswith("expects ") and "unet 0.0" in told[0]

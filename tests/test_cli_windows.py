"""How clips are cut by the defaults of a model: they lie under all other settings, and what they make of these is checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hicast.cli import eval_options, main
from hicast.cli.console import Console
from hicast.io.bases import model_defaults


@pytest.fixture
def save_model(make_pipeline, workplace) -> Callable[..., Path]:
    """A function that saves a tiny model, with the settings of video given as its defaults, as `tiny` in the working folder."""

    def save(**video: int) -> Path:
        made = make_pipeline(defaults={"steps": 1, "video": video}, style_side=32, side_range=[32, 32])
        made.save_pretrained(workplace / "tiny")
        return workplace / "tiny"

    return save


def _run(capsys, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = main.run(["stylize-video", "clip.mp4", "--style", "painting.jpg", "--model", "tiny", "--preview", "0.2", *words])
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    "video, words, window, overlap",
    [
        ({"window": 4}, (), 4, 4),
        ({"overlap": 20}, (), 16, 20),
        ({"window": 32}, ("--overlap", "32"), 32, 32),
        ({"window": 32, "overlap": 8}, ("--window", "8"), 8, 8),
    ],
)
def test_windows_no_longer_than_the_overlap_are_refused_before_the_model_is_loaded(save_model, workplace, capsys, monkeypatch, video, words, window, overlap):
    folder = save_model(**video)
    monkeypatch.setattr("hicast.pipeline.HiCastPipeline.from_pretrained", lambda *_, **__: pytest.fail("the model is loaded"))
    before = sorted(workplace.rglob("*"))
    text = f"hicast: video.overlap: expected less than the window of {window} frames, found {overlap}; lower it, or raise video.window\n"
    assert _run(capsys, *words) == (2, "", text) and model_defaults(folder)["video"] == video
    assert sorted(workplace.rglob("*")) == before


def test_what_is_given_lies_over_the_models_defaults_key_by_key(save_model, workplace, capsys):
    save_model(window=32)
    code, out, err = _run(capsys, "--overlap", "20", "--json")
    assert code == 0, err
    video = json.loads(out)["settings"]["video"]
    assert (video["window"], video["overlap"]) == (32, 20) and (workplace / "clip-painting.mp4").is_file()


def test_eval_takes_the_models_defaults_too(save_model, workplace):
    folder = save_model(window=32)
    (workplace / "mine.yaml").write_text("base: balanced\nvideo: {overlap: 2}\n")
    wanted = eval_options.wanted_look(Console(), "mine.yaml", ["steps=3"], "compact", "cpu").of(folder)
    assert (wanted.settings.model, wanted.settings.video.window) == (str(folder), 16)
    _, settings = eval_options.open_painter(Console(), wanted, {})
    assert (settings.model, settings.steps, settings.video.window, settings.video.overlap) == (str(folder), 3, 32, 2)

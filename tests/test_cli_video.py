"""`hicast stylize-video`: times, batches, pipes, bad files, stopping and going on; the pipeline is a stand-in that makes negatives."""

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
import torch

from hicast.cli import main
from hicast.cli.film_speed import FilmSpeed
from hicast.cli.options import parse_time
from hicast.errors import UsageError


class FakePipeline:
    """Negatives of the frames; keeps what it was asked, and slows down or stops where `NAP` and `STOP` say so."""

    defaults = {"steps": 7, "size": 64}
    looks_back = False
    engine = "torch"
    loads: list[str] = []
    calls: list[dict] = []

    @classmethod
    def from_pretrained(cls, name, device="auto", dtype="auto", engine="torch", on_note=print):
        cls.loads.append(name)
        return cls()

    def encode_style(self, styles):
        return styles

    def stylize_video(self, frames, styles, **settings):
        self.calls.append(settings)
        for number, frame in enumerate(frames):
            time.sleep(float(os.environ.get("NAP", "0")))
            if str(number) == os.environ.get("STOP"):
                raise KeyboardInterrupt
            yield -frame[..., ::2, ::2] if settings["keep_size"] else -frame


@pytest.fixture(autouse=True)
def folder(workplace, monkeypatch, make_clip) -> Path:
    """The working folder with a clip of 60 frames with sound, a folder of clips, and the stand-in."""
    module = ModuleType("hicast.pipeline")
    module.HiCastPipeline = FakePipeline
    monkeypatch.setitem(sys.modules, "hicast.pipeline", module)
    monkeypatch.setattr(FakePipeline, "loads", [])
    monkeypatch.setattr(FakePipeline, "calls", [])
    make_clip(workplace / "long.mp4", frames=60, audio="aac")
    return workplace


def _run(capsys, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = main.run(["stylize-video", *(str(word) for word in words)])
    return code, *capsys.readouterr()


def _frames(path: Path | str) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def _kinds(path: Path | str) -> list[str]:
    with av.open(str(path)) as container:
        return [stream.type for stream in container.streams]


def test_one_clip(capsys):
    code, out, err = _run(capsys, "long.mp4", "--style", "painting.jpg", "--window", "8", "--seed", "5")
    assert (code, out) == (0, "long-painting.mp4\n")
    first, second = err.splitlines()
    assert first == "long.mp4 (1/1): 60 frames of 64 x 48 pixels, 25 a second, 2.4 s"
    assert second.startswith("long.mp4 (1/1): 8 of 60 frames, ") and "frames/s, about 0:00:" in second
    before, after = _frames("long.mp4"), _frames("long-painting.mp4")
    assert len(after) == 60 and np.mean([np.abs(255 - a.astype(int) - b).mean() for a, b in zip(before, after, strict=True)]) < 4
    assert _kinds("long-painting.mp4") == ["video", "audio"]
    (call,) = FakePipeline.calls
    expected = {"steps": 7, "size": 64, "seed": 5, "window": 8, "overlap": 0, "shared_noise": 1.0, "first": 0, "lead": 0, "pixel_aspect": 1.0}
    assert expected.items() <= call.items()


def test_quiet_says_nothing_and_json_is_one_document(capsys):
    code, out, err = _run(capsys, "long.mp4", "--style", "painting.jpg", "--quiet", "--json", "--preview", "400ms", "--no-audio")
    document = json.loads(out)
    assert (code, err) == (0, "") and document["settings"]["steps"] == 7
    assert document["results"] == [{"input": "long.mp4", "output": "long-painting.mp4", "frames": 10, "resumed": 0}]
    assert _kinds("long-painting.mp4") == ["video"] and len(_frames("long-painting.mp4")) == 10


def test_a_result_remembers_its_settings(capsys):
    assert _run(capsys, "clip.mp4", "--style", "painting.jpg", "--style-scale", "1.4", "--seed", "9")[0] == 0
    assert _run(capsys, "clip.mp4", "--style", "other.jpg", "--from-settings", "clip-painting.mp4")[0] == 0
    assert FakePipeline.calls[0] == FakePipeline.calls[1] and FakePipeline.calls[1]["style_scale"] == 1.4
    code, _, err = _run(capsys, "clip.mp4", "--style", "painting.jpg", "--from-settings", "clip.mp4", "-o", "x.mp4")
    assert code == 2 and "clip.mp4: expected a video made by hicast, found no settings in it" in err


def test_keep_size(capsys):
    assert _run(capsys, "clip.mp4", "--style", "painting.jpg", "--keep-size")[0] == 0
    assert _frames("clip-painting.mp4")[0].shape == (24, 32, 3)


@pytest.mark.parametrize("word, seconds", [("90", 90), ("1:30", 90), ("0:01:30.5", 90.5), ("500ms", 0.5), ("2m", 120), ("1h", 3600), (".5", 0.5), ("3s", 3)])
def test_times(word, seconds):
    assert parse_time("--start", word) == Fraction(seconds)


@pytest.mark.parametrize("word", ["", "x", "-3", "1:2m", "1:2:3:4", "3 s", "1e3"])
def test_words_that_are_no_times(word):
    with pytest.raises(UsageError, match="^--start .*expected a time such as 90, 1:30, 500ms or 2m, found"):
        parse_time("--start", word)


@pytest.mark.parametrize(
    "words, text",
    [
        (("--window", "2"), "video.overlap: expected less than the window of 2 frames, found 4; lower it, or raise video.window"),
        (("--window", "0"), "command line: video.window: expected a whole number from 1 to 128, found 0"),
        (("--end", "2", "--preview", "1"), "expected --end or --preview, found both; leave one out"),
        (("--start", "2", "--end", "1"), "--end: expected a time after the start, found 1 s; raise it"),
        (("--preview", "0"), "--preview 0: expected a length above 0, found none; write for example 3s"),
        (("--codec", "h265x"), "--codec: expected an encoder of videos that .mp4 can hold, found h265x; did you mean h265?"),
        (("--crf", "99"), "--crf: expected a number from 0 to 51 for libx264, found 99"),
        (("-o", "x.txt"), "expected --output to end in .mp4, .m4v, .mov, .mkv, .webm, .avi, .gif or in a number and .png (frame-%05d.png), found x.txt"),
        (("-o", "x.png"), "expected --output to end in .mp4"),
        (("-o", "clip.mp4"), "expected no result in place of an input or style, found clip.mp4"),
        (("--overwrite", "--skip-existing"), "expected --overwrite or --skip-existing, found both"),
    ],
)
def test_mistakes_cost_one_line_and_no_model(words, text, capsys):
    code, out, err = _run(capsys, "clip.mp4", "--style", "painting.jpg", *words)
    assert (code, out, err.count("\n")) == (2, "", 1) and text in err and FakePipeline.loads == []


def test_no_style(capsys):
    assert _run(capsys, "clip.mp4") == (2, "", "hicast: --style: expected a painting, found none; name one, or add --passthrough\n")


def test_passthrough_needs_no_nets(capsys):
    code, out, _ = _run(capsys, "clip.mp4", "--passthrough", "--crf", "0", "-o", "same.mkv")
    assert (code, out) == (0, "same.mkv\n") and FakePipeline.loads == []
    assert all(np.array_equal(a, b) for a, b in zip(_frames("clip.mp4"), _frames("same.mkv"), strict=True))


def test_several_clips_and_folders_go_on_after_bad_files(capsys, folder):
    (folder / "clips" / "b").mkdir()
    (folder / "clips" / "first.mp4").rename(folder / "clips" / "b" / "first.mp4")
    (folder / "clips" / "bad.mp4").write_text("no video")
    code, out, err = _run(capsys, "clips", "clip.mp4", "gone.mp4", "photo.jpg", "--style", "painting.jpg", "-o", "out")
    assert code == 1 and sorted(out.split()) == ["out/b/first.mp4", "out/clip.mp4", "out/second.mp4"] and len(FakePipeline.loads) == 1
    lines = err.splitlines()
    assert "hicast: gone.mp4: expected a video, found no such file; check the path" in lines
    assert "hicast: clips/bad.mp4: expected a video, found something else or a damaged start; check the file" in lines
    assert "hicast: photo.jpg: expected a video, found a single picture; use hicast stylize-image" in lines
    assert lines[-1] == "3 of 6 videos failed"
    code, out, err = _run(capsys, "clips/second.mp4", "clip.mp4", "--style", "painting.jpg", "-o", "out", "--skip-existing")
    assert (code, out) == (0, "") and "out/clip.mp4: already there, left as it is" in err


def test_pictures_as_result(capsys, folder):
    code, out, _ = _run(capsys, "clip.mp4", "--style", "painting.jpg", "-o", "frames/p%03d.png")
    assert (code, out) == (0, "frames/p%03d.png\n")
    assert [path.name for path in sorted((folder / "frames").iterdir())] == [f"p{number:03}.png" for number in range(1, 13)]
    assert _run(capsys, "frames/p%03d.png", "--style", "painting.jpg", "-o", "back.mp4")[0] == 0
    assert len(_frames("back.mp4")) == 12
    code, _, err = _run(capsys, "clip.mp4", "--style", "painting.jpg", "-o", "frames/p%03d.png")
    assert code == 1 and "p001.png: expected no such file, found one" in err


def test_a_broken_file_gives_what_there_is_and_code_1(capsys, folder, make_clip):
    path = make_clip(folder / "cut.mkv", frames=50, options={"crf": "4", "preset": "ultrafast", "bf": "0", "g": "5"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    code, out, err = _run(capsys, "cut.mkv", "--style", "painting.jpg")
    assert (code, out) == (1, "cut-painting.mkv\n") and 10 < len(_frames("cut-painting.mkv")) < 45
    last = err.splitlines()[-1]
    assert last.startswith("hicast: cut.mkv: expected a whole video, found it broken off after ")
    assert last.endswith("; the result holds what could be decoded")


def test_a_place_that_cannot_be_written(capsys, folder, monkeypatch):
    monkeypatch.setattr("hicast.io.files.os.access", lambda place, mode: False)
    code, _, err = _run(capsys, "clip.mp4", "--style", "painting.jpg", "-o", "closed/x.mp4")
    assert code == 1 and "x.mp4: expected to be able to write, found" in err and "read-only; choose another folder" in err
    assert not (folder / "closed").exists() and FakePipeline.loads == []


def test_ctrl_c_says_how_to_go_on(capsys, folder, monkeypatch):
    monkeypatch.setenv("STOP", "57")
    code, out, err = _run(capsys, "long.mp4", "--style", "painting.jpg", "--window", "8")
    assert (code, out) == (130, "") and not (folder / "long-painting.mp4").exists()
    last = err.splitlines()[-1]
    assert last == "hicast: interrupted; the same command goes on with long-painting.mp4 after the last frames that are finished"
    monkeypatch.delenv("STOP")
    code, _, err = _run(capsys, "long.mp4", "--style", "other.jpg", "-o", "long-painting.mp4", "--window", "8")
    assert code == 1 and "expected pieces made with the same settings, found others for styles; give the earlier settings" in err
    code, out, err = _run(capsys, "long.mp4", "--style", "painting.jpg", "--window", "8", "--json")
    assert code == 0 and json.loads(out)["results"][0]["resumed"] == 48
    assert "long-painting.mp4: 48 frames are there from an earlier run; going on after them" in err


PIPE = """
import sys, types
sys.path.insert(0, {tests!r})
import {module} as stand_in
module = types.ModuleType("hicast.pipeline"); module.HiCastPipeline = stand_in.FakePipeline
sys.modules["hicast.pipeline"] = module
from hicast.cli.main import app
app({words!r})
"""


def _command(*words: str) -> list[str]:
    code = PIPE.format(tests=str(Path(__file__).parent), module=Path(__file__).stem, words=["stylize-video", *words])
    return [sys.executable, "-c", code]


def test_standard_input_to_standard_output(folder, monkeypatch, capfd):
    stream = BytesIO()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=BytesIO((folder / "long.mp4").read_bytes())))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=stream, isatty=lambda: False))
    assert main.run(["stylize-video", "-", "--style", "painting.jpg", "-o", "-", "--json"]) == 0
    (folder / "piped.mkv").write_bytes(stream.getvalue())
    assert len(_frames("piped.mkv")) == 60 and _kinds("piped.mkv") == ["video", "audio"]


def test_a_full_disk_is_one_line(folder, monkeypatch, capfd):
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=full, isatty=lambda: False))
        code = main.run(["stylize-video", "clip.mp4", "--style", "painting.jpg", "-o", "-"])
    last = capfd.readouterr().err.splitlines()[-1]
    assert code == 1 and last == "hicast: standard output: expected to be able to write, found: No space left on device; check the pipe"


def test_work_killed_at_once_goes_on_and_gives_the_same_frames(folder, capsys):
    """The kill comes from outside while the second piece is in work."""
    words = ("long.mp4", "--style", "painting.jpg", "--window", "8")
    parts = folder / ".hicast-long-painting.mp4.parts"
    running = subprocess.Popen(_command(*words), env={**os.environ, "NAP": "0.05"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (parts / "000000.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (folder / "long-painting.mp4").exists() and (parts / "000000.json").exists()
    assert json.loads(_run(capsys, *words, "--json")[1])["results"][0]["resumed"] == 48
    assert _run(capsys, *words, "-o", "whole.mp4")[0] == 0
    assert all(np.array_equal(a, b) for a, b in zip(_frames("long-painting.mp4"), _frames("whole.mp4"), strict=True))
    assert not parts.exists()


def test_speed_and_time_left():
    clock, said = SimpleNamespace(now=0.0), []
    speed = FilmSpeed(4, said.append, clock=lambda: clock.now)
    for done in range(9, 21):
        clock.now += 0.5
        speed.update(done, 100)
    assert said == ["12 of 100 frames, 2.0 frames/s, about 0:00:44 left"] and speed.text == "2.0 frames/s, about 0:00:40 left"
    clock.now += 60
    speed.update(21, 100)
    assert len(said) == 2
    unknown = FilmSpeed(1, said.append, clock=lambda: clock.now - 59)
    unknown.update(1, 0)
    assert said[-1].startswith("1 frames, ") and "left" not in said[-1]


def test_a_tensor_of_deep_pixels_and_back():
    from hicast.io.images import to_pixels, to_tensor

    deep = np.array([[[0, 65535, 32768]]], np.uint16)
    assert torch.allclose(to_tensor(deep).flatten(), torch.tensor([-1.0, 1.0, 1 / 65535]))
    assert np.array_equal(to_pixels(to_tensor(deep), deep=True), deep)

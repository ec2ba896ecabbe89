"""`hicast stylize-image`: settings, mistakes, streams, exit codes, batches; the pipeline is a stand-in that pulls the content to the styles' mean."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from hicast import __version__
from hicast.cli import main
from hicast.cli.failures import explain
from hicast.errors import ModelError, UsageError
from hicast.io.images import load_picture


class FakePipeline:
    """Content drawn to the weighted mean colour of the styles by `style_scale / 2`; keeps what it was asked."""

    defaults = {"steps": 7, "size": 64}
    engine = "torch"
    loads: list[dict] = []
    calls: list[dict] = []
    trouble: BaseException | None = None

    @classmethod
    def from_pretrained(cls, name, device="auto", dtype="auto", engine="torch", on_note=print):
        if name == "nowhere":
            raise ModelError("nowhere: expected a model, found none")
        cls.loads.append({"name": name, "device": device, "dtype": dtype})
        return cls()

    def encode_style(self, styles):
        return styles

    def stylize_image(self, content, styles, *, on_progress, **settings):
        if self.trouble:
            raise self.trouble
        self.calls.append({**settings, "shape": tuple(content.shape), "weights": [weight for _, weight in styles]})
        for done in range(settings["steps"]):
            on_progress(done + 1, settings["steps"])
        total = sum(weight for _, weight in styles)
        goal = sum(weight / total * style.mean((2, 3), keepdim=True) for style, weight in styles)
        image = torch.lerp(content, goal.expand_as(content), settings["style_scale"] / 2)
        return image[..., ::2, ::2] if settings["keep_size"] else image


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with one photo and two paintings; no settings of the user."""
    module = ModuleType("hicast.pipeline")
    module.HiCastPipeline = FakePipeline
    monkeypatch.setitem(sys.modules, "hicast.pipeline", module)
    monkeypatch.setattr(FakePipeline, "loads", [])
    monkeypatch.setattr(FakePipeline, "calls", [])
    monkeypatch.setattr(FakePipeline, "trouble", None)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name, color in (("photo", (90, 90, 90)), ("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        Image.new("RGB", (24, 16), color).save(work / f"{name}.png")
    return work


def _run(capsys, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = main.run([str(word) for word in words])
    return code, *capsys.readouterr()


def _pixel(path: Path | str) -> tuple[int, ...]:
    return tuple(load_picture(path).pixels[0, 0])


def _photos(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (24, 16), (90, 90, 90)).save(folder / name)
    return folder


def test_one_picture(capsys, folder):
    code, out, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png")
    assert (code, out, err) == (0, "photo-red.png\n", "")
    assert _pixel("photo-red.png") == (170, 45, 45)
    assert FakePipeline.loads == [{"name": "compact", "device": "auto", "dtype": "auto"}]


def test_styles_are_blended_by_weight(capsys):
    code, out, _ = _run(capsys, "stylize-image", "photo.png", "--style", "red.png=3", "--style", "blue.png", "--style-scale", "2")
    assert (code, out) == (0, "photo-red-blue.png\n")
    assert FakePipeline.calls[0]["weights"] == [3, 1]
    assert _pixel("photo-red-blue.png") == (188, 0, 62)


def test_flags_reach_the_engine_and_defaults_come_from_the_model(capsys):
    _run(capsys, "stylize-image", "photo.png", "--style", "red.png", "--seed", "5", "--scheduler", "ddim", "--tile", "128", "--size", "32",
         "--texture", "0.25")  # fmt: skip
    expected = {
        "style_scale": 1.0, "content_scale": 1.0, "steps": 7, "scheduler": "ddim", "seed": 5, "size": 32,
        "keep_size": False, "tile": 128, "shape": (1, 3, 16, 24), "weights": [1.0], "keep_outside": False, "preserve_color": False,
        "content_latent": "mode", "square": False, "texture": 0.25, "adapters": {}, "controls": {}, "regions": [],
    }  # fmt: skip
    assert FakePipeline.calls == [expected]


def test_embedded_settings_repeat_a_result(capsys):
    _run(capsys, "stylize-image", "photo.png", "--style", "red.png=2", "--preset", "bold", "--seed", "9", "-o", "first.png")
    record = load_picture("first.png").settings
    assert (record["hicast"], record["command"], record["preset"]) == (__version__, "stylize-image", "bold")
    assert record["styles"] == [{"file": "red.png", "weight": 2.0}]
    settings = record["settings"]
    assert (settings["model"], settings["seed"], settings["steps"], settings["style_scale"]) == ("compact", 9, 7, 1.15)
    assert "device" not in settings
    code, _, _ = _run(capsys, "stylize-image", "photo.png", "--style", "red.png", "--from-settings", "first.png", "-o", "second.png")
    assert code == 0 and FakePipeline.calls[1] == {**FakePipeline.calls[0], "weights": [1.0]}
    _run(capsys, "stylize-image", "photo.png", "--style", "red.png=2", "--preset", "bold", "--seed", "9", "-o", "third.png")
    assert Path("first.png").read_bytes() == Path("third.png").read_bytes()


def test_from_settings_of_a_strange_picture(capsys):
    code, _, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png", "--from-settings", "blue.png")
    assert code == 2 and "blue.png: expected a picture made by hicast" in err


def test_json_is_one_document(capsys):
    code, out, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png", "--json")
    document = json.loads(out)
    assert code == 0 and err == ""
    assert document["results"] == [{"input": "photo.png", "output": "photo-red.png"}]
    assert document["failed"] == document["skipped"] == [] and document["settings"]["steps"] == 7


def test_all_wrong_settings_in_one_line(capsys):
    words = ("--style-scale", "3", "--set", "steps=0", "--set", "stile=1", "--preset", "bold")
    code, out, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--set: steps: expected a whole number from 1 to 100 or null, found 0; --set: stile: expected a known key" in err
    assert "command line: style_scale: expected a number from 0 to 2, found 3.0" in err
    assert FakePipeline.loads == []


@pytest.mark.parametrize(
    "words, code, text",
    [
        (("--style", "red.png", "--preset", "blod"), 2, "did you mean bold?"),
        (("--style", "red.png", "--device", "gpu"), 2, "--device: expected one of auto, cpu, cuda, mps, found gpu; see --help"),
        (("--style", "red.png", "--overwrite", "--skip-existing"), 2, "leave one out"),
        (("--style", "red.png=0"), 2, "at least one weight above 0"),
        (("--style", "red.png=-1"), 2, "a weight of at least 0, found -1"),
        (("--style", "red.png=x"), 2, "--style red.png=x: expected a number behind red.png=, found x; give a weight such as 0.5"),
        (("--style", "red.png", "-q", "-v"), 2, "expected --quiet or --verbose, found both; leave one out"),
        (("--style", "gone.png"), 1, "gone.png: expected a picture, found no such file"),
        (("--style", "red.png", "-o", "photo.png"), 2, "found photo.png"),
        (("--style", "red.png", "-o", "result.gif"), 2, "expected --output to end in"),
        ((), 2, "hicast: --style: expected a painting, found none; name one, or --from-settings with a result"),
    ],
)
def test_mistakes_cost_one_line_and_no_model(words, code, text, capsys):
    found, out, err = _run(capsys, "stylize-image", "photo.png", *words)
    assert (found, out, err.count("\n")) == (code, "", 1) and text in err
    assert FakePipeline.loads == []


def test_no_picture_goes_to_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    code, out, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png", "-o", "-")
    assert (code, out) == (2, "") and err.startswith("hicast: --output -: expected a file or another program behind standard output, found a terminal")


def test_a_missing_model_ends_the_run(capsys):
    code, out, err = _run(capsys, "stylize-image", "photo.png", "red.png", "--style", "blue.png", "--model", "nowhere", "-o", "out")
    assert (code, out, err) == (1, "", "hicast: nowhere: expected a model, found none\n")


def test_float16_on_a_cpu_names_bfloat16(capsys):
    code, _, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png", "--device", "cpu", "--dtype", "float16")
    assert code == 2 and "bfloat16" in err and err.count("\n") == 1 and FakePipeline.loads == []


def test_cuda_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png", "--device", "cuda")
    assert code == 2 and err.startswith("hicast: --device cuda: expected such a device, found none")


def test_a_batch_goes_on_after_bad_files(capsys, folder):
    photos = _photos(folder / "photos", "a.png", "c.png")
    (photos / "b.png").write_bytes(b"no picture")
    code, out, err = _run(capsys, "stylize-image", photos, "gone.jpg", "--style", "red.png", "-o", "out")
    assert code == 1 and out.splitlines() == ["out/a.png", "out/c.png"] and len(FakePipeline.loads) == 1
    first, second, last = err.splitlines()
    assert "gone.jpg" in first and "b.png" in second and last == "2 of 4 pictures failed"
    code, out, _ = _run(capsys, "stylize-image", photos, "gone.jpg", "--style", "red.png", "-o", "out2", "--json", "--quiet")
    document = json.loads(out)
    assert code == 1 and [entry["input"] for entry in document["failed"]] == ["gone.jpg", str(photos / "b.png")]
    assert len(document["results"]) == 2


def test_bad_pictures_alone_load_no_model(capsys, folder):
    (folder / "bad.png").write_bytes(b"no picture")
    code, out, err = _run(capsys, "stylize-image", "bad.png", "--style", "red.png")
    assert (code, out, err.count("\n")) == (1, "", 1) and FakePipeline.loads == []


def test_results_already_there(capsys, folder):
    done = folder / "photo-red.png"
    done.write_bytes(b"precious")
    code, out, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png")
    assert code == 1 and "--overwrite" in err and done.read_bytes() == b"precious"
    code, out, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png", "--skip-existing")
    assert (code, out) == (0, "") and done.read_bytes() == b"precious" and FakePipeline.loads == []
    code, out, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png", "--overwrite")
    assert (code, out) == (0, "photo-red.png\n") and _pixel(done) == (170, 45, 45)


@pytest.mark.parametrize("keep, size", [((), (24, 16)), (("--keep-size",), (12, 8))])
def test_alpha_keeps_company_with_its_picture(keep, size, capsys, folder):
    pixels = np.full((16, 24, 4), 90, np.uint8)
    pixels[:, :12, 3] = 255
    pixels[:, 12:, 3] = 0
    Image.fromarray(pixels).save("glass.png")
    assert _run(capsys, "stylize-image", "glass.png", "--style", "red.png", *keep)[0] == 0
    result = load_picture("glass-red.png")
    assert result.alpha.shape == size[::-1] and (result.alpha[:, 0] == 255).all() and (result.alpha[:, -1] == 0).all()


@pytest.mark.parametrize("trouble", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("x can't allocate memory: y")])
def test_lack_of_memory_says_what_to_set(trouble, capsys):
    FakePipeline.trouble = trouble
    code, _, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png")
    assert code == 1 and err.count("\n") == 1 and all(option in err for option in ("--size", "--tile", "--dtype"))


def test_surprises_are_one_line_with_the_traceback_on_demand(capsys):
    FakePipeline.trouble = ZeroDivisionError("odd\nthing")
    code, _, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png")
    assert (code, err) == (1, "hicast: unexpected ZeroDivisionError: odd thing; run again with --verbose for the traceback\n")
    code, _, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png", "-v")
    assert code == 1 and "Traceback" in err and "in stylize_image" in err


def test_ctrl_c_leaves_nothing_behind(capsys, folder):
    before = sorted(folder.iterdir())
    FakePipeline.trouble = KeyboardInterrupt()
    code, out, err = _run(capsys, "stylize-image", "photo.png", "--style", "red.png")
    assert (code, out) == (130, "") and err.count("\n") == 1 and sorted(folder.iterdir()) == before


def test_wrong_usage_in_the_engine_ends_a_batch(capsys):
    FakePipeline.trouble = UsageError("scheduler: expected a known one, found x")
    code, _, err = _run(capsys, "stylize-image", "photo.png", "red.png", "--style", "blue.png", "-o", "out")
    assert (code, err) == (2, "hicast: scheduler: expected a known one, found x\n")


def test_explain_keeps_exit_codes():
    assert explain(UsageError("a")) == ("a", 2) and explain(ModelError("b")) == ("b", 1)


PIPE = """
import sys, types
sys.path.insert(0, {tests!r})
import {module} as stand_in
module = types.ModuleType("hicast.pipeline"); module.HiCastPipeline = stand_in.FakePipeline
sys.modules["hicast.pipeline"] = module
from hicast.cli.main import app
app({words!r})
"""


def _pipe(words: list[str], **options) -> subprocess.CompletedProcess:
    """The command in a process of its own, with the stand-in for the pipeline."""
    code = PIPE.format(tests=str(Path(__file__).parent), module=Path(__file__).stem, words=words)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, **options)


def test_standard_input_to_standard_output(folder):
    words = ["stylize-image", "-", "--style", "red.png", "-o", "-", "--json"]
    done = _pipe(words, input=(folder / "photo.png").read_bytes())
    assert done.returncode == 0, done.stderr
    (folder / "piped.png").write_bytes(done.stdout)
    assert _pixel("piped.png") == (170, 45, 45)
    assert json.loads(done.stderr)["results"] == [{"input": "-", "output": "-"}]

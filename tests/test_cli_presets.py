"""`hicast presets` lists, shows and copies what is shipped, for looks and training runs; what is wrong is one line."""

import json
from pathlib import Path

import pytest
import yaml

from hicast.cli import main
from hicast.config.presets import list_presets


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder, no settings of the user."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(capsys, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = main.run(list(words))
    return code, *capsys.readouterr()


def test_the_examples_of_presets_run(capsys):
    for command in main.COMMANDS:
        if command.words[0] == "presets":
            assert _run(capsys, *command.example.split()[1:])[0] == 0


def test_presets_copy_and_show(capsys, folder):
    assert _run(capsys, "presets", "copy", "bold") == (0, "bold.yaml\n", "")
    code, _, err = _run(capsys, "presets", "copy", "bold")
    assert code == 1 and "--overwrite" in err
    (folder / "bold.yaml").write_text("base: bold\nsteps: 3\n")
    code, out, _ = _run(capsys, "presets", "show", "bold.yaml", "--json")
    assert code == 0 and json.loads(out) == {"name": "bold.yaml", "description": "", "style_scale": 1.15, "content_scale": 1.0, "steps": 3}


def test_a_copy_has_a_name_that_preset_takes(capsys, folder):
    code, out, err = _run(capsys, "presets", "copy", "bold", "-o", "mine.txt")
    assert (code, out) == (2, "") and not (folder / "mine.txt").exists()
    assert err == "hicast: --output mine.txt: expected a name that --preset takes, ending in .yaml or .yml, found .txt; add .yaml\n"


def test_presets_list(capsys):
    code, out, err = _run(capsys, "presets", "list")
    looks, runs = (section.splitlines() for section in out.split("\n\n"))
    assert code == 0 and err == "" and [line.split()[0] for line in looks[1:]] == [
        "architecture", "balanced", "bold", "draft", "gentle", "landscape", "portrait", "published-image", "published-video", "sketch", "smooth"
    ]
    assert [line.split()[0] for line in runs[1:] if line[0] != " "] == list_presets("train") and runs[0].split() == ["training", "stage", "description"]
    assert next(line.split()[1] for line in runs if line.startswith("sd15-image-reference ")) == "image"
    entries = json.loads(_run(capsys, "presets", "list", "--json")[1])
    assert entries[1]["name"] == "balanced" and [entry["name"] for entry in entries if "stage" in entry] == list_presets("train")


def test_training_presets_are_shown_and_copied(capsys, folder):
    code, out, _ = _run(capsys, "presets", "show", "sd15-image-reference")
    values = yaml.safe_load(out)
    assert code == 0 and values["reference"] is True and values["crop"] == 512, "with what it inherits"
    assert _run(capsys, "presets", "copy", "compact-image", "-o", "mine.yaml") == (0, "mine.yaml\n", "")
    shipped = Path(__file__).resolve().parents[1] / "presets" / "train" / "compact-image.yaml"
    assert (folder / "mine.yaml").read_text() == shipped.read_text(), "comments too"
    (folder / "more.yaml").write_text("base: mine.yaml\nsteps: 3\n")
    code, out, _ = _run(capsys, "presets", "show", "more.yaml", "--json")
    assert code == 0 and json.loads(out) == {**yaml.safe_load(shipped.read_text()), "name": "more.yaml", "description": "", "steps": 3}


@pytest.mark.parametrize(
    "text, words",
    [
        ("base: compact-image\nsteps: none\n", "steps: expected a whole number at least 1, found none"),
        ("stage: imgae\n", "stage: expected one of autoencoder, image, adapter, temporal, found imgae; correct it"),
        ("stage: [image]\n", "stage: expected one of autoencoder, image, adapter, temporal, found ['image']"),
        ("base: bad.yaml\n", "expected bases that end, found the circle bad.yaml -> bad.yaml"),
        ("base: other.yaml\n", "expected bases that end, found the circle bad.yaml -> other.yaml -> bad.yaml"),
    ],
)
def test_bad_training_presets_are_one_line(capsys, folder, text, words):
    (folder / "bad.yaml").write_text(text)
    (folder / "other.yaml").write_text("base: bad.yaml\n")
    code, _, err = _run(capsys, "presets", "show", "bad.yaml")
    assert code == 2 and words in err and len(err.splitlines()) == 1, err


@pytest.mark.parametrize(
    "name, advice",
    [
        ("blod", "did you mean bold? hicast presets list shows all"),
        ("sd15-imag", "did you mean sd15-image or sd15-image-reference or debug-image? hicast presets list shows all"),
        ("zzz", f"known: {', '.join(list_presets())}; hicast presets list shows all"),
    ],
)
def test_unknown_presets_name_the_nearest_of_both_kinds(capsys, folder, name, advice):
    assert _run(capsys, "presets", "show", name) == (2, "", f"hicast: expected the name of a preset or a .yaml file, found {name}; {advice}\n")


def test_commands_name_presets_of_their_own_kind(capsys, folder):
    for words, ours, other in (
        (("stylize-image", "photo.png", "--style", "red.png"), "balanced", "debug-image"), (("train", "--stage", "image"), "debug-image", "balanced")
    ):  # fmt: skip
        code, _, err = _run(capsys, *words, "--preset", "zzz")
        assert code == 2 and f" {ours}," in err and other not in err and err.endswith("; hicast presets list shows all\n"), err

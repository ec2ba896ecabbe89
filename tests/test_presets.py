"""Presets: every shipped one loads, inheritance, the user's own, and advice on unknown names."""

from importlib import resources
from pathlib import Path

import pytest
import yaml

from hicast.config.layers import Layer, combine
from hicast.config.presets import STYLE, TRAINING, list_presets, load_preset
from hicast.config.stylize import PresetSettings, StylizeSettings, load_style_preset
from hicast.errors import SettingsError, UsageError

SHIPPED = ("architecture", "balanced", "bold", "draft", "gentle", "landscape", "portrait", "published-image", "published-video", "sketch", "smooth")


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch) -> Path:
    """The user's folder of presets, empty; the working folder is empty too."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "xdg" / "hicast" / "presets"
    folder.mkdir(parents=True)
    return folder


def test_shipped_names():
    assert tuple(list_presets()) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_preset_loads_and_can_be_used(name):
    values = load_style_preset(name)
    description = values.pop("description")
    assert description.endswith(".") and "\n" not in description
    assert combine([Layer(name, values)], StylizeSettings).preserve_color is False


def test_gentle_balanced_and_bold_rise_in_style():
    scales = [load_style_preset(name)["style_scale"] for name in ("gentle", "balanced", "bold")]
    assert scales == sorted(set(scales)) and 0.9 <= scales[1] <= 1


def test_presets_of_other_kinds_are_listed_apart():
    folder = resources.files("hicast.presets").joinpath("train")
    names = sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".yaml"))
    assert list_presets("train") == names and not set(names) & set(SHIPPED)


def test_every_documented_key_is_accepted(own):
    document = {
        "description": "All keys.", "style_scale": 1, "content_scale": 1.5, "texture": 0.5, "adapters": {"edge": 0.1, "depth": 0, "seg": "2@0-0.5"},
        "extractors": {"edge": "canny"}, "steps": 4, "scheduler": "ddim", "size": 512, "preserve_color": True, "content_latent": "sample", "square": True,
        "video": {"window": 8, "overlap": 2, "shared_noise": 0.5},
    }  # fmt: skip
    assert {*document} - {"description"} == {*PresetSettings.model_fields}
    (own / "all.yaml").write_text(yaml.safe_dump({**document, "base": "balanced"}))
    assert load_style_preset("all") == document


def test_bases_are_laid_under_key_by_key(own):
    (own / "a.yaml").write_text("description: A.\nsteps: 3\nvideo: {window: 8, overlap: 2}\n")
    (own / "b.yaml").write_text("base: a\nvideo: {window: 9}\n")
    (own / "c.yaml").write_text("description: C.\nbase: b\nseed: 1\n")
    assert load_preset("c") == {"description": "C.", "steps": 3, "video": {"window": 9, "overlap": 2}, "seed": 1}
    assert load_preset("b")["description"] == ""


def test_a_base_path_starts_at_its_file(tmp_path):
    (tmp_path / "looks").mkdir()
    (tmp_path / "looks" / "low.yaml").write_text("base: bold\nsteps: 2\n")
    (tmp_path / "looks" / "high.yaml").write_text("base: low.yaml\nsize: 256\n")
    values = load_preset("looks/high.yaml")
    assert (values["steps"], values["size"], values["style_scale"]) == (2, 256, load_preset("bold")["style_scale"])


def test_circles_are_found(own):
    (own / "a.yaml").write_text("base: b\n")
    (own / "b.yaml").write_text("base: a\n")
    with pytest.raises(SettingsError, match="preset a: expected bases that end, found the circle a -> b -> a"):
        load_preset("a")


def test_the_users_preset_wins(own):
    (own / "bold.yaml").write_text("style_scale: 1.9\n")
    assert load_preset("bold")["style_scale"] == 1.9 and list_presets().count("bold") == 1


@pytest.mark.parametrize(
    "name, kind, advice",
    [
        ("blod", STYLE, "did you mean bold? hicast presets list shows all"),
        ("zzz", STYLE, f"known: {', '.join(SHIPPED)}; hicast presets list shows all"),
        ("publishd-temporl", TRAINING, "did you mean published-temporal or published-adapter or debug-temporal? hicast presets list shows all"),
        ("zzz", TRAINING, f"known: {', '.join(list_presets(TRAINING))}; hicast presets list shows all"),
        ("debgu", "models", "did you mean debug? known: compact, debug, sd15"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest_else_with_all_of_the_kind(name, kind, advice):
    with pytest.raises(UsageError) as caught:
        load_preset(name, kind)
    assert str(caught.value) == f"expected the name of a preset or a .yaml file, found {name}; {advice}"


def test_a_missing_file_and_a_bad_base_are_told(own):
    with pytest.raises(SettingsError, match="gone.yaml: expected a settings file, found no such file"):
        load_preset("gone.yaml")
    (own / "odd.yaml").write_text("base: [bold]\ndescription: 3\n")
    with pytest.raises(SettingsError) as caught:
        load_preset("odd")
    assert len(caught.value.problems) == 2


def test_all_problems_of_a_preset_come_together(own):
    (own / "odd.yaml").write_text("style_scale: 9\nstep: 3\nmodel: compact\n")
    with pytest.raises(SettingsError) as caught:
        load_style_preset("odd")
    assert len(caught.value.problems) == 3
    assert caught.value.problems[0] == "preset odd: style_scale: expected a number from 0 to 2, found 9"


def test_the_published_scales_stand_under_our_names():
    """Reference, sections 4 and 5: the published content_scale strengthens style, adapters have 0.1, the video script edge and depth only."""
    image, video = (load_style_preset(name) for name in ("published-image", "published-video"))
    assert (image["style_scale"], image["content_scale"], image["steps"], image["scheduler"], image["size"]) == (1, 1, 20, "ddim", 384)
    assert image["adapters"] == {"edge": 0.1, "depth": 0.1, "seg": 0.1}
    assert (video["style_scale"], video["content_scale"], video["steps"], video["size"], video["video"]["window"]) == (0.8, 1, 20, 512, 21)
    assert video["adapters"] == {"edge": 0.1, "depth": 0.1, "seg": 0}

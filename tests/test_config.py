"""Settings: messages that name place, expectation and finding; the order of layers."""

from pathlib import Path

import pytest

from hicast.config.adapters import AdapterUse, uses_by_name
from hicast.config.layers import Layer, combine, command_layer, config_folder, merge, parse_set, parse_yaml, read_yaml
from hicast.config.problems import examine, validate
from hicast.config.stylize import StylizeSettings, asked_adapters, resolve_stylize, stylize_layers
from hicast.errors import SettingsError, UsageError


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """A working folder and a user's configuration folder that are empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_merge_is_deep_and_changes_nothing():
    low, high = {"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 5}, "c": {"z": 1}}
    merged = merge(low, high)
    assert merged == {"a": {"x": 1, "y": 5}, "b": 3, "c": {"z": 1}}
    merged["a"]["x"] = merged["c"]["z"] = 9
    assert low == {"a": {"x": 1, "y": 2}, "b": 3} and high == {"a": {"y": 5}, "c": {"z": 1}}


@pytest.mark.parametrize(
    "text, value",
    [("1e-4", 1e-4), ("-2E3", -2000.0), ("5", 5), ("true", True), ("~", None), ("[1, 2]", [1, 2]), ("1e", "1e"), ("e4", "e4")],
)
def test_yaml_values(text, value):
    assert parse_yaml(text, "here") == value and type(parse_yaml(text, "here")) is type(value)


def test_set_words_nest_and_keep_later_equals_signs():
    assert parse_set(["video.window=8", "video.overlap=2", "scheduler=a=b"]) == {
        "video": {"window": 8, "overlap": 2},
        "scheduler": "a=b",
    }


def test_set_words_report_every_problem():
    with pytest.raises(SettingsError) as caught:
        parse_set(["steps", "a..b=1", "=3", "size=[1"])
    assert len(caught.value.problems) == 4
    assert caught.value.problems[0] == "--set steps: expected KEY=VALUE, found steps; write for example style_scale=1.2"


def test_bad_yaml_names_file_and_line():
    path = _write(Path("bad.yaml"), "steps: 4\nsize: [1, 2\n")
    with pytest.raises(SettingsError, match=r"^bad.yaml: line 3: expected YAML, found a mistake: "):
        read_yaml(path)


@pytest.mark.parametrize("text, words", [("- 1\n- 2\n", "expected keys with values"), ("1: 2\n", "expected keys with values")])
def test_yaml_without_keys_is_refused(text, words):
    with pytest.raises(SettingsError, match=words):
        read_yaml(_write(Path("list.yaml"), text))


def test_missing_and_binary_files_are_refused():
    with pytest.raises(SettingsError, match="none.yaml: expected a settings file, found no such file"):
        read_yaml("none.yaml")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="UTF-8"):
        read_yaml("binary.yaml")


def test_all_problems_of_a_layer_come_together():
    values = {"style_scal": 1, "steps": 0, "device": "gpu", "adapters": {"egde": 1, "depth": -1}, "video": {"windw": 2}, "seed": 1.5}
    assert examine(values, StylizeSettings, "here")[1] == [
        "here: adapters.egde: expected a known key, found egde; did you mean edge? known: edge, depth, seg",
        "here: adapters.depth: expected a weight from 0 to 10, such as 0.8, or 0.8@0-0.6 for a share of the steps, found -1",
        "here: steps: expected a whole number from 1 to 100 or null, found 0",
        "here: video.windw: expected a known key, found windw; did you mean window? known: window, overlap, shared_noise, residual_threshold",
        "here: seed: expected a whole number from 0 to 4294967295, found 1.5",
        "here: device: expected one of auto, cpu, cuda, mps, found gpu",
        "here: style_scal: expected a known key, found style_scal; did you mean style_scale? known: "
        + ", ".join(StylizeSettings.model_fields),
    ]


@pytest.mark.parametrize("value", [True, "strong", float("nan"), -0.1, 2.1, None])
def test_style_scale_takes_only_numbers_in_its_range(value):
    _, (problem,), _ = examine({"style_scale": value}, StylizeSettings, "here")
    assert problem.startswith("here: style_scale: expected a number from 0 to 2, found ")


def test_settings_are_frozen():
    settings = validate({}, StylizeSettings, "here")
    with pytest.raises(ValueError):
        settings.steps = 3


def test_problems_name_their_layers():
    layers = [Layer("low", {"steps": 0}), Layer("high", {"steps": 5, "sise": 1})]
    with pytest.raises(SettingsError) as caught:
        combine(layers, StylizeSettings)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["low", "high"]


def test_later_layers_win_one_by_one():
    """Each layer sets `seed` to its own number and a key that only stronger layers do not touch."""
    _write(Path("hicast.yaml"), "seed: 2\nstylize-image: {size: 102, style_scale: 0.2}\n")
    preset = _write(Path("mine.yaml"), "style_scale: 0.3\ncontent_scale: 0.3\n")
    record = Layer("old.png", {"seed": 4, "content_scale": 0.4, "tile": 104})
    words, flags = {"seed": 5, "tile": 105, "scheduler": "five"}, {"seed": 6, "scheduler": "six"}
    defaults = {"seed": 1, "size": 101, "steps": 21}

    def resolved(**given):
        return resolve_stylize(stylize_layers("stylize-image", **given)[1], defaults)

    full = resolved(preset=str(preset), record=record, words=words, flags=flags)
    found = (full.steps, full.size, full.style_scale, full.content_scale, full.tile, full.scheduler, full.seed)
    assert found == (21, 102, 0.3, 0.4, 105, "six", 6)
    assert resolved(preset=str(preset), record=record, words=words).seed == 5
    assert resolved(preset=str(preset), record=record).seed == 4
    assert resolved(preset=str(preset)).seed == 2
    Path("hicast.yaml").unlink()
    assert resolved().seed == 1


def test_a_preset_not_asked_for_is_weaker_than_the_settings_file():
    _write(Path("hicast.yaml"), "stylize-image: {preset: bold, style_scale: 0.7}\n")
    name, layers = stylize_layers("stylize-image")
    assert name == "bold" and resolve_stylize(layers).style_scale == 0.7
    name, layers = stylize_layers("stylize-image", preset="gentle")
    assert name == "gentle" and resolve_stylize(layers).style_scale == 0.7


def test_settings_file_of_the_working_folder_hides_the_users():
    _write(config_folder() / "hicast.yaml", "seed: 7\n")
    assert command_layer("stylize-image", StylizeSettings).values == {"seed": 7}
    _write(Path("hicast.yaml"), "seed: 1\nstylize-image: {seed: 8}\ntrain: {steps: 100000}\n")
    assert command_layer("stylize-image", StylizeSettings).values == {"seed": 8}


def test_settings_file_refuses_stray_keys():
    _write(Path("hicast.yaml"), "style_scale: 1\nstylise-image: {}\nstylize-image: 3\n")
    with pytest.raises(SettingsError) as caught:
        command_layer("stylize-image", StylizeSettings)
    first, second, third = caught.value.problems
    assert first.endswith("style_scale: expected a command or a shared key, found style_scale; move it under stylize-image")
    assert "did you mean stylize-image?" in second
    assert third == "hicast.yaml: stylize-image: expected keys with values, found 3"


@pytest.mark.parametrize(
    "value, use, written",
    [(0.8, AdapterUse(0.8), 0.8), (2, AdapterUse(2), 2.0), ("0.8", AdapterUse(0.8), 0.8), (".5@0-0.6", AdapterUse(0.5, 0, 0.6), "0.5@0-0.6"),
     ("1@0-1", AdapterUse(1), 1.0), ("1e-1@0.25-1", AdapterUse(0.1, 0.25, 1), "0.1@0.25-1")],
)  # fmt: skip
def test_weights_of_adapters_and_back(value, use, written):
    settings = validate({"adapters": {"edge": value}}, StylizeSettings, "here")
    assert settings.adapters == {"edge": use} and settings.model_dump(mode="json")["adapters"] == {"edge": written}
    assert validate({"adapters": {"edge": written}}, StylizeSettings, "here").adapters == {"edge": use}


@pytest.mark.parametrize("value", ["-1", -0.5, "x", "", True, None, float("nan"), float("inf"), 80, "10.1", "1e400", "0,5", "0.8@", "0.8@0", [1]])
def test_what_is_no_weight(value):
    with pytest.raises(SettingsError, match="^here: adapters.edge: expected a weight from 0 to 10, such as 0.8, or 0.8@0-0.6 for a share"):
        validate({"adapters": {"edge": value}}, StylizeSettings, "here")


@pytest.mark.parametrize("share", ["0.6-0.2", "0.5-0.5", "0-1.5"])
def test_what_is_no_share_of_the_steps(share):
    with pytest.raises(SettingsError, match=f"expected a share of the steps that rises from 0 to 1, such as 0-0.6, found {share}"):
        validate({"adapters": {"edge": f"1@{share}"}}, StylizeSettings, "here")


@pytest.mark.parametrize("weight", [-0.5, 10.1, 50, float("nan"), float("inf")])
def test_weights_out_of_range_are_refused_in_the_library_too(weight):
    words = f"expected a weight from 0 to 10, such as 0.8, or 0.8@0-0.6 for a share of the steps, found {weight:g}; 1 is as trained"
    for ask, place in ((AdapterUse, ""), (AdapterUse.of, ""), (lambda given: uses_by_name({"seg": 1, "edge": given}), "adapters.edge: ")):
        with pytest.raises(UsageError) as caught:
            ask(weight)
        assert str(caught.value) == place + words
    with pytest.raises(UsageError, match="expected a share of the steps that rises from 0 to 1, such as 0-0.6, found 0.6-0.2; correct it"):
        AdapterUse(1, 0.6, 0.2)
    assert uses_by_name({"edge": 10, "seg": AdapterUse(0)}) == {"edge": AdapterUse(10), "seg": AdapterUse(0)} and uses_by_name(None) == {}


def test_unknown_controls_are_answered_with_all():
    with pytest.raises(SettingsError, match="adapters.edg: expected a known key, found edg; did you mean edge\\? known: edge, depth, seg"):
        validate({"adapters": {"edg": 1}}, StylizeSettings, "here")


def test_a_folder_for_an_adapter_is_told_from_a_weight(tmp_path):
    (tmp_path / "work" / "1").mkdir()
    words = parse_set(["adapters.edge=runs/edge", "adapters.depth=0.5@0-0.6", "adapters.seg=2", "adapters.edge=../deep/edge"])
    settings = resolve_stylize(stylize_layers("stylize-image", words=words)[1])
    assert settings.adapter_folders == {"edge": "../deep/edge"} and settings.adapters == {"depth": AdapterUse(0.5, 0, 0.6), "seg": AdapterUse(2)}
    with pytest.raises(SettingsError, match="--set: adapters.edge: expected a weight from 0 to 10"):
        resolve_stylize(stylize_layers("stylize-image", words={"adapters": {"edge": "0,5"}})[1])
    assert resolve_stylize(stylize_layers("stylize-image", words={"adapters": {"edge": "1"}})[1]).adapter_folders == {"edge": "1"}


def test_a_record_stands_for_a_whole_run(tmp_path):
    _write(Path("hicast.yaml"), "stylize-image: {adapters: {edge: 1}, video: {window: 8}}")
    record = Layer("old.png", {"adapters": {"depth": 0.5}, "video": {"overlap": 2}})
    _, layers = stylize_layers("stylize-image", record=record, flags={"adapters": {"seg": 0.25}})
    settings = resolve_stylize(layers)
    assert settings.adapters == {"depth": AdapterUse(0.5), "seg": AdapterUse(0.25)}
    assert (settings.video.window, settings.video.overlap) == (8, 2) and asked_adapters(layers) == {"depth", "seg"}


def test_a_preset_does_not_ask_for_its_adapters():
    Path("mine.yaml").write_text("adapters: {edge: 1}")
    _, layers = stylize_layers("stylize-image", "mine.yaml")
    assert resolve_stylize(layers).adapters == {"edge": AdapterUse(1)} and asked_adapters(layers) == set()


def test_a_region_says_something():
    with pytest.raises(SettingsError, match="regions.0: expected style_scale or style, found neither; give the region one"):
        validate({"regions": [{"where": "mask.png"}]}, StylizeSettings, "here")

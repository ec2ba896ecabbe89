"""Model folders that name a base: found from where they lie, and what is said where it has moved."""

import json

import pytest

from hicast.errors import ModelError
from hicast.io.bases import adapter_folder, base_name, find_adapters, load_index, with_bases
from hicast.io.weights import resolve_model


def _folder(place, base=None, adapters=()):
    """A model folder with empty adapters, and its base."""
    place.mkdir(parents=True)
    (place / "model_index.json").write_text(json.dumps({"base": base} if base else {}))
    for name in adapters:
        (place / "adapters" / name).mkdir(parents=True)
        for file in ("config.json", "diffusion_pytorch_model.safetensors"):
            (place / "adapters" / name / file).touch()
    return place


def test_bases_are_relative_absolute_or_ship(tmp_path):
    whole = _folder(tmp_path / "image")
    relative, absolute = _folder(tmp_path / "deep" / "edge", "../../image"), _folder(tmp_path / "edge", str(whole))
    assert [place.resolve() for place in with_bases(relative)] == [relative, whole]
    assert with_bases(absolute) == [absolute, whole] and with_bases(whole) == [whole]
    assert with_bases(_folder(tmp_path / "own", "compact"))[-1] == resolve_model("compact")


def test_names_of_bases_lead_back(tmp_path):
    whole = _folder(tmp_path / "image")
    assert base_name(whole, tmp_path / "deep" / "edge") == "../../image"
    assert base_name(resolve_model("compact"), tmp_path) == "compact"


def test_moved_bases_and_circles_are_one_line(tmp_path):
    edge = _folder(tmp_path / "edge", "../image")
    with pytest.raises(ModelError) as caught:
        with_bases(edge)
    assert str(caught.value) == (
        f"model '{edge}': expected its base in '{edge}/../image', found no model there; move it back, or write its place as base into "
        f"{edge}/model_index.json"
    )
    _folder(tmp_path / "image", "../edge")
    with pytest.raises(ModelError, match="expected bases that end, found a circle at"):
        with_bases(edge)


def test_own_adapters_win_over_those_of_the_base(tmp_path):
    whole = _folder(tmp_path / "image", adapters=("seg", "edge"))
    own = _folder(tmp_path / "edge", "../image", ("edge", "depth"))
    found = find_adapters(own)
    assert list(found) == ["depth", "edge", "seg"] and found["edge"] == own / "adapters" / "edge"
    assert found["seg"].resolve() == whole / "adapters" / "seg"


def test_an_adapter_is_named_by_its_run_or_by_its_own_folder(tmp_path):
    run = _folder(tmp_path / "run", adapters=("edge",))
    assert adapter_folder("edge", run) == adapter_folder("edge", run / "adapters" / "edge") == run / "adapters" / "edge"
    with pytest.raises(ModelError, match="adapter 'depth': expected one in '.*run', found edge; give the folder"):
        adapter_folder("depth", run)


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("side_range", "x", "side_range: expected two whole numbers from 32 to 8192, the smaller first, found x"),
        ("side_range", [1024, 256], "side_range: expected two whole numbers from 32 to 8192, the smaller first, found [1024, 256]"),
        ("side_range", [256, True], "side_range: expected two whole numbers"),
        ("noise_scale", "a", "noise_scale: expected a number from 0 to 1, found a"),
        ("noise_scale", 2, "noise_scale: expected a number from 0 to 1, found 2"),
        ("noise_scale", float("nan"), "noise_scale: expected a number from 0 to 1, found NaN"),
        ("style_unit", 0, "style_unit: expected a number above 0 and at most 1, found 0"),
        ("defaults", 3, "defaults: expected keys with values, found 3"),
        ("defaults", {"steps": "many"}, "defaults.steps: expected a whole number from 1 to 100 or null, found many"),
        ("defaults", {"stepps": 3}, "defaults.stepps: expected a known key, found stepps; did you mean steps? known: "),
        ("style_side", 0, "style_side: expected a whole number from 32 to 8192, found 0"),
        ("tile", "2048", "tile: expected a whole number from 64 to 8192, found 2048"),
        ("autoencoder", ["a"], 'autoencoder: expected text, found ["a"]'),
        ("base", 7, "base: expected text or null, found 7"),
    ],
)
def test_an_index_that_makes_no_sense_is_one_line(tmp_path, key, value, words):
    folder = _folder(tmp_path / "own")
    index = folder / "model_index.json"
    index.write_text(json.dumps({key: value}))
    for read in (load_index, with_bases):
        with pytest.raises(ModelError) as caught:
            read(folder)
        message = str(caught.value)
        assert message.startswith(f"'{index}': {words}") and message.endswith("; correct it, or leave the key out for its default")
        assert "\n" not in message


def test_an_index_keeps_what_it_holds_beside_our_keys(tmp_path):
    folder = _folder(tmp_path / "own")
    stored = {"unet": ["diffusers", "UNet2DConditionModel"], "noise_scale": 0, "side_range": [64, 64], "defaults": {}}
    (folder / "model_index.json").write_text(json.dumps(stored))
    assert load_index(folder) == stored

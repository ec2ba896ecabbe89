"""Model folders that name a base: found from where they lie, and what is said where it has moved."""

import json

import pytest

from hicast.errors import ModelError
from hicast.io.bases import adapter_folder, base_name, find_adapters, with_bases
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

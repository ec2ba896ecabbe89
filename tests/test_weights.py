"""Weight files and model folders: round trips, and one clear line for each kind of damage."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest
import torch

from hicast.errors import ModelError, OutputError
from hicast.io.weights import load_module, load_safetensors, read_metadata, resolve_model, save_module, save_safetensors
from hicast.models.unet import ContentProjection

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2, dtype=torch.float16)}


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "model.safetensors"
    save_safetensors(TENSORS, path, {"trained_with": "tests"})
    return path


def test_round_trip_with_metadata(stored):
    found = load_safetensors(stored, {"weight": (2, 3), "bias": (2,)})
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert read_metadata(stored) == {"format": "pt", "trained_with": "tests"}
    assert [path.name for path in stored.parent.iterdir()] == ["model.safetensors"]


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="expected a file, found none at"):
        load_safetensors(tmp_path / "none.safetensors")


@pytest.mark.parametrize("size", [0, 5, 90])
def test_truncated_file(stored, size):
    stored.write_bytes(stored.read_bytes()[:size])
    with pytest.raises(ModelError, match=f"found {size} bytes that are not") as caught:
        load_safetensors(stored)
    assert "\n" not in str(caught.value)


def test_wrong_shape_and_names(stored):
    with pytest.raises(ModelError, match=r"'weight' of shape \(3, 3\), found \(2, 3\)"):
        load_safetensors(stored, {"weight": (3, 3), "bias": (2,)})
    with pytest.raises(ModelError, match=r"expected 'scale', found no such tensor \(1 missing\)"):
        load_safetensors(stored, {"weight": (2, 3), "bias": (2,), "scale": (1,)})
    with pytest.raises(ModelError, match="expected no 'bias'"):
        load_safetensors(stored, {"weight": (2, 3)})


def test_a_failed_save_keeps_the_old_file(stored, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("hicast.io.weights.os.replace", fail)
    with pytest.raises(OutputError, match="no space left"):
        save_safetensors({"weight": torch.zeros(1)}, stored, {})
    assert torch.equal(load_safetensors(stored)["weight"], TENSORS["weight"])
    assert [path.name for path in stored.parent.iterdir()] == ["model.safetensors"]


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="expected to write"):
        save_safetensors(TENSORS, tmp_path / "file" / "model.safetensors", {})


def build(config):
    return ContentProjection(**config)


def test_module_round_trip_in_half_precision(tmp_path):
    module = ContentProjection(4, 3, 16)
    save_module(module, tmp_path, torch.float16, {"name": "compact"})
    stored = load_safetensors(tmp_path / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    again = load_module(build, tmp_path)
    assert again.config.embedding_dim == 16 and not again.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.half().float())
    assert torch.equal(ContentProjection.from_pretrained(tmp_path).projection[0].bias, again.projection[0].bias)


def test_module_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(ModelError, match="found no such file; take a whole model folder"):
        load_module(build, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="expected JSON"):
        load_module(build, tmp_path)
    (tmp_path / "config.json").write_text('{"width": 3}')
    with pytest.raises(ModelError, match="unexpected keyword argument 'width'"):
        load_module(build, tmp_path)


def test_resolve_model(tmp_path, monkeypatch):
    assert resolve_model(tmp_path) == tmp_path
    with pytest.raises(ModelError, match="expected compact or a folder, found 'compcat'"):
        resolve_model("compcat")
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(ModelError, match="install hicast again"):
        resolve_model("compact")
    (tmp_path / "weights" / "compact").mkdir(parents=True)
    assert resolve_model("compact") == Path(tmp_path) / "weights" / "compact"

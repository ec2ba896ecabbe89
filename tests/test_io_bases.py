"""Folders that take most of their parts from a base: chains, references that survive a move, mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hicast.config.presets import load_preset
from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.style import StyleEncoder
from hicast.errors import ModelError
from hicast.io.bases import base_reference, folder_chain, holder, merged_index, resolve_base, save_index
from hicast.io.weights import resolve_model, save_module
from hicast.models.hicast_model import HiCastModel
from hicast.models.temporal import TemporalLayers
from hicast.models.unet import ContentProjection, build_unet
from hicast.pipeline import HiCastPipeline


def folder(path: Path, **index: object) -> Path:
    path.mkdir(parents=True)
    (path / "model_index.json").write_text(json.dumps({"format": 1} | index))
    return path


def test_the_nearest_folder_that_has_a_part_gives_it(tmp_path: Path) -> None:
    root = folder(tmp_path / "root", defaults={"steps": 1}, tile=64)
    middle = folder(tmp_path / "runs" / "middle", base="../../root", tile=32)
    top = folder(tmp_path / "top", base=str(middle))
    for place in (root / "unet", root / "vae", middle / "vae"):
        place.mkdir()
    chain = folder_chain(top)
    assert [path.resolve() for path in chain] == [top, middle, root]
    assert holder(chain, "vae") == middle and holder(chain, "unet").resolve() == root
    assert holder(chain, "nowhere").resolve() == root
    assert merged_index(chain) == {"format": 1, "defaults": {"steps": 1}, "tile": 32}


def test_a_base_that_is_shipped_or_moved_along(tmp_path: Path) -> None:
    root, run = folder(tmp_path / "a" / "root"), tmp_path / "a" / "runs" / "own"
    run.mkdir(parents=True)
    save_index(run, root)
    assert json.loads((run / "model_index.json").read_text())["base"] == "../../root"
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert resolve_base(tmp_path / "b" / "runs" / "own") == tmp_path / "b" / "root"
    assert base_reference(resolve_model("compact"), tmp_path) == "compact"
    assert resolve_base(folder(tmp_path / "c", base="compact")) == resolve_model("compact")
    assert resolve_base(folder(tmp_path / "d")) is None


def test_mistakes_are_named(tmp_path: Path) -> None:
    lost = folder(tmp_path / "lost", base="gone")
    with pytest.raises(ModelError, match=f"expected its base at '{tmp_path}/lost/gone', found no folder"):
        folder_chain(lost)
    one, _ = folder(tmp_path / "one", base="../two"), folder(tmp_path / "two", base="../one")
    with pytest.raises(ModelError, match="expected bases that end, found the circle .*one -> .*two -> .*one"):
        folder_chain(one)
    with pytest.raises(ModelError, match="expected a hicast model of format 1, found format 7: convert it"):
        merged_index([folder(tmp_path / "new", format=7)])


def test_a_pipeline_takes_its_parts_from_the_base_and_can_be_written_whole(tmp_path: Path) -> None:
    config = load_preset("debug", "models")
    torch.manual_seed(0)
    model = HiCastModel(build_unet(config["unet"]), ContentProjection(8, 4, 64), content_skip=True)
    made = HiCastPipeline(model, ResidualAutoencoder(8, (4, 8, 8)), StyleEncoder("caffe", 2, 6.0), config["scheduler"],
                          index={"defaults": {"steps": 3}})
    made.save_pretrained(tmp_path / "base")
    assert HiCastPipeline.from_pretrained(tmp_path / "base").temporal is None
    layers = TemporalLayers.for_unet(model.unet, conv_groups=(8, 8, 1), temporal_attention=(1, 2), padding="replicate")
    save_module(layers, tmp_path / "own" / "temporal")
    save_index(tmp_path / "own", tmp_path / "base")
    pipeline = HiCastPipeline.from_pretrained(tmp_path / "own", dtype="float32")
    pipeline.save_pretrained(tmp_path / "whole")
    shutil.rmtree(tmp_path / "base")
    again = HiCastPipeline.from_pretrained(tmp_path / "whole", dtype="float32")
    for found in (pipeline, again):
        assert found.defaults == {"steps": 3} and found.temporal.config.padding == "replicate"
        assert all(torch.equal(value, layers.state_dict()[name]) for name, value in found.temporal.state_dict().items())
        assert torch.equal(found.model.unet.conv_in.weight, model.unet.conv_in.weight)
        assert not any(parameter.requires_grad for parameter in found.temporal.parameters())

"""Temporal layers in a folder of their own, joined with the base that it names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from hicast.config.presets import load_preset
from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.style import StyleEncoder
from hicast.io.weights import save_module
from hicast.models.hicast_model import HiCastModel
from hicast.models.temporal import TemporalLayers
from hicast.models.unet import ContentProjection, build_unet
from hicast.pipeline import HiCastPipeline


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
    (tmp_path / "own" / "model_index.json").write_text(json.dumps({"format": 1, "base": "../base"}))
    pipeline = HiCastPipeline.from_pretrained(tmp_path / "own", dtype="float32")
    pipeline.save_pretrained(tmp_path / "whole")
    shutil.rmtree(tmp_path / "base")
    again = HiCastPipeline.from_pretrained(tmp_path / "whole", dtype="float32")
    for found in (pipeline, again):
        assert found.defaults == {"steps": 3} and found.temporal.config.padding == "replicate"
        assert all(torch.equal(value, layers.state_dict()[name]) for name, value in found.temporal.state_dict().items())
        assert torch.equal(found.model.unet.conv_in.weight, model.unet.conv_in.weight)
        assert not any(parameter.requires_grad for parameter in found.temporal.parameters())

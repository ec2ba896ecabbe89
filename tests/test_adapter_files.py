"""What a run of the stage `adapter` writes: the same after an interruption, joined with its base, fit to travel."""

import json

import numpy as np
import pytest
import torch

from hicast.errors import ModelError
from hicast.io.weights import read_metadata
from hicast.pipeline import HiCastPipeline
from hicast.training.loop import train

LIGHT = {"adapter_type": "light_adapter", "num_res_blocks": 1}


def test_interrupted_run_ends_bit_identical_and_its_folder_names_its_base(stage_of, kill_at, tmp_path):
    stage_of().pipeline.save_pretrained(tmp_path / "image")
    base = tmp_path / "image"
    train(stage_of(base=base), tmp_path / "whole")
    stopped = stage_of(base=base)
    kill_at(stopped, 3)
    with pytest.raises(RuntimeError, match="killed"):
        train(stopped, tmp_path / "parts")
    assert train(stage_of(base=base), tmp_path / "parts").finished
    pipelines = [HiCastPipeline.from_pretrained(tmp_path / name, dtype="float32") for name in ("whole", "parts", "image")]
    one, other = (pipeline.adapters.state_dict() for pipeline in pipelines[:2])
    assert one and all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(a, b) for a, b in zip(pipelines[0].model.parameters(), pipelines[2].model.parameters(), strict=True))
    assert json.loads((tmp_path / "whole" / "model_index.json").read_text())["base"] == "../image"
    about = read_metadata(tmp_path / "whole" / "adapters" / "edge" / "diffusion_pytorch_model.safetensors")
    assert (about["component"], about["control"], about["extractor"], about["base"], about["step"]) == ("adapter", "edge", "gradient", "../image", "4")
    assert json.loads(about["training"])["steps"] == 4 and about["format_version"] == "1" and pipelines[0].about["edge"] == about
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {"adapters", "checkpoints", "log.jsonl", "model_index.json"}


def test_adapters_are_joined_and_travel(stage_of, tmp_path):
    stage = stage_of(base=tmp_path / "image")
    stage.pipeline.save_pretrained(tmp_path / "image")
    stage.save(tmp_path / "runs" / "edge")
    stage_of(base=tmp_path / "image", adapter=LIGHT | {"num_res_blocks": 2}).save(tmp_path / "runs" / "other")
    joined = HiCastPipeline.from_pretrained(tmp_path / "runs" / "edge", dtype="float32",
                                            adapters={"seg": tmp_path / "runs" / "other" / "adapters" / "edge"})
    assert joined.adapters.names == ("edge", "seg")
    with pytest.raises(ModelError, match="adapter 'depth': expected one in '.*other', found edge"):
        HiCastPipeline.from_pretrained(tmp_path / "image", adapters={"depth": tmp_path / "runs" / "other"})
    joined.save_pretrained(tmp_path / "far" / "away")
    again = HiCastPipeline.from_pretrained(tmp_path / "far" / "away", dtype="float32")
    assert again.adapters.names == ("edge", "seg") and again.about["seg"]["extractor"] == "gradient"
    assert "base" not in json.loads((tmp_path / "far" / "away" / "model_index.json").read_text())
    content, style = torch.rand(1, 3, 64, 64) * 2 - 1, again.encode_style([(torch.rand(1, 3, 64, 64), 1.0)])
    maps = {name: torch.rand(1, 3, 64, 64) for name in again.adapters.names}
    results = [
        pipeline.stylize_image(content, style, size=64, steps=1, controls=maps, adapters=weights)
        for pipeline, weights in ((joined, {"edge": 1.0, "seg": 0.5}), (again, {"edge": 1.0, "seg": 0.5}), (again, {"edge": 1.0}), (again, {}))
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2]) and not torch.equal(results[2], results[3])


def test_without_a_base_the_whole_model_is_written(stage_of, tmp_path):
    stage = stage_of()
    stage.save(tmp_path / "run")
    pipeline = HiCastPipeline.from_pretrained(tmp_path / "run", dtype="float32")
    assert pipeline.adapters.names == ("edge",) and pipeline.about["edge"]["control"] == "edge"


def test_sheets_show_fixed_samples(stage_of):
    stage = stage_of()
    one, again = stage.preview(), stage.preview()
    assert one.dtype == np.uint8 and (one == again).all() and one.std() > 0

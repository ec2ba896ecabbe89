"""`hicast models convert` on models of one's own: written whole, with base, adapters and metadata, so that the folder travels alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hicast.cli.main import run
from hicast.io.bases import OWN_CLASS
from hicast.io.weights import read_metadata, save_module
from hicast.models.whole import write_whole
from hicast.pipeline import HiCastPipeline
from hicast.errors import ModelError
from hicast.models.temporal import TemporalLayers
from hicast.training.loop import train

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def runs(stage_of: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole model `image` in float16, a run `edge` and temporal layers `temporal` upon it; the working folder."""
    pipeline = stage_of().pipeline
    pipeline.save_pretrained(tmp_path / "image", torch.float16)
    train(stage_of(base=tmp_path / "image", steps=1), tmp_path / "edge")
    save_module(TemporalLayers.for_unet(pipeline.model.unet), tmp_path / "temporal" / "temporal", metadata={"component": "temporal"})
    (tmp_path / "temporal" / "model_index.json").write_text(json.dumps({"_class_name": OWN_CLASS, "format": 1, "base": "../edge"}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _painted(folder: Path, **adapters: float) -> torch.Tensor:
    pipeline = HiCastPipeline.from_pretrained(folder, "cpu", "float32")
    generator = torch.Generator().manual_seed(0)
    content, style = (torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1 for _ in range(2))
    maps = {name: (content + 1) / 2 for name in adapters}
    return pipeline.stylize_image(content, [(style, 1.0)], size=64, steps=1, controls=maps, adapters=adapters)


def test_a_run_is_written_whole_with_its_metadata(runs, capsys):
    assert run(["models", "convert", "edge", "-o", "far/away", "--json"]) == 0, capsys.readouterr().err
    about = json.loads(capsys.readouterr().out)
    assert about["output"] == "far/away" and set(about["parts"]) == {"unet", "content_projection", "vae", "style_encoder", "adapters/edge"}
    assert "base" not in json.loads(Path("far/away/model_index.json").read_text())
    for part, place in (("adapters/edge", "edge"), ("unet", "image")):
        assert Path("far/away", part, WEIGHTS).read_bytes() == Path(place, part, WEIGHTS).read_bytes()
    assert read_metadata(Path("far/away/adapters/edge") / WEIGHTS)["extractor"] == "gradient"
    wanted = _painted(Path("edge"), edge=1.0)
    Path("image").rename("gone")
    assert torch.equal(_painted(Path("far/away"), edge=1.0), wanted)
    assert run(["models", "verify", "far/away"]) == 0
    assert "checkpoints" not in {path.name for path in Path("far/away").iterdir()}


def test_bases_of_bases_and_joined_adapters_come_along(runs, capsys):
    words = ["models", "convert", "temporal", "--join", "depth=edge/adapters/edge", "--dtype", "bfloat16", "-o", "joined"]
    assert run(words) == 0, capsys.readouterr().err
    pipeline = HiCastPipeline.from_pretrained("joined", "cpu", "float32")
    assert pipeline.adapters.names == ("depth", "edge") and pipeline.temporal is not None
    dtypes = {part: load_file(Path("joined", part, WEIGHTS)).popitem()[1].dtype for part in ("unet", "temporal", "adapters/depth", "style_encoder")}
    assert dtypes.pop("style_encoder") == torch.float16 and set(dtypes.values()) == {torch.bfloat16}
    assert read_metadata(Path("joined/adapters/depth") / WEIGHTS)["control"] == "edge"
    assert run(["models", "convert", "joined", "-o", "again"]) == 0
    assert Path("again/unet", WEIGHTS).read_bytes() == Path("joined/unet", WEIGHTS).read_bytes()


def test_what_cannot_be_written_whole_is_one_line(runs, make_pipeline, capsys):
    make_pipeline("edge").save_pretrained("other")
    for words, code, text in (
        (["edge"], 2, "--output: expected where a model of your own goes, found none; name a new folder"),
        (["edge", "-o", "image"], 2, "expected a new folder, found one that is there already"),
        (["edge", "-o", "new", "--base", "image"], 2, "--base image: expected none for a model of your own"),
        (["edge", "-o", "new", "--join", "depth"], 2, "--join depth: expected NAME=VALUE, found depth"),
        (["edge", "-o", "new", "--join", "edeg=edge"], 2, "--join edeg: expected the name of a control, found edeg; did you mean edge?"),
        (["edge", "-o", "new", "--join", "depth=image"], 1, "adapter 'depth': expected one in 'image', found none"),
        (["image", "-o", "new", "--join", "depth=other/adapters/edge"], 1, "adapter 'depth': expected levels of widths (16, 16, 16), found (32, 32, 32, 32)"),
        (["gone", "-o", "new", "--join", "depth=edge"], 1, "found 'gone', which is neither"),
    ):
        assert run(["models", "convert", *words]) == code, words
        error = capsys.readouterr().err
        assert text in error and len(error.splitlines()) == 1, error
        assert not Path("new").exists() and not Path(".new.part").exists()
    Path("image/vae").rename("vae")
    with pytest.raises(ModelError, match="model 'edge': expected a whole model in it and its bases, found no vae"):
        write_whole("edge", Path("new"))


def test_layers_for_clips_in_a_model_stay_with_it(runs):
    Path("temporal").rename("image/video")
    index = Path("image/video/model_index.json")
    index.write_text(index.read_text().replace("../edge", ".."))
    write_whole("image", Path("copy"))
    write_whole("image/video", Path("merged"))
    assert HiCastPipeline.from_pretrained("copy").temporal is None
    assert all(HiCastPipeline.from_pretrained(name).temporal is not None for name in ("copy/video", "merged"))

"""Engines: the choice, converted nets on disk, and a U-Net on OpenVINO that gives what PyTorch gives."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hicast.cli import main
from hicast.engines import choice
from hicast.engines.flat_unet import Inputs
from hicast.engines.openvino_unet import OpenVinoUnet
from hicast.engines.store import SUFFIX, Store, cache_folder
from hicast.errors import UsageError
from hicast.io.images import load_picture
from hicast.io.model_places import COMPILED, model_files
from hicast.models.temporal import TemporalLayers
from hicast.pipeline import HiCastPipeline

CPU = torch.device("cpu")
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino: pip install openvino")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder() / COMPILED


@pytest.fixture
def without_openvino(monkeypatch) -> None:
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)


@pytest.fixture(scope="module")
def saved(make_pipeline, tmp_path_factory) -> Path:
    """A tiny model on disk, with an adapter and temporal layers that do something."""
    made = make_pipeline("edge", levels=2, style_side=32)
    made.temporal = TemporalLayers.for_unet(made.model.unet, attention="first_previous", norm="frame", padding="replicate")
    for layer in made.temporal.convolutions.values():
        nn.init.normal_(layer.weight, std=0.1)
    nn.init.normal_(made.model.unet.conv_out.weight, std=0.1)
    folder = tmp_path_factory.mktemp("engines") / "tiny"
    made.save_pretrained(folder)
    return folder


def _open(folder: Path, notes: list[str], engine: str = "openvino", dtype: str = "float32") -> HiCastPipeline:
    return HiCastPipeline.from_pretrained(folder, "cpu", dtype, engine=engine, on_note=notes.append)


def _picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_auto_is_what_the_environment_says(monkeypatch):
    assert choice.meant_engine("auto") == "torch" and choice.meant_engine("openvino") == "openvino"
    monkeypatch.delenv(choice.VARIABLE)
    assert choice.meant_engine("auto") == "auto"
    monkeypatch.setenv(choice.VARIABLE, "fast")
    with pytest.raises(UsageError, match=r"^HICAST_ENGINE: expected one of auto, torch, openvino, found 'fast'; correct it$"):
        choice.meant_engine("auto")


def test_reasons_against_openvino(monkeypatch, without_openvino):
    net = nn.Linear(2, 2)
    assert choice.why_not_openvino(net, CPU) == "expected the package openvino, found none; pip install openvino"
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: object())
    assert choice.why_not_openvino(net, CPU) is None
    assert choice.why_not_openvino(net, torch.device("cuda")) == "expected the CPU, found cuda; take --device cpu or --engine torch"
    monkeypatch.setattr(choice, "MOST_WEIGHTS", 5)
    assert choice.why_not_openvino(net, CPU) == "expected a net of at most 0 million weights, found 0; take --engine torch"


def test_without_the_package_torch_goes_on_and_only_who_asked_is_told(saved, without_openvino, monkeypatch):
    monkeypatch.delenv(choice.VARIABLE)
    notes: list[str] = []
    assert _open(saved, notes, "auto").engine == "torch" and notes == []
    assert _open(saved, notes).engine == "torch"
    assert notes == ["engine openvino: expected the package openvino, found none; pip install openvino; goes on with torch"]


def test_a_net_that_cannot_be_converted_is_left_to_torch_from_the_first_call_on(saved, monkeypatch, cache):
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(OpenVinoUnet, "_opened", lambda self, inputs: 1 / 0)
    notes: list[str] = []
    pipeline, plain = _open(saved, notes), _open(saved, notes, "torch")
    with pytest.raises(UsageError, match="^compile: expected the engine torch, found openvino; load the model with engine='torch'$"):
        pipeline.compile()
    photo, painting = _picture(32, 48), [(_picture(32, 32, 1), 1.0)]
    expected = plain.stylize_image(photo, painting, size=32)
    for _ in range(2):
        assert torch.equal(pipeline.stylize_image(photo, painting, size=32), expected)
    assert pipeline.engine == "torch" and "forward" not in vars(pipeline.model.unet)
    assert notes == ["engine openvino: expected a net that it can run, found: division by zero; goes on with torch"]


def test_files_lie_beside_the_weights_and_tell_damage(tmp_path, cache):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model_index.json").write_text("{}")
    store = Store(model)
    assert store.load("net-f32-1") == (None, None)
    path = store.save("net-f32-1", b"payload", "net-f32")
    assert path == model / COMPILED / f"net-f32-1{SUFFIX}"
    found, _ = store.load("net-f32-1")
    assert found.tobytes() == b"payload" and not cache.exists()
    path.write_bytes(path.read_bytes()[:-1])
    assert store.load("net-f32-1") == (None, path)
    store.save("net-bf16-1", b"other", "net-bf16")
    store.save("net-f32-2", b"newer weights", "net-f32")
    assert sorted(file.name for file in (model / COMPILED).iterdir()) == [f"net-bf16-1{SUFFIX}", f"net-f32-2{SUFFIX}"]
    assert model_files(model) == [model / "model_index.json"]


def test_files_go_to_the_cache_folder_where_the_model_cannot_be_written(tmp_path, cache):
    (tmp_path / "model").write_text("a file where no folder can be made")
    store = Store(tmp_path / "model")
    assert store.save("net-1", b"payload", "net") == cache / f"net-1{SUFFIX}"
    assert store.load("net-1")[0].tobytes() == b"payload"
    assert Store(None).load("net-1")[0] is not None
    cache.parent.joinpath("blocked").touch()
    store.folders = [cache.parent / "blocked"]
    assert store.save("net-1", b"payload", "net") is None


def test_sizes_are_free_and_channels_are_not():
    inputs = Inputs.of(torch.ones(1, 12, 8, 8), 999, torch.ones(1, 64, 768), torch.ones(1, 2944), torch.ones(1, 16),
                       [torch.ones(1, 32, 8, 8), torch.ones(1, 32, 4, 4)], 3)  # fmt: skip
    assert inputs.kind == "clips-adapters"
    assert inputs.shapes() == [[-1, 12, -1, -1], [], [-1, -1, 768], [-1, 2944], [-1, 16], [-1, 32, -1, -1], [-1, 32, -1, -1], []]
    small = inputs.small(2)
    assert [tuple(value.shape) for value in small[-3:]] == [(2, 32, 8, 12), (2, 32, 4, 6), ()]
    assert len(small) == len(inputs.tensors) and small[0].shape == (2, 12, 8, 12)


@needs_openvino
def test_pictures_of_any_size_adapters_guidance_and_clips_are_those_of_torch(saved):
    notes: list[str] = []
    fast, plain = _open(saved, notes), _open(saved, notes, "torch")
    assert fast.engine == "openvino"
    code = plain.encode_style([(_picture(32, 32, 1), 1.0)])
    edges = {"controls": {"edge": _picture(32, 48, 2) / 2 + 0.5}, "adapters": {"edge": 0.8}}
    photo = _picture(64, 96)
    looks = [{"size": 32}, {"size": 64}, {"size": 32, "content_scale": 1.5, "style_scale": 0.5, "steps": 2}, {"size": 32, **edges},
             {"size": 64, "tile": 64, "content_scale": 1.5, **edges}]  # fmt: skip
    plainest = plain.stylize_image(photo, code, **looks[0])
    for look in looks:
        found, expected = fast.stylize_image(photo, code, **look), plain.stylize_image(photo, code, **look)
        assert torch.allclose(found, expected, atol=2e-4), look
        assert torch.equal(found, fast.stylize_image(photo, code, **look))
    assert (plainest - plain.stylize_image(photo, code, **looks[3])).abs().max() > 0.01
    frames = [_picture(32, 32, seed) for seed in range(7)]
    options = {"size": 32, "window": 4, "overlap": 1, "shared_noise": 0.5}
    clip, expected = (torch.cat(list(pipeline.stylize_video(iter(frames), code, **options))) for pipeline in (fast, plain))
    alone = torch.cat([plain.stylize_image(frame, code, size=32) for frame in frames])
    assert torch.allclose(clip, expected, atol=2e-4) and (clip - alone).abs().max() > 0.01
    assert notes == [] and fast.engine == "openvino"
    names = {path.name.rpartition("-")[0] for path in (saved / COMPILED).iterdir()}
    assert names == {"unet-pictures-f32", "unet-pictures-adapters-f32", "unet-clips-f32"}


@needs_openvino
def test_a_net_is_converted_once_and_anew_where_the_file_is_damaged(saved, monkeypatch):
    notes: list[str] = []
    photo, code = _picture(32, 32), _open(saved, notes, "torch").encode_style([(_picture(32, 32, 1), 1.0)])
    first = _open(saved, notes, dtype="bfloat16").stylize_image(photo, code, size=32)
    (path,) = (saved / COMPILED).glob("unet-pictures-bf16-*")
    converted = OpenVinoUnet._converted
    monkeypatch.setattr(OpenVinoUnet, "_converted", lambda self, inputs: 1 / 0)
    assert torch.equal(_open(saved, notes, dtype="bfloat16").stylize_image(photo, code, size=32), first) and notes == []
    monkeypatch.setattr(OpenVinoUnet, "_converted", converted)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert torch.equal(_open(saved, notes, dtype="bfloat16").stylize_image(photo, code, size=32), first)
    assert notes == [f"{path}: expected a converted net, found it damaged; converts it anew"]


@needs_openvino
def test_latents_that_do_not_halve_evenly_are_left_to_torch(saved):
    unet = _open(saved, []).model.unet
    given = {"encoder_hidden_states": torch.ones(1, 4, 768), "class_labels": torch.ones(1, 2944), "timestep_cond": torch.ones(1, 16)}
    sample = torch.randn(1, 12, 7, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(unet(sample, 5, **given).sample, type(unet).forward(unet, sample, 5, **given).sample)


@needs_openvino
def test_a_result_names_its_engine_and_is_repeated_with_it(saved, workplace, capsys):
    words = ["--model", str(saved), "--dtype", "float32", "--size", "32", "--keep-size"]
    start = ["stylize-image", "photo.jpg", "--style", "painting.jpg", *words]
    assert main.run([*start, "-o", "fast.png", "--engine", "openvino"]) == 0
    assert main.run([*start, "-o", "plain.png"]) == 0
    assert main.run(["stylize-image", "photo.jpg", "--from-settings", "fast.png", "--dtype", "float32", "-o", "again.png"]) == 0
    fast, plain, again = (load_picture(Path(f"{name}.png")) for name in ("fast", "plain", "again"))
    assert [picture.settings["settings"]["engine"] for picture in (fast, plain, again)] == ["openvino", "torch", "openvino"]
    assert np.array_equal(fast.pixels, again.pixels)
    assert np.abs(fast.pixels.astype(int) - plain.pixels).mean() < 0.1


def test_the_command_tells_why_torch_goes_on(saved, workplace, capsys, without_openvino):
    words = ["stylize-image", "photo.jpg", "--style", "painting.jpg", "--model", str(saved), "--size", "32", "--engine", "openvino"]
    assert main.run([*words, "-o", "result.png"]) == 0
    assert "engine openvino: expected the package openvino, found none; pip install openvino; goes on with torch" in capsys.readouterr().err
    assert load_picture(Path("result.png")).settings["settings"]["engine"] == "torch"


def test_a_record_without_an_engine_is_of_torch(tmp_path):
    from hicast.cli.recorded import read_record

    (tmp_path / "old.json").write_text(json.dumps({"hicast": "0", "settings": {"seed": 3}}))
    (tmp_path / "own.json").write_text(json.dumps({"seed": 3}))
    assert read_record(tmp_path / "old.json").layer.values == {"engine": "torch", "seed": 3}
    assert read_record(tmp_path / "own.json").layer.values == {"seed": 3}


def test_a_compiled_net_runs_on_torch():
    from hicast.cli.request import chosen_engine
    from hicast.config.stylize import StylizeSettings

    told: list[str] = []
    assert chosen_engine(StylizeSettings(engine="auto", compile=True), told.append) == "torch" and told == []
    assert chosen_engine(StylizeSettings(engine="openvino"), told.append) == "openvino"
    assert chosen_engine(StylizeSettings(engine="openvino", compile=True), told.append) == "torch"
    assert told == ["engine openvino: expected a net that is not compiled, found --compile; goes on with torch"]

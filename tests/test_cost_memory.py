"""Memory that stylizing takes: told beforehand, refused with what would fit, and painted on with less where it runs out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hicast.cli import foresight
from hicast.cli.failures import smaller_settings
from hicast.cli.main import run
from hicast.config.stylize import StylizeSettings
from hicast.errors import MemoryLimitError
from hicast.models.footprint import LIBRARIES, Footprint, Work
from hicast.models.thrift import check_fit, smaller_works
from hicast.pipeline import HiCastPipeline


def test_weights_are_counted_as_stored_and_activations_grow_with_the_work(small_model):
    footprint = Footprint(small_model / "video", clips=True)
    parts = footprint.memory(Work((128, 128)), on_gpu=True)
    places = {"unet": ".", "vae": ".", "temporal": "video", "adapter edge": "adapters"}
    for name, place in places.items():
        file = small_model / place / name.split()[-1] / "diffusion_pytorch_model.safetensors"
        assert parts[name] == pytest.approx(2 * file.stat().st_size, rel=0.05), name
    one, many = Work((128, 128), steps=1), Work((256, 128), frames=4, branches=2, tile=128)
    single = list(footprint._passes(one))
    steps = [footprint.operations(replace(one, steps=steps)) for steps in (1, 2, 3)]
    assert steps[1] - steps[0] == steps[2] - steps[1] == single[2][1]
    half = footprint.memory(replace(one, dtype=torch.bfloat16), True)["activations"]
    assert half == pytest.approx(footprint.memory(one, True)["activations"] / 2, rel=0.01)
    for name, single_pass, pass_of_many in list(zip(("painting", "in", "net", "out"), single, footprint._passes(many), strict=True))[1:]:
        assert 3 * single_pass[0] < pass_of_many[0] < 16 * single_pass[0], name
    on_cpu = footprint.memory(replace(many, dtype=torch.bfloat16), on_gpu=False)
    assert on_cpu["libraries"] == LIBRARIES and sum(on_cpu.values()) >= 4 * sum(footprint.weights.values()) + LIBRARIES
    assert "temporal" not in Footprint(small_model).weights


def test_live_bytes_are_those_that_something_holds():
    from hicast.models.footprint import _trace

    def chain():
        x = torch.empty(1000, device="meta")
        for _ in range(5):
            x = x + 1
        return x

    peak, operations = _trace(chain, [])
    assert peak == 2 * 4000 and operations == 0
    layer = torch.nn.Linear(10, 20, device="meta")
    assert _trace(lambda: layer(torch.empty(3, 10, device="meta")), [layer]) == (4 * (30 + 60), 2 * 3 * 10 * 20)
    attention = torch.nn.functional.scaled_dot_product_attention
    q = torch.empty(1, 2, 50, 8, device="meta")
    assert _trace(lambda: attention(q, q, q), [])[1] == 2 * 2 * 50 * 50 * 8 * 2


def test_what_does_not_fit_is_refused_with_what_does():
    """A model of 8 bytes for each pixel of a tile and frame, and weights of 100 that offloading takes away."""

    def memory(work, on_gpu):
        pixels = min(work.size[0], work.tile) * min(work.size[1], work.tile) * work.frames
        width = 4 if work.dtype == torch.float32 else 2
        return {"weights": width * 10**8 // {"none": 1, "model": 2, "sequential": 20}[work.offload], "activations": 8 * width * pixels}

    footprint, work = SimpleNamespace(memory=memory), Work((1024, 768), frames=16)
    for room, on_gpu, words in (
        (700e6, True, "--dtype bfloat16"), (350e6, True, "--dtype bfloat16 --offload model"), (200e6, True, "--dtype bfloat16 --offload model --tile 512"),
        (120e6, True, "--dtype bfloat16 --offload model --tile 256"), (110e6, True, "--dtype bfloat16 --offload model --tile 256 --window 8"),
        (20e6, True, "--dtype bfloat16 --tile 256 --window 4 --offload sequential"), (300e6, False, "--dtype bfloat16 --tile 512"),
    ):  # fmt: skip
        with pytest.raises(MemoryLimitError) as caught:
            check_fit(footprint, work, int(room), on_gpu)
        assert f"; {words} needs " in str(caught.value), (room, str(caught.value))
    with pytest.raises(MemoryLimitError, match="no settings that fit; take --model compact"):
        check_fit(footprint, work, 10**6, False)
    assert check_fit(footprint, work, None, False) == "expects 0.7 GiB of memory: weights 0.4, activations 0.4"
    assert not [word for word, _ in smaller_works(Work((256, 256), dtype=torch.bfloat16, tile=256, offload="sequential"), True)]


def test_the_command_looks_ahead_of_large_models_only(small_model, workplace, monkeypatch, capsys):
    words = ["stylize-image", "photo.jpg", "--style", "painting.jpg", "--model", str(small_model), "--size", "64", "--steps", "2", "--dtype", "float32"]
    assert run([*words, "-o", "a.png"]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(foresight, "LARGE", 1)
    assert run([*words, "-o", "b.png"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("expects 1.") and "GiB of memory, there are" in told[0] and "unet 0.0" in told[0]
    assert told[1].startswith("no GPU is used: the CPU takes about 0:0") and told[1].endswith("for a picture of 64 x 96 pixels")
    monkeypatch.setattr("hicast.training.memory.available", lambda device: 1000)
    assert run([*words, "-o", "c.png"]) == 1
    assert "no settings that fit; take --model compact" in capsys.readouterr().err and not Path("c.png").exists()


def test_a_batch_goes_on_with_smaller_settings_where_memory_runs_out(workplace, small_model, monkeypatch, capsys):
    tiles: list[int | None] = []
    paint = HiCastPipeline.stylize_image

    def greedy(self, content, code, tile=None, **options):
        tiles.append(tile)
        if tile is None or tile > 256:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return paint(self, content, code, tile=tile, **options)

    monkeypatch.setattr(HiCastPipeline, "stylize_image", greedy)
    words = ["--style", "painting.jpg", "--model", str(small_model), "--size", "64", "--steps", "1", "--dtype", "float32"]
    assert run(["stylize-image", "photos", *words, "-o", "out", "--json"]) == 0, capsys.readouterr().err
    out = capsys.readouterr()
    assert tiles == [None, 512, 256, 256]
    assert [line.split("; ")[1] for line in out.err.splitlines()] == ["goes on with --tile 512, from here on", "goes on with --tile 256, from here on"]
    assert json.loads(out.out)["settings"]["tile"] == 256
    tiles.clear()
    assert run(["stylize-image", "photo.jpg", *words, "-o", "one.png"]) == 1
    error = capsys.readouterr().err
    assert tiles == [None] and error.count("\n") == 1 and "--tile" in error and "--offload model" in error


def test_smaller_settings_end():
    seen, settings = [], StylizeSettings()
    while (found := smaller_settings(settings)) is not None:
        words, settings = found
        seen.append(words)
    assert seen == ["--tile 512", "--tile 256", "--window 8 --overlap 4", "--window 4 --overlap 2"]


def test_a_batch_of_clips_begins_a_clip_anew(workplace, small_model, monkeypatch, capsys):
    windows: list[int] = []
    paint = HiCastPipeline.stylize_video

    def greedy(self, frames, code, window=16, **options):
        windows.append(window)
        if window > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: x")
        return paint(self, frames, code, window=window, **options)

    monkeypatch.setattr(HiCastPipeline, "stylize_video", greedy)
    words = ["--style", "painting.jpg", "--model", str(small_model), "--size", "32", "--steps", "1", "--dtype", "float32", "--tile", "256"]
    assert run(["stylize-video", "clips", *words, "-o", "out"]) == 0, capsys.readouterr().err
    assert windows[:2] == [16, 8] and set(windows[1:]) == {8} and len(list(Path("out").glob("*.mp4"))) == 2

"""What stylizing costs: only the branches that count, slices, offloading, compiling, and memory that is known beforehand."""

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
from hicast.diffusion import guidance
from hicast.diffusion.sampling import SCHEDULERS
from hicast.encoders import autoencoder
from hicast.encoders.autoencoder import LatentCodec
from hicast.errors import MemoryLimitError, UsageError
from hicast.io.published_folder import find_published
from hicast.models.compiling import compile_unet
from hicast.models.conversion import convert_published
from hicast.models.footprint import LIBRARIES, Footprint, Work
from hicast.models.offload import Offload
from hicast.models.thrift import check_fit, smaller_works
from hicast.pipeline import HiCastPipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory, published_layout) -> Path:
    """A converted model of the published architecture at a tenth of its width, temporal layers included."""
    source = published_layout.write_random(tmp_path_factory.mktemp("published"), 0.1)
    target = tmp_path_factory.mktemp("models") / "small"
    convert_published(find_published(source), target)
    index = json.loads((target / "model_index.json").read_text())
    (target / "model_index.json").write_text(json.dumps(index | {"style_side": 64}))
    return target


@pytest.fixture(scope="module")
def pipeline(folder) -> HiCastPipeline:
    return HiCastPipeline.from_pretrained(folder / "video", "cpu", "float32")


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    still, moving = torch.rand(1, 3, 8, 12, generator=generator), torch.rand(3, 3, 8, 12, generator=generator)
    return torch.nn.functional.interpolate(0.9 * still + 0.1 * moving, size=(64, 96), mode="bilinear") * 2 - 1


@pytest.fixture(scope="module")
def code(pipeline, frames):
    pipeline.index["style_side"] = 64
    return pipeline.encode_style([(frames[:1].flip(1), 1.0)])


def rows(pipeline, monkeypatch) -> list[int]:
    """Rows of the batches that the U-Net gets from now on."""
    seen: list[int] = []
    forward = pipeline.model.unet.forward
    monkeypatch.setattr(pipeline.model.unet, "forward", lambda sample, *more, **named: seen.append(len(sample)) or forward(sample, *more, **named))
    return seen


def all_branches(style_scale, content_scale, embedded=False):
    """As the published scripts do: all three, whatever they count."""
    factors = {"full": style_scale + content_scale - 1, "no_style": 1 - style_scale, "no_content": 1 - content_scale}
    return guidance.Guidance(factors)


@pytest.mark.parametrize(("style_scale", "branches"), [(1.0, 1), (0.8, 2)])
def test_only_branches_that_count_are_evaluated(pipeline, frames, code, monkeypatch, style_scale, branches):
    """One for pictures and two for clips at the published scales, in place of three; the same picture within rounding."""
    seen = rows(pipeline, monkeypatch)
    options = {"steps": 2, "size": 64, "style_scale": style_scale}
    image = pipeline.stylize_image(frames[:1], code, **options)
    clip = torch.cat(list(pipeline.stylize_video(frames.split(1), code, window=3, **options)))
    assert seen == [branches, branches, 3 * branches, 3 * branches]
    monkeypatch.setattr("hicast.repainting.painter.plan_guidance", all_branches)
    seen.clear()
    whole = pipeline.stylize_image(frames[:1], code, **options)
    whole_clip = torch.cat(list(pipeline.stylize_video(frames.split(1), code, window=3, **options)))
    assert seen == [3, 3, 9, 9]
    assert torch.allclose(image, whole, atol=1e-4) and torch.allclose(clip, whole_clip, atol=1e-4)


@pytest.mark.parametrize("size", [(40, 72), (88, 56), (64, 64)])
def test_any_size_that_is_a_multiple_of_8(pipeline, code, size):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(3)) * 2 - 1
    result = pipeline.stylize_image(image, code, steps=1, size=min(size))
    assert result.shape == image.shape and result.isfinite().all()


def test_clips_longer_than_a_window(pipeline, frames, code):
    many = [frames[i % 3 : i % 3 + 1] for i in range(7)]
    result = list(pipeline.stylize_video(many, code, steps=1, size=32, window=4, overlap=1))
    assert len(result) == 7 and all(frame.isfinite().all() for frame in result)


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_every_sampler_works_in_few_steps(pipeline, frames, code, name):
    small = frames[:1, :, :32, :32]
    result = pipeline.stylize_image(small, code, steps=4, size=32, scheduler=name)
    assert result.isfinite().all() and not torch.equal(result, small)


def test_lcm_is_told_to_be_for_distilled_nets(folder, workplace, make_pipeline, capsys):
    words = ["stylize-image", "photo.jpg", "--style", "painting.jpg", "--model", str(folder), "--size", "32", "--steps", "1", "--dtype", "float32"]
    for scheduler, notes in (("lcm", 1), ("unipc", 0)):
        assert run([*words, "--scheduler", scheduler, "-o", f"{scheduler}.png"]) == 0
        told = capsys.readouterr().err.splitlines()
        assert len(told) == notes and all("does not say that it was distilled for it; where results are blurred, take dpmpp or unipc" in line for line in told)
    assert make_pipeline().takes_lcm, "a net that predicts the sample needs no distillation to be asked so"


def test_slices_of_a_clip_give_what_the_whole_gives(pipeline, frames, monkeypatch):
    codec = LatentCodec(pipeline.autoencoder)
    with torch.inference_mode():
        whole = codec.decode(codec.encode(frames))
        calls: list[int] = []
        decode = pipeline.autoencoder.decode
        monkeypatch.setattr(pipeline.autoencoder, "decode", lambda latents: calls.append(len(latents)) or decode(latents))
        monkeypatch.setattr(autoencoder, "SLICE_PIXELS", 64 * 96)
        sliced = codec.decode(codec.encode(frames))
    assert calls == [1, 1, 1] and torch.allclose(whole, sliced, atol=1e-3)


def test_offloading_by_layers_changes_nothing_and_can_be_taken_out(folder, frames):
    """On the CPU, where it saves nothing: what moves is the same."""
    pipeline = HiCastPipeline.from_pretrained(folder / "video", "cpu", "float32")
    pipeline.index["style_side"] = 64
    options = {"steps": 1, "size": 32, "window": 3}

    def painted():
        code = pipeline.encode_style([(frames[:1].flip(1), 1.0)])
        maps = {"controls": {"edge": frames[:1].abs()}, "adapters": {"edge": 0.5}}
        image = pipeline.stylize_image(frames[:1], code, steps=1, size=32, **maps)
        return [image, *pipeline.stylize_video(frames.split(1), code, style_scale=0.8, **options)]

    plain = painted()
    for offload in ("sequential", "model", "none"):
        pipeline.to("cpu", "float32", offload)
        assert pipeline.model.unet.conv_in.weight.is_meta == (offload == "sequential")
        assert all(torch.equal(one, other) for one, other in zip(plain, painted(), strict=True)), offload
    with pytest.raises(UsageError, match="offload: expected one of none, model, sequential, found 'half'"):
        pipeline.to("cpu", "float32", "half")


def test_offloading_by_parts_keeps_one_part_on_the_device(monkeypatch):
    where = {}
    monkeypatch.setattr("hicast.models.offload.place", lambda part, device, dtype=None: where.update({part: str(device)}))
    offload = Offload("model", "cuda", {"model": "m", "autoencoder": "a", "temporal": "t"})
    assert where == {}
    offload.use("autoencoder")
    assert where == {"m": "cpu", "a": "cuda", "t": "cpu"}
    offload.use("model", "temporal", "adapters")
    assert where == {"m": "cuda", "a": "cpu", "t": "cuda"}


def test_compiled_code_notices_hooks_that_come_and_go():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 3))
    torch._dynamo.reset()
    compile_unet(layer, backend="eager")
    x, calls = torch.ones(1, 3), []
    plain = layer(x)
    handle = layer[0].register_forward_hook(lambda module, inputs, output: output + 1)
    calls.append(layer(x))
    handle.remove()
    assert torch.allclose(calls[0], plain + 1) and torch.equal(layer(x), plain) and set(layer.state_dict()) == {"0.weight", "0.bias"}


@pytest.mark.slow
def test_compiled_nets_notice_temporal_layers(folder, frames):
    """Pictures, then a clip, then pictures again: hooks come and go, and each result is that of the plain net."""
    results = []
    for compiled in (False, True):
        pipeline = HiCastPipeline.from_pretrained(folder / "video", "cpu", "float32")
        pipeline.index["style_side"] = 64
        if compiled:
            torch._dynamo.reset()
            pipeline.compile(backend="eager")
        code = pipeline.encode_style([(frames[:1].flip(1), 1.0)])
        clip = lambda: list(pipeline.stylize_video(frames.split(1), code, steps=1, size=32, window=3))  # noqa: E731
        image = lambda: [pipeline.stylize_image(frames[:1], code, steps=1, size=32)]  # noqa: E731
        results.append([*image(), *clip(), *image()])
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(*results, strict=True))


def test_weights_are_counted_as_stored_and_activations_grow_with_the_work(folder):
    footprint = Footprint(folder / "video", clips=True)
    parts = footprint.memory(Work((128, 128)), on_gpu=True)
    for name, place in (("unet", folder), ("vae", folder), ("temporal", folder / "video"), ("adapter edge", folder / "adapters")):
        file = place / name.split()[-1] / "diffusion_pytorch_model.safetensors"
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
    assert "temporal" not in Footprint(folder).weights


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


def test_the_command_looks_ahead_of_large_models_only(folder, workplace, monkeypatch, capsys):
    words = ["stylize-image", "photo.jpg", "--style", "painting.jpg", "--model", str(folder), "--size", "64", "--steps", "2", "--dtype", "float32"]
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


def test_offload_without_a_gpu_is_wrong_usage(workplace, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(["stylize-image", "photo.jpg", "--style", "painting.jpg", "--offload", "model"]) == 2
    assert "--offload model: expected a CUDA device, found none to be used; leave it out" in capsys.readouterr().err


def test_a_batch_goes_on_with_smaller_settings_where_memory_runs_out(workplace, folder, monkeypatch, capsys):
    tiles: list[int | None] = []
    paint = HiCastPipeline.stylize_image

    def greedy(self, content, code, tile=None, **options):
        tiles.append(tile)
        if tile is None or tile > 256:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return paint(self, content, code, tile=tile, **options)

    monkeypatch.setattr(HiCastPipeline, "stylize_image", greedy)
    words = ["--style", "painting.jpg", "--model", str(folder), "--size", "64", "--steps", "1", "--dtype", "float32"]
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


def test_a_batch_of_clips_begins_a_clip_anew(workplace, folder, monkeypatch, capsys):
    windows: list[int] = []
    paint = HiCastPipeline.stylize_video

    def greedy(self, frames, code, window=16, **options):
        windows.append(window)
        if window > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: x")
        return paint(self, frames, code, window=window, **options)

    monkeypatch.setattr(HiCastPipeline, "stylize_video", greedy)
    words = ["--style", "painting.jpg", "--model", str(folder), "--size", "32", "--steps", "1", "--dtype", "float32", "--tile", "256"]
    assert run(["stylize-video", "clips", *words, "-o", "out"]) == 0, capsys.readouterr().err
    assert windows[:2] == [16, 8] and set(windows[1:]) == {8} and len(list(Path("out").glob("*.mp4"))) == 2

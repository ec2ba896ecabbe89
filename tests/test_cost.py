"""What stylizing costs: only the branches that count, slices, offloading, compiling."""

from __future__ import annotations

import pytest
import torch

from hicast.cli.main import run
from hicast.diffusion import guidance
from hicast.diffusion.sampling import SCHEDULERS
from hicast.encoders import autoencoder
from hicast.encoders.autoencoder import LatentCodec
from hicast.errors import UsageError
from hicast.models.compiling import compile_unet
from hicast.models.offload import Offload
from hicast.pipeline import HiCastPipeline


@pytest.fixture(scope="module")
def pipeline(small_model) -> HiCastPipeline:
    return HiCastPipeline.from_pretrained(small_model / "video", "cpu", "float32")


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


def test_lcm_is_told_to_be_for_distilled_nets(small_model, workplace, make_pipeline, capsys):
    words = ["stylize-image", "photo.jpg", "--style", "painting.jpg", "--model", str(small_model), "--size", "32", "--steps", "1", "--dtype", "float32"]
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


def test_offloading_by_layers_changes_nothing_and_can_be_taken_out(small_model, frames):
    """On the CPU, where it saves nothing: what moves is the same."""
    pipeline = HiCastPipeline.from_pretrained(small_model / "video", "cpu", "float32")
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
    with pytest.raises(UsageError, match="offload: expected one of none, model, sequential, found 'half'; take one of them"):
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
def test_compiled_nets_notice_temporal_layers(small_model, frames):
    """Pictures, then a clip, then pictures again: hooks come and go, and each result is that of the plain net."""
    results = []
    for compiled in (False, True):
        pipeline = HiCastPipeline.from_pretrained(small_model / "video", "cpu", "float32")
        pipeline.index["style_side"] = 64
        if compiled:
            torch._dynamo.reset()
            pipeline.compile(backend="eager")
        code = pipeline.encode_style([(frames[:1].flip(1), 1.0)])
        clip = lambda: list(pipeline.stylize_video(frames.split(1), code, steps=1, size=32, window=3))  # noqa: E731
        image = lambda: [pipeline.stylize_image(frames[:1], code, steps=1, size=32)]  # noqa: E731
        results.append([*image(), *clip(), *image()])
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(*results, strict=True))


def test_offload_without_a_gpu_is_wrong_usage(workplace, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(["stylize-image", "photo.jpg", "--style", "painting.jpg", "--offload", "model"]) == 2
    assert "--offload model: expected a CUDA device, found none to be used; leave it out" in capsys.readouterr().err

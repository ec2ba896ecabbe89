"""The pipeline on a tiny random model: folder round trip, sizes, seeds, tiles, controls, blended styles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hicast.encoders.style import StyleCode, blend_styles
from hicast.errors import ModelError, UsageError
from hicast.models.device import pick_device, pick_dtype
from hicast.pipeline import HiCastPipeline
from hicast.training.processes import open_accelerator

@pytest.fixture(scope="module")
def pipeline(make_pipeline) -> HiCastPipeline:
    return make_pipeline("edge")


@pytest.fixture(scope="module")
def content() -> torch.Tensor:
    return torch.rand(1, 3, 70, 101, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def style(pipeline: HiCastPipeline) -> StyleCode:
    return pipeline.encode_style([(torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(2)) * 2 - 1, 1.0)])


def test_folder_gives_the_same_pictures(
    tmp_path: Path, pipeline: HiCastPipeline, content: torch.Tensor, style: StyleCode
) -> None:
    pipeline.save_pretrained(tmp_path)
    again = HiCastPipeline.from_pretrained(tmp_path, dtype="float32")
    assert again.defaults == {"steps": 1}
    assert torch.equal(again.stylize_image(content, style), pipeline.stylize_image(content, style))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_damaged_folders_are_refused(tmp_path: Path, pipeline: HiCastPipeline) -> None:
    pipeline.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"format": 99}))
    with pytest.raises(ModelError, match="format 99"):
        HiCastPipeline.from_pretrained(tmp_path)
    pipeline.save_pretrained(tmp_path)
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ModelError, match="whole safetensors file"):
        HiCastPipeline.from_pretrained(tmp_path)


def test_size_is_kept_unless_told(pipeline: HiCastPipeline, content: torch.Tensor, style: StyleCode) -> None:
    assert pipeline.stylize_image(content, style, size=64).shape == (1, 3, 70, 101)
    worked = pipeline.stylize_image(content, style, size=64, keep_size=True)
    assert worked.shape[-2] == 64
    assert worked.shape[-1] / 64 == pytest.approx(101 / 70, rel=0.03)


def test_noise_scale_of_the_model_bounds_what_the_seed_decides(
    monkeypatch: pytest.MonkeyPatch, pipeline: HiCastPipeline, content: torch.Tensor, style: StyleCode
) -> None:
    def spread(scale: float) -> float:
        monkeypatch.setitem(pipeline.index, "noise_scale", scale)
        one, other = (pipeline.stylize_image(content, style, size=64, seed=seed) for seed in (3, 4))
        return (one - other).abs().mean().item()

    assert spread(0.0) == 0 < spread(0.1) < spread(1.0)


def test_style_unit_is_what_a_scale_of_one_is_to_the_net(
    monkeypatch: pytest.MonkeyPatch, pipeline: HiCastPipeline, content: torch.Tensor, style: StyleCode
) -> None:
    expected = pipeline.stylize_image(content, style, size=64, style_scale=0.6)
    whole = pipeline.stylize_image(content, style, size=64)
    monkeypatch.setitem(pipeline.index, "style_unit", 0.6)
    assert torch.equal(pipeline.stylize_image(content, style, size=64), expected)
    assert not torch.equal(whole, expected)


def test_seed_decides_the_bytes(pipeline: HiCastPipeline, content: torch.Tensor, style: StyleCode) -> None:
    one, same, other = (pipeline.stylize_image(content, style, size=64, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_any_number_of_steps(pipeline: HiCastPipeline, content: torch.Tensor, style: StyleCode, steps: int) -> None:
    calls: list[tuple[int, int]] = []
    result = pipeline.stylize_image(
        content, style, size=64, steps=steps, on_progress=lambda done, total: calls.append((done, total))
    )
    assert result.isfinite().all()
    assert calls == [(i + 1, steps) for i in range(steps)]


def test_scale_zero_gives_the_photo_back(pipeline: HiCastPipeline, content: torch.Tensor, style: StyleCode) -> None:
    """With an output convolution of zeros the base is all there is, at scale 0 the photo's own latents."""
    conv = pipeline.model.unet.conv_out
    kept = conv.weight.clone(), conv.bias.clone()
    torch.nn.init.zeros_(conv.weight), torch.nn.init.zeros_(conv.bias)
    try:
        from hicast.encoders.autoencoder import LatentCodec

        square = torch.nn.functional.interpolate(content, size=(64, 96))
        codec = LatentCodec(pipeline.autoencoder)
        expected = codec.decode(codec.encode(square)).clamp(-1, 1)
        result = pipeline.stylize_image(square, style, size=64, style_scale=0.0)
        assert torch.allclose(result, expected, atol=1e-4)
    finally:
        conv.weight.data, conv.bias.data = kept


def test_tiles_leave_no_seams(pipeline: HiCastPipeline, style: StyleCode) -> None:
    """On a picture that repeats, the tiled result stays near the whole one and no row or column steps out."""
    pattern = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1
    image = pattern.repeat(1, 1, 12, 12)
    whole = pipeline.stylize_image(image, style, tile=4096)
    cut = pipeline.stylize_image(image, style, tile=256)
    assert (whole - cut).abs().mean() < 0.05
    steps = (cut[..., 1:, :] - cut[..., :-1, :]).abs().mean((0, 1, 3))
    reference = (whole[..., 1:, :] - whole[..., :-1, :]).abs().mean((0, 1, 3))
    assert (steps - reference).max() < 0.5 * reference.mean()


def test_control_weight_zero_changes_no_bit(
    pipeline: HiCastPipeline, content: torch.Tensor, style: StyleCode
) -> None:
    control = {"edge": torch.rand(1, 3, 70, 101)}
    plain = pipeline.stylize_image(content, style, size=64)
    assert torch.equal(plain, pipeline.stylize_image(content, style, size=64, controls=control, adapters={"edge": 0.0}))
    assert not torch.equal(plain, pipeline.stylize_image(content, style, size=64, controls=control, adapters={"edge": 1.0}))


def test_constant_pictures_give_numbers(pipeline: HiCastPipeline) -> None:
    flat = torch.full((1, 3, 64, 64), 0.3)
    assert pipeline.stylize_image(flat, [(flat, 1.0)]).isfinite().all()


def test_weights_of_adapters_have_a_range(pipeline: HiCastPipeline, content: torch.Tensor, style: StyleCode) -> None:
    with pytest.raises(UsageError, match=r"^adapters.edge: expected a weight from 0 to 10, .*, found 50; 1 is as trained$"):
        pipeline.stylize_image(content, style, size=64, controls={"edge": content.abs()}, adapters={"edge": 50})
    with pytest.raises(UsageError, match="^adapters.edge: expected a weight from 0 to 10, .*, found -1; "):
        next(pipeline.stylize_video([content], style, size=64, adapters={"edge": -1}))


def test_blending_takes_tokens_by_weight() -> None:
    one = StyleCode(torch.zeros(1, 2944), torch.zeros(1, 64, 768))
    two = StyleCode(torch.ones(1, 2944), torch.ones(1, 64, 768))
    blended = blend_styles([(one, 3.0), (two, 1.0)])
    assert torch.allclose(blended.vector, torch.full((1, 2944), 0.25))
    assert blended.tokens[0, :, 0].sum() == 16
    alone = blend_styles([(two, 0.5)])
    assert torch.equal(alone.vector, two.vector) and torch.equal(alone.tokens, two.tokens)
    with pytest.raises(UsageError, match="sum above 0"):
        blend_styles([(one, 0.0)])


def test_float16_is_refused_on_a_cpu() -> None:
    with pytest.raises(UsageError, match="bfloat16"):
        pick_dtype("float16", torch.device("cpu"))


def test_unknown_model_is_one_line() -> None:
    with pytest.raises(ModelError, match="neither"):
        HiCastPipeline.from_pretrained("no-such-model")


def test_devices_that_are_not_there_are_told_with_those_that_are(monkeypatch) -> None:
    for module in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(module, "is_available", lambda: False)
    for ask in (pick_device, open_accelerator):
        with pytest.raises(UsageError, match=r"^device: expected auto or one that is there \(cpu\), found 'cuda'; take one of them$"):
            ask("cuda")

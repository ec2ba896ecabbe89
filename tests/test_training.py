"""Both stages on tiny models and synthetic pictures: their terms, their parts, what they write."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hicast.config.model import ModelConfig
from hicast.config.presets import list_presets, load_preset
from hicast.config.train import AutoencoderTraining
from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.figures import GRID, figures_in
from hicast.encoders.latent_moments import painting_moments
from hicast.encoders.vgg import Vgg16
from hicast.errors import UsageError
from hicast.losses.terms import weighted_sum
from hicast.pipeline import HiCastPipeline
from hicast.training.autoencoder_stage import AutoencoderStage
from hicast.training.data import PicturePool, to_batch
from hicast.training.image_terms import TERMS
from hicast.training.loop import train
from hicast.training.style_library import MomentsLibrary, load_or_measure, style_picture


def autoencoder_stage(folders: tuple[Path, Path], vgg: Vgg16, **changes: object) -> AutoencoderStage:
    values = {"steps": 6, "batch_size": 2, "crop": 32, "warmup": 2, "checkpoint_every": 2, "frozen_dtype": "float32",
              "perceptual_from": 0.5, "tensorboard": False, "sheet_every": 0, "autoencoder": {"latent_channels": 8, "widths": [4, 8, 8]}, "log_every": 1}
    return AutoencoderStage(AutoencoderTraining(**(values | changes)), folders, vgg)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return ResidualAutoencoder.from_pretrained(folder / "vae").state_dict()


def test_interrupted_run_ends_bit_identical(tmp_path: Path, kill_at: Callable, folders: tuple[Path, Path], vgg: Vgg16) -> None:
    train(autoencoder_stage(folders, vgg), tmp_path / "whole")
    stopped = autoencoder_stage(folders, vgg)
    kill_at(stopped, 5)
    with pytest.raises(RuntimeError, match="killed"):
        train(stopped, tmp_path / "parts")
    assert train(autoencoder_stage(folders, vgg), tmp_path / "parts").finished
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    rows = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert {"l1", "detail", "energy", "perceptual"} <= rows[-1].keys()


def test_frozen_encoder_keeps_its_latents(tmp_path: Path, folders: tuple[Path, Path], vgg: Vgg16) -> None:
    start = ResidualAutoencoder(8, (4, 8, 8))
    before = {name: value.clone() for name, value in start.state_dict().items()}
    values = {"steps": 3, "batch_size": 2, "crop": 32, "warmup": 0, "freeze_encoder": True, "losses": {"l1": 1.0},
              "tensorboard": False, "sheet_every": 0}
    train(AutoencoderStage(AutoencoderTraining(**values), folders, vgg, start=start), tmp_path)
    after = weights_of(tmp_path)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "unproject"}


def test_every_image_term_has_a_gradient(make_image_stage: Callable, negatives: Path) -> None:
    losses = dict.fromkeys(TERMS.keys() - {"noise"}, 1.0) | {"adversarial": 1.0, "patch": 1.0}
    stage = make_image_stage(losses=losses, targets=negatives, crop=96, discriminator_width=1 / 64, patch_base=2,
                             trained=("net", "decoder"))
    torch.nn.init.normal_(stage.model.unet.conv_out.bias)
    torch.nn.init.normal_(stage.model.unet.conv_out.weight)  # a fresh net gives the photo back, which has no clouds
    cells = stage.codec.autoencoder.unproject.weight
    cells.data.copy_(torch.randn(*cells.shape[:2], 1, 1).expand_as(cells))  # and this autoencoder decodes to a mosaic
    batch = stage.batch(0, range(stage.settings.batch_size))
    terms = stage.step(batch, 0)
    assert set(terms) == set(losses) | {"discriminator", "patch_discriminator"}
    parameters = [p for module in stage.trainable().values() for p in module.parameters() if p.requires_grad]
    for name, value in terms.items():
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().max() > 0 for g in gradients), name
    frozen = [*stage.vgg.parameters(), *stage.codec.autoencoder.encoder.parameters(), *stage.style_encoder.parameters()]
    assert not any(p.requires_grad for p in frozen)


def test_layers_of_weight_0_change_nothing(make_image_stage: Callable, negatives: Path) -> None:
    terms = {"style": "style", "distribution": "distribution", "gram": "gram", "content": "content", "transport": "transport",
             "contextual": "contextual", "target": "target", "target_texture": "texture", "target_gram": "target_gram"}
    found = []
    for more in ({}, {"relu3_3": 0.0}):
        layers = {f"{name}_layers": {"relu1_2": 1.0} | more for name in terms.values()}
        stage = make_image_stage(losses=dict.fromkeys(terms, 1.0), targets=negatives, **layers)
        found.append({name: value.item() for name, value in stage.step(stage.batch(0, range(4)), 0).items()})
    assert found[0].keys() == terms.keys() and found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize(("trained", "changed"), [(("net",), {"unet", "content_projection"}), (("decoder",), {"vae"})])
def test_image_stage_trains_what_it_is_told(tmp_path: Path, make_image_stage: Callable, trained: tuple, changed: set) -> None:
    stage = make_image_stage(trained=trained, steps=2, warmup=0, losses={"style": 1.0} | ({"reconstruction": 1.0} if "vae" in changed else {}))
    before = copy.deepcopy(stage.pipeline)
    train(stage, tmp_path / "run")
    after = HiCastPipeline.from_pretrained(tmp_path / "run", dtype="float32")
    parts = {"unet": (before.model.unet, after.model.unet), "content_projection": (before.model.content_projection, after.model.content_projection),
             "vae": (before.autoencoder, after.autoencoder)}
    assert changed == {name for name, pair in parts.items() if not _equal(*pair)}
    assert _equal(before.autoencoder.encoder, after.autoencoder.encoder) and _equal(before.autoencoder.project, after.autoencoder.project)


def _equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(value.float().cpu(), twin.float().cpu()) for value, twin in pairs)


def test_image_stage_writes_a_model_that_stylizes(tmp_path: Path, make_image_stage: Callable) -> None:
    outcome = train(make_image_stage(), tmp_path / "run")
    assert outcome.finished
    pipeline = HiCastPipeline.from_pretrained(tmp_path / "run", dtype="float32")
    assert pipeline.style_encoder.std.std() > 0
    result = pipeline.stylize_image(torch.rand(1, 3, 40, 56) * 2 - 1, [(torch.rand(1, 3, 64, 80) * 2 - 1, 1.0)], steps=1)
    assert result.shape == (1, 3, 40, 56)
    assert result.isfinite().all()


def test_dropped_conditions_are_null(make_image_stage: Callable) -> None:
    stage = make_image_stage(batch_size=16)
    batch = stage.batch(0, range(stage.settings.batch_size))
    assert (~batch.keep_style).any() and (~batch.keep_content).any()
    assert (batch.keep_style | batch.keep_content).all()
    clean = torch.randn(16, 8, 4, 4)
    conditions = stage.conditions(batch, clean)
    assert (conditions.content[~batch.keep_content] == 0).all()
    assert (conditions.style[~batch.keep_style] == 0).all()
    assert (conditions.style[batch.keep_style].abs().sum(1) > 0).all()


def test_measured_paintings_are_kept_by_content(tmp_path: Path, folders: tuple[Path, Path], vgg: Vgg16) -> None:
    pool = PicturePool([folders[1]], 64, 2**20)
    calls: list[int] = []
    arguments = (vgg, 64, 8, ("relu2_2",), ("relu1_2",), lambda done, total: calls.append(done))
    first = load_or_measure(tmp_path / "cache.safetensors", pool, *arguments)
    moved = tmp_path / "moved"
    moved.mkdir()
    for i, file in enumerate(pool.files):
        (moved / f"{i}.png").write_bytes(file.read())
    again = load_or_measure(tmp_path / "cache.safetensors", PicturePool([moved], 64, 2**20), *arguments)
    assert calls == [1, 2, 3]
    assert torch.equal(first.vectors, again.vectors) and torch.equal(first.figures, again.figures)


def test_training_is_told_of_the_figures_that_painting_is_told_of(make_image_stage: Callable) -> None:
    stage = make_image_stage()
    painting = style_picture(stage.paintings[0], stage.settings.style_side)
    with torch.no_grad():
        shown = figures_in(stage.vgg(painting))
    assert shown.shape == (1, GRID, GRID) and shown.std() > 0 and torch.allclose(stage.library.figures[:1], shown, atol=1e-4)
    moments = MomentsLibrary(stage.paintings, stage.codec, stage.settings.style_side, stage.device, stage.library.figures).of([0, 1])
    expected = painting_moments(stage.codec, to_batch([stage.paintings[0]]), stage.settings.style_side, shown)
    assert torch.allclose(moments.figures[0], expected.figures[0], atol=1e-4) and moments.figures[0].std() > 0


@pytest.mark.parametrize("name", list_presets("models"))
def test_shipped_model_presets_load(name: str) -> None:
    assert ModelConfig(**load_preset(name, "models")).unet


@pytest.mark.parametrize("kind", ["autoencoder", "image"])
def test_parts_of_a_batch_are_those_of_the_whole(folders: tuple[Path, Path], vgg: Vgg16, make_image_stage: Callable, kind: str) -> None:
    stage = autoencoder_stage(folders, vgg, batch_size=4) if kind == "autoencoder" else make_image_stage()
    whole, parts = stage.batch(3, range(4)), [stage.batch(3, rows) for rows in (range(2), range(2, 4))]
    for field in fields(whole):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], torch.Tensor):
            assert torch.equal(torch.cat(values), getattr(whole, field.name)), field.name
        else:
            assert values == [getattr(whole, field.name)] * 2


@pytest.mark.parametrize("kind", ["autoencoder", "image"])
def test_gradient_checkpointing_computes_again_and_changes_no_gradient(folders: tuple[Path, Path], vgg: Vgg16, make_image_stage: Callable, kind: str) -> None:
    found = []
    for checkpointing in (False, True):
        if kind == "autoencoder":
            stage = autoencoder_stage(folders, vgg, gradient_checkpointing=checkpointing)
            inner, outer = stage.autoencoder.encoder[2], stage.autoencoder
        else:
            stage = make_image_stage(gradient_checkpointing=checkpointing)
            inner, outer = stage.model.unet.down_blocks[0].resnets[0], stage.model
        calls: list[int] = []
        inner.register_forward_pre_hook(lambda *_: calls.append(1))
        terms = stage.step(stage.batch(0, range(stage.settings.batch_size)), 0)
        before = len(calls)
        weighted_sum(terms, stage.settings.losses).backward()
        assert (len(calls) > before) == checkpointing
        found.append([parameter.grad for parameter in outer.parameters()])
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in zip(*found, strict=True))


def test_sheets_show_fixed_samples(folders: tuple[Path, Path], vgg: Vgg16, make_image_stage: Callable) -> None:
    for stage in (autoencoder_stage(folders, vgg), make_image_stage()):
        one, again = stage.preview(), stage.preview()
        assert one.dtype == np.uint8 and (one == again).all() and one.std() > 0


@pytest.mark.slow
def test_compiled_step_computes_the_same(folders: tuple[Path, Path], vgg: Vgg16) -> None:
    found = []
    for compiled in (False, True):
        stage = autoencoder_stage(folders, vgg, compile=compiled)
        terms = stage.step(stage.batch(0, range(2)), 0)
        weighted_sum(terms, stage.settings.losses).backward()
        found.append([*terms.values(), *(parameter.grad for parameter in stage.autoencoder.parameters())])
    assert all(torch.allclose(one, other, rtol=1e-3, atol=1e-5) for one, other in zip(*found, strict=True))


def test_net_that_torch_cannot_compile_is_refused(make_image_stage: Callable) -> None:
    with pytest.raises(UsageError, match="compile: expected a U-Net that pads with zeros, found replicate"):
        make_image_stage(compile=True)

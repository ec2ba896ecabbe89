"""Training that starts from stock Stable Diffusion: the command, the stage whose net predicts noise, and bases that are refused."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from hicast.cli.main import run
from hicast.config.presets import load_preset
from hicast.config.train import ImageTraining
from hicast.encoders.style import statistics
from hicast.errors import ModelError, UsageError
from hicast.io.weights import read_metadata
from hicast.pipeline import HiCastPipeline
from hicast.training.noise_stage import NoiseStage, stage_class
from hicast.training.run import STAGES, Opening

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def tiny(workplace, stock_config) -> str:
    """A model of the user's own, shaped as the stock folder is; its name."""
    folder = workplace.parent / "xdg" / "hicast" / "presets" / "models"
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(stock_config.model_dump()))
    return "tiny"


SMALL = {"batch_size": 3, "crop": 32, "image_side": 64, "style_side": 64, "steps": 2, "tensorboard": False, "frozen_dtype": "float32",
         "autocast": "float32", "sheet_every": 0, "sheet_steps": 2, "readers": 1, "log_every": 1}  # fmt: skip


def _words(stock_path: Path, output: str, *more: str) -> list[str]:
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={str(value).lower()}")]
    data = ["--content", "photos", "--style", "paintings", "--device", "cpu", "--preset", "sd15-image", "--model", "tiny"]
    return ["train", "--stage", "image", *data, "--base", str(stock_path), "--output", output, *settings, *more]


def _stage(stock_path: Path, **changes) -> NoiseStage:
    values = {key: value for key, value in load_preset("sd15-image", "train").items() if key != "stage"} | SMALL | changes
    settings = ImageTraining(**values, base=str(stock_path), content="photos", style="paintings").model_copy(update={"model": "tiny"})
    return STAGES["image"].open(settings, Opening(torch.device("cpu"), Path("out")))


def test_command_trains_two_steps_and_its_folder_stylizes(shared_stock, tiny, capsys):
    assert run(_words(shared_stock, "out", "--set", "sheet_every=2")) == 0
    error = capsys.readouterr().err
    assert "step 2/2" in error and "latent" in error and "\x1b" not in error and "Loading weights" not in error
    pipeline = HiCastPipeline.from_pretrained("out", "cpu", "float32")
    assert isinstance(pipeline.autoencoder, AutoencoderKL) and pipeline.context.shape == (1, 7, 24)
    assert pipeline.scheduler_config["beta_end"] == 0.012 and pipeline.index["style_side"] == 64 and pipeline.defaults == {"steps": 20}
    before, after = load_file(shared_stock / "unet" / WEIGHTS), load_file(Path("out/unet") / WEIGHTS)
    assert not torch.equal(before["conv_out.weight"], after["conv_out.weight"])
    assert (before["conv_out.weight"] - after["conv_out.weight"]).abs().max() < 1e-3
    assert read_metadata(Path("out/unet") / WEIGHTS)["base"] == str(shared_stock)
    assert run(["stylize-image", "photo.jpg", "--style", "painting.jpg", "--model", "out", "--steps", "2", "--size", "64", "-o", "r.png"]) == 0
    capsys.readouterr()
    further = [word for word in _words(shared_stock, "more", "--from", "out") if word not in ("--base", str(shared_stock))]
    assert run(further) == 0, capsys.readouterr().err
    assert torch.equal(HiCastPipeline.from_pretrained("more", "cpu", "float32").context, pipeline.context)


def test_published_losses_train_too(shared_stock, tiny, capsys):
    small = ("--set", "discriminator_width=0.02", "--set", "patch_base=2")
    words = _words(shared_stock, "out", "--set", "losses.noise=0.5", *small)
    words[words.index("sd15-image")] = "sd15-image-reference"
    assert run(words) == 0, capsys.readouterr().err
    rows = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    settings = json.loads(read_metadata(Path("out/unet") / WEIGHTS)["training"])
    assert settings["reference"] and settings["ema"] == 0 and settings["losses"]["style"] == 2
    assert {"latent", "noise", "style", "gram", "adversarial", "patch"} <= rows[-1].keys() and 0 < rows[-1]["style"] < 100


def test_estimate_is_one_step_from_the_noisy_target(shared_stock, tiny):
    stage = _stage(shared_stock)
    batch, clean = stage.batch(5, range(3)), torch.randn(3, 4, 4, 4)
    signal = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[batch.timestep]
    noisy = signal.sqrt() * clean + (1 - signal).sqrt() * batch.noise
    conditions = stage.conditions(batch, clean)
    with torch.no_grad():
        predicted = stage.model(noisy, batch.timestep, conditions)
        found = stage.estimate(batch, clean, conditions)
    assert torch.allclose(found, (noisy - (1 - signal).sqrt() * predicted) / signal.sqrt(), atol=1e-4)
    assert torch.equal(conditions.context, stage.context.expand(3, -1, -1))
    assert len({stage.batch(step, range(1)).timestep for step in range(20)}) > 10


def test_noise_term_is_the_error_of_the_noise(shared_stock, tiny):
    for reference in (False, True):
        losses = {"noise": 1.0, "latent": 1.0}
        stage = _stage(shared_stock, losses=losses, reference=reference, drop_style=1.0, drop_content=0.0)
        batch = stage.batch(2, range(3))
        with torch.no_grad():
            terms = stage.step(batch, 2)
            clean = stage.codec.encode(batch.content).float()
            signal = stage.scheduler.alphas_cumprod[batch.timestep]
            noisy = signal.sqrt() * clean + (1 - signal).sqrt() * batch.noise
            predicted = stage.model(noisy, batch.timestep, stage.conditions(batch, clean))
        assert terms["noise"].item() == pytest.approx((predicted - batch.noise).square().mean().item(), rel=1e-3)


def test_what_is_dropped_decides_the_target(shared_stock, tiny):
    stage = _stage(shared_stock, batch_size=60)
    batch = stage.batch(0, range(60))
    assert (batch.is_self[~batch.keep_content]).all() and not batch.is_self[~batch.keep_style].any()
    both = batch.keep_content & batch.keep_style
    assert 0.2 < batch.is_self[both].float().mean() < 0.8
    assert 5 < (~batch.keep_content).sum() < 35 and 0 < (~batch.keep_style).sum() < 20
    assert (batch.style_scale == 1).all()


def test_published_terms_are_their_formulas(shared_stock, tiny):
    stage = _stage(shared_stock, reference=True, losses={"latent": 1.0, "style": 1.0, "gram": 1.0})
    batch = stage.batch(1, range(3))
    with torch.no_grad():
        terms = stage.step(batch, 1)
        clean = stage.codec.encode(batch.content).float()
        estimate = stage.estimate(batch, clean, stage.conditions(batch, clean))
        features = stage.vgg(stage.codec.decode(estimate).float(), stage.taps)
        vectors = (statistics(features) - stage.library.vectors[batch.style]) / stage.library.vectors[0].square().mean().sqrt()
        flat = features["relu1_2"].flatten(2) / 127.5
        grams = flat @ flat.transpose(1, 2) / flat.shape[2] ** 2
        target = stage.library.grams["relu1_2"][batch.style].float() / 127.5**2 / flat.shape[2]
    kept = batch.keep_style
    assert terms["latent"].item() == pytest.approx((estimate - clean).square().mean().item(), rel=1e-4)
    assert terms["style"].item() == pytest.approx((vectors.square().mean(1) * kept).mean().item(), rel=1e-3)
    assert terms["gram"].item() == pytest.approx(((grams - target).square().sum() * kept.sum()).item(), rel=1e-3)


@pytest.mark.parametrize("reference", [False, True])
def test_every_term_has_a_gradient(shared_stock, tiny, reference):
    losses = {"latent": 1.0, "noise": 1.0, "style": 1.0, "gram": 1.0} | ({} if reference else {"content": 1.0, "color": 1.0})
    stage = _stage(shared_stock, reference=reference, losses=losses)
    terms = stage.step(stage.batch(3, range(3)), 3)
    assert terms.keys() == losses.keys()
    for name, value in terms.items():
        gradient = torch.autograd.grad(value, stage.model.unet.conv_in.weight, retain_graph=True)[0]
        assert gradient.abs().max() > 0, name


def test_gradient_checkpointing_reaches_net_and_autoencoder(shared_stock, tiny):
    found = []
    for checkpointing in (False, True):
        stage = _stage(shared_stock, gradient_checkpointing=checkpointing)
        calls: list[str] = []
        stage.model.unet.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_: calls.append("unet"))
        stage.codec.autoencoder.decoder.mid_block.register_forward_pre_hook(lambda *_: calls.append("vae"))
        sum(stage.step(stage.batch(0, range(3)), 0).values()).backward()
        assert sorted(calls) == sorted(["unet", "vae"] * (2 if checkpointing else 1))
        found.append(stage.model.unet.conv_in.weight.grad)
    assert torch.allclose(*found, rtol=1e-3, atol=1e-6)


def test_wrong_bases_are_refused_in_one_line(shared_stock, tiny, tmp_path, capsys):
    assert run([word for word in _words(shared_stock, "out") if word not in ("--base", str(shared_stock))]) == 2
    assert "expected stock Stable Diffusion to start from, found none; give a folder or a hub id such as stable-diffusion-v1-5/" in capsys.readouterr().err
    assert run(_words(Path("photos"), "out")) == 1
    assert "found no unet, vae, text_encoder, tokenizer, scheduler" in capsys.readouterr().err
    assert run(_words(shared_stock, "out", "--set", "unet.layers_per_block=1")) == 1
    assert "expected a unet with layers_per_block 1 (found 2)" in capsys.readouterr().err
    assert run(_words(shared_stock, "out", "--from", "runs/x")) == 2
    assert "--base, --from: expected one of them to start from, found both" in capsys.readouterr().err
    words = _words(shared_stock, "out")
    words[words.index("tiny")] = "debug"
    assert run(words) == 2
    assert "expected a model that is made of Stable Diffusion (--model sd15), found --model debug" in capsys.readouterr().err
    assert run(["train", "--stage", "autoencoder", "--model", "sd15", "--content", "photos", "--output", "out"]) == 2
    assert "found one that keeps Stable Diffusion's; begin with --stage image" in capsys.readouterr().err


def test_losses_that_ask_for_noise_need_a_net_that_predicts_it():
    assert stage_class("epsilon", ImageTraining(reference=True)) is NoiseStage
    with pytest.raises(UsageError, match="expected a net that predicts noise"):
        stage_class("sample", ImageTraining(losses={"noise": 1.0}))
    with pytest.raises(ModelError, match="expected prediction_type sample or epsilon, found v_prediction"):
        stage_class("v_prediction", ImageTraining())


def test_other_stages_keep_the_net_that_is_in_the_users_folder_of_models(tiny, tmp_path, monkeypatch, capsys):
    """`--model sd15` is the converted net where it is there; a fresh one of that size is refused, which was a TypeError."""
    from hicast.training import start

    models = tmp_path / "models"
    monkeypatch.setenv("HICAST_MODELS", str(models))
    for stage, more in (("adapter", ["--control", "edge"]), ("temporal", [])):
        words = ["train", "--stage", stage, "--model", tiny, "--content", "photos", "--style", "paintings", "--output", "out", *more, "--preset", f"debug-{stage}"]
        assert run(words) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"--from: expected the net for pictures that the stage {stage} keeps, found none; name a run of the stage image. For --model tiny: hicast models pull fast" in error
    (models / tiny / "unet").mkdir(parents=True)
    (models / tiny / "model_index.json").write_text('{"_class_name": "HiCastPipeline", "format": 1}')
    assert start.base_of_adapter(None, tiny) == (models / tiny, None)
    assert start.own_net(None, "debug") is None and start.own_net("runs/x", tiny) == "runs/x" and start.own_net(None, tiny) == tiny

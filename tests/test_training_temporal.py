"""The temporal stage on a tiny net: its terms, what trains and what does not, resuming, what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hicast.config.model import ModelConfig
from hicast.config.presets import load_preset
from hicast.config.train import TemporalTraining
from hicast.config.train_layers import contradictions, require
from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.style import StyleEncoder
from hicast.errors import ModelError, UsageError
from hicast.io.weights import read_metadata
from hicast.losses.published import CONSISTENCY_WEIGHTS
from hicast.losses.terms import weighted_sum
from hicast.models.build import build_model
from hicast.models.temporal import TemporalLayers
from hicast.pipeline import HiCastPipeline
from hicast.training import start
from hicast.training.loop import train
from hicast.training.temporal_stage import TemporalStage
from PIL import Image

CONFIG = ModelConfig(**load_preset("debug", "models"))
LOSSES = {"noise": 0.3, "image": 1.0, "contrast": 0.1, "correlation": 0.2, "warp": 1.0}
PUBLISHED = load_preset("published-temporal", "train")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of photos and one of paintings, smooth colours with some texture."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name, count in (("photos", 3), ("paintings", 2)):
        (root / name).mkdir()
        for i in range(count):
            small = Image.fromarray(random.integers(0, 255, (8, 9, 3), dtype=np.uint8))
            Image.fromarray(np.asarray(small.resize((110, 96)))).save(root / name / f"{i}.png")
    return root / "photos", root / "paintings"


def pipeline(config: ModelConfig = CONFIG, **choices: object) -> HiCastPipeline:
    torch.manual_seed(0)
    model = build_model(config, 0)
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)  # a net that paints
    autoencoder = ResidualAutoencoder(**config.autoencoder)
    autoencoder.fit_linear(torch.randn(4000, 192))
    layers = TemporalLayers.for_unet(model.unet, **(config.temporal | choices))
    return HiCastPipeline(model, autoencoder, StyleEncoder(**config.style_encoder), config.scheduler, temporal=layers)


def stage(folders: tuple[Path, Path], cache: Path, given: HiCastPipeline | None = None, base: Path | None = None, **changes: object) -> TemporalStage:
    values = {"content": folders[0], "style": folders[1], "steps": 4, "batch_size": 2, "frames": 3, "crop": 32, "style_side": 64, "image_side": 96,
              "frozen_dtype": "float32", "warmup": 1, "losses": LOSSES, "noised": "estimate", "later_steps": 0.5, "checkpoint_every": 2,
              "learning_rate": 0.01, "tensorboard": False, "sheet_every": 0, "log_every": 1, "style_scale": (0.5, 1.5), "sheet_steps": 1}
    return TemporalStage(TemporalTraining(**(values | changes)), given or pipeline(), cache / "styles.safetensors", base=base)


def gradients(made: TemporalStage) -> dict[str, float]:
    """For every term of the first step the largest gradient on a trainable parameter."""
    parameters = [parameter for parameter in made.layers.parameters() if parameter.requires_grad]
    found = {}
    for name, value in made.step(made.batch(0, range(2)), 0).items():
        values = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True) if value.requires_grad else ()
        found[name] = max((float(value.abs().max()) for value in values if value is not None), default=0.0)
    return found


def state(folder: Path) -> dict[str, torch.Tensor]:
    return TemporalLayers.from_pretrained(folder / "temporal").state_dict()


@pytest.mark.parametrize("later_steps", [0.0, 1.0])
@pytest.mark.parametrize("noised", ["estimate", "content"])
def test_every_term_has_a_gradient(tmp_path: Path, folders: tuple[Path, Path], later_steps: float, noised: str) -> None:
    made = stage(folders, tmp_path, later_steps=later_steps, noised=noised)
    found = gradients(made)
    # fresh layers are the net for pictures where nothing moves, and only the clips that move tell the two apart
    assert set(found) == set(LOSSES) and min(found.values()) > 0


def test_terms_without_weight_are_not_computed(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    made = stage(folders, tmp_path, losses={"image": 1.0, "warp": 0.0})
    made.codec.decode = None
    assert set(made.step(made.batch(0, range(2)), 0)) == {"image"}


def test_two_dimensional_weights_stay_and_only_layers_train(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    given = pipeline()
    made = stage(folders, tmp_path, given, base=tmp_path)  # computes with the pipeline's own parts
    parts = (given.model, given.autoencoder, given.style_encoder.vgg)
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    layers = {name: value.clone() for name, value in made.layers.state_dict().items()}
    train(made, tmp_path / "run")
    for part, values in zip(parts, before, strict=True):
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in part.parameters())
        assert all(torch.equal(value, values[name]) for name, value in part.state_dict().items())
    assert any(not torch.equal(value, layers[name]) for name, value in made.layers.state_dict().items())


def test_a_still_clip_is_left_as_the_net_for_pictures_gives_it(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    made = stage(folders, tmp_path, shared_noise=1.0, losses={"image": 1.0}, later_steps=0.0)
    made.model.double(), made.layers.double()  # norms of this random net blow up the rounding of float32
    batch = made.batch(0, range(2))
    still = {"content": batch.content[:, :1].expand(-1, 3, -1, -1, -1), "noise": batch.noise[:, :1].expand(-1, 3, -1, -1, -1)}
    values = {field.name: getattr(batch, field.name) for field in fields(batch)} | still
    assert made.step(type(batch)(**values), 0)["image"] < 1e-12 < 1e-10 < made.step(made.batch(3, range(2)), 3)["image"]


def test_the_net_is_told_as_much_style_as_when_it_paints(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    given = pipeline()
    given.index["style_unit"] = 0.4
    made = stage(folders, tmp_path, given)
    batch = made.batch(0, range(2))
    told = made._conditions(batch, made._latents(batch.content)).style_scale
    assert torch.allclose(told, 0.4 * batch.style_scale.repeat_interleave(3))


def test_steps_lower_the_loss(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    made = stage(folders, tmp_path, losses={"warp": 1.0}, later_steps=0.0, steps=25, ema=0.0)
    batch = made.batch(0, range(2))
    made.batch = lambda step, rows: batch
    train(made, tmp_path / "run")
    values = [json.loads(line)["warp"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert values[-1] < 0.8 * values[0]


def test_interrupted_run_ends_bit_identical(tmp_path: Path, kill_at: Callable, folders: tuple[Path, Path]) -> None:
    train(stage(folders, tmp_path), tmp_path / "whole")
    stopped = stage(folders, tmp_path)
    kill_at(stopped, 3)
    with pytest.raises(RuntimeError, match="killed"):
        train(stopped, tmp_path / "parts")
    assert train(stage(folders, tmp_path), tmp_path / "parts").finished
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "parts")] == [(tmp_path / "whole" / "log.jsonl").read_text()] * 2


def test_parts_of_a_batch_are_those_of_the_whole(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    made = stage(folders, tmp_path, shared_noise=(0.0, 1.0))
    whole, parts = made.batch(3, range(2)), [made.batch(3, rows) for rows in (range(1), range(1, 2))]
    for field in fields(whole):
        values = [getattr(part, field.name) for part in parts]
        joined = torch.cat(values) if isinstance(values[0], torch.Tensor) else values[0]
        assert torch.equal(torch.as_tensor(joined), torch.as_tensor(getattr(whole, field.name))), field.name
    assert whole.content.shape == (2, 3, 3, 32, 32) and whole.noise.shape == (2, 3, 8, 4, 4) and whole.seen.shape == (2, 3, 32, 32)


def test_noise_is_shared_as_the_settings_say(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    one = stage(folders, tmp_path, shared_noise=1.0, residual_threshold=0.0).batch(0, range(2)).noise
    assert torch.equal(one[:, 0], one[:, 2]) and not torch.equal(one[0], one[1])
    own = stage(folders, tmp_path, shared_noise=0.0, residual_threshold=0.0).batch(0, range(2)).noise
    assert (own[:, 0] != own[:, 1]).all()
    copied = stage(folders, tmp_path, shared_noise=0.0, residual_threshold=0.3).batch(0, range(2)).noise
    same = (copied[:, 0] == copied[:, 1]).float().mean()
    assert 0 < same < 1 and torch.equal(copied[:, 0], own[:, 0])


def test_gradient_checkpointing_computes_again_and_changes_no_gradient(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    found = []
    for checkpointing in (False, True):
        made = stage(folders, tmp_path, gradient_checkpointing=checkpointing)
        calls: list[int] = []
        made.model.unet.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        terms = made.step(made.batch(0, range(2)), 0)
        before = len(calls)
        weighted_sum(terms, made.settings.losses).backward()
        assert (len(calls) > before) == checkpointing
        found.append([parameter.grad for parameter in made.layers.parameters()])
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in zip(*found, strict=True))


def test_reference_trains_what_was_published(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    assert PUBLISHED["losses"] == CONSISTENCY_WEIGHTS
    choices = PUBLISHED["temporal"]
    config = CONFIG.model_copy(update={"scheduler": CONFIG.scheduler | {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}})
    made = stage(folders, tmp_path, pipeline(config, **choices), reference=True, losses=CONSISTENCY_WEIGHTS, noised="content", later_steps=1.0)
    trained = {name for name, parameter in made.layers.named_parameters() if parameter.requires_grad}
    assert trained == {name for name in made.layers.state_dict() if "down_blocks" not in name} != set(made.layers.state_dict())
    found = gradients(made)
    assert set(found) == set(CONSISTENCY_WEIGHTS)
    assert found["noise"] > 0 and found["image"] > 0 and found["contrast"] == 0
    batches = [made.batch(step, range(2)).noise for step in (0, 1)]
    assert torch.equal(batches[0][0, 0], batches[1][1, 0])  # the published generator begins anew at every step
    kept = {name: value.clone() for name, value in made.layers.state_dict().items() if name not in trained}
    train(made, tmp_path / "run")
    assert all(torch.equal(value, made.layers.state_dict()[name]) for name, value in kept.items())


def test_nets_that_predict_noise_are_held_to_it_and_others_to_their_picture_of_one_noise(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    config = CONFIG.model_copy(update={"scheduler": CONFIG.scheduler | {"prediction_type": "epsilon"}})
    for given in (pipeline(config), pipeline()):
        made = stage(folders, tmp_path, given, later_steps=0.0)
        batch = made.batch(0, range(2))
        clean = made._latents(batch.content)
        conditions, noise = made._conditions(batch, clean), batch.noise.flatten(0, 1)
        target = made._target(999, clean, noise, conditions)
        if given.scheduler_config["prediction_type"] == "epsilon":
            assert target is noise
        else:
            repeated = noise[[0, 0, 0, 3, 3, 3]]
            torch.testing.assert_close(target, made.model(repeated, 999, conditions))


def test_result_refers_to_its_base_and_says_what_it_is(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    pipeline().save_pretrained(tmp_path / "whole")
    (tmp_path / "whole" / "temporal").rename(tmp_path / "layers")  # the base is a net for pictures
    settings = TemporalTraining(content=folders[0], style=folders[1], model="debug", start=str(tmp_path / "whole"))
    begun, base = start.clip_pipeline(settings, pytest.fail)
    assert base == tmp_path / "whole" and begun.temporal.config.norm == "frame"
    made = stage(folders, tmp_path, begun, base, steps=1, model="debug")
    train(made, tmp_path / "runs" / "own")
    assert {path.name for path in (tmp_path / "runs" / "own").iterdir()} == {"temporal", "model_index.json", "log.jsonl", "checkpoints"}
    assert json.loads((tmp_path / "runs" / "own" / "model_index.json").read_text())["base"] == "../../whole"
    about = read_metadata(tmp_path / "runs" / "own" / "temporal" / WEIGHTS)
    assert (about["component"], about["stage"], about["format_version"]) == ("temporal", "temporal", "1")
    assert json.loads(about["training"])["frames"] == 3
    again = HiCastPipeline.from_pretrained(tmp_path / "runs" / "own", dtype="float32")
    assert all(torch.equal(value, again.temporal.state_dict()[name]) for name, value in state(tmp_path / "runs" / "own").items())
    going_on = settings.model_copy(update={"start": str(tmp_path / "runs" / "own")})
    begun, base = start.clip_pipeline(going_on, pytest.fail)
    assert base.samefile(tmp_path / "whole")
    assert all(torch.equal(value, begun.temporal.state_dict()[name]) for name, value in again.temporal.state_dict().items())
    kept, _ = start.clip_pipeline(going_on.model_copy(update={"temporal": {"zero_start": True}}), pytest.fail)
    assert all(torch.equal(value, kept.temporal.state_dict()[name]) for name, value in again.temporal.state_dict().items()), "a start is for new layers"
    with pytest.raises(ModelError, match="expected temporal layers as the settings say, found others in attention; leave temporal out"):
        start.clip_pipeline(going_on.model_copy(update={"temporal": {"attention": "frame"}}), pytest.fail)


def test_sheet_shows_content_and_both_results(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    made = stage(folders, tmp_path)
    one, again = made.preview(), made.preview()
    assert one.dtype == np.uint8 and (one == again).all() and one.std() > 0
    assert one.shape[0] > 6 * 128 and one.shape[1] > 3 * 128


def test_mistakes_are_named(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="compile: expected false for the stage temporal"):
        stage(folders, tmp_path, compile=True)
    settings = TemporalTraining(reference=True, frames=2, losses={"warp": 1.0})
    assert [problem.split(",")[0] for problem in contradictions(settings)] == [
        "reference: expected no weight for warp", "reference: expected frames of at least 3"
    ]  # fmt: skip
    with pytest.raises(UsageError, match="here: expected --video or --content, found none; give it, or write train.video or train.content in"):
        require(TemporalTraining(), [("video", "content")], "here")
    require(TemporalTraining(content="photos"), [("video", "content")], "here")
    autoencoder = tmp_path / "ae"
    (autoencoder / "vae").mkdir(parents=True)
    with pytest.raises(ModelError, match="expected the result of the stage image or temporal to begin the stage temporal with"):
        start.clip_pipeline(TemporalTraining(start=str(autoencoder)), pytest.fail)
    pipeline().save_pretrained(tmp_path / "debug")
    with pytest.raises(ModelError, match=r"expected a unet with .*block_out_channels \[96, 160, 192\] \(found \[16, 16, 16\]\)"):
        start.clip_pipeline(TemporalTraining(start=str(tmp_path / "debug")), pytest.fail)
    with pytest.raises(UsageError, match="temporal: expected choices of conv_groups, .*, found atention; did you mean attention?"):
        start.clip_pipeline(TemporalTraining(model="debug", temporal={"atention": "frame"}), lambda config: HiCastPipeline(
            build_model(config), ResidualAutoencoder(8, (8, 8, 16)), StyleEncoder(**config.style_encoder), config.scheduler))

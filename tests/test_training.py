"""Training data, losses, the loop and both stages on tiny models and synthetic pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hicast.config.model import ModelConfig
from hicast.config.presets import list_presets, load_preset
from hicast.config.train import AutoencoderTraining, ImageTraining
from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.style import StyleEncoder
from hicast.encoders.vgg import Vgg16
from hicast.errors import InputError, ModelError, UsageError
from hicast.losses.terms import weighted_sum
from hicast.models.build import build_model
from hicast.pipeline import HiCastPipeline
from hicast.training.autoencoder_stage import AutoencoderStage
from hicast.training.data import PicturePool, prefetched, random_crop, sample_generator
from hicast.training.image_stage import ImageStage
from hicast.training.loop import learning_rate, train
from hicast.training.style_library import load_or_measure
from PIL import Image

TINY_UNET = {
    "in_channels": 12, "out_channels": 8, "block_out_channels": [32, 32, 32], "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "only_cross_attention": [True, True, False], "attention_head_dim": 4, "cross_attention_dim": 16,
    "encoder_hid_dim": 768, "encoder_hid_dim_type": "text_proj", "time_cond_proj_dim": 16,
    "resnet_time_scale_shift": "scale_shift", "norm_num_groups": 8, "conv_padding_mode": "replicate",
}  # fmt: skip
TINY_CONFIG = ModelConfig(
    unet=TINY_UNET,
    content_projection={"content_channels": 8, "refined_channels": 4},
    content_skip=True,
    scheduler=load_preset("compact", "models")["scheduler"],
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of photos and one of paintings, smooth colours with some texture."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name, count in (("photos", 4), ("paintings", 3)):
        (root / name / "sub").mkdir(parents=True)
        for i in range(count):
            small = Image.fromarray(random.integers(0, 255, (6, 7, 3), dtype=np.uint8))
            pixels = np.asarray(small.resize((90 + 10 * i, 80))).astype(int) + random.integers(-20, 20, (80, 90 + 10 * i, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / "sub" / f"{i}.png")
    return root / "photos", root / "paintings"


@pytest.fixture(scope="module")
def vgg() -> Vgg16:
    torch.manual_seed(0)
    return Vgg16("caffe").eval()


def autoencoder_stage(folders: tuple[Path, Path], vgg: Vgg16, **changes: object) -> AutoencoderStage:
    values = {"steps": 6, "batch_size": 2, "crop": 32, "warmup": 2, "checkpoint_every": 2, "frozen_dtype": "float32",
              "perceptual_from": 0.5, "model": {"latent_channels": 8, "widths": [4, 8, 8]}, "log_every": 1}
    return AutoencoderStage(AutoencoderTraining(**(values | changes)), folders, vgg)


def image_stage(folders: tuple[Path, Path], vgg: Vgg16, cache: Path, **changes: object) -> ImageStage:
    values = {"steps": 2, "batch_size": 4, "crop": 32, "style_side": 64, "frozen_dtype": "float32", "warmup": 1,
              "losses": {"style": 1.0, "gram": 1.0, "color": 1.0, "content": 1.0, "lattice": 1.0, "latent": 1.0},
              "self_pairs": 0.3, "drop_style": 0.3, "drop_content": 0.2, "later_steps": 0.5}
    torch.manual_seed(0)
    encoder = StyleEncoder("caffe", 8, 6.0)
    encoder.vgg.load_state_dict(vgg.state_dict())
    autoencoder = ResidualAutoencoder(8, (4, 8, 8))
    pipeline = HiCastPipeline(build_model(TINY_CONFIG), autoencoder, encoder, TINY_CONFIG.scheduler)
    settings = ImageTraining(**(values | changes))
    return ImageStage(settings, [folders[0]], [folders[1]], pipeline, cache / "styles.safetensors")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return ResidualAutoencoder.from_pretrained(folder / "vae").state_dict()


def test_crops_depend_on_the_sample_alone(folders: tuple[Path, Path]) -> None:
    pixels = PicturePool([folders[0]], 64, 2**20)[0]
    one = random_crop(pixels, 32, (0.5, 1.0), sample_generator(3, 7))
    again = random_crop(pixels, 32, (0.5, 1.0), sample_generator(3, 7))
    other = random_crop(pixels, 32, (0.5, 1.0), sample_generator(3, 8))
    assert one.shape == (32, 32, 3)
    assert (one == again).all()
    assert (one != other).any()


def test_pool_reads_recursively_and_skips_what_is_broken(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    good = sorted((folders[0] / "sub").iterdir())[0]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "good.png").write_bytes(good.read_bytes())
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:100])
    pool = PicturePool([tmp_path], 64, 2**20)
    assert len(pool) == 2
    assert (pool[0] == pool[1]).all()
    assert list(pool.skipped) == [tmp_path / "broken.png"]


def test_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none"):
        PicturePool([tmp_path], 64, 0)
    with pytest.raises(InputError, match="found nothing"):
        PicturePool([tmp_path / "missing"], 64, 0)


def test_prefetching_keeps_the_order() -> None:
    assert list(prefetched(lambda step: step * 10, 2, 7)) == [20, 30, 40, 50, 60]


def test_rate_warms_up_and_falls_to_its_share() -> None:
    settings = AutoencoderTraining(steps=100, warmup=10, learning_rate=1.0, final_rate=0.1)
    assert learning_rate(settings, 0) == pytest.approx(0.1)
    assert learning_rate(settings, 10) == pytest.approx(1.0)
    assert learning_rate(settings, 55) == pytest.approx(0.55)
    assert learning_rate(settings, 100) == pytest.approx(0.1)


def test_loss_of_no_terms_is_refused() -> None:
    with pytest.raises(KeyError):
        weighted_sum({}, {})
    assert weighted_sum({"a": torch.tensor(2.0), "b": torch.tensor(3.0)}, {"a": 0.5}) == 4.0


def test_interrupted_run_ends_bit_identical(tmp_path: Path, folders: tuple[Path, Path], vgg: Vgg16) -> None:
    train(autoencoder_stage(folders, vgg), tmp_path / "whole")
    stopped = autoencoder_stage(folders, vgg)
    original = stopped.step

    def dies(batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        if step == 5:
            raise RuntimeError("killed")
        return original(batch, step)

    stopped.step = dies
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
    values = {"steps": 3, "batch_size": 2, "crop": 32, "warmup": 0, "freeze_encoder": True, "losses": {"l1": 1.0}}
    train(AutoencoderStage(AutoencoderTraining(**values), folders, vgg, start=start), tmp_path)
    after = weights_of(tmp_path)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "unproject"}


def test_resuming_with_other_settings_says_which(tmp_path: Path, folders: tuple[Path, Path], vgg: Vgg16) -> None:
    train(autoencoder_stage(folders, vgg, steps=2), tmp_path)
    with pytest.raises(UsageError, match="other settings for learning_rate"):
        train(autoencoder_stage(folders, vgg, steps=2, learning_rate=1e-5), tmp_path)


def test_time_limit_saves_and_goes_on(tmp_path: Path, folders: tuple[Path, Path], vgg: Vgg16) -> None:
    outcome = train(autoencoder_stage(folders, vgg), tmp_path, max_minutes=0)
    assert (outcome.step, outcome.finished) == (1, False)
    assert train(autoencoder_stage(folders, vgg), tmp_path).finished


def test_loss_that_is_not_finite_is_skipped_then_stops_the_run(
    tmp_path: Path, folders: tuple[Path, Path], vgg: Vgg16
) -> None:
    stage = autoencoder_stage(folders, vgg, steps=30, checkpoint_every=100)
    stage.step = lambda batch, step: {"l1": stage.autoencoder.project.weight.sum() * float("nan")}
    before = {name: value.clone() for name, value in stage.autoencoder.state_dict().items()}
    with pytest.raises(ModelError, match="20 steps in a row"):
        train(stage, tmp_path)
    assert all(torch.equal(before[name], value) for name, value in stage.autoencoder.state_dict().items())


def test_every_image_term_has_a_gradient(tmp_path: Path, folders: tuple[Path, Path], vgg: Vgg16) -> None:
    stage = image_stage(folders, vgg, tmp_path)
    batch = next(stage.batches(0, 1))
    terms = stage.step(batch, 0)
    assert set(terms) == {"style", "gram", "color", "content", "lattice", "latent"}
    parameters = [p for module in stage.trainable().values() for p in module.parameters()]
    for name, value in terms.items():
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().max() > 0 for g in gradients), name
    frozen = [*stage.vgg.parameters(), *stage.codec.autoencoder.parameters(), *stage.style_encoder.parameters()]
    assert not any(p.requires_grad for p in frozen)


def test_image_stage_writes_a_model_that_stylizes(tmp_path: Path, folders: tuple[Path, Path], vgg: Vgg16) -> None:
    outcome = train(image_stage(folders, vgg, tmp_path), tmp_path / "run")
    assert outcome.finished
    pipeline = HiCastPipeline.from_pretrained(tmp_path / "run", dtype="float32")
    assert pipeline.style_encoder.std.std() > 0
    result = pipeline.stylize_image(torch.rand(1, 3, 40, 56) * 2 - 1, [(torch.rand(1, 3, 64, 80) * 2 - 1, 1.0)], steps=1)
    assert result.shape == (1, 3, 40, 56)
    assert result.isfinite().all()


def test_dropped_conditions_are_null(tmp_path: Path, folders: tuple[Path, Path], vgg: Vgg16) -> None:
    stage = image_stage(folders, vgg, tmp_path, batch_size=16)
    batch = next(stage.batches(0, 1))
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
        (moved / f"{i}.png").write_bytes(file.read_bytes())
    again = load_or_measure(tmp_path / "cache.safetensors", PicturePool([moved], 64, 2**20), *arguments)
    assert calls == [1, 2, 3]
    assert torch.equal(first.vectors, again.vectors)


@pytest.mark.parametrize("name", list_presets("train"))
def test_shipped_training_presets_load(name: str) -> None:
    values = load_preset(name, "train")
    model = {"autoencoder": AutoencoderTraining, "image": ImageTraining}[values["stage"]]
    assert model(**values).description


@pytest.mark.parametrize("name", list_presets("models"))
def test_shipped_model_presets_load(name: str) -> None:
    assert ModelConfig(**load_preset(name, "models")).unet

"""What tests share: threads that sleep while they wait, a folder with the files that the documentation names, and stages on tiny nets."""

import importlib.util
import json
import os
import sysconfig
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ["HICAST_ENGINE"] = "torch"  # what `auto` is; tests of other engines ask for them

import numpy as np
import pytest
from PIL import Image


@cache
def _sibling(name: str) -> ModuleType:
    """The file `name` beside this one, which pytest's import mode leaves off the path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """The working folder, with the small files that the documentation names; no settings of the user, `hicast` on the path."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    scripts = sysconfig.get_path("scripts")
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "work"
    monkeypatch.chdir(_sibling("made_media").fill_folder(folder))
    return folder


TINY_UNET = {
    "layers_per_block": 1, "attention_head_dim": 4, "cross_attention_dim": 16,
    "encoder_hid_dim": 768, "encoder_hid_dim_type": "text_proj", "time_cond_proj_dim": 16,
    "resnet_time_scale_shift": "scale_shift", "norm_num_groups": 8, "conv_padding_mode": "replicate",
}  # fmt: skip


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """A function that makes a random net laid out like the compact one, of the widths given; keys of its U-Net can be changed."""
    return _tiny_model


def _tiny_model(widths: Sequence[int], channels: int = 8, projected: int = 4, **changes: Any) -> Any:
    import torch

    from hicast.models.hicast_model import HiCastModel
    from hicast.models.unet import ContentProjection, build_unet

    torch.manual_seed(0)
    cross = len(widths) - 1
    blocks = {
        "block_out_channels": widths, "in_channels": channels + projected, "out_channels": channels,
        "only_cross_attention": [True] * cross + [False], "down_block_types": ["CrossAttnDownBlock2D"] * cross + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * cross,
    }  # fmt: skip
    unet = build_unet({**TINY_UNET, **blocks, **changes})
    return HiCastModel(unet, ContentProjection(channels, projected, 4 * widths[0]), content_skip=True)


@pytest.fixture(scope="session")
def make_pipeline() -> Callable[..., Any]:
    """A function that makes a pipeline of tiny random nets, with adapters of the names given and further keys of its index."""
    return _tiny_pipeline


def _tiny_pipeline(*adapters: str, levels: int = 3, **index: Any) -> Any:
    import torch
    from diffusers import T2IAdapter

    from hicast.config.presets import load_preset
    from hicast.encoders.autoencoder import ResidualAutoencoder
    from hicast.encoders.style import StyleEncoder
    from hicast.pipeline import HiCastPipeline

    widths = [32] * levels
    model = _tiny_model(widths)
    nets = {name: T2IAdapter(channels=widths, num_res_blocks=1, adapter_type="light_adapter") for name in adapters}
    made = HiCastPipeline(model, ResidualAutoencoder(8, (4, 8, 8)), StyleEncoder("caffe", 8, 6.0),
                          load_preset("compact", "models")["scheduler"], index={"defaults": {"steps": 1}, **index}, adapters=nets)  # fmt: skip
    made.autoencoder.fit_linear(torch.randn(4000, 192))
    return made.to("cpu", "float32")


@pytest.fixture(scope="session")
def published_layout() -> ModuleType:
    """The functions that write folders in the layout of the published checkpoints."""
    return _sibling("published_layout")


@pytest.fixture(scope="session")
def small_model(tmp_path_factory, published_layout) -> Path:
    """A converted model of the published architecture at a tenth of its width, temporal layers included, in `video`; nobody changes it."""
    from hicast.io.published_folder import find_published
    from hicast.models.conversion import convert_published

    source = published_layout.write_random(tmp_path_factory.mktemp("published"), 0.1)
    target = tmp_path_factory.mktemp("models") / "small"
    convert_published(find_published(source), target)
    index = json.loads((target / "model_index.json").read_text())
    (target / "model_index.json").write_text(json.dumps(index | {"style_side": 64}))
    return target


@pytest.fixture(scope="session")
def shared_stock(tmp_path_factory, published_layout) -> Path:
    """Stable Diffusion 1.5 in a folder, of a few thousand random numbers; nobody changes it."""
    return published_layout.write_stock(tmp_path_factory.mktemp("stock"))


@pytest.fixture
def stock_config(published_layout) -> Any:
    """The settings of a model that begins as `shared_stock`."""
    from hicast.config.model import ModelConfig

    return ModelConfig(**published_layout.stock_shape())


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    """The function that writes a clip, and gives its path back."""
    return _sibling("made_media").write_clip


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of four photos and one of three paintings, smooth colours with some texture."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name, count in (("photos", 4), ("paintings", 3)):
        (root / name / "sub").mkdir(parents=True)
        for i in range(count):
            small = Image.fromarray(random.integers(0, 255, (6, 7, 3), dtype=np.uint8))
            pixels = np.asarray(small.resize((90 + 10 * i, 80))).astype(int) + random.integers(-20, 20, (80, 90 + 10 * i, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / "sub" / f"{i}.png")
    return root / "photos", root / "paintings"


@pytest.fixture(scope="session")
def vgg():
    """VGG-16 with random weights; what uses it copies it."""
    import torch

    from hicast.encoders.vgg import Vgg16

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Vgg16("caffe").eval()


@pytest.fixture
def make_image_stage(folders, vgg, tmp_path) -> Callable[..., object]:
    """A function that makes a stage `image` on a tiny net, all kinds of samples in it; keys of `ImageTraining` can be changed."""
    import torch

    from hicast.config.model import ModelConfig
    from hicast.config.presets import load_preset
    from hicast.config.train import ImageTraining
    from hicast.encoders.autoencoder import ResidualAutoencoder
    from hicast.encoders.style import StyleEncoder
    from hicast.models.build import build_model
    from hicast.pipeline import HiCastPipeline
    from hicast.training.image_stage import ImageStage

    def make(content: Path = folders[0], cache: Path = tmp_path, on_measure=None, **changes: object) -> ImageStage:
        values = {"steps": 2, "batch_size": 4, "crop": 32, "style_side": 64, "frozen_dtype": "float32", "warmup": 1,
                  "losses": {"style": 1.0, "distribution": 1.0, "gram": 1.0, "color": 1.0, "content": 1.0, "lattice": 1.0, "latent": 1.0},
                  "self_pairs": 0.3, "drop_style": 0.3, "drop_content": 0.2, "later_steps": 0.5, "tensorboard": False, "sheet_every": 0}
        config = ModelConfig(**load_preset("debug", "models"))
        torch.manual_seed(0)
        encoder = StyleEncoder(**config.style_encoder)
        encoder.vgg.load_state_dict(vgg.state_dict())
        pipeline = HiCastPipeline(build_model(config), ResidualAutoencoder(**config.autoencoder), encoder, config.scheduler)
        return ImageStage(ImageTraining(**(values | changes)), [content], [folders[1]], pipeline, cache / "styles.safetensors", on_measure=on_measure)

    return make


@pytest.fixture(scope="session")
def negatives(folders, tmp_path_factory) -> Path:
    """What another method made of each photo: its negative, with the list of pairs."""
    folder = tmp_path_factory.mktemp("results")
    photos = sorted((folders[0] / "sub").iterdir())
    (folder / "pairs.csv").write_text("content,style\n" + "".join(f"sub/{path.name},sub/0.png\n" for path in photos))
    for number, path in enumerate(photos):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(folder / f"{number:05d}.png")
    return folder


@pytest.fixture
def stage_of(folders, vgg, tmp_path) -> Callable[..., object]:
    """A function that makes a stage `adapter` on a tiny net of the given shape; keys of `AdapterTraining` can be changed."""
    import torch
    from diffusers import T2IAdapter

    from hicast.config.model import ModelConfig
    from hicast.config.presets import load_preset
    from hicast.config.train import AdapterTraining
    from hicast.encoders.autoencoder import ResidualAutoencoder
    from hicast.encoders.style import StyleEncoder
    from hicast.models.build import build_model
    from hicast.pipeline import HiCastPipeline
    from hicast.training.adapter_stage import AdapterStage

    def make(shape=None, base=None, **changes) -> AdapterStage:
        values = {"steps": 4, "batch_size": 4, "crop": 32, "style_side": 64, "frozen_dtype": "float32", "warmup": 1, "control": "edge",
                  "losses": {"control": 1.0}, "later_steps": 0.5, "tensorboard": False, "sheet_every": 0, "checkpoint_every": 2, "log_every": 2,
                  "learning_rate": 1e-3, "adapter": {"adapter_type": "light_adapter", "num_res_blocks": 1},
                  "style_layers": {"relu1_2": 1.0, "relu2_2": 1.0}, "distribution_layers": {"relu1_2": 1.0}}  # fmt: skip
        if "maps" not in changes and "control" not in changes:
            values["extractor"] = "gradient"
        settings = AdapterTraining(**(values | changes))
        config = ModelConfig(**({key: value for key, value in shape.items() if key != "description"} if shape else load_preset("debug", "models")))
        encoder = StyleEncoder(**config.style_encoder)
        encoder.vgg.load_state_dict(vgg.state_dict())
        model = build_model(config, 1)
        if shape is None:  # its output would be next to nothing
            model.unet.conv_out.weight.data.mul_(300)
        torch.manual_seed(2)
        context = torch.randn(1, 3, 16) if shape else None
        autoencoder = ResidualAutoencoder(8, (4, 8, 8))
        autoencoder.fit_linear(torch.randn(2000, 192) * 0.4)
        pipeline = HiCastPipeline(model, autoencoder, encoder, config.scheduler, context=context)
        torch.manual_seed(3)
        adapter = T2IAdapter(**({"channels": [16, 16, 16]} | settings.adapter))
        return AdapterStage(settings, [folders[0]], [folders[1]], pipeline, tmp_path / "styles.safetensors", adapter, base=base, fit_style=True)

    return make


@pytest.fixture
def kill_at() -> Callable[..., None]:
    """A function that lets the `stage` raise RuntimeError("killed") at a step."""

    def let(stage, at: int) -> None:
        original = stage.step

        def dies(batch, step):
            if step == at:
                raise RuntimeError("killed")
            return original(batch, step)

        stage.step = dies

    return let


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """A stage of one linear layer, and what tells its runs apart."""
    return _sibling("toy_stage")

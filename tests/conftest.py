"""What tests share: threads that sleep while they wait, made-up clips and pictures, a folder with the files that the documentation
names, and stages on tiny nets."""

import importlib.util
import os
import sysconfig
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from types import ModuleType

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ["HICAST_ENGINE"] = "torch"  # what `auto` is; tests of other engines ask for them

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """The working folder, with the small files that the documentation names; no settings of the user, `hicast` on the path."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    scripts = sysconfig.get_path("scripts")
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "work"
    monkeypatch.chdir(_filled(folder))
    return folder


TINY_UNET = {
    "in_channels": 12, "out_channels": 8, "layers_per_block": 1, "attention_head_dim": 4, "cross_attention_dim": 16,
    "encoder_hid_dim": 768, "encoder_hid_dim_type": "text_proj", "time_cond_proj_dim": 16,
    "resnet_time_scale_shift": "scale_shift", "norm_num_groups": 8, "conv_padding_mode": "replicate",
}  # fmt: skip


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
    from hicast.models.hicast_model import HiCastModel
    from hicast.models.unet import ContentProjection, build_unet
    from hicast.pipeline import HiCastPipeline

    torch.manual_seed(0)
    widths = [32] * levels
    blocks = {
        "block_out_channels": widths, "only_cross_attention": [True] * (levels - 1) + [False],
        "down_block_types": ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (levels - 1),
    }  # fmt: skip
    model = HiCastModel(build_unet({**TINY_UNET, **blocks}), ContentProjection(8, 4, 128), content_skip=True)
    nets = {name: T2IAdapter(channels=widths, num_res_blocks=1, adapter_type="light_adapter") for name in adapters}
    made = HiCastPipeline(model, ResidualAutoencoder(8, (4, 8, 8)), StyleEncoder("caffe", 8, 6.0),
                          load_preset("compact", "models")["scheduler"], index={"defaults": {"steps": 1}, **index}, adapters=nets)  # fmt: skip
    made.autoencoder.fit_linear(torch.randn(4000, 192))
    return made.to("cpu", "float32")


@pytest.fixture(scope="session")
def published_layout() -> ModuleType:
    """The functions that write folders in the layout of the published checkpoints."""
    spec = importlib.util.spec_from_file_location("published_layout", Path(__file__).with_name("published_layout.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clip_pixels(number: int, size: tuple[int, int] = (48, 64), alpha: bool = False) -> np.ndarray:
    """Frame `number` of every made-up clip: gradients, and a red block that moves to the right by 2 pixels a frame."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns * 200 // width + 20, rows * 200 // height + 20, np.full(size, 20 + 5 * number % 200)], 2)
    left = 2 * number % (width - 8)
    pixels[8:16, left : left + 8] = (230, 40, 20)
    if alpha:
        pixels = np.dstack([pixels, np.where(columns < width // 2, 255, 0)])
    return pixels.astype(np.uint8)


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    """A function that writes a clip of `clip_pixels`, with a tone where `audio` names a codec, and gives its path back.

    `pts` are the time stamps in `time_base`; `color` is a matrix and a range; `more` is called with container and stream.
    """
    return _write_clip


def _write_clip(
    path: Path, frames: int = 12, size: tuple[int, int] = (48, 64), codec: str = "libx264", pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None, pts: Sequence[int] | None = None, time_base: Fraction = Fraction(1, 25),
    audio: str = "", color: tuple[int, int] | None = None, more: Callable[..., None] = lambda container, stream: None,
) -> Path:  # fmt: skip
    import av

    options = {"crf": "4", "preset": "ultrafast"} if options is None and codec == "libx264" else options
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=round(1 / time_base) if time_base > Fraction(1, 100) else 25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], pixel_format
        stream.codec_context.time_base = time_base
        reading = {}
        if color:
            stream.codec_context.colorspace, stream.codec_context.color_range = color
            reading = {"dst_colorspace": {6: 5}.get(color[0], color[0]), "src_color_range": 2, "dst_color_range": color[1]}
        tone = container.add_stream(audio, rate=48000, layout="mono") if audio else None
        more(container, stream)
        for number in range(frames):
            alpha = pixel_format.startswith("yuva")
            frame = av.VideoFrame.from_ndarray(clip_pixels(number, size, alpha), "rgba" if alpha else "rgb24")
            frame = frame.reformat(format=pixel_format, **reading)
            frame.pts, frame.time_base = pts[number] if pts else number, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone:
            _write_tone(container, tone, frames * 48000 // 25)
    return path


def _write_tone(container, stream, samples: int) -> None:
    import av

    wave = (8000 * np.sin(np.arange(samples) * 440 * 2 * np.pi / 48000)).astype(np.int16)[None]
    for begin in range(0, samples - 960, 960):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, begin : begin + 960]), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, begin, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _filled(folder: Path) -> Path:
    """`folder` with photos, paintings and clips of a few pixels and frames."""
    for subfolder in ("photos", "paintings", "clips"):
        (folder / subfolder).mkdir(parents=True)
    names = ("photo.jpg", "painting.jpg", "other.jpg", "photos/first.png", "photos/second.jpg", "paintings/red.png")
    for seed, name in enumerate(names):
        _blocks(seed).save(folder / name)
    Image.linear_gradient("L").resize((96, 64)).save(folder / "mask.png")
    (folder / "maps").mkdir()
    for name in ("first.png", "second.png"):
        Image.linear_gradient("L").resize((96, 64)).save(folder / "maps" / name)
    for name in ("clip.mp4", "clips/first.mp4", "clips/second.mp4"):
        _write_clip(folder / name)
    return folder


def _blocks(seed: int) -> Image.Image:
    """A picture of 96 x 64 pixels, in blocks of random colours."""
    colors = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize((96, 64), Image.Resampling.NEAREST)


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

"""The stages that can be trained, by name, and how each is opened: its data listed, its parts fresh or loaded.

Nothing heavy is loaded before a stage is opened, so that a command can be checked without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hicast.config.train import AdapterTraining, AutoencoderTraining, ImageTraining, RepaintTraining, TrainSettings
from hicast.training.sources import CLIPS, PICTURES, OnNote, list_sources

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hicast.config.model import ModelConfig
    from hicast.pipeline import HiCastPipeline
    from hicast.training.stage import Stage


@dataclass(frozen=True)
class Opening:
    """Where a stage is opened: device, folder of the run, and whom to tell of measuring and of files left out."""

    device: torch.device
    output: Path
    on_measure: Callable[[int, int], None] | None = None
    on_note: OnNote | None = None


@dataclass(frozen=True)
class StageKind:
    """A stage before it is opened: its settings, how to open it, the data it reads, and the keys that need a value."""

    settings: type[TrainSettings]
    open: Callable[[TrainSettings, Opening], Stage]
    reads: tuple[str, ...]
    needs: tuple[str, ...]


def check_data(settings: TrainSettings, kind: StageKind) -> None:
    """List all data that the stage reads; raises InputError for a place that is missing or holds none of it."""
    for key in kind.reads:
        list_sources(getattr(settings, key), CLIPS if key == "video" else PICTURES)


def _open_autoencoder(settings: AutoencoderTraining, opening: Opening) -> Stage:
    from hicast.config.layers import merge
    from hicast.training import start
    from hicast.training.autoencoder_stage import AutoencoderStage

    shape = merge(start.model_config(settings.model).autoencoder, settings.autoencoder)
    folder = start.start_folder(settings.start, "autoencoder", ("autoencoder", "image"))
    earlier = start.load_autoencoder(folder, shape, f"model {settings.model} says") if folder else None
    settings = settings.model_copy(update={"autoencoder": shape})
    vgg = start.shipped_style_encoder().vgg
    return AutoencoderStage(settings, [*settings.content, *settings.style], vgg, opening.device, earlier, opening.on_note)


def _open_image(settings: ImageTraining, opening: Opening) -> Stage:
    from hicast.encoders.style import StyleEncoder
    from hicast.io.weights import load_module
    from hicast.models.hicast_model import HiCastModel
    from hicast.pipeline import HiCastPipeline
    from hicast.training import start
    from hicast.training.image_stage import ImageStage

    config = start.merged_unet(start.model_config(settings.model), settings.unet)
    folder = start.start_folder(settings.start, "image", ("autoencoder", "image"))
    fresh = folder is None or not (folder / "unet").is_dir()
    if fresh:
        pipeline = _fresh_pipeline(settings, opening, config, folder)
    else:
        autoencoder = _image_autoencoder(settings, opening, folder, config.unet["out_channels"])
        _check_nets(folder, settings, config)
        model = HiCastModel.from_pretrained(folder)
        style_encoder = load_module(lambda stored: StyleEncoder(**stored), folder / "style_encoder")
        pipeline = HiCastPipeline(model, autoencoder, style_encoder, config.scheduler, index={"defaults": config.defaults})
    return ImageStage(settings, settings.content, settings.style, pipeline, _cache(opening), fit_style=fresh, device=opening.device,
                      on_measure=opening.on_measure, on_note=opening.on_note)


def _open_adapter(settings: AdapterTraining, opening: Opening) -> Stage:
    from hicast.pipeline import HiCastPipeline
    from hicast.training import start
    from hicast.training.drawing import check_drawing

    check_drawing(settings)
    from hicast.models.adapters import adapter_widths
    from hicast.training.adapter_stage import AdapterStage

    config = start.model_config(settings.model)
    base, earlier = start.base_of_adapter(settings.start, settings.model)
    if base is None:
        pipeline = _fresh_pipeline(settings, opening, config, None)
    else:
        _check_nets(base, settings, config)
        pipeline = HiCastPipeline.from_pretrained(base, "cpu", "float32")
    shape = {"channels": list(adapter_widths(pipeline.model.unet))} | settings.adapter
    adapter = start.open_adapter(settings.control, shape, settings.seed, earlier)
    return AdapterStage(settings, settings.content, settings.style, pipeline, _cache(opening), adapter, base=base, fit_style=base is None,
                        device=opening.device, on_measure=opening.on_measure, on_note=opening.on_note)


def _fresh_pipeline(settings: RepaintTraining, opening: Opening, config: ModelConfig, folder: Path | None) -> HiCastPipeline:
    """A net of the shape `config` with random weights, on the autoencoder in `folder`, of the model, or fitted to the pictures."""
    from hicast.encoders.style import StyleEncoder
    from hicast.models.build import build_model
    from hicast.pipeline import HiCastPipeline
    from hicast.training import start

    autoencoder = _image_autoencoder(settings, opening, folder, config.unet["out_channels"])
    model = build_model(config, settings.seed)
    style_encoder = StyleEncoder(**config.style_encoder)
    style_encoder.vgg.load_state_dict(start.shipped_style_encoder().vgg.state_dict())
    return HiCastPipeline(model, autoencoder, style_encoder, config.scheduler, index={"defaults": config.defaults})


def _check_nets(folder: Path, settings: RepaintTraining, config: ModelConfig) -> None:
    """Raise ModelError where the nets in `folder` have another shape than the model that the settings name."""
    from hicast.training import start

    start.check_shape(folder / "unet", config.unet, f"model {settings.model} says")
    start.check_shape(folder / "content_projection", config.content_projection, f"model {settings.model} says")


def _cache(opening: Opening) -> Path:
    return opening.output / "cache" / "styles.safetensors"


def _image_autoencoder(settings: RepaintTraining, opening: Opening, folder: Path | None, channels: int) -> nn.Module:
    """That of `--from`, else that of the model; for a model that has none, principal components of the pictures."""
    from hicast.io.weights import SHIPPED_MODELS
    from hicast.training import start

    if folder is None and (settings.model in SHIPPED_MODELS or Path(settings.model).is_dir()):
        folder = start.start_folder(settings.model, "image", ("autoencoder", "image"))
    if folder:
        return start.load_autoencoder(folder, {"latent_channels": channels}, f"the U-Net of model {settings.model} needs")
    from hicast.training.autoencoder_stage import fitted_autoencoder
    from hicast.training.data import PicturePool

    pool = PicturePool([*settings.content, *settings.style], settings.image_side, int(settings.cache_gigabytes * 2**30))
    return fitted_autoencoder(start.model_config(settings.model).autoencoder, pool, settings.seed)


STAGES = {
    "autoencoder": StageKind(AutoencoderTraining, _open_autoencoder, ("content", "style"), ("content", "output")),
    "image": StageKind(ImageTraining, _open_image, ("content", "style"), ("content", "style", "output")),
    "adapter": StageKind(AdapterTraining, _open_adapter, ("content", "style"), ("control", "content", "style", "output")),
}

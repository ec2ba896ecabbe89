"""The stages that can be trained, by name, and how each is opened: its data listed, its parts fresh or loaded.

Nothing heavy is loaded before a stage is opened, so that a command can be checked without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hicast.config.train import AutoencoderTraining, ImageTraining, TemporalTraining, TrainSettings
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
    """A stage before it is opened: its settings, how to open it, the data it reads, and the keys that need a value (of a tuple one)."""

    settings: type[TrainSettings]
    open: Callable[[TrainSettings, Opening], Stage]
    reads: tuple[str, ...]
    needs: tuple[str | tuple[str, ...], ...]


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
        start.check_shape(folder / "unet", config.unet, f"model {settings.model} says")
        start.check_shape(folder / "content_projection", config.content_projection, f"model {settings.model} says")
        style_encoder = load_module(lambda stored: StyleEncoder(**stored), folder / "style_encoder")
        autoencoder = _image_autoencoder(settings, opening, folder, config.unet["out_channels"])
        model = HiCastModel.from_pretrained(folder)
        pipeline = HiCastPipeline(model, autoencoder, style_encoder, config.scheduler, index={"defaults": config.defaults})
    cache = opening.output / "cache" / "styles.safetensors"
    return ImageStage(settings, settings.content, settings.style, pipeline, cache, fit_style=fresh, device=opening.device,
                      on_measure=opening.on_measure, on_note=opening.on_note)


def _fresh_pipeline(settings: TrainSettings, opening: Opening, config: ModelConfig, folder: Path | None = None) -> HiCastPipeline:
    """A pipeline whose net has just been built, with the autoencoder of `folder` or the model's own."""
    from hicast.encoders.style import StyleEncoder
    from hicast.models.build import build_model
    from hicast.pipeline import HiCastPipeline
    from hicast.training import start

    autoencoder = _image_autoencoder(settings, opening, folder, config.unet["out_channels"])
    model = build_model(config, settings.seed)
    style_encoder = StyleEncoder(**config.style_encoder)
    style_encoder.vgg.load_state_dict(start.shipped_style_encoder().vgg.state_dict())
    return HiCastPipeline(model, autoencoder, style_encoder, config.scheduler, index={"defaults": config.defaults})


def _image_autoencoder(settings: TrainSettings, opening: Opening, folder: Path | None, channels: int) -> nn.Module:
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


def _open_temporal(settings: TemporalTraining, opening: Opening) -> Stage:
    from hicast.training import start
    from hicast.training.temporal_stage import TemporalStage

    pipeline, base = start.clip_pipeline(settings, lambda config: _fresh_pipeline(settings, opening, config))
    cache = opening.output / "cache" / "styles.safetensors"
    return TemporalStage(settings, pipeline, cache, base=base, device=opening.device,
                         on_measure=opening.on_measure, on_note=opening.on_note)


STAGES = {
    "autoencoder": StageKind(AutoencoderTraining, _open_autoencoder, ("content", "style"), ("content", "output")),
    "image": StageKind(ImageTraining, _open_image, ("content", "style"), ("content", "style", "output")),
    "temporal": StageKind(TemporalTraining, _open_temporal, ("video", "content", "style"), (("video", "content"), "style", "output")),
}

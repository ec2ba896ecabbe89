"""The stages that can be trained, by name, and how each is opened: its data listed, its parts fresh or loaded.

Nothing heavy is loaded before a stage is opened, so that a command can be checked without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hicast.config.train import AdapterTraining, AutoencoderTraining, ImageTraining, TemporalTraining
from hicast.config.train_run import TrainSettings
from hicast.errors import OutputError
from hicast.training.sources import CLIPS, PICTURES, OnNote, list_sources

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hicast.config.model import ModelConfig
    from hicast.pipeline import HiCastPipeline
    from hicast.training.memory import Outline
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
    """A stage before it is opened: its settings, how to open it, the data it reads, and the keys that need a value (of a tuple one).

    `outline(settings)` gives the nets that it will have as a `memory.Outline`, for the memory that a run needs.
    """

    settings: type[TrainSettings]
    open: Callable[[TrainSettings, Opening], Stage]
    reads: tuple[str, ...]
    needs: tuple[str | tuple[str, ...], ...]
    outline: Callable[[TrainSettings], Outline]


def check_output(output: Path) -> None:
    """Raise OutputError where a file is in the way of the folder `output`."""
    file = next((place for place in (output, *output.parents) if place.exists() and not place.is_dir()), None)
    if file is not None:
        raise OutputError(f"--output {output}: expected a folder, there already or new, found a file at {file}; name another")


def check_data(settings: TrainSettings, kind: StageKind) -> dict[str, int]:
    """How many files there are of all data that the stage reads, by its key.

    Raises InputError for a place that is missing or holds none of it.
    """
    return {key: len(list_sources(getattr(settings, key), CLIPS if key == "video" else PICTURES)) for key in kind.reads}


def _open_autoencoder(settings: AutoencoderTraining, opening: Opening) -> Stage:
    from hicast.config.layers import merge
    from hicast.training import start
    from hicast.training.autoencoder_stage import AutoencoderStage

    shape = merge(start.autoencoder_config(settings.model), settings.autoencoder)
    folder = start.start_folder(settings.start, "autoencoder", ("autoencoder", "image"))
    earlier = start.load_autoencoder(folder, shape, f"model {settings.model} says") if folder else None
    settings = settings.model_copy(update={"autoencoder": shape})
    vgg = start.shipped_style_encoder().vgg
    return AutoencoderStage(settings, [*settings.content, *settings.style], vgg, opening.device, earlier, opening.on_note)


def _open_image(settings: ImageTraining, opening: Opening) -> Stage:
    from hicast.models.hicast_model import SHARES
    from hicast.training import start
    from hicast.training.noise_stage import stage_class

    config = start.merged_unet(start.model_config(settings.model), settings.unet)
    folder = start.start_folder(settings.start, "image", ("autoencoder", "image"))
    fresh = folder is None or not (folder / "unet").is_dir()
    start.check_base(settings.base, None if fresh else settings.start, settings.model, config)
    pipeline = _fresh_pipeline(settings, opening, config, folder) if fresh else _earlier_pipeline(settings, opening, config, folder)
    for share in SHARES:
        if getattr(settings, share) is not None:
            setattr(pipeline.model, share, getattr(settings, share))
        start.check_coloring(share, getattr(pipeline.model, share), pipeline.scheduler_config)
    pipeline.index |= start.index_of(config) | {"style_side": settings.style_side}
    stage = stage_class(pipeline.scheduler_config.get("prediction_type", "epsilon"), settings)
    return stage(settings, settings.content, settings.style, pipeline, _cache(opening), fit_style=fresh, device=opening.device,
                 on_measure=opening.on_measure, on_note=opening.on_note)


def _earlier_pipeline(settings: ImageTraining, opening: Opening, config: ModelConfig, folder: Path) -> HiCastPipeline:
    """The result of an earlier image stage."""
    from hicast.encoders.style import StyleEncoder
    from hicast.io.weights import load_context, load_module
    from hicast.models.hicast_model import HiCastModel
    from hicast.pipeline import HiCastPipeline

    _check_nets(folder, settings, config)
    autoencoder = _image_autoencoder(settings, opening, folder, config.unet["out_channels"])
    style_encoder = load_module(lambda stored: StyleEncoder(**stored), folder / "style_encoder")
    model = HiCastModel.from_pretrained(folder)
    return HiCastPipeline(model, autoencoder, style_encoder, config.scheduler, context=load_context(folder))


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


def _fresh_pipeline(settings: TrainSettings, opening: Opening, config: ModelConfig, folder: Path | None) -> HiCastPipeline:
    """A net of the shape `config` that is not trained for this yet: random, or stock Stable Diffusion where the model is made of that.

    A random one stands on the autoencoder in `folder`, of the model, or fitted to the pictures.
    """
    from hicast.encoders.style import StyleEncoder
    from hicast.models.build import build_model
    from hicast.pipeline import HiCastPipeline
    from hicast.training import start

    style_encoder = StyleEncoder(**config.style_encoder)
    style_encoder.vgg.load_state_dict(start.shipped_style_encoder().vgg.state_dict())
    base = getattr(settings, "base", None)
    if config.stock:
        from hicast.training.stock import stock_folder, stock_pipeline

        vae = getattr(settings, "vae", None)
        return stock_pipeline(stock_folder(base, opening.on_note), config, style_encoder, settings.seed, vae)
    autoencoder = _image_autoencoder(settings, opening, folder, config.unet["out_channels"])
    model = build_model(config, settings.seed)
    return HiCastPipeline(model, autoencoder, style_encoder, config.scheduler, index=start.index_of(config))


def _check_nets(folder: Path, settings: TrainSettings, config: ModelConfig) -> None:
    """Raise ModelError where the nets in `folder` have another shape than the model that the settings name."""
    from hicast.training import start

    start.check_shape(folder / "unet", config.unet, f"model {settings.model} says")
    start.check_shape(folder / "content_projection", config.content_projection, f"model {settings.model} says")


def _cache(opening: Opening) -> Path:
    return opening.output / "cache" / "styles.safetensors"


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

    pipeline, base = start.clip_pipeline(settings, lambda config: _fresh_pipeline(settings, opening, config, None))
    return TemporalStage(settings, pipeline, _cache(opening), base=base, device=opening.device,
                         on_measure=opening.on_measure, on_note=opening.on_note)


def _outline_autoencoder(settings: AutoencoderTraining) -> Outline:
    from hicast.training.outlines import outline_autoencoder

    return outline_autoencoder(settings)


def _outline_image(settings: ImageTraining) -> Outline:
    from hicast.training.outlines import outline_image

    return outline_image(settings)


def _outline_adapter(settings: AdapterTraining) -> Outline:
    from hicast.training.frozen_net_outlines import outline_adapter

    return outline_adapter(settings)


def _outline_temporal(settings: TemporalTraining) -> Outline:
    from hicast.training.frozen_net_outlines import outline_temporal

    return outline_temporal(settings)


STAGES = {
    "autoencoder": StageKind(AutoencoderTraining, _open_autoencoder, ("content", "style"), ("content", "output"), _outline_autoencoder),
    "image": StageKind(ImageTraining, _open_image, ("content", "style"), ("content", "style", "output"), _outline_image),
    "adapter": StageKind(AdapterTraining, _open_adapter, ("content", "style"), ("control", "content", "style", "output"), _outline_adapter),
    "temporal": StageKind(TemporalTraining, _open_temporal, ("video", "content", "style"), (("video", "content"), "style", "output"), _outline_temporal),
}

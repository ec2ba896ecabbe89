"""From a training request to a stage that can run: which parts are fresh, which come from an earlier result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hicast.config.model import ModelConfig
from hicast.config.presets import load_preset
from hicast.config.problems import validate
from hicast.config.train import AutoencoderTraining, ImageTraining, TrainSettings
from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.style import StyleEncoder
from hicast.errors import ModelError, UsageError
from hicast.io.weights import load_module, resolve_model
from hicast.models.build import build_model
from hicast.models.hicast_model import HiCastModel
from hicast.pipeline import HiCastPipeline
from hicast.training.autoencoder_stage import AutoencoderStage
from hicast.training.image_stage import ImageStage
from hicast.training.loop import Stage

SETTINGS = {"autoencoder": AutoencoderTraining, "image": ImageTraining}


@dataclass(frozen=True)
class TrainRequest:
    """What a run works on: folders of pictures, the earlier result it starts from, where its own goes.

    `model` is a name of `presets/models`; `start` a model folder, a shipped model's name or None for fresh weights.
    """

    content: Sequence[Path]
    style: Sequence[Path]
    output: Path
    model: str = "compact"
    start: str | None = None
    device: str = "cpu"


def open_stage(settings: TrainSettings, request: TrainRequest,
               on_measure: Callable[[int, int], None] | None = None) -> Stage:
    """The stage of `settings`, its data listed and its models loaded.

    Raises InputError for folders without pictures, UsageError or ModelError for a start that does not fit.
    """
    config = validate(load_preset(request.model, "models"), ModelConfig, f"model {request.model}")
    start = resolve_model(request.start) if request.start else None
    if isinstance(settings, AutoencoderTraining):
        return _autoencoder_stage(settings, request, start)
    if isinstance(settings, ImageTraining):
        return _image_stage(settings, request, config, start, on_measure)
    raise UsageError(f"stage: expected one of {', '.join(SETTINGS)}, found {type(settings).__name__}")


def _autoencoder_stage(settings: AutoencoderTraining, request: TrainRequest, start: Path | None) -> AutoencoderStage:
    earlier = _load_autoencoder(start) if start else None
    if earlier is not None and settings.model:
        raise UsageError("model: expected no shape for an autoencoder that starts from an earlier one; leave it out")
    vgg = _shipped_style_encoder(request.model).vgg
    return AutoencoderStage(settings, [*request.content, *request.style], vgg, request.device, earlier)


def _image_stage(settings: ImageTraining, request: TrainRequest, config: ModelConfig, start: Path | None,
                 on_measure: Callable[[int, int], None] | None) -> ImageStage:
    parts = start or resolve_model(request.model)
    fresh = start is None or not (start / "unet").is_dir()
    model = build_model(config, settings.seed) if fresh else HiCastModel.from_pretrained(start)
    if fresh:
        style_encoder = StyleEncoder(**config.style_encoder)
        style_encoder.vgg.load_state_dict(_shipped_style_encoder(request.model).vgg.state_dict())
    else:
        style_encoder = load_module(lambda stored: StyleEncoder(**stored), start / "style_encoder")
    pipeline = HiCastPipeline(model, _load_autoencoder(parts), style_encoder, config.scheduler,
                              index={"defaults": config.defaults})
    cache = request.output / "cache" / "styles.safetensors"
    return ImageStage(settings, request.content, request.style, pipeline, cache, fit_style=fresh,
                      device=torch.device(request.device), on_measure=on_measure)


def _load_autoencoder(folder: Path) -> ResidualAutoencoder:
    if not (folder / "vae").is_dir():
        raise ModelError(f"--from {folder}: expected the result of an autoencoder or image stage, found no folder vae in it")
    return load_module(lambda config: ResidualAutoencoder(**config), folder / "vae")


def _shipped_style_encoder(model: str) -> StyleEncoder:
    return load_module(lambda config: StyleEncoder(**config), resolve_model(model) / "style_encoder")

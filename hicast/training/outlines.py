"""Outlines of the stages `autoencoder` and `image`: their nets on the meta device, to know what a run needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from hicast.config.layers import merge
from hicast.config.model import ModelConfig
from hicast.config.train import OF_LATENTS, AutoencoderTraining, ImageTraining, RepaintTraining
from hicast.encoders.autoencoder import LatentCodec, ResidualAutoencoder, with_learning_decoder
from hicast.encoders.latent_moments import LatentMoments
from hicast.encoders.style import STYLE_DIM, TOKEN_DIM, StyleCode, statistics
from hicast.encoders.vgg import STYLE_TAPS, Vgg16
from hicast.losses.blocks import blockiness
from hicast.losses.clouds import cloudiness
from hicast.losses.color import color_quantiles
from hicast.losses.perceptual import feature_quantiles, gram, instance_normalize, lattice_energy, layer_statistics, relief_distance, repetition
from hicast.losses.targets import local_deviation
from hicast.losses.transport import neighbourhoods
from hicast.models.adapters import Residuals
from hicast.models.build import build_model
from hicast.models.conditions import Conditions
from hicast.models.device import statistics_dtype
from hicast.models.hicast_model import HiCastModel
from hicast.training.adversary import Adversary
from hicast.training.autoencoder_stage import DETAIL_TAPS
from hicast.training.image_stage import image_taps
from hicast.training.image_terms import TAPS
from hicast.training.memory import Outline
from hicast.training.start import autoencoder_config, check_base, merged_unet, model_config

_TEXT_TOKENS = 77


def outline_autoencoder(settings: AutoencoderTraining) -> Outline:
    """Encoder, decoder and VGG-16 of the stage `autoencoder`."""
    shape = merge(autoencoder_config(settings.model), settings.autoencoder)
    with torch.device("meta"):
        autoencoder, vgg = ResidualAutoencoder(**shape), frozen_vgg(Vgg16(), settings.frozen_dtype)
    for part in (autoencoder.project, autoencoder.encoder):
        part.requires_grad_(not settings.freeze_encoder)

    def judge(samples: int) -> Any:
        return vgg(meta(samples, 3, settings.crop, settings.crop, gradient=True), DETAIL_TAPS) if settings.losses.get("perceptual") else None

    def through(samples: int) -> Any:
        return autoencoder.decode(autoencoder.encode(meta(samples, 3, settings.crop, settings.crop)))

    return Outline((autoencoder,), (vgg,), through, judge)


def outline_image(settings: ImageTraining) -> Outline:
    """U-Net and content projection of the stage `image`, judged through autoencoder and VGG-16."""
    config = merged_unet(model_config(settings.model), settings.unet)
    check_base(settings.base, settings.start, settings.model, config)
    channels = config.unet["out_channels"]
    with torch.device("meta"):
        model, adversary = build_model(config), Adversary(settings, torch.device("meta"))
    net, learns = (model.unet, model.content_projection), "decoder" in settings.trained
    codec, vgg = judges(config, "float32" if learns else settings.frozen_dtype)
    side = settings.crop // codec.factor
    taps = STYLE_TAPS if settings.reference else image_taps(settings)
    if "net" not in settings.trained:
        frozen(model, "float32")
    if learns:
        with_learning_decoder(codec.autoencoder)

    def judge(samples: int) -> Any:
        decoded = codec.decode(meta(samples, channels, side, side, gradient=True)).float()
        features = vgg(decoded, taps) if taps else {}
        restored = [codec.decode(meta(samples, channels, side, side))] if settings.losses.get("reconstruction") else []
        painting, keep = meta(samples, 3, settings.crop, settings.crop), torch.ones(samples, dtype=torch.bool, device="meta")
        return [*of_features(settings, features), *of_picture(settings, decoded), *restored, *adversary.terms(decoded, painting, keep, 0).values()]

    def through(samples: int) -> Any:
        return predict(model, meta(samples, channels, side, side), config.style_encoder.get("token_grid", 0))

    trained = [*(net if "net" in settings.trained else ()), *((codec.autoencoder,) if learns else ()), *adversary.modules.values()]
    borrowed = () if "net" in settings.trained else net
    seen = any(weight for name, weight in settings.losses.items() if name not in OF_LATENTS)
    return Outline(tuple(trained), (vgg,) if learns else (codec.autoencoder, vgg), through, judge if seen else None, borrowed, channels * side**2)


def judges(config: ModelConfig, dtype: str) -> tuple[LatentCodec, Vgg16]:
    """The frozen autoencoder and VGG-16 of a model, computing in `dtype`."""
    kind = AutoencoderKL if "block_out_channels" in config.autoencoder else ResidualAutoencoder
    with torch.device("meta"):
        autoencoder, vgg = kind(**{"latent_channels": config.unet["out_channels"]} | config.autoencoder), Vgg16()
    return LatentCodec(frozen(autoencoder, dtype)), frozen_vgg(vgg, dtype)


def of_features(settings: RepaintTraining, features: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """What the terms in use compute from VGG features: float32 copies that are larger than the features themselves."""
    if getattr(settings, "reference", False):
        yield statistics(features)
        return
    measures = {"style": layer_statistics, "distribution": feature_quantiles, "gram": gram, "content": instance_normalize,
                "target": Tensor.float, "target_texture": lambda layer: local_deviation(layer, 4), "target_gram": gram, "transport": _neighbourhoods,
                "contextual": _neighbourhoods}  # fmt: skip
    for term, measure in measures.items():
        if settings.losses.get(term):
            yield from (measure(features[name]) for name, weight in getattr(settings, TAPS[term]).items() if weight)


def _neighbourhoods(layer: Tensor) -> Tensor:
    return neighbourhoods(layer)[0]


def of_picture(settings: RepaintTraining, decoded: Tensor) -> Iterator[Tensor]:
    """What the terms in use compute from the decoded picture."""
    measures = {"color": color_quantiles, "lattice": lattice_energy, "repetition": lambda image: repetition(image, image.detach()),
                "relief": lambda image: relief_distance(image, image.detach()), "clouds": lambda image: cloudiness(image, image.detach()), "blocks": blockiness}  # fmt: skip
    yield from (measure(decoded) for term, measure in measures.items() if settings.losses.get(term))


def predict(model: HiCastModel, latents: Tensor, token_grid: int, residuals: Residuals | None = None) -> Tensor:
    """The net on meta `latents` (batch, channels, height, width), with style tokens or a text context of the usual length."""
    width = model.unet.config.encoder_hid_dim or model.unet.config.cross_attention_dim
    tokens = meta(1, token_grid**2, TOKEN_DIM) if token_grid else meta(1, _TEXT_TOKENS, width)
    style = StyleCode(meta(1, STYLE_DIM), moments=LatentMoments.of(latents[:1].detach()))
    conditions = Conditions.of(latents, style, tokens, residuals, 1.0)
    return model(latents, meta(), conditions)


def frozen(module: nn.Module, dtype: str) -> nn.Module:
    """`module` without gradients in the dtype called `dtype`."""
    return nn.Module.to(module.requires_grad_(False), getattr(torch, dtype))


def frozen_vgg(vgg: Vgg16, dtype: str) -> nn.Module:
    """VGG-16 without gradients beside nets in the dtype called `dtype`."""
    return nn.Module.to(vgg.requires_grad_(False), statistics_dtype(getattr(torch, dtype)))


def meta(*shape: int, gradient: bool = False) -> Tensor:
    """A float32 tensor of `shape` that has no values."""
    return torch.empty(shape, device="meta", requires_grad=gradient)

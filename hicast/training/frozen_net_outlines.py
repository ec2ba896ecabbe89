"""Outlines of the stages `adapter` and `temporal`, whose net for pictures is frozen, and yet gradients pass through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hicast.config.train import AdapterTraining, TemporalTraining
from hicast.controls.depth import DptDepth
from hicast.controls.edge import gradient_edges
from hicast.controls.hed import Hed
from hicast.diffusion.prediction import clean_estimate
from hicast.diffusion.sampling import make_scheduler
from hicast.encoders.vgg import STYLE_TAPS
from hicast.models.adapters import AdapterSet, adapter_widths
from hicast.models.build import build_model
from hicast.models.temporal import TemporalLayers
from hicast.training.drawing import check_drawing, dead_terms
from hicast.training.image_terms import TAPS
from hicast.training.memory import Outline
from hicast.training.outlines import frozen, judges, meta, of_features, of_picture, predict
from hicast.training.repaint_stage import taps
from hicast.training.start import fresh_adapter, layer_choices, model_config, own_net
from hicast.training.temporal_terms import Steadied, temporal_terms
from hicast.training.tracks import frame_pairs

DPT = "dpt-hybrid-midas"
DPT_SHAPE = {"is_hybrid": True, "neck_hidden_sizes": [256, 512, 768, 768], "reassemble_factors": [1, 1, 1, 0.5]}
"""What the configuration of Intel/dpt-hybrid-midas says beside the defaults."""


def outline_adapter(settings: AdapterTraining) -> Outline:
    """The adapter of the stage `adapter`, the net that it acts on, and what looks at the result.

    The net computes in `frozen_dtype`; a fresh one, which is saved too, has a copy then. Of extractors with a net, that of `hed` and of `dpt-hybrid-midas` are counted.
    """
    config = model_config(settings.model)
    channels, grid = config.unet["out_channels"], config.style_encoder.get("token_grid", 0)
    with torch.device("meta"):
        model = frozen(build_model(config), settings.frozen_dtype)
        widths = adapter_widths(model.unet)
        adapter = fresh_adapter({"channels": list(widths)} | settings.adapter)
    codec, vgg = judges(config, settings.frozen_dtype)
    adapters, side = AdapterSet({settings.control: adapter}, widths), settings.crop // codec.factor
    for surplus in adapter.adapter.body[len(widths) :]:
        surplus.requires_grad_(False)
    layers = STYLE_TAPS if settings.reference and settings.losses.get("style") else taps(settings, TAPS)
    compare, eyes = _compare(settings)

    def through(samples: int) -> Any:
        residuals = adapters.features({settings.control: meta(samples, 3, settings.crop, settings.crop)})[settings.control]
        return predict(model, meta(samples, channels, side, side), grid, residuals)

    def judge(samples: int) -> Any:
        decoded = codec.decode(meta(samples, channels, side, side, gradient=True)).float()
        features = vgg(decoded, layers) if layers else {}
        maps = [compare(decoded).square().mean()] if compare else []
        return [*of_features(settings, features), *of_picture(settings, decoded), *maps]

    net = (model.unet, model.content_projection)
    copied = _is_saved(settings) and settings.frozen_dtype != "float32"
    frozen_nets, borrowed = ((codec.autoencoder, vgg, *net), eyes) if copied else ((codec.autoencoder, vgg), (*net, *eyes))
    return Outline((adapter,), frozen_nets, through, judge, borrowed, channels * side**2)


def outline_temporal(settings: TemporalTraining) -> Outline:
    """The temporal layers of the stage `temporal` in the net for pictures, and the decoder behind it; a sample is a clip."""
    config = model_config(settings.model)
    channels, grid, frames = config.unet["out_channels"], config.style_encoder.get("token_grid", 0), settings.frames
    with torch.device("meta"):
        model = frozen(build_model(config), settings.frozen_dtype)
        layers = TemporalLayers.for_unet(model.unet, **layer_choices(settings, config))
    for name, parameter in layers.named_parameters():
        parameter.requires_grad_(not (settings.reference and "down_blocks" in name))
    layers.inject(model.unet)
    layers.frames = frames
    codec, vgg = judges(config, settings.frozen_dtype)
    scheduler, side = make_scheduler("ddim", config.scheduler), settings.crop // codec.factor

    def through(samples: int) -> Any:
        return predict(model, meta(samples * frames, channels, side, side), grid)

    def judge(samples: int) -> Any:
        shape = (samples * frames, channels, side, side)
        prediction, others, pairs = meta(*shape, gradient=True), meta(*shape), len(frame_pairs(frames))
        estimate = clean_estimate(scheduler, prediction, others, scheduler.config.num_train_timesteps - 1)
        places = meta(samples, pairs, settings.crop, settings.crop, 2)
        content = meta(samples, frames, 3, settings.crop, settings.crop)
        steadied = Steadied(settings, prediction, others, others, estimate, others, content, places, places[..., 0] > 0)
        return temporal_terms(steadied, codec.decode, torch.Generator())

    nets = (model.unet, model.content_projection, codec.autoencoder)
    if _is_saved(settings):
        return Outline((layers,), nets, through, judge, (frozen(vgg, "float32"),), frames * channels * side**2)
    return Outline((layers,), (), through, judge, (*nets, frozen(vgg, "float32")), frames * channels * side**2)


def _is_saved(settings: AdapterTraining | TemporalTraining) -> bool:
    """Whether the net for pictures is a fresh one, which is saved with the result in the precision that it came with."""
    return own_net(settings.start, settings.model) is None


def _compare(settings: AdapterTraining) -> tuple[Callable[[Tensor], Tensor] | None, tuple[nn.Module, ...]]:
    """What sees the map of a result with a gradient, if anything does, and the nets of all extractors in use."""
    draws, compares = check_drawing(settings)
    nets = {name: _extractor_net(name, settings.frozen_dtype) for name in {draws, compares} - {None}}
    eyes = tuple(net for net in nets.values() if net is not None)
    if compares is None or "control" in dead_terms(settings):
        return None, eyes
    return nets[compares] or gradient_edges, eyes


def _extractor_net(name: str, dtype: str) -> nn.Module | None:
    """The net of an extractor without its values; None for one that has none."""
    if name == "hed":
        with torch.device("meta"):
            net = frozen(Hed(), "float32")
        frozen(net.vgg, dtype)
        return net
    if name != DPT:
        return None
    from transformers import DPTConfig, DPTForDepthEstimation

    with torch.device("meta"):
        return frozen(DptDepth(DPTForDepthEstimation(DPTConfig(**DPT_SHAPE))), dtype)

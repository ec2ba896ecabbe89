"""Fresh models from a model configuration, ready to be trained."""

from __future__ import annotations

import torch
from torch import nn

from hicast.config.model import ModelConfig
from hicast.models.hicast_model import HiCastModel
from hicast.models.unet import ContentProjection, build_unet


def build_model(config: ModelConfig, seed: int = 0) -> HiCastModel:
    """A randomly initialised net; with `content_skip` its output convolution starts near zero.

    So the first prediction is the modulated content itself, and training adds to it. The state of torch's global
    generator is kept.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = build_unet(config.unet)
        width = unet.time_embedding.linear_2.out_features
        projection = ContentProjection(embedding_dim=width, **config.content_projection)
        if config.content_skip:
            nn.init.normal_(unet.conv_out.weight, std=1e-3)
            nn.init.zeros_(unet.conv_out.bias)
    return HiCastModel(unet, projection, config.content_skip, config.coloring, config.matching)

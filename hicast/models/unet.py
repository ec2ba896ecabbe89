"""The stock U-Net as our nets use it, and the small projection that brings the content to it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from hicast.encoders.style import STYLE_DIM
from hicast.errors import ModelError

PADDING_MODES = ("zeros", "replicate")

_SMALLEST_STD = 1e-4


def build_unet(config: Mapping[str, Any]) -> UNet2DConditionModel:
    """A stock U-Net whose class embedding is the style vector, from `config`: the stock keys and `conv_padding_mode`.

    The padding mode is kept in the U-Net's config, so that a saved folder says it. Raises ModelError for unknown keys.
    """
    stock = {key: value for key, value in config.items() if not key.startswith("_")}
    padding_mode = stock.pop("conv_padding_mode", "zeros")
    stock["class_embed_type"] = "projection"
    stock["projection_class_embeddings_input_dim"] = STYLE_DIM
    unknown = sorted(set(stock) - set(inspect.signature(UNet2DConditionModel.__init__).parameters))
    if unknown:
        raise ModelError(f"U-Net config: expected the keys of UNet2DConditionModel, found also {', '.join(unknown)}")
    unet = UNet2DConditionModel(**stock)
    set_padding_mode(unet, padding_mode)
    return unet


def set_padding_mode(unet: UNet2DConditionModel, mode: str) -> None:
    """Let every 3x3 convolution of `unet` pad with `mode` (`zeros` or `replicate`) and note it in the config.

    Zero padding tells the net where the border is; losses on statistics then reward borders that glow in the colours
    the picture lacks. Repeating the edge takes that knowledge away. Raises ModelError for an unknown mode.
    """
    if mode not in PADDING_MODES:
        raise ModelError(f"conv_padding_mode: expected one of {', '.join(PADDING_MODES)}, found '{mode}'")
    for module in unet.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            vertical, horizontal = module.padding
            module.padding_mode = mode
            module._reversed_padding_repeated_twice = [horizontal, horizontal, vertical, vertical]
    unet.register_to_config(conv_padding_mode=mode)


def normalize_content(latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (batch, channels, height, width) with mean 0 and unbiased std 1 per channel, and that mean and std.

    `mean` and `std` are (batch, channels, 1, 1). Source: reference, section 2. Differs from it for a (nearly) constant
    channel, whose std is held at 1e-4: it becomes 0 instead of NaN.
    """
    correction = min(1, latents[0, 0].numel() - 1)
    std, mean = torch.std_mean(latents, dim=(2, 3), keepdim=True, correction=correction)
    std = std.clamp_min(_SMALLEST_STD)
    return (latents - mean) / std, mean, std


class ContentProjection(ModelMixin, ConfigMixin):
    """Scale and shift of the content by the U-Net's own embedding, then two 1x1 convolutions (reference, section 2)."""

    @register_to_config
    def __init__(self, content_channels: int = 4, refined_channels: int = 3, embedding_dim: int = 1280) -> None:
        """`embedding_dim` is the width of the U-Net's time embedding; the modulation starts as the identity."""
        super().__init__()
        both = 2 * content_channels
        self.modulation = nn.Sequential(nn.Linear(embedding_dim, both), nn.SiLU(), nn.Linear(both, both))
        self.projection = nn.Sequential(
            nn.Conv2d(content_channels, refined_channels, 1),
            nn.SiLU(),
            nn.Conv2d(refined_channels, refined_channels, 1),
        )
        nn.init.zeros_(self.modulation[-1].weight)
        nn.init.zeros_(self.modulation[-1].bias)

    def modulate(self, content: Tensor, embedding: Tensor) -> Tensor:
        """`content` (batch, channels, height, width) scaled and shifted as `embedding` (batch, embedding_dim) says."""
        shift, scale = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        return content * (1 + scale) + shift

    def refine(self, modulated: Tensor) -> Tensor:
        """What the U-Net is given beside the latents: (batch, refined_channels, height, width)."""
        return self.projection(modulated)

    def forward(self, content: Tensor, embedding: Tensor) -> Tensor:
        """`refine` after `modulate`."""
        return self.refine(self.modulate(content, embedding))

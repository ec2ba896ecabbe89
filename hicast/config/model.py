"""The configuration of a whole model, from which a fresh one is built."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

Part = dict[str, Any]


class ModelConfig(BaseModel):
    """A model's parts by name, each with the arguments of its class (a file of `presets/models`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = ""
    stock: str | None = None
    """Hub id of the Stable Diffusion whose net a fresh model starts from and whose autoencoder it keeps."""
    autoencoder: Part = {}
    style_encoder: Part = {}
    content_projection: Part = {}
    content_skip: bool = False
    unet: Part
    scheduler: Part
    temporal: Part = {}
    """Choices of fresh temporal layers (`TemporalLayers.for_unet`); none gives those of the published net."""
    noise_scale: float = 1.0
    """Share of the noise that sampling starts from; below 1 for nets that are trained to start from little."""
    defaults: Part = {}
    """Settings that stylizing falls back to, such as `steps` and `size`."""

"""Settings of a training run: one frozen model per stage, every key of a training preset."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class TrainSettings(BaseModel):
    """What every stage shares: length, optimizer, saving. Rates are per step, sides in pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = ""
    seed: int = 0
    steps: Positive = 1000
    batch_size: Positive = 16
    crop: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    zoom: tuple[float, float] = (0.35, 1.0)
    """Least and largest share of a picture's short side that a crop covers."""
    learning_rate: Annotated[float, Field(gt=0)] = 6e-4
    final_rate: Share = 0.02
    """Learning rate at the end of the cosine, as a share of `learning_rate`."""
    warmup: Annotated[int, Field(ge=0)] = 100
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(gt=0)] = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.995
    losses: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Weight of each loss term; a term at 0 is not computed."""
    frozen_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of nets that are not trained; weights that train are float32."""
    autocast: Literal["float32", "bfloat16"] = "float32"
    """Precision of the trained nets' arithmetic."""
    checkpoint_every: Positive = 500
    keep_checkpoints: Positive = 2
    log_every: Positive = 20
    cache_gigabytes: Annotated[float, Field(ge=0)] = 4.0
    """Memory for decoded pictures; beyond it files are decoded again."""
    image_side: Annotated[int, Field(ge=64)] = 384
    """Pictures are reduced to this short side when they are read."""


class AutoencoderTraining(TrainSettings):
    """Stage `autoencoder`: reconstruct photos and paintings through the latent."""

    stage: Literal["autoencoder"] = "autoencoder"
    crop: Annotated[int, Field(ge=32, multiple_of=32)] = 96
    learning_rate: Annotated[float, Field(gt=0)] = 1.2e-3
    losses: dict[str, Annotated[float, Field(ge=0)]] = {"l1": 1.0, "detail": 0.5, "energy": 0.2, "perceptual": 0.1}
    perceptual_from: Share = 0.3
    """Share of the steps after which the perceptual term begins (it is the slow one)."""
    latent_noise: Annotated[float, Field(ge=0)] = 0.1
    """Largest standard deviation of noise added to latents before decoding."""
    freeze_encoder: bool = False
    """Train the decoder alone, so that nets trained on the latents stay valid."""
    model: dict = {}
    """Configuration of `ResidualAutoencoder`, where it differs from its defaults."""


class ImageTraining(TrainSettings):
    """Stage `image`: the latent diffusion model that takes content and style as conditions."""

    stage: Literal["image"] = "image"
    losses: dict[str, Annotated[float, Field(ge=0)]] = {"style": 6.0, "content": 0.6, "lattice": 3.0, "latent": 1.0}
    style_layers: dict[str, float] = {"relu1_2": 3.0, "relu2_2": 2.0, "relu3_3": 1.0, "relu4_3": 0.3}
    gram_layers: dict[str, float] = {"relu2_2": 1.0, "relu3_3": 1.0}
    content_layers: dict[str, float] = {"relu3_3": 0.5, "relu4_1": 1.0}
    style_side: Annotated[int, Field(ge=64)] = 256
    """Short side at which style pictures are encoded, in training and afterwards."""
    drop_style: Share = 0.08
    drop_content: Share = 0.03
    self_pairs: Share = 0.12
    """Share of samples whose content is the style picture itself."""
    style_scale: tuple[float, float] = (0.0, 2.0)
    """Range of the style scale given to the net; 1 is drawn for half of the samples."""
    grid_steps: Annotated[int, Field(ge=1, le=8)] = 4
    later_steps: Share = 0.25
    """Share of batches at later steps of the sampling grid, from the net's own first estimate."""
    unet: dict = {}
    """Configuration of the U-Net, where it differs from the model's preset."""
    content_channels: Positive = 24

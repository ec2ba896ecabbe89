"""The configuration of a whole model, from which a fresh one is built, and what the index of a model folder may say."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hicast.config.stylize import StylizeSettings

Part = dict[str, Any]

LEAST_SIDE, LARGEST_SIDE = 32, 8192
"""Short sides in pixels that a model may be worked at."""


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
    coloring: Annotated[float, Field(ge=0, le=4)] = 0.0
    """How far predicted latents are moved to the moments of the painting's for each unit of the net's style scale: 1 is wholly, and the most."""
    matching: Annotated[float, Field(ge=0, le=4)] = 0.0
    """How far, likewise, they are then moved to the distribution of the painting's neighbourhoods."""
    unet: Part
    scheduler: Part
    temporal: Part = {}
    """Choices of fresh temporal layers (`TemporalLayers.for_unet`); none gives those of the published net."""
    noise_scale: float = 1.0
    """Share of the noise that sampling starts from; below 1 for nets that are trained to start from little."""
    style_unit: Annotated[float, Field(gt=0, le=1)] = 1.0
    """What a style scale of 1 is to a net with an embedded scale; below 1 for one that is best before its own 1."""
    defaults: Part = {}
    """Settings that stylizing falls back to, such as `steps` and `size`."""


def _sides(value: Any) -> Any:
    """`value` where it is two sides in pixels, the smaller first; raises ValueError."""
    whole = isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value)
    if not whole or not LEAST_SIDE <= value[0] <= value[1] <= LARGEST_SIDE:
        raise ValueError(f"expected two whole numbers from {LEAST_SIDE} to {LARGEST_SIDE}, the smaller first, found {value}")
    return value


class ModelIndex(BaseModel):
    """The keys of a model folder's index that have a meaning of ours; a folder may lack any, and others may stand beside them."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    base: str | None = None
    """Where the model lies that this one is a part of: the name of a shipped model, or a path seen from the folder."""
    autoencoder: str = "ResidualAutoencoder"
    defaults: StylizeSettings = StylizeSettings()
    """Settings that stylizing falls back to."""
    style_side: Annotated[int, Field(ge=LEAST_SIDE, le=LARGEST_SIDE)] = 256
    """Short side at which paintings are encoded, in pixels."""
    side_range: Annotated[list[int], BeforeValidator(_sides)] = [256, 1024]
    """Least and largest short side to work at unless told otherwise, in pixels."""
    tile: Annotated[int, Field(ge=64, le=LARGEST_SIDE)] = 2048
    """Side of the net's tiles, in pixels."""
    noise_scale: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the noise that sampling starts from."""
    style_unit: Annotated[float, Field(gt=0, le=1)] = 1.0
    """What a style scale of 1 is to the net."""

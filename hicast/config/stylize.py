"""Settings of stylizing: what a style preset may say, and what one run is done with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hicast.config.adapters import LOOKS_LIKE_WEIGHT, Use
from hicast.config.layers import Layer, combine, command_layer, merge
from hicast.config.presets import load_preset
from hicast.config.problems import validate
from hicast.errors import SettingsError, UsageError

DEFAULT_PRESET = "balanced"
PRESET = "preset "
"""How the origin of a preset's layer begins."""

Control = Literal["edge", "depth", "seg"]

BY_NAME = ("adapters", "controls", "extractors", "extractor_weights", "adapter_folders")
"""Keys that hold values by name; those of a record stand for a whole run, so they replace weaker ones instead of joining them."""


class VideoSettings(BaseModel):
    """How a clip is cut: frames at a time and frames shared by neighbours; and the noise of its frames."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    window: Annotated[int, Field(ge=1, le=128)] = 16
    overlap: Annotated[int, Field(ge=0, le=64)] = 4
    shared_noise: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the noise that all frames have in common."""
    residual_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Pixels that change less from frame to frame, relative to the most in the window, keep the noise of the frame before, as published: the
    change is that of the map of edge, else of another control in use, else of the frames. 0: none does."""


def check_windows(window: int, overlap: int) -> None:
    """Raise UsageError where neighbouring windows of a clip would share all of their frames.

    A clip's settings are checked when those of the model are known, so not here one by one.
    """
    if overlap >= window:
        raise UsageError(f"video.overlap: expected less than the window of {window} frames, found {overlap}; lower it, or raise video.window")


class PresetSettings(BaseModel):
    """The look: every key that a style preset may set. None leaves the choice to the model."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    style_scale: Annotated[float, Field(ge=0, le=2)] = 1.0
    content_scale: Annotated[float, Field(ge=0, le=3)] = 1.0
    texture: Annotated[float, Field(ge=0, le=2)] = 1.0
    """How much of the painting's texture flat areas of pictures get, from models that lay any; frames of clips get none."""
    adapters: dict[Control, Use] = {}
    """Weight of each style adapter, such as 0.8, or 0.8@0-0.6 for a share of the steps; 0 is the same as none."""
    extractors: dict[Control, str] = {}
    """Which extractor makes a control's map."""
    steps: Annotated[int, Field(ge=1, le=100)] | None = None
    scheduler: str | None = None
    size: Annotated[int, Field(ge=32, le=8192)] | None = None
    """Short side to work at, in pixels."""
    content_latent: Literal["mode", "sample"] = "mode"
    """What of the autoencoder's posterior: its mode, or a sample drawn with the seed, as the published scripts take it (unseeded)."""
    square: bool = False
    """Squash the content to a square to work at, as the published scripts do, instead of keeping its proportions."""
    preserve_color: bool = False
    video: VideoSettings = VideoSettings()


class StylePreset(PresetSettings):
    """A preset file with its description, after its bases are laid under it."""

    description: str = ""


class RegionSettings(BaseModel):
    """A part of the picture with a strength of style or a painting of its own.

    `where` is a mask (a grey picture, a video, or a folder that mirrors the inputs) or the name of an extractor that draws one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    where: str
    style_scale: Annotated[float, Field(ge=0, le=2)] | None = None
    style: str | None = None
    """File of a painting."""

    @model_validator(mode="after")
    def _says_something(self) -> RegionSettings:
        if self.style_scale is None and self.style is None:
            raise ValueError("expected style_scale or style, found neither; give the region one")
        return self


class StylizeSettings(PresetSettings):
    """One run: the look and what is needed to repeat it."""

    controls: dict[Control, str] = {}
    """Own maps: a file, or a folder that mirrors the inputs."""
    extractor_weights: dict[str, str] = {}
    """Weights of extractors that do not ship, by the extractor's name."""
    adapter_folders: dict[Control, str] = {}
    """Adapters that are joined with the model: the folders of the runs that trained them."""
    regions: list[RegionSettings] = []
    """Later ones lie over earlier ones."""
    keep_outside: bool = False
    """Keep the photo's pixels where no region is."""
    model: str = "compact"
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    keep_size: bool = False
    """Leave the result at the working size."""
    tile: Annotated[int, Field(ge=64, le=8192)] | None = None
    """Side of the tiles that large pictures are cut into, in pixels; None lets the model choose."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    engine: Literal["auto", "torch", "openvino"] = "auto"
    """What runs the denoising net; a result's record names the one that did."""
    compile: bool = False
    """Compile the net before the first step: minutes, and faster steps after them."""
    offload: Literal["none", "model", "sequential"] = "none"
    """What of the model is on the GPU: all of it, the part that computes, or the layer that computes."""
    max_megapixels: Annotated[float, Field(gt=0)] = 100.0
    """Largest picture that is read."""


def load_style_preset(name: str) -> dict[str, Any]:
    """Keys and values of a style preset, checked; raises SettingsError with all its problems, UsageError for an unknown name."""
    values = load_preset(name)
    validate(values, StylePreset, f"preset {name}")
    return values


def stylize_layers(
    command: str,
    preset: str | None = None,
    record: Layer | None = None,
    words: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> tuple[str, list[Layer]]:
    """The preset's name and all layers of a run but the model's defaults, the weakest first.

    `hicast.yaml` < preset < `record` (`--from-settings`) < `words` (`--set`) < `flags`. A preset that is not asked for by
    `preset` (the default one, or one that `hicast.yaml` names) is weaker than `hicast.yaml`. A folder among the words for
    `adapters` is one that `adapter_folders` wants.
    """
    own = command_layer(command, StylizeSettings)
    own_values = dict(own.values) if own else {}
    named_there = own_values.pop("preset", None) or DEFAULT_PRESET
    if not isinstance(named_there, str):
        raise SettingsError([f"{own.origin}: preset: expected text, found {named_there}"])
    name = preset or named_there
    look = Layer(f"{PRESET}{name}", _look(name))
    project = [Layer(own.origin, own_values)] if own else []
    below = [*project, look] if preset else [look, *project]
    asked = [Layer("--set", _folders_apart(words or {})), Layer("command line", flags or {})]
    if record:
        replaced = {key for key in BY_NAME if key in record.values}
        below = [Layer(layer.origin, {key: value for key, value in layer.values.items() if key not in replaced}) for layer in below]
        below.append(record)
    return name, [*below, *asked]


def resolve_stylize(layers: Sequence[Layer], model_defaults: Mapping[str, Any] | None = None) -> StylizeSettings:
    """The settings of a run from its layers over the model's defaults; raises one SettingsError with every problem."""
    return combine([Layer("model defaults", model_defaults or {}), *layers], StylizeSettings)


def asked_adapters(layers: Sequence[Layer]) -> set[str]:
    """Adapters that a user has named, and not just a preset."""
    return {name for layer in layers if not layer.origin.startswith(PRESET) for name in layer.values.get("adapters", {})}


def _folders_apart(words: Mapping[str, Any]) -> dict[str, Any]:
    """`adapters.edge=FOLDER` as a folder of `adapter_folders`; what begins like a weight and is no folder stays one."""
    adapters = words.get("adapters")
    if not isinstance(adapters, Mapping):
        return dict(words)
    folders = {name: value for name, value in adapters.items()
               if isinstance(value, str) and (Path(value).is_dir() or not LOOKS_LIKE_WEIGHT.match(value))}  # fmt: skip
    if not folders:
        return dict(words)
    weights = {name: value for name, value in adapters.items() if name not in folders}
    return merge({**words, "adapters": weights}, {"adapter_folders": folders})


def _look(name: str) -> dict[str, Any]:
    """A preset's keys as a layer, unchecked: `combine` reports its problems together with all others."""
    return {key: value for key, value in load_preset(name).items() if key != "description"}

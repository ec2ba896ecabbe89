"""Temporal layers: what turns a stock U-Net for pictures into one for clips, put in and taken out without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import gcd
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from hicast.errors import ModelError
from hicast.models.temporal_layers import (
    PADDINGS,
    TemporalAttention,
    TemporalConvolution,
    clip_tokens,
    clip_volume,
    first_and_previous,
    fold_volume,
    frame_tokens,
)

ATTENTIONS = ("joint", "first_previous", "frame")
NORMS = ("clip", "frame")

CHOICES = ("conv_groups", "temporal_attention", "attention", "norm", "padding", "zero_start")
"""What `TemporalLayers.for_unet` can be told."""

Places = Mapping[str, Sequence[int]]
"""Name of a module of the U-Net to the numbers its layer is built with."""


class TemporalLayers(ModelMixin, ConfigMixin):
    """The layers of a clip, which live beside the U-Net and act in it through hooks while they are injected.

    Frames are folded into the batch, (batch * frames, channels, height, width), clip by clip; style, context and
    timestep have a row per frame too. How many frames a clip has is told before each forward:

        layers = TemporalLayers.for_unet(model.unet, ...)
        layers.inject(model.unet)
        with layers.clip(frames=15):
            prediction = model(latents, timestep, conditions)

    Outside `clip` the U-Net works on pictures, as if nothing had been injected. With gradient checkpointing the
    backward pass belongs inside `clip`. Fresh layers leave the result of a clip that stands still as it is.

    Published net (the defaults): all convolutions, `attention="joint"` (one attention over all tokens of the clip),
    `norm="clip"` (statistics over the clip), temporal attention. For the compact net, cheap and with statistics that do
    not depend on the clip's length: `conv_groups=(8, 8, 1), temporal_attention=(1, 2), attention="first_previous",
    norm="frame", padding="replicate"`; its temporal attention alone sees all frames. Source: reference, section 6.
    """

    @register_to_config
    def __init__(
        self,
        conv_places: Places,
        attention_places: Places,
        offset_places: Places,
        attention: str = "joint",
        norm: str = "clip",
        padding: str = "zeros",
        zero_start: bool = False,
    ) -> None:
        """The layers of named places; `for_unet` finds these.

        `conv_places`: (channels, groups) by 2-D convolution. `attention_places`: (width, heads) by transformer block.
        `offset_places`: (width,) by transformer block whose temporal attention is nothing but its output bias.
        `zero_start`: temporal attention starts as the published one, at a dead point. Raises ModelError for an unknown
        choice.
        """
        super().__init__()
        _check_choice("attention", attention, ATTENTIONS)
        _check_choice("norm", norm, NORMS)
        _check_choice("padding", padding, PADDINGS)
        self.convolutions = nn.ModuleDict(
            {module_key(name): TemporalConvolution(*numbers, padding) for name, numbers in conv_places.items()}
        )
        self.attentions = nn.ModuleDict(
            {module_key(name): TemporalAttention(*numbers, zero_start) for name, numbers in attention_places.items()}
        )
        self.offsets = nn.ParameterDict(
            {module_key(name): torch.zeros(*width) for name, width in offset_places.items()}
        )
        self.frames: int | None = None
        self._handles: list[Any] = []

    @classmethod
    def for_unet(
        cls,
        unet: UNet2DConditionModel,
        conv_groups: Sequence[int] | None = None,
        temporal_attention: bool | Sequence[int] = True,
        **choices: Any,
    ) -> TemporalLayers:
        """Fresh layers for all places of `unet`, or for some of its levels (0 is the finest).

        `conv_groups`: groups of the temporal convolutions of each level, 0 for none (None: 1 everywhere); those after
        `conv_in` and `conv_out` are always there. `temporal_attention`: whether there is any, or at which levels.
        `choices`: `attention`, `norm`, `padding`, `zero_start`. Raises ModelError for another number of levels.
        """
        levels = len(unet.config.block_out_channels)
        groups = [1] * levels if conv_groups is None else list(conv_groups)
        if len(groups) != levels:
            raise ModelError(f"temporal layers: expected conv_groups for {levels} levels, found {len(groups)}")
        attended = range(levels) if temporal_attention is True else temporal_attention or ()
        conv_places, attention_places = {}, {}
        for name, module in unet.named_modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
                count = 1 if name in ("conv_in", "conv_out") else groups[_level(name, levels)]
                if count:
                    conv_places[name] = (module.out_channels, gcd(count, module.out_channels))
            elif isinstance(module, BasicTransformerBlock) and _level(name, levels) in attended:
                attention_places[name] = (_width(module), module.attn1.heads)
        return cls(conv_places, attention_places, {}, **choices)

    @contextmanager
    def clip(self, frames: int | None) -> Iterator[TemporalLayers]:
        """Inside, every `frames` rows of a batch are a clip, with None each is a picture; another batch raises ModelError."""
        before, self.frames = self.frames, frames
        try:
            yield self
        finally:
            self.frames = before

    def inject(self, unet: UNet2DConditionModel) -> None:
        """Put the layers into `unet`, whose modules, names and weights stay as they are; `eject` takes them out.

        Raises ModelError if they are in a U-Net already or do not fit this one.
        """
        if self._handles:
            raise ModelError("temporal layers: expected them free, found them in a U-Net: eject them first")
        modules = dict(unet.named_modules())
        self._check_places(modules)
        handles = [unet.register_forward_pre_hook(self._check_batch, with_kwargs=True)]
        for name in self.config.conv_places:
            handles.append(modules[name].register_forward_hook(self._after(self.convolutions[module_key(name)])))
        for name in self.config.attention_places:
            handles.append(modules[name].register_forward_hook(self._after(self.attentions[module_key(name)])))
        for name in self.config.offset_places:
            handles.append(modules[name].register_forward_hook(self._after(self._offset(module_key(name)))))
        for name, module in modules.items():
            if isinstance(module, nn.GroupNorm) and ".attentions." not in name:
                handles += self._widen_norm(module)
            elif isinstance(module, BasicTransformerBlock) and not module.only_cross_attention:
                handles += self._widen_attention(module.attn1)
        self._handles = handles

    def eject(self) -> None:
        """Take the layers out of the U-Net they are in, if any, and leave it as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _after(self, layer: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
            return None if self.frames is None else layer(output, self.frames)

        return hook

    def _offset(self, key: str) -> Callable[[Tensor, int], Tensor]:
        return lambda tokens, frames: tokens + self.offsets[key].to(tokens.dtype)

    def _widen_norm(self, norm: nn.GroupNorm) -> list[Any]:
        """Let `norm` take its statistics over the frames of a clip too."""
        if self.config.norm == "frame":
            return []

        def before(module: nn.Module, inputs: tuple) -> tuple | None:
            return None if self.frames is None else (clip_volume(inputs[0], self.frames),)

        return [
            norm.register_forward_pre_hook(before),
            norm.register_forward_hook(self._after(lambda volume, frames: fold_volume(volume))),
        ]

    def _widen_attention(self, attention: nn.Module) -> list[Any]:
        """Let a self-attention see tokens of other frames; how it attends stays the U-Net's own affair."""
        if self.config.attention == "frame":
            return []

        def join(module: nn.Module, inputs: tuple, options: dict) -> tuple[tuple, dict] | None:
            return None if self.frames is None else ((clip_tokens(inputs[0], self.frames), *inputs[1:]), options)

        def look_back(module: nn.Module, inputs: tuple, options: dict) -> tuple[tuple, dict] | None:
            if self.frames is None:
                return None
            return inputs, {**options, "encoder_hidden_states": first_and_previous(inputs[0], self.frames)}

        if self.config.attention == "first_previous":
            return [attention.register_forward_pre_hook(look_back, with_kwargs=True)]
        return [
            attention.register_forward_pre_hook(join, with_kwargs=True),
            attention.register_forward_hook(self._after(frame_tokens)),
        ]

    def _check_places(self, modules: Mapping[str, nn.Module]) -> None:
        """Raise ModelError at the first place that the U-Net lacks or has in another width."""
        places = {**self.config.conv_places, **self.config.attention_places, **self.config.offset_places}
        for name, (width, *_) in places.items():
            found = _width(modules.get(name))
            if found != width:
                found = "no such layer" if found is None else found
                raise ModelError(f"temporal layers: expected '{name}' of width {width} in the U-Net, found {found}")

    def _check_batch(self, unet: nn.Module, inputs: tuple, options: dict) -> None:
        batch = len(inputs[0] if inputs else options["sample"])
        if self.frames is not None and (self.frames < 1 or batch % self.frames):
            raise ModelError(f"clip: expected a batch of whole clips of {self.frames} frames, found {batch} frames")


def module_key(name: str) -> str:
    """The name of a module of the U-Net as a key of ours, which must hold no dot."""
    return name.replace(".", "-")


def _check_choice(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ModelError(f"temporal layers: expected {key} to be one of {', '.join(known)}, found '{value}'")


def _width(module: nn.Module | None) -> int | None:
    """Channels of what a convolution or a transformer block gives; None for any other module."""
    if isinstance(module, nn.Conv2d):
        return module.out_channels
    return module.norm3.normalized_shape[0] if isinstance(module, BasicTransformerBlock) else None


def _level(name: str, levels: int) -> int:
    """The level of a module inside the U-Net's blocks, 0 being the finest."""
    part, index = name.split(".")[:2]
    if part == "down_blocks":
        return int(index)
    return levels - 1 - int(index) if part == "up_blocks" else levels - 1

"""Published video checkpoints (FAST / HiCAST) taken apart into the image net and temporal layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hicast.errors import ModelError
from hicast.models.published import PublishedParts, State, convert_unet, shape_problems
from hicast.models.temporal import TemporalLayers, module_key
from hicast.models.temporal_layers import TemporalConvolution
from hicast.models.unet import build_unet

_TEMPORAL = "temporal"
_OLD_INPUT = "conv_in.conv_temporal."
_INPUT = "conv_in_new.conv_temporal."
_PARTS = {
    ".conv_temporal.": ("convolutions", ""),
    ".attn_temporal.": ("attentions", "attention."),
    ".norm_temporal.": ("attentions", "norm."),
}
_VIDEO_CONFIG_KEYS = ("fps_embed_type", "num_fps_embeds")


@dataclass(frozen=True)
class PublishedVideoParts:
    """The parts of the image net and those of the temporal layers, ready for `TemporalLayers(**temporal_config)`."""

    image: PublishedParts
    temporal_config: dict[str, Any]
    temporal: State

    def layers(self) -> TemporalLayers:
        """The temporal layers, in float32, ready to be injected into `image.model().unet`."""
        layers = TemporalLayers(**self.temporal_config)
        layers.load_state_dict(self.temporal)
        return layers.eval()


def convert_video_unet(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> PublishedVideoParts:
    """Parts of a published video U-Net from its tensors and its config.json.

    Layers that do nothing are left out: convolutions that are the identity, temporal attention whose weights are all
    zero (of it only the output bias stays, if there is one). Source: reference, sections 6 and 9. Raises ModelError
    naming every tensor that is not accounted for or missing.
    """
    flat = {key: value for key, value in state.items() if _TEMPORAL not in key}
    image = convert_unet(flat, _image_config(config))
    temporal = {
        _own_key(key.replace(_INPUT, "conv_in.conv_temporal.")): value
        for key, value in state.items()
        if _TEMPORAL in key and not key.startswith(_OLD_INPUT)
    }
    with torch.device("meta"):
        whole = TemporalLayers.for_unet(build_unet(image.unet_config))
    _check_complete(whole.state_dict(), temporal)
    places = {
        "conv_places": dict(whole.config.conv_places),
        "attention_places": dict(whole.config.attention_places),
        "offset_places": {},
    }
    _leave_out_idle(places, temporal)
    return PublishedVideoParts(image, places, temporal)


def _image_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the image net with the same 2-D weights."""
    kept = {key: value for key, value in config.items() if key not in _VIDEO_CONFIG_KEYS}
    kept["mid_block_type"] = _stock_name(config["mid_block_type"])
    for key in ("down_block_types", "up_block_types"):
        kept[key] = [_stock_name(name) for name in config[key]]
    return kept


def _stock_name(block_type: str) -> str:
    return block_type.replace("Pseudo3D", "2D")


def _own_key(key: str) -> str:
    """`mid_block.resnets.0.conv1.conv_temporal.weight` as our `convolutions.mid_block-resnets-0-conv1.weight`."""
    for marker, (table, inner) in _PARTS.items():
        name, found, rest = key.partition(marker)
        if found:
            return f"{table}.{module_key(name)}.{inner}{rest}"
    return key


def _check_complete(expected: State, found: State) -> None:
    if missing := sorted(set(expected) - set(found)):
        raise ModelError(f"published video U-Net: expected every temporal tensor, found no {', '.join(missing)}")
    if unknown := sorted(set(found) - set(expected)):
        where = "only after convolutions and in transformer blocks"
        raise ModelError(f"published video U-Net: expected temporal tensors {where}, found {', '.join(unknown)}")
    if problems := shape_problems("its part for clips", expected, found):
        raise ModelError(f"published video U-Net: expected temporal tensors as its config asks for, found that {problems[0]}")


def _leave_out_idle(places: dict[str, dict[str, Any]], temporal: State) -> None:
    """Take what does nothing out of `places` and `temporal`."""
    for name, (channels, _) in list(places["conv_places"].items()):
        layer = f"convolutions.{module_key(name)}."
        identity = TemporalConvolution(channels).state_dict()
        if all(torch.equal(temporal[layer + key].float(), value) for key, value in identity.items()):
            _remove(name, layer, places["conv_places"], temporal)
    for name, (width, _) in list(places["attention_places"].items()):
        layer = f"attentions.{module_key(name)}."
        matrices = [f"{layer}attention.{part}.weight" for part in ("to_q", "to_k", "to_v", "to_out.0")]
        if any(temporal[key].any() for key in matrices):
            continue
        bias = temporal[f"{layer}attention.to_out.0.bias"]
        _remove(name, layer, places["attention_places"], temporal)
        if bias.any():
            places["offset_places"][name] = (width,)
            temporal[f"offsets.{module_key(name)}"] = bias


def _remove(name: str, layer: str, table: dict[str, Any], temporal: State) -> None:
    del table[name]
    for key in [key for key in temporal if key.startswith(layer)]:
        del temporal[key]

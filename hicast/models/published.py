"""Published checkpoints (FAST / HiCAST, stage image) taken apart into stock and own parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hicast.encoders.style import StyleEncoder
from hicast.encoders.vgg import lpips_input, rename_torchvision_keys
from hicast.errors import ModelError
from hicast.models.hicast_model import HiCastModel
from hicast.models.unet import ContentProjection, build_unet

_UNET_RENAMED = {
    "conv_in_new.": "conv_in.",
    "style_emb.0.": "class_embedding.linear_1.",
    "style_emb.2.": "class_embedding.linear_2.",
}
_PROJECTION_RENAMED = {"content_adaLN_modulation.": "modulation.", "content_in.": "projection."}
_OWN_CONFIG_KEYS = ("content_channels", "content_refined_channels", "style_channels", "vgg_pretrained")
_NULL_STYLE = "null_style_vector.weight"
_VGG = "vgg."
_SCALING = "vgg_scaling_layer."
_OLD_INPUT = "conv_in."

State = dict[str, Tensor]


@dataclass(frozen=True)
class PublishedParts:
    """Configs and weights of the parts, ready for `build_unet`, `ContentProjection` and `StyleEncoder`."""

    unet_config: dict[str, Any]
    unet: State
    projection_config: dict[str, Any]
    projection: State
    style_config: dict[str, Any]
    style: State

    def model(self) -> HiCastModel:
        """The net, in float32, ready for inference."""
        unet = build_unet(self.unet_config)
        unet.load_state_dict(self.unet)
        projection = ContentProjection(**self.projection_config)
        projection.load_state_dict(self.projection)
        return HiCastModel(unet, projection).eval()

    def style_encoder(self) -> StyleEncoder:
        """The style encoder with the checkpoint's own VGG and null style, in float32."""
        encoder = StyleEncoder(**self.style_config)
        encoder.load_state_dict(self.style, strict=False)
        return encoder.eval()


def convert_unet(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> PublishedParts:
    """Parts of a published image U-Net from its tensors and its config.json; the unused old `conv_in` is dropped.

    Source: reference, section 9. Raises ModelError naming every tensor that is not accounted for or missing.
    """
    unet, projection, vgg, rest = {}, {}, {}, {}
    for key, value in state.items():
        if key.startswith(_OLD_INPUT):
            continue
        if new := _renamed(key, _PROJECTION_RENAMED):
            projection[new] = value
        elif key.startswith((_SCALING, _NULL_STYLE)):
            rest[key] = value
        elif key.startswith(_VGG):
            vgg[key] = value
        else:
            unet[_renamed(key, _UNET_RENAMED) or key] = value
    _check_scaling(rest)
    null_style = {"null_style": rest[_NULL_STYLE][0]} if _NULL_STYLE in rest else {}
    parts = PublishedParts(
        unet_config=_unet_config(config),
        unet=unet,
        projection_config=_projection_config(config),
        projection=projection,
        style_config={"normalization": "lpips"},
        style={**null_style, **{f"vgg.{key}": value for key, value in rename_torchvision_keys(vgg).items()}},
    )
    _check_complete(parts)
    return parts


def _renamed(key: str, table: Mapping[str, str]) -> str | None:
    for old, new in table.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return None


def _unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    stock = {k: v for k, v in config.items() if k not in _OWN_CONFIG_KEYS and not k.startswith("_")}
    refined = config.get("content_refined_channels", 3)
    return {**stock, "in_channels": stock.get("in_channels", 4) + refined}


def _projection_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "content_channels": config.get("content_channels", 4),
        "refined_channels": config.get("content_refined_channels", 3),
        "embedding_dim": 4 * config["block_out_channels"][0],
    }


def _check_scaling(rest: Mapping[str, Tensor]) -> None:
    """The checkpoint's scaling layer must be the one that `lpips` stands for."""
    shift, scale = rest.get(f"{_SCALING}shift"), rest.get(f"{_SCALING}scale")
    if shift is None or scale is None:
        return
    probe = torch.linspace(-1, 1, 6).view(2, 3, 1, 1)
    if not torch.allclose((probe - shift.float()) / scale.float(), lpips_input(probe), atol=1e-3):
        raise ModelError("published U-Net: expected the LPIPS scaling layer before its VGG, found other constants")


def shape_problems(part: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """A sentence for the first tensor of `part` in both that has another shape than expected, and how many more there are."""
    odd = [key for key in sorted(set(expected) & set(found)) if expected[key].shape != found[key].shape]
    if not odd:
        return []
    more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
    return [f"{part} has {odd[0]} of shape {tuple(found[odd[0]].shape)} where its config asks for {tuple(expected[odd[0]].shape)}{more}"]


def _check_complete(parts: PublishedParts) -> None:
    """Raise ModelError unless each part has just the tensors that its config asks for, in their shapes."""
    with torch.device("meta"):
        encoder = StyleEncoder(**parts.style_config)
        wanted = {
            "U-Net": (build_unet(parts.unet_config).state_dict(), parts.unet),
            "content projection": (ContentProjection(**parts.projection_config).state_dict(), parts.projection),
            "style encoder": ({key: value for key, value in encoder.state_dict().items() if key not in ("mean", "std")}, parts.style),
        }
    problems = []
    for part, (expected, found) in wanted.items():
        if missing := sorted(set(expected) - set(found)):
            problems.append(f"{part} lacks {', '.join(missing)}")
        if unknown := sorted(set(found) - set(expected)):
            problems.append(f"{part} has unknown {', '.join(unknown)}")
        problems += shape_problems(part, expected, found)
    if problems:
        raise ModelError(f"published U-Net: expected every tensor of the method, found that {'; '.join(problems)}")

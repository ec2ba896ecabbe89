"""The nets that metrics look through: the bundled VGG-16, or VGG-19 where the user has its weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from hicast.encoders.style import StyleEncoder
from hicast.encoders.vgg import STYLE_TAPS, Vgg16
from hicast.errors import ModelError
from hicast.io.weights import load_module, load_safetensors, place, resolve_model
from hicast.models.device import pick_dtype

BLOCKS_19 = (2, 2, 4, 4, 4)
"""Convolutions of each block of VGG-19 (arXiv 1409.1556)."""

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

TAPS = tuple(sorted({*STYLE_TAPS, "relu2_1", "relu3_1", "relu4_1", "relu5_1"}))
"""Layers that the metrics of one picture read."""

PUBLISHED_TAPS = ("relu2_2", "relu3_2", "relu4_2")
"""Layers of the published Gram metric (reference, section 8)."""

Net = Callable[[Tensor, Sequence[str]], Mapping[str, Tensor]]
"""Features by tap of an image (batch, 3, height, width) in [-1, 1]."""


@dataclass(frozen=True)
class Eye:
    """A net under the `name` that tables show, on its `device`; `quick` is the dtype of what needs speed more than digits."""

    name: str
    net: Net
    device: torch.device
    quick: torch.dtype = torch.float32

    @torch.inference_mode()
    def look(self, image: Tensor, taps: Sequence[str] = TAPS, quick: bool = False) -> dict[str, Tensor]:
        """Features (batch, channels, h, w) by tap of `image` (batch, 3, height, width) in [-1, 1], float32 in plain order."""
        with torch.autocast(self.device.type, self.quick, enabled=quick and self.quick != torch.float32):
            found = self.net(image.to(self.device), taps)
        return {name: features.float().contiguous() for name, features in found.items()}


def open_eye(vgg19: Path | None = None, device: torch.device | str = "cpu") -> Eye:
    """VGG-19 from the file `vgg19`, else the VGG-16 that ships with `compact`; ModelError where it cannot be read."""
    device = torch.device(device)
    quick = torch.bfloat16 if pick_dtype("auto", device) == torch.bfloat16 else torch.float32
    if vgg19 is not None:
        return Eye("VGG-19", Vgg19(load_tensors(vgg19), device), device, quick)
    folder = resolve_model("compact") / "style_encoder"
    vgg: Vgg16 = load_module(lambda config: StyleEncoder(**config), folder).vgg
    return Eye("VGG-16", place(vgg.requires_grad_(False), device, torch.float32), device, quick)


class Vgg19:
    """The convolutions of VGG-19 with torchvision's weights, fed as torchvision feeds them."""

    def __init__(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        """`state` holds `features.0.weight`, ... as torchvision saves it; raises ModelError for other weights."""
        self._layers: dict[str, tuple[Tensor, Tensor]] = {}
        at = 0
        for block, count in enumerate(BLOCKS_19, 1):
            for i in range(1, count + 1):
                keys = [next((key for key in (f"features.{at}.{kind}", f"{at}.{kind}") if key in state), None) for kind in ("weight", "bias")]
                if None in keys:
                    raise ModelError(f"VGG-19: expected torchvision's 'features.{at}.weight' and its bias, found neither; give its file")
                weight, bias = (state[key].float().to(device) for key in keys)
                self._layers[f"{block}_{i}"] = weight, bias
                at += 2
            at += 1

    def __call__(self, image: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Features at `taps`, such as `relu4_1`, of `image` (batch, 3, height, width) in [-1, 1]."""
        mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (_IMAGENET_MEAN, _IMAGENET_STD))
        features, found, wanted = ((image.float() + 1) / 2 - mean) / std, {}, set(taps)
        for layer, (weight, bias) in self._layers.items():
            if layer.endswith("_1") and layer != "1_1":
                features = functional.max_pool2d(features, 2)
            features = functional.relu(functional.conv2d(features, weight, bias, padding=1))
            if f"relu{layer}" in wanted:
                found[f"relu{layer}"] = features
            if len(found) == len(wanted):
                break
        return found


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors or torch file, or of all such files in a folder; ModelError where there are none.

    Torch files are read as bare weights, never as code.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".safetensors", ".pth", ".pt"))
        merged = {key: tensor for file in files for key, tensor in load_tensors(file).items()}
        if not merged:
            raise ModelError(f"weights: expected .safetensors or .pth files in {path}, found none; name another folder")
        return merged
    if path.suffix == ".safetensors" or not path.is_file():
        return load_safetensors(path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"weights: expected a file of weights, found: {error.strerror or error} at {path}; check the path") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError, IndexError) as error:
        raise ModelError(f"weights: expected bare weights (safetensors, .pth or .pt), found something else in {path}; save them as safetensors") from error
    stored = stored.get("state_dict", stored) if isinstance(stored, Mapping) else {}
    return {key: tensor for key, tensor in stored.items() if isinstance(tensor, Tensor)}

"""Holistically-nested edges (HED): VGG-16 with an edge score at each of its five scales, and where its weights lie."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from hicast.controls import Weights, missing_weights
from hicast.encoders.vgg import BLOCKS, CAFFE_MEAN_BGR, LAYERS, STYLE_TAPS, Vgg16
from hicast.errors import ModelError
from hicast.io.weights import load_safetensors

MEAN_BGR = (104.007, 116.669, 122.679)
"""Mean colour of the original weights (reference, section 5)."""

HUB, HUB_FILE = "lllyasviel/Annotators", "ControlNetHED.pth"
"""Where controlnet-aux takes its own weights of the same net from."""


class Hed(nn.Module):
    """Edges of a picture, differentiable. Source: arXiv 1504.06375.

    VGG-16 is read at the last layer of each block; a 1x1 convolution scores each, the scores are enlarged to the
    picture's size, mixed and put through a sigmoid. controlnet-aux's version takes RGB, another mean and the plain mean of the scores:
    the same net with other numbers. A picture must have 16 pixels a side; only `vgg` may be cast to bfloat16.
    """

    def __init__(self) -> None:
        """Make the net with random weights."""
        super().__init__()
        self.vgg = Vgg16("caffe")
        self.scores = nn.ModuleList(nn.Conv2d(width, 1, 1) for width, _ in BLOCKS)
        self.fuse = nn.Conv2d(len(BLOCKS), 1, 1)
        self.register_buffer("mean", torch.tensor(MEAN_BGR))

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, 3, height, width) in [0, 1], float32, of `image` (batch, 3, height, width) in [-1, 1]."""
        shift = (image.new_tensor(CAFFE_MEAN_BGR) - self.mean.to(image)).flip(0).view(1, 3, 1, 1) / 127.5
        features = self.vgg(image + shift, STYLE_TAPS)
        size = image.shape[-2:]
        scores = [
            functional.interpolate(score(features[tap].float()), size=size, mode="bilinear")
            for score, tap in zip(self.scores, STYLE_TAPS, strict=True)
        ]
        return self.fuse(torch.cat(scores, dim=1)).sigmoid().expand(-1, 3, -1, -1)


def load_hed(weights: Weights) -> Hed:
    """The net with weights from a safetensors file, or from a folder or the hub's cache as controlnet-aux has them.

    Frozen, in float32. Raises ModelError where there are none, or others.
    """
    path = _find(weights)
    if path is None:
        raise missing_weights("hed", weights)
    net = Hed()
    state = _from_hub(path) if path.suffix == ".pth" else _from_safetensors(path)
    expected = {name: tensor.shape for name, tensor in net.state_dict().items()}
    found = {name: tensor.shape for name, tensor in state.items()}
    if found != expected:
        wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise ModelError(f"extractor hed: expected the weights of a HED net in {path}, found another {wrong[0]}; give another file")
    net.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return net.requires_grad_(False).eval()


def _find(weights: Weights) -> Path | None:
    """The file that `weights` means, if there is one."""
    if weights is not None and Path(weights).is_file():
        return Path(weights)
    if weights is not None and Path(weights).is_dir():
        return next(iter([*Path(weights).glob(HUB_FILE), *sorted(Path(weights).glob("*hed*.safetensors"))]), None)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(str(weights or HUB), HUB_FILE)
    except HFValidationError:  # a path that does not exist is no hub id
        return None
    return Path(cached) if isinstance(cached, str) else None


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    """Our names for `conv{block}_{i}`, `dsn1` to `dsn5` and `fuse`, which the original weights are converted to."""
    renamed = {"mean": torch.tensor(MEAN_BGR)}
    for name, tensor in load_safetensors(path).items():
        part, _, kind = name.partition(".")
        if part.startswith("dsn") and part[3:].isdecimal():
            part = f"scores.{int(part[3:]) - 1}"
        elif part.startswith("conv"):
            part = f"vgg.{part}"
        renamed[f"{part}.{kind}"] = tensor
    return renamed


def _from_hub(path: Path) -> dict[str, Tensor]:
    """controlnet-aux's weights under our names: RGB turned to BGR, and the mean of the scores as a mixture."""
    try:
        stored: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        state = {"mean": stored["norm"].flatten().flip(0)}
        for layer in LAYERS:
            block, i = layer.split("_")
            for kind in ("weight", "bias"):
                state[f"vgg.conv{layer}.{kind}"] = stored[f"block{block}.convs.{int(i) - 1}.{kind}"]
        for block in range(len(BLOCKS)):
            for kind in ("weight", "bias"):
                state[f"scores.{block}.{kind}"] = stored[f"block{block + 1}.projection.{kind}"]
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"extractor hed: expected controlnet-aux's weights in {path}, found: {reason}; fetch it again") from error
    state["vgg.conv1_1.weight"] = state["vgg.conv1_1.weight"].flip(1)
    state["fuse.weight"] = torch.full((1, len(BLOCKS), 1, 1), 1 / len(BLOCKS))
    state["fuse.bias"] = torch.zeros(1)
    return state

"""The small net that draws soft edges, depth and people: convolutions down to 1/32 and back up, one channel out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from hicast.errors import ModelError
from hicast.io.weights import check_shapes, load_safetensors, read_metadata, save_safetensors

SHIPPED = Path(__file__).parents[1] / "weights" / "controls"
"""Where the weights lie that come with the package."""

WIDTHS = "widths"
"""Name of the metadata that says how wide a net is."""


class MapNet(nn.Module):
    """A residual encoder and a decoder with skips; the last step to the picture's size is a pixel shuffle.

    While it learns, each convolution has a batch norm behind it (`norm`), which `folded` takes into the convolution.
    """

    def __init__(self, widths: Sequence[int], norm: bool = False) -> None:
        """Channels of each level in `widths`, the first at half of the picture's size, each next at half of that."""
        super().__init__()
        self.widths = tuple(widths)
        pairs = list(zip(self.widths, self.widths[1:], strict=False))
        self.stem = _Convolution(3, self.widths[0], norm, stride=2)
        self.down = nn.ModuleList(nn.Sequential(_Convolution(low, high, norm, stride=2), _Residual(high, norm)) for low, high in pairs)
        self.lateral = nn.ModuleList(_Convolution(high, low, norm, size=1) for low, high in pairs)
        self.up = nn.ModuleList(_Convolution(low, low, norm) for low, _ in pairs)
        self.head = nn.Conv2d(self.widths[0], 4, 3, padding=1)

    @property
    def multiple(self) -> int:
        """Sides that are a multiple of this need no padding."""
        return 2 ** len(self.widths)

    def forward(self, image: Tensor) -> Tensor:
        """Values (batch, 1, height, width) without bounds of `image` (batch, 3, height, width) in [-1, 1], of any size."""
        height, width = image.shape[-2:]
        right, below = -width % self.multiple, -height % self.multiple
        features = functional.pad(image, (0, right, 0, below), mode="replicate") if right or below else image
        features = self.stem(features.contiguous(memory_format=torch.channels_last))
        levels = []
        for down in self.down:
            levels.append(features)
            features = down(features)
        for level, lateral, up in zip(levels[::-1], self.lateral[::-1], self.up[::-1], strict=True):
            features = up(level + functional.interpolate(lateral(features), size=level.shape[-2:], mode="bilinear"))
        return functional.pixel_shuffle(self.head(features), 2)[..., :height, :width]

    @torch.no_grad()
    def folded(self) -> MapNet:
        """The same net with its batch norms taken into the convolutions, as it is saved and used."""
        plain = MapNet(self.widths)
        for source, target in zip(self.modules(), plain.modules(), strict=True):
            if isinstance(source, _Convolution):
                target.take(source)
        plain.head.load_state_dict(self.head.state_dict())
        return plain.eval()


class _Convolution(nn.Module):
    """A convolution, a batch norm where one is wanted, and a ReLU."""

    def __init__(self, channels: int, width: int, norm: bool, stride: int = 1, size: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.kaiming_normal_(torch.empty(width, channels, size, size)))
        self.bias = nn.Parameter(torch.zeros(width))
        self.stride = stride
        if norm:
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("variance", torch.ones(width))
            self.gain = nn.Parameter(torch.ones(width))

    def forward(self, features: Tensor, activated: bool = True) -> Tensor:
        padding = self.weight.shape[-1] // 2
        if not hasattr(self, "gain"):
            features = functional.conv2d(features, self.weight, self.bias, self.stride, padding)
        else:
            features = functional.conv2d(features, self.weight, None, self.stride, padding)
            features = functional.batch_norm(features, self.mean, self.variance, self.gain, self.bias, self.training, 0.05)
        return functional.relu(features) if activated else features

    def take(self, source: _Convolution) -> None:
        """The weights of `source` with its batch norm, if it has one, taken into them."""
        scale = source.gain * (source.variance + 1e-5).rsqrt() if hasattr(source, "gain") else torch.ones_like(source.bias)
        shift = source.mean * scale if hasattr(source, "gain") else torch.zeros_like(source.bias)
        self.weight.copy_(source.weight * scale.view(-1, 1, 1, 1))
        self.bias.copy_(source.bias - shift)


class _Residual(nn.Module):
    """Two convolutions whose result is added to their input."""

    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.first, self.second = (_Convolution(width, width, norm) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        return functional.relu(features + self.second(self.first(features), activated=False))


def save_map_net(net: MapNet, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a folded net as float16 safetensors that say how wide it is; raises OutputError where that fails."""
    state = {name: tensor.half() for name, tensor in net.state_dict().items()}
    save_safetensors(state, path, {WIDTHS: json.dumps(net.widths), **metadata})


def load_map_net(path: Path) -> MapNet:
    """The net in a file written by `save_map_net`; frozen, in float32. Raises ModelError where the file holds another."""
    try:
        net = MapNet(json.loads(read_metadata(path)[WIDTHS]))
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ModelError(f"weights '{path}': expected a net of control maps, found no such metadata; give another file") from error
    state = load_safetensors(path)
    check_shapes(path, state, {name: tensor.shape for name, tensor in net.state_dict().items()})
    net.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return net.requires_grad_(False).eval()

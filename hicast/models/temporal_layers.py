"""The two layers that see several frames, and how frames folded into the batch are taken apart."""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional

PADDINGS = ("zeros", "replicate")


def clip_volume(folded: Tensor, frames: int) -> Tensor:
    """(batch * frames, channels, height, width) as (batch, channels, frames, height, width)."""
    return folded.unflatten(0, (-1, frames)).transpose(1, 2)


def fold_volume(volume: Tensor) -> Tensor:
    """The inverse of `clip_volume`."""
    return volume.transpose(1, 2).flatten(0, 1)


def clip_tokens(tokens: Tensor, frames: int) -> Tensor:
    """(batch * frames, tokens, width) as (batch, frames * tokens, width), frame after frame; copies nothing."""
    return tokens.unflatten(0, (-1, frames)).flatten(1, 2)


def frame_tokens(tokens: Tensor, frames: int) -> Tensor:
    """The inverse of `clip_tokens`."""
    return tokens.unflatten(1, (frames, -1)).flatten(0, 1)


def first_and_previous(tokens: Tensor, frames: int) -> Tensor:
    """For each frame the tokens of the clip's first frame and of the frame before it (the first one for itself).

    (batch * frames, tokens, width) to (batch * frames, 2 * tokens, width). Source: reference, section 6, its
    sparse-causal variant.
    """
    clip = tokens.unflatten(0, (-1, frames))
    first = clip[:, :1]
    previous = torch.cat([first, clip[:, :-1]], dim=1)
    return torch.cat([first.expand_as(clip), previous], dim=2).flatten(0, 1)


class TemporalConvolution(nn.Module):
    """A convolution of three taps over the frames of each pixel, which starts as the identity.

    Beyond the ends of a clip it sees zeros, as the published net does, or with `replicate` the end frame again: then a
    clip that stands still gives a result that stands still, whatever the weights. Source: reference, section 6.
    """

    def __init__(self, channels: int, groups: int = 1, padding: str = "zeros") -> None:
        """`groups` divides `channels`; as many groups as channels make it depthwise."""
        super().__init__()
        self.groups, self.padding = groups, padding
        self.weight = nn.Parameter(nn.init.dirac_(torch.empty(channels, channels // groups, 3), groups))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, hidden: Tensor, frames: int) -> Tensor:
        """`hidden` (batch * frames, channels, height, width), computed in the weights' dtype, returned in its own."""
        present = hidden.to(self.weight.dtype)
        past, future = self._neighbours(present.unflatten(0, (-1, frames)))
        taps = self.weight.unsqueeze(-1).split(1, dim=2)
        result = functional.conv2d(present, taps[1], self.bias, groups=self.groups)
        for neighbour, tap in ((past, taps[0]), (future, taps[2])):
            result = result + functional.conv2d(neighbour, tap, groups=self.groups)
        return result.to(hidden.dtype)

    def _neighbours(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """The frame before and the frame after each frame, folded into the batch again."""
        first, last = clip[:, :1], clip[:, -1:]
        if self.padding == "zeros":
            first = last = torch.zeros_like(first)
        past, future = torch.cat([first, clip[:, :-1]], dim=1), torch.cat([clip[:, 1:], last], dim=1)
        return past.flatten(0, 1), future.flatten(0, 1)


class TemporalAttention(nn.Module):
    """Attention over the frames of each pixel, added to its input; it knows no order of frames.

    It starts with an output projection of zeros and ordinary queries, keys and values, so that it changes nothing and
    yet learns. Differs from the published start (`zero_start`), where all four are zero: the gradient of the output
    projection is proportional to the values and that of the values to the output projection (those of queries and keys
    to both), so that only the output bias could ever leave zero. Source: reference, sections 0.8 and 6.
    """

    def __init__(self, width: int, heads: int, zero_start: bool = False) -> None:
        """`heads` divides `width`."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(query_dim=width, heads=heads, dim_head=width // heads)
        silent = self.attention if zero_start else self.attention.to_out[0]
        for parameter in silent.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, frames: int) -> Tensor:
        """`tokens` (batch * frames, tokens, width), computed in the weights' dtype, returned in its own."""
        pixels = tokens.to(self.norm.weight.dtype).unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1)
        attended = self.attention(self.norm(pixels))
        attended = attended.unflatten(0, (-1, tokens.shape[1])).transpose(1, 2).flatten(0, 1)
        return tokens + attended.to(tokens.dtype)

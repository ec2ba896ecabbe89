"""What a painting's surface is like in small: blocks of its latents without what changes slowly, and which of them suits where."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

SLOW = 5
"""Side in places of the squares over which a block's own means are taken away: what is left is texture."""

OVERLAP = 2
"""Places that neighbouring blocks share."""

CHOICE = 12
"""Blocks that a place has to choose from: few, so that all come up and no place depends on another."""

UNLIKE, BOLD = 3.0, 20.0
"""What it counts against a block, in standard deviations of the painting's latents, that it is rougher or smoother than the place by as much as the
painting varies; and that it is rougher by as much as the painting's median than `COMMON` of that is."""

COMMON = 1.3
"""Blocks rougher than so many times the median hold the figures of a painting rather than its surface."""


@dataclass(frozen=True)
class Texture:
    """Of blocks of a painting's latents the `surface` (batch, count, channels, side, side), faded out towards their borders; their `means` (batch,
    count, channels) over `scale` (batch, 1, channels), the painting's standard deviations; and their `roughness` (batch, count), likewise."""

    surface: Tensor
    means: Tensor
    roughness: Tensor
    scale: Tensor

    @classmethod
    def of(cls, blocks: Tensor, variance: Tensor) -> Texture:
        """That of `blocks` (batch, count, channels, side, side) of latents with this `variance` (batch, channels)."""
        scale = variance.sqrt()[:, None].clamp_min(1e-6)
        flat = blocks.flatten(0, 1)
        whole = functional.pad(flat, (SLOW // 2,) * 4, mode="replicate")
        surface = (flat - functional.avg_pool2d(whole.contiguous(memory_format=torch.channels_last), SLOW, 1)) * _fading(blocks.shape[-1]).to(flat)
        means = blocks.mean((3, 4)) / scale
        return cls(surface.view_as(blocks), means, (blocks.var((3, 4), correction=0) / scale.square()).mean(2).sqrt(), scale)

    def laid(self, latents: Tensor) -> Tensor:
        """Texture for `latents` (batch, channels, height, width), of their shape: every place gets that of a few blocks which is most
        like it in mean and roughness, as in texture transfer by blocks (Efros and Freeman 2001, doi 10.1145/383259.383296)."""
        side, stride = self.surface.shape[-1], self.surface.shape[-1] - OVERLAP
        rows, columns = (-(-(length + OVERLAP) // stride) for length in latents.shape[-2:])
        over = [(count - 1) * stride + side - length - OVERLAP for count, length in zip((rows, columns), latents.shape[-2:], strict=True)]
        whole = functional.pad(latents, (OVERLAP, over[1], OVERLAP, over[0]), mode="replicate")
        means, squares = (functional.avg_pool2d(values, side, stride).flatten(2).transpose(1, 2) for values in (whole, whole.square()))
        roughness = ((squares - means.square()).clamp_min(0) / self.scale.square()).mean(2).sqrt()
        away = torch.cdist(means / self.scale, self.means.expand(len(latents), -1, -1)) + UNLIKE * (roughness[..., None] - self.roughness[:, None]).abs()
        median = self.roughness.median(1, keepdim=True).values.clamp_min(1e-6)
        away = away + BOLD * (self.roughness / median - COMMON).clamp_min(0)[:, None]
        offered = _offered(*away.shape[1:]).to(latents.device).expand(len(latents), -1, -1)
        taken = offered.gather(2, away.gather(2, offered).argmin(2, keepdim=True))
        surface = self.surface.flatten(2).expand(len(latents), -1, -1)
        chosen = surface.gather(1, taken.expand(-1, -1, surface.shape[2])).transpose(1, 2)
        size = (whole.shape[2], whole.shape[3])
        return functional.fold(chosen, size, side, stride=stride)[..., OVERLAP : OVERLAP + latents.shape[2], OVERLAP : OVERLAP + latents.shape[3]]


def _fading(side: int) -> Tensor:
    """Weights (side, side) whose squares add up to 1 where blocks overlap, so that unlike textures keep their strength."""
    place = torch.arange(side) + 0.5
    fade = torch.sin(torch.pi / 2 * (torch.minimum(place, side - place) / OVERLAP).clamp_max(1))
    return fade[:, None] * fade


@cache
def _offered(places: int, blocks: int) -> Tensor:
    """`CHOICE` of so many `blocks` for each of so many `places`, always the same, each block as often as every other."""
    generator = torch.Generator().manual_seed(0)
    rounds = -(-places * CHOICE // blocks)
    return torch.cat([torch.randperm(blocks, generator=generator) for _ in range(rounds)])[: places * CHOICE].view(places, CHOICE)

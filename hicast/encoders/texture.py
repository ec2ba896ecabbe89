"""What a painting's surface is like in small: blocks of its latents without what changes slowly, and which of them suits where."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

SLOW = 5
"""Side in places of the squares over which a block's own means are taken away: what is left is texture."""

OVERLAP = 2
"""Places that neighbouring blocks share."""

UNLIKE = 2.0
"""What it counts against a block, in standard deviations of the painting's latents, that it is rougher or smoother than the place by as much as the
painting varies."""

CALM, BOLD = 0.4, 20.0
"""Share of the blocks in which no detail stands out, and of those whose tone changes little from side to side: others hold figures rather than the
painting's surface. What it counts against those, for each time that they go as far again."""

DETAIL = 3
"""Side in places of the squares whose means tell of both."""

SPREAD = 0.25
"""How much chance weighs against likeness, so that areas of one tone get many blocks."""

OFTEN, ROUNDS = 4.0, 10
"""How many times the mean a block may be laid; and rounds in which those that would be laid more often become less likely."""


@dataclass(frozen=True)
class Texture:
    """Of blocks of a painting's latents the `surface` (batch, count, channels, side, side), faded out towards their borders; their `means` (batch,
    count, channels) over `scale` (batch, 1, channels), the painting's standard deviations; their `roughness` (batch, count), likewise; and what counts
    `against` them (batch, count) everywhere."""

    surface: Tensor
    means: Tensor
    roughness: Tensor
    against: Tensor
    scale: Tensor

    @classmethod
    def of(cls, blocks: Tensor, variance: Tensor) -> Texture:
        """That of `blocks` (batch, count, channels, side, side) of latents with this `variance` (batch, channels)."""
        scale = variance.sqrt()[:, None].clamp_min(1e-6)
        flat = blocks.flatten(0, 1)
        whole = functional.pad(flat, (SLOW // 2,) * 4, mode="replicate")
        surface = (flat - functional.avg_pool2d(whole.contiguous(memory_format=torch.channels_last), SLOW, 1)) * _fading(blocks.shape[-1]).to(flat)
        surface, relative = surface.view_as(blocks), blocks / scale[..., None, None]
        against = torch.maximum(_beyond(_detail(surface / scale[..., None, None])), _beyond(_change(relative)))
        return cls(surface, relative.mean((3, 4)), _variation(relative), BOLD * against, scale)

    def laid(self, latents: Tensor) -> Tensor:
        """Texture for `latents` (batch, channels, height, width), of their shape: every place gets that of a block which is like it in mean and
        roughness, as in texture transfer by blocks (Efros and Freeman 2001, doi 10.1145/383259.383296), drawn by the same chances every time."""
        side, stride = self.surface.shape[-1], self.surface.shape[-1] - OVERLAP
        rows, columns = (-(-(length + OVERLAP) // stride) for length in latents.shape[-2:])
        over = [(count - 1) * stride + side - length - OVERLAP for count, length in zip((rows, columns), latents.shape[-2:], strict=True)]
        whole = functional.pad(latents, (OVERLAP, over[1], OVERLAP, over[0]), mode="replicate")
        means, squares = (functional.avg_pool2d(values, side, stride).flatten(2).transpose(1, 2) for values in (whole, whole.square()))
        roughness = ((squares - means.square()).clamp_min(0) / self.scale.square()).mean(2).sqrt()
        away = torch.cdist(means / self.scale, self.means.expand(len(latents), -1, -1)) + UNLIKE * (roughness[..., None] - self.roughness[:, None]).abs()
        taken = _drawn(away + self.against[:, None])[..., None]
        surface = self.surface.flatten(2).expand(len(latents), -1, -1)
        chosen = surface.gather(1, taken.expand(-1, -1, surface.shape[2])).transpose(1, 2)
        size = (whole.shape[2], whole.shape[3])
        return functional.fold(chosen, size, side, stride=stride)[..., OVERLAP : OVERLAP + latents.shape[2], OVERLAP : OVERLAP + latents.shape[3]]


def _detail(surface: Tensor) -> Tensor:
    """How strong the strongest detail of each block's `surface` (batch, count, channels, side, side) is."""
    return functional.avg_pool2d(surface.square().mean(2), DETAIL, 1).flatten(2).amax(2).sqrt()


def _change(blocks: Tensor) -> Tensor:
    """How much the tone of each of `blocks` (batch, count, channels, side, side) changes from side to side."""
    flat = blocks.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return _variation(functional.avg_pool2d(flat, DETAIL, 1).unflatten(0, blocks.shape[:2]))


def _variation(values: Tensor) -> Tensor:
    """Standard deviation (batch, count) of `values` (batch, count, channels, height, width) over places, its square a mean over channels."""
    return (values.square().mean((3, 4)) - values.mean((3, 4)).square()).clamp_min(0).mean(2).sqrt()


def _beyond(amounts: Tensor) -> Tensor:
    """How many times each of `amounts` (batch, count) goes beyond what `CALM` of them keep to; 0 for those."""
    return (amounts / amounts.quantile(CALM, dim=1, keepdim=True).clamp_min(1e-6) - 1).clamp_min(0)


def _fading(side: int) -> Tensor:
    """Weights (side, side) whose squares add up to 1 where blocks overlap, so that unlike textures keep their strength."""
    place = torch.arange(side) + 0.5
    fade = torch.sin(torch.pi / 2 * (torch.minimum(place, side - place) / OVERLAP).clamp_max(1))
    return fade[:, None] * fade


def _drawn(away: Tensor) -> Tensor:
    """A block for each place (batch, places), likelier the less it is `away` (batch, places, blocks), none much more often than `OFTEN` times the mean."""
    likely = _chances(*away.shape[1:]).to(away.device) - away / SPREAD
    most = max(OFTEN * away.shape[1] / away.shape[2], 1.0)
    for _ in range(ROUNDS):
        likely = likely - (likely.softmax(2).sum(1, keepdim=True) / most).clamp_min(1).log()
    return likely.argmax(2)


@lru_cache(maxsize=8)
def _chances(places: int, blocks: int) -> Tensor:
    """What is added to log likelihoods so that the largest sum is a draw by them (Gumbel 1954): the same every time."""
    chance = torch.rand(places, blocks, generator=torch.Generator().manual_seed(0))
    return -(-chance.clamp(1e-6, 1 - 1e-6).log()).log()

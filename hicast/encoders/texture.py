"""What a painting's surface is like in small: blocks of its latents without what changes slowly, and which of them suits where."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

SLOW = 5
"""Side in places of the squares over which a block's own means are taken away: what is left is texture."""

PART, OVERLAP = 6, 1
"""Side in places of the part of a block that is laid, the calmest, so that fewer figures of the painting come along; and places that neighbours share."""

UNLIKE = 2.0
"""What it counts against a block, in standard deviations of the painting's latents, that it is rougher or smoother than the place by as much as the
painting varies."""

CALM, BOLD = 0.4, 12.0
"""Share of the blocks in which no detail stands out, and of those whose tone changes little from side to side: others hold outlines rather than the
painting's surface. What it counts against those, for each time that they go as far again."""

FIGURES, SEEN, LEAST = 10.0, 0.5, 0.2
"""What it counts against a part of a block that it shows a figure, for each unit of `figures.figures_in`; how much of that takes half of what can be taken
of its strength; and what stays at least, as strong swirls of a brush look like figures too: what is left of a crowd is the touch of its brush."""

CROWD, DISSOLVED = 1.4, 0.3
"""How much of a figure takes half of a part away for a surface with its colours, grain and directions, but without its outlines; how strong that is."""

DETAIL = 3
"""Side in places of the squares whose means tell of both."""

EVEN, FAINT = 0.4, 0.15
"""Share of the parts that tell how strong the surface is: others are brought down to what those keep to, so that what stands out stays a touch of
the brush, and no figure. But never below this much of the painting's standard deviation, as a half bare painting would lose all texture."""

SPREAD = 1.4
"""How much chance weighs against likeness, so that areas of one tone get many blocks."""

OFTEN, ROUNDS = 1.2, 10
"""How many times the mean a block may be laid; and rounds in which those that would be laid more often become less likely."""


@dataclass(frozen=True)
class Texture:
    """Of the calmest parts of blocks of a painting's latents the `surface` (batch, count, channels, `PART`, `PART`), faded out towards their borders;
    their `means` (batch, count, channels) over `scale` (batch, 1, channels), the painting's standard deviations; their `roughness` (batch, count), likewise; and what counts
    `against` them (batch, count) everywhere."""

    surface: Tensor
    means: Tensor
    roughness: Tensor
    against: Tensor
    scale: Tensor

    @classmethod
    def of(cls, blocks: Tensor, variance: Tensor, figures: Tensor) -> Texture:
        """That of `blocks` (batch, count, channels, side, side) of latents with this `variance` (batch, channels), which show so much of `figures`
        (batch, count, side, side)."""
        scale = variance.sqrt()[:, None].clamp_min(1e-6)
        relative = blocks / scale[..., None, None]
        calmest = (_to_mean(_detail(_surface(relative))) + _to_mean(_change(relative))).argmin(2, keepdim=True)
        relative = _parts(relative).gather(2, calmest[..., None, None, None].expand(-1, -1, 1, blocks.shape[2], PART, PART))[:, :, 0]
        shown = functional.avg_pool2d(figures, PART, 1).flatten(2).gather(2, calmest)[..., 0]
        surface = _surface(relative)
        outlines = torch.maximum(*(_beyond(amounts[..., 0]) for amounts in (_detail(surface), _change(relative))))
        strength = surface.square().mean((2, 3, 4)).sqrt()
        most = strength.quantile(EVEN, dim=1, keepdim=True).clamp_min(FAINT)
        kept = (most / strength.clamp_min(FAINT)).clamp_max(1)
        against = BOLD * outlines + FIGURES * shown
        surface = _without_figures(surface, shown[..., None, None, None]) * kept[..., None, None, None]
        surface = surface * scale[..., None, None] * _fading(PART).to(blocks)
        return cls(surface, relative.mean((3, 4)), _variation(relative), against, scale)

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


def _surface(blocks: Tensor) -> Tensor:
    """`blocks` (batch, count, channels, side, side) less their means over squares of `SLOW` places, the outermost repeated."""
    flat = blocks.flatten(0, 1)
    whole = functional.pad(flat, (SLOW // 2,) * 4, mode="replicate").contiguous(memory_format=torch.channels_last)
    return (flat - functional.avg_pool2d(whole, SLOW, 1)).view_as(blocks)


def _without_figures(surface: Tensor, shown: Tensor) -> Tensor:
    """The `surface` (batch, count, channels, side, side) of parts, fainter the more is `shown` of figures (batch, count, 1, 1, 1), and from `CROWD` on
    dissolved: the phases of its frequencies are turned by chance, those of all channels alike, as in random phase textures (Galerne, Gousseau and
    Morel 2011, doi 10.1109/TIP.2010.2052822)."""
    crowded = 1 / (1 + (CROWD / shown.clamp_min(1e-3)).pow(4))
    dissolved = torch.fft.irfft2(torch.fft.rfft2(surface) * _turns(surface.shape[1], surface.shape[-1]).to(surface.device), surface.shape[-2:])
    fainter = LEAST + (1 - LEAST) / (1 + (shown / SEEN).square())
    return torch.lerp(fainter * surface, DISSOLVED * dissolved, crowded)


def _parts(blocks: Tensor) -> Tensor:
    """All parts (batch, count, parts, channels, `PART`, `PART`) of `blocks` (batch, count, channels, side, side)."""
    return blocks.unfold(3, PART, 1).unfold(4, PART, 1).flatten(3, 4).transpose(2, 3)


def _detail(surface: Tensor) -> Tensor:
    """How strong the strongest detail of each part (batch, count, parts) of the `surface` (batch, count, channels, side, side) of blocks is."""
    details = functional.avg_pool2d(surface.square().mean(2), DETAIL, 1)
    return functional.max_pool2d(details, PART - DETAIL + 1, 1).flatten(2).sqrt()


def _change(blocks: Tensor) -> Tensor:
    """How much the tone of each part (batch, count, parts) of `blocks` (batch, count, channels, side, side) changes from side to side."""
    tones = functional.avg_pool2d(blocks.flatten(0, 1).contiguous(memory_format=torch.channels_last), DETAIL, 1)
    means, squares = (functional.avg_pool2d(values, PART - DETAIL + 1, 1) for values in (tones, tones.square()))
    return (squares - means.square()).clamp_min(0).mean(1).flatten(1).sqrt().unflatten(0, blocks.shape[:2])


def _to_mean(amounts: Tensor) -> Tensor:
    """`amounts` (batch, ...) over their mean in each sample."""
    return amounts / amounts.mean(tuple(range(1, amounts.dim())), keepdim=True).clamp_min(1e-6)


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
def _turns(count: int, side: int) -> Tensor:
    """Numbers of size 1 (count, 1, side, side // 2 + 1) that turn the phases of real frequencies by chance: the same every time."""
    noise = torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(0))
    return torch.polar(torch.ones(()), torch.fft.rfft2(noise).angle())


@lru_cache(maxsize=8)
def _chances(places: int, blocks: int) -> Tensor:
    """What is added to log likelihoods so that the largest sum is a draw by them (Gumbel 1954): the same every time."""
    chance = torch.rand(places, blocks, generator=torch.Generator().manual_seed(0))
    return -(-chance.clamp(1e-6, 1 - 1e-6).log()).log()

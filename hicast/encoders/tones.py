"""How the colours of a painting are spread, and how latents come to be spread so."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hicast.encoders.over_time import over_time

QUANTILES = 256
"""Values that stand for how one colour is spread, as many places being above as below each and its neighbour."""

STEEPEST = 4.0
"""How many times as far apart two tones may come to be: where nearly all of a picture has one tone small differences would be torn apart."""


@dataclass(frozen=True)
class Tones:
    """What each channel of latents adds to red, green and blue of its place (`colors`, batch, 3, channels), the least change of latents that changes each
    of these by 1 (`back`, batch, channels, 3), and the `quantiles` (batch, 3, `QUANTILES`) of a painting's places."""

    colors: Tensor
    back: Tensor
    quantiles: Tensor

    @classmethod
    def of(cls, places: Tensor, colors: Tensor) -> Tones:
        """That of a painting's latents at `places` (batch, channels, count) with these `colors`; where those are zeros nothing changes."""
        device = torch.device("cpu") if colors.device.type == "mps" else colors.device  # Apple's GPUs may lack the inverse
        squares = (colors @ colors.mT).to(device) + 1e-6 * torch.eye(3, device=device)
        return cls(colors, colors.mT @ torch.linalg.inv(squares).to(colors.device), _quantiles(colors @ places))

    def change(self, latents: Tensor, frames: int) -> Tensor:
        """What has to be added to `latents` (batch, channels, height, width) until red, green and blue are each spread as in the painting, by one rising curve
        for each: histogram specification, here of latents. Every `frames` rows are a clip, which share their curves but for how they change over it."""
        tones = self.colors @ latents.flatten(2)
        ours = over_time(_quantiles(tones).unflatten(0, (-1, frames))).flatten(0, 1)
        theirs = self.quantiles.expand(len(latents), -1, -1)
        apart = ours.diff(dim=2)
        steps = torch.minimum(theirs.diff(dim=2), STEEPEST * apart)
        curve = torch.cat([torch.zeros_like(steps[..., :1]), steps.cumsum(2)], dim=2)
        curve = curve + (theirs - curve).mean(2, keepdim=True)
        above = torch.searchsorted(ours.contiguous(), tones.contiguous()).clamp_(1, QUANTILES - 1)
        low, high, start, end = (values.gather(2, at) for values in (ours, curve) for at in (above - 1, above))
        share = ((tones - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
        return (self.back @ (torch.lerp(start, end, share) - tones)).view_as(latents)


def _quantiles(values: Tensor) -> Tensor:
    """`QUANTILES` values (batch, rows, `QUANTILES`) below which rising shares of `values` (batch, rows, count) lie."""
    shares = (torch.arange(QUANTILES, device=values.device) + 0.5) / QUANTILES
    place = (shares * values.shape[2] - 0.5).clamp(0, values.shape[2] - 1)
    rising, low = values.sort(dim=2)[0], place.long()
    return torch.lerp(rising[..., low], rising[..., (low + 1).clamp_max(values.shape[2] - 1)], place - low)

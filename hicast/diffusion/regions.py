"""Several guided predictions over one picture, each in its own place, blended at every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hicast.diffusion.guidance import Guidance, combine_branches
from hicast.diffusion.sampling import Denoise


def shares_of(masks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What each layer of a picture shows: the ground first, then the layers of `masks`, later ones over earlier ones.

    Masks (batch, 1, height, width) in [0, 1]; the shares have their shape and add up to 1 everywhere.
    """
    shares = []
    seen = torch.ones_like(masks[-1])
    for mask in reversed(masks):
        shares.append(seen * mask)
        seen = seen * (1 - mask)
    return (seen, *reversed(shares))


def guide_regions(stacked: Denoise, plans: Sequence[Guidance], shares: Sequence[Tensor], rest: Denoise | None = None) -> Denoise:
    """One denoise callable from one that evaluates all branches of all layers as one batch, layer after layer.

    Layer k is guided by `plans[k]` and shown by `shares[k]`, (batch, 1, height, width); what the shares leave to 1 is filled
    by `rest`. A blend of predictions is the same blend of the clean latents that they stand for.
    """
    counts = [len(plan.coefficients) for plan in plans]
    left = 1 - sum(shares) if rest is not None else None

    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        total = left * rest(latents, timestep) if rest is not None else torch.zeros_like(latents)
        if not counts:
            return total
        parts = iter(stacked(torch.cat([latents] * sum(counts)), timestep).chunk(sum(counts)))
        for plan, share in zip(plans, shares, strict=True):
            total = total + share * combine_branches({name: next(parts) for name in plan.coefficients}, plan)
        return total

    return denoise

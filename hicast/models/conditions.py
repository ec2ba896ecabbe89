"""What the denoising net is told besides latents and timestep, of one picture or of several at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hicast.encoders.aim import Aim
from hicast.encoders.latent_moments import LatentMoments, stack_moments
from hicast.encoders.style import StyleCode
from hicast.errors import ModelError
from hicast.models.adapters import Residuals
from hicast.models.unet import normalize_content

MOST_HELD = 2.0
"""Largest value of `Conditions.hold`."""


@dataclass(frozen=True)
class Conditions:
    """All that the net is told besides latents and timestep; computed once per picture.

    `content` (batch, channels, height, width) is normalised; `content_mean`, `content_std` (batch, channels, 1, 1) undo
    that. `style` is (batch, 2944), `context` (batch, tokens, width), `residuals` one tensor per down block (of the same
    batch or of 1), `style_scale` (batch,) in [0, 2] for nets with an embedded scale (None: 1), `keep_style` (batch,)
    boolean, False where the style is the null style (None: True). `moments` are those of the painting's latents, for nets that color theirs;
    every `frames` rows are those of one clip, which are colored by what they are together. `hold` (batch,) in [0, `MOST_HELD`] says how far residuals
    hold the photo's structure (None: 1, where there are some): flat areas get less of the painting's texture for it, from 1 on none, and beyond that
    everything is moved less towards the painting. `aim`, of a batch of 1, is what a net matches to (None: found from the moments). `texture` says
    how much of the painting's flat areas get (1 is neutral), which those of clips never do; `subject` (batch, 2, h, w), of any resolution, what the photo shows
    (`SubjectNet`; None: nothing).
    """

    content: Tensor
    content_mean: Tensor
    content_std: Tensor
    style: Tensor
    context: Tensor
    residuals: Residuals | None = None
    style_scale: Tensor | None = None
    keep_style: Tensor | None = None
    moments: LatentMoments | None = None
    frames: int = 1
    hold: Tensor | None = None
    aim: Aim | None = None
    texture: float = 1.0
    subject: Tensor | None = None

    @classmethod
    def of(
        cls,
        latents: Tensor,
        style: StyleCode,
        context: Tensor | None = None,
        residuals: Residuals | None = None,
        style_scale: float | Tensor | None = None,
        frames: int = 1,
        hold: float | None = None,
        texture: float = 1.0,
        subject: Tensor | None = None,
    ) -> Conditions:
        """Conditions from content `latents` (batch, channels, height, width) and a style code of that batch or of 1.

        `context` (default: the style's tokens) may be a batch of 1 too. Raises ModelError without any context.
        """
        batch = len(latents)
        context = style.tokens if context is None else context
        if context is None:
            raise ModelError("conditions: expected a context or style tokens, found neither: give the constant context")
        if isinstance(style_scale, (int, float)):
            style_scale = torch.full((batch,), float(style_scale), device=latents.device)
        vector = style.vector.expand(batch, -1)
        moments = None if style.moments is None else style.moments.expand(batch)
        return cls(*normalize_content(latents), vector, context.expand(batch, -1, -1), residuals, style_scale, moments=moments, frames=frames,
                   hold=None if hold is None else torch.full((batch,), float(hold), device=latents.device), aim=style.aim, texture=texture,
                   subject=subject)  # fmt: skip

    def without_style(self, null: StyleCode) -> Conditions:
        """The same with the null style; `null` may be a batch of 1 and its tokens replace the context if it has any."""
        context = self.context if null.tokens is None else null.tokens.to(self.context).expand_as(self.context)
        keep = torch.zeros(len(self.content), dtype=torch.bool, device=self.content.device)
        return replace(self, style=null.vector.to(self.style).expand_as(self.style), context=context, keep_style=keep)

    def without_content(self) -> Conditions:
        """The same with the null content: zeros, also for its mean and std."""
        nothing = {name: torch.zeros_like(getattr(self, name)) for name in ("content", "content_mean", "content_std")}
        return replace(self, **nothing)

    @property
    def scales(self) -> Tensor:
        """Style scale of each row (batch,), float32."""
        return torch.ones(len(self.content), device=self.content.device) if self.style_scale is None else self.style_scale.float()

    @property
    def keeps(self) -> Tensor:
        """Whether each row (batch,) has a style at all, boolean."""
        return torch.ones(len(self.content), dtype=torch.bool, device=self.content.device) if self.keep_style is None else self.keep_style

    @property
    def holds(self) -> Tensor:
        """How far residuals hold the photo's structure in each row (batch,), float32."""
        if self.residuals is None or self.hold is None:
            return torch.full((len(self.content),), float(self.residuals is not None), device=self.content.device)
        return self.hold

    def repeated_residuals(self) -> list[Tensor]:
        """The residuals, which there must be, a row for each of the batch."""
        return [residual.expand(len(self.content), -1, -1, -1) for residual in self.residuals]


def stack_conditions(parts: Sequence[Conditions]) -> Conditions:
    """One batch of several conditions, in order: for guidance branches evaluated together."""
    names = ("content", "content_mean", "content_std", "style", "context")
    stacked = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    residuals = None
    if parts[0].residuals is not None:
        levels = zip(*(part.repeated_residuals() for part in parts), strict=True)
        residuals = tuple(torch.cat(level) for level in levels)
    scales = torch.cat([part.scales for part in parts])
    keeps = torch.cat([part.keeps for part in parts])
    moments = None
    if parts[0].moments is not None:
        moments = stack_moments([part.moments for part in parts])
    aim = parts[0].aim if all(part.aim is parts[0].aim for part in parts) else None
    subject = None if parts[0].subject is None else torch.cat([part.subject for part in parts])
    return Conditions(**stacked, residuals=residuals, style_scale=scales, keep_style=keeps, moments=moments, frames=parts[0].frames,
                      hold=torch.cat([part.holds for part in parts]), aim=aim, texture=parts[0].texture, subject=subject)  # fmt: skip

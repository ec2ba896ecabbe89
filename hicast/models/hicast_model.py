"""The denoising net: a stock U-Net, told of the content by concatenation and of the style by its class embedding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.nn import functional

from hicast.encoders.figures import GRID, figures_in
from hicast.encoders.vgg import Vgg16
from hicast.errors import ModelError
from hicast.io.weights import load_json, load_module, save_json, save_module
from hicast.models.adapters import check_residuals
from hicast.models.coloring import colored
from hicast.models.conditions import Conditions
from hicast.models.matching import Spared, matched
from hicast.models.subject import PAINTED, SUBJECT, SubjectNet, seen_by
from hicast.models.unet import ContentProjection, build_unet

FLAGS_FILE = "hicast.json"

SHARES = ("coloring", "matching")
"""What a net's prediction can be moved towards the painting by: so far for each unit of its style scale, at most wholly."""

MOST = 4
"""Largest value of these."""

BEYOND = 0.5
"""How much less the prediction is moved for each unit by which what holds the photo's structure goes beyond 1, so that larger weights hold more."""

_SCALE_EMBEDDING_FACTOR = 10.0


class HiCastModel(nn.Module):
    """Predicts noise or sample from noisy latents; the published net and the compact one differ in config only.

    With `content_skip` the U-Net's output is added to the modulated content, and for style scales below 1 to a mixture
    of that and the photo's own latents, so that a style scale of 0 starts from the photo itself. With `coloring` above 0 what comes
    out, which must be latents, is moved towards the moments of the painting's latents by that times the style scale, at most wholly; with
    `matching` it then goes by that times the style scale, at most wholly, to where their neighbourhoods and colours are distributed; a `subject` net, if there
    is one, tells of a photo where that would deface what it shows (`Conditions.subject`).
    """

    def __init__(
        self, unet: UNet2DConditionModel, content_projection: ContentProjection, content_skip: bool = False, coloring: float = 0.0,
        matching: float = 0.0, subject: SubjectNet | None = None,
    ) -> None:
        """Raises ModelError if the channels of the two parts do not add up."""
        super().__init__()
        projected, latent = content_projection.config.refined_channels, unet.config.out_channels
        if unet.config.in_channels != latent + projected:
            raise ModelError(
                f"U-Net: expected in_channels {latent + projected} (latents {latent} and content {projected}), "
                f"found {unet.config.in_channels}"
            )
        self.unet = unet
        self.content_projection = content_projection
        self.content_skip = content_skip
        self.coloring = coloring
        self.matching = matching
        self.subject = subject

    def forward(self, latents: Tensor, timestep: Tensor | float, conditions: Conditions) -> Tensor:
        """Prediction (batch, channels, height, width) in the dtype of `latents`; the nets use that of their weights.

        `timestep` is a number or (batch,). Raises ModelError if residuals do not fit, or without the moments that `coloring` and `matching` need.
        """
        return self.color(self.predict(latents, timestep, conditions), conditions)

    def color(self, prediction: Tensor, conditions: Conditions) -> Tensor:
        """The last step of `forward`, which needs the whole picture: what `predict` gave, its moments and distribution moved towards the painting's."""
        if not self.has_colors:
            return prediction
        if conditions.moments is None:
            raise ModelError("conditions: expected moments of the painting's latents, found none; encode the style by the pipeline")
        strength = conditions.keeps * conditions.scales.clamp_min(0) * (1 - BEYOND * (conditions.holds - 1).clamp_min(0))
        if self.coloring:
            prediction = colored(prediction, conditions.moments, (self.coloring * strength).clamp_max(1), conditions.frames)
        if self.matching:
            loose, aim = (1 - conditions.holds).clamp_min(0), conditions.aim or conditions.moments.aim()
            told = conditions.subject if conditions.frames == 1 else None
            spared = None if told is None else Spared.of(functional.interpolate(told, prediction.shape[-2:], mode="bilinear"))
            prediction = matched(prediction, aim, self.matching * strength, conditions.frames, loose, self._dtype, conditions.texture, spared)
        return prediction

    def predict(self, latents: Tensor, timestep: Tensor | float, conditions: Conditions) -> Tensor:
        """All of `forward` that a part of the picture is enough for."""
        dtype = self._dtype
        noisy, content, style = (x.to(dtype) for x in (latents, conditions.content, conditions.style))
        scale_embedding = self._scale_embedding(conditions)
        embedding = self.embed(noisy, timestep, style, scale_embedding)
        modulated = self.content_projection.modulate(content, embedding)
        refined = self.content_projection.refine(modulated)
        output = self.unet(
            torch.cat([noisy, refined], dim=1),
            timestep,
            encoder_hidden_states=conditions.context.to(dtype),
            class_labels=style,
            timestep_cond=scale_embedding,
            down_intrablock_additional_residuals=self._residuals(conditions, latents),
        ).sample.to(latents.dtype)
        if not self.content_skip:
            return output
        return output + _base(modulated.to(latents.dtype), conditions)

    @torch.no_grad()
    def subject_of(self, photo: Tensor, vgg: Vgg16) -> Tensor | None:
        """What a `photo` (batch, 3, height, width) in [-1, 1] shows, for `Conditions.subject`, seen by `vgg`; None where nothing asks for it."""
        return None if self.subject is None or not self.matching else self.subject(seen_by(vgg, photo))

    @torch.no_grad()
    def shown_in(self, features: Mapping[str, Tensor]) -> Tensor:
        """How much of a figure each part (batch, `GRID`, `GRID`) of a painting shows, from its VGG `features`; with a `subject` net faces count as well."""
        shown = figures_in(features)
        if self.subject is None:
            return shown
        return shown + PAINTED * functional.adaptive_max_pool2d(self.subject(features)[:, 1:], GRID)[:, 0]

    def embed(
        self, latents: Tensor, timestep: Tensor | float, style: Tensor, scale_embedding: Tensor | None = None
    ) -> Tensor:
        """The U-Net's own embedding (batch, embedding_dim) of timestep, style and, if it has the slot, style scale."""
        time = self.unet.get_time_embed(latents, timestep)
        return self.unet.time_embedding(time, scale_embedding) + self.unet.class_embedding(style)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `unet/`, `content_projection/` (diffusers layout) and the flags into `folder`; raises OutputError."""
        folder = Path(folder)
        parts = {"unet": self.unet, "content_projection": self.content_projection} | ({SUBJECT: self.subject} if self.subject else {})
        for name, module in parts.items():
            save_module(module, folder / name, dtype, {"component": name})
        shares = {name: share for name in SHARES if (share := getattr(self, name))}
        save_json({"content_skip": self.content_skip} | shares, folder / FLAGS_FILE)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> HiCastModel:
        """The model that `save_pretrained` wrote to `folder`, in float32; raises ModelError if it cannot be read."""
        folder = Path(folder)
        flags = load_json(folder / FLAGS_FILE)
        unet = load_module(build_unet, folder / "unet")
        projection = load_module(lambda config: ContentProjection(**config), folder / "content_projection")
        shares = {name: _share(name, flags, folder) for name in SHARES}
        subject = load_module(lambda config: SubjectNet(**config), folder / SUBJECT) if (folder / SUBJECT).is_dir() else None
        return cls(unet, projection, content_skip=bool(flags.get("content_skip")), **shares, subject=subject).eval()

    @property
    def _dtype(self) -> torch.dtype:
        """That of the U-Net's weights; its own `dtype` walks through all of its modules, which is felt on a CPU."""
        return next(self.unet.parameters()).dtype

    @property
    def has_colors(self) -> bool:
        """Whether what the net predicts is moved towards the painting's latents, which takes their moments."""
        return self.coloring > 0 or self.matching > 0

    @property
    def has_embedded_scale(self) -> bool:
        """Whether the style scale is an input of the net (the stock slot for a guidance embedding)."""
        return self.unet.config.time_cond_proj_dim is not None

    def _scale_embedding(self, conditions: Conditions) -> Tensor | None:
        if not self.has_embedded_scale:
            return None
        scale = conditions.scales * _SCALE_EMBEDDING_FACTOR
        return get_timestep_embedding(scale, self.unet.config.time_cond_proj_dim).to(self._dtype)

    def _residuals(self, conditions: Conditions, latents: Tensor) -> list[Tensor] | None:
        """A fresh list for diffusers, which empties the one it is given."""
        if conditions.residuals is None:
            return None
        check_residuals(conditions.residuals, self.unet.config.block_out_channels, latents.shape[-2:])
        return [residual.to(self._dtype) for residual in conditions.residuals]


def _share(name: str, flags: Mapping[str, Any], folder: Path) -> float:
    """The share that the flags of a model in `folder` give for `name`; raises ModelError for one that is none."""
    value = flags.get(name, 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST:
        raise ModelError(f"{folder / FLAGS_FILE}: {name}: expected a number from 0 to {MOST}, found {value!r}; mend the file")
    return float(value)


def _base(modulated: Tensor, conditions: Conditions) -> Tensor:
    """What the U-Net's output is added to: the modulated content, the photo's own latents as the style fades."""
    faded = (1 - conditions.scales).clamp(0, 1)
    faded = torch.where(conditions.keeps, faded, torch.ones_like(faded))[:, None, None, None].to(modulated)
    own = conditions.content * conditions.content_std + conditions.content_mean
    return (1 - faded) * modulated + faded * own

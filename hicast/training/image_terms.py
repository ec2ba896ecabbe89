"""The loss terms of repainted pictures, by name: each a mean over samples of one distance times who it is meant for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hicast.config.train import RepaintTraining
from hicast.losses.blocks import blockiness
from hicast.losses.clouds import cloudiness
from hicast.losses.color import OUR_PIXELS, color_distance, color_quantiles
from hicast.losses.perceptual import (
    GRAM_FORMS,
    Features,
    content_distance,
    detail_energy,
    distribution_distance,
    gram,
    laplacian,
    lattice_energy,
    relief_distance,
    repetition,
    style_distance,
)
from hicast.losses.targets import target_distance, texture_distance
from hicast.losses.terms import LossTerms
from hicast.losses.transport import contextual_distance, transport_distance
from hicast.training.style_library import StyleLibrary


@dataclass(frozen=True)
class Result:
    """Another method's results for the photos of a batch: `picture` (batch, 3, height, width), its VGG `features`, and its
    `latents` where a term needs them."""

    picture: Tensor
    features: Features
    latents: Tensor | None = None


@dataclass(frozen=True)
class Judged:
    """What the terms of one batch look at.

    `decoded` (batch, 3, height, width) with its VGG `features`, the `photo` with its `content` features, the `result` of
    another method or None, the features of crops of the paintings in `real` and the photo through the latent and back in `restored` where a term needs them; `estimate` and `clean` latents; rows of the style library `paintings`; and shares
    (batch,) of the sample's weight: `styled` where a painting counts, `held` where the photo counts, `aimed` where the
    other method's result counts and its `strength` by the style scale, `returned` where the latent itself must come back.
    `decoded` is missing where no term looks at it. `signal_to_noise` is that of what the net was given; `style_unit` and
    `feature_unit` are the units of style vectors and features in published losses.
    """

    settings: RepaintTraining
    library: StyleLibrary
    decoded: Tensor | None
    features: Features
    photo: Tensor
    content: Features
    result: Result | None
    estimate: Tensor
    clean: Tensor
    paintings: Tensor
    styled: Tensor
    held: Tensor
    aimed: Tensor
    strength: Tensor
    returned: Tensor
    signal_to_noise: float = 0.0
    real: Features | None = None
    restored: Tensor | None = None
    style_unit: float = 1.0
    feature_unit: float = 1.0

    @cached_property
    def colors(self) -> Tensor:
        """Quantiles of the colours of `decoded`, which two terms look at."""
        return color_quantiles(self.decoded, max_pixels=OUR_PIXELS)

    def of_paintings(self, measured: Mapping[str, Tensor], layers: Mapping[str, float]) -> dict[str, Tensor]:
        """The rows of this batch of what the library has `measured` at `layers`."""
        return {name: measured[name][self.paintings].float().to(self.estimate.device) for name in layers}


Term = Callable[[Judged], Tensor]
"""One value per sample (batch,), or for all of them together."""


def image_terms(judged: Judged, terms: Mapping[str, Term] | None = None) -> LossTerms:
    """All of `terms` (default: `TERMS`) that the settings give a weight."""
    wanted = judged.settings.losses
    return {name: term(judged).mean() for name, term in (terms or TERMS).items() if wanted.get(name)}


def shares(style_scale: Tensor, keep_style: Tensor, keep_content: Tensor, is_self: Tensor) -> dict[str, Tensor]:
    """The shares of `Judged` (batch,) from the style scale given to the net and what was drawn.

    From scale 0 to 1 the painting and the other method's result come in, above 1 the painting grows by 4 per unit; the
    photo's weight falls by 4 per unit all the way.
    """
    style, content = keep_style.float(), keep_content.float()
    return {
        "styled": style * torch.where(style_scale < 1, style_scale, 4 ** (style_scale - 1)),
        "held": content * 4 ** (1 - style_scale),
        "aimed": style * content * (1 - is_self.float()),
        "strength": style_scale.clamp(max=1),
        "returned": (~keep_style | (is_self & keep_content)).float(),
    }


def _style(judged: Judged) -> Tensor:
    layers = {name: weight for name, weight in judged.settings.style_layers.items() if weight}
    ours = {name: judged.features[name] for name in layers}
    target = judged.of_paintings(judged.library.layers, layers)
    return judged.styled * style_distance(ours, target, judged.library.layer_scales, layers)


def _distribution(judged: Judged) -> Tensor:
    layers = judged.settings.distribution_layers
    target = judged.of_paintings(judged.library.quantiles, layers)
    return judged.styled * distribution_distance(judged.features, target, judged.library.quantile_scales, layers)


def _gram(judged: Judged) -> Tensor:
    layers = judged.settings.gram_layers
    return judged.styled * GRAM_FORMS[judged.settings.gram_form](judged.features, judged.of_paintings(judged.library.grams, layers), layers)


def _color(judged: Judged) -> Tensor:
    target = judged.library.colors[judged.paintings].to(judged.decoded.device)
    return judged.styled * color_distance(judged.colors, target)


def _transport(judged: Judged) -> Tensor:
    return judged.styled * transport_distance(judged.features, judged.real, judged.settings.transport_layers)


def _contextual(judged: Judged) -> Tensor:
    return judged.styled * contextual_distance(judged.features, judged.real, judged.settings.contextual_layers)


def _content(judged: Judged) -> Tensor:
    return judged.held * content_distance(judged.features, judged.content, judged.settings.content_layers)


def _relief(judged: Judged) -> Tensor:
    return judged.held * relief_distance(judged.decoded, judged.photo)


def _lattice(judged: Judged) -> Tensor:
    return lattice_energy(judged.decoded)


def _repetition(judged: Judged) -> Tensor:
    return repetition(judged.decoded, judged.photo)


def _blocks(judged: Judged) -> Tensor:
    return blockiness(judged.decoded)


def _clouds(judged: Judged) -> Tensor:
    return cloudiness(judged.decoded, judged.photo)


def _reconstruction(judged: Judged) -> Tensor:
    """Error of the photo through the latent and back, so that a decoder that learns stays one: of pixels, of fine detail and of its
    energy, weighed as in the preset `compact-autoencoder-decoder`."""
    error = judged.restored - judged.photo
    energy = (detail_energy(judged.restored) - detail_energy(judged.photo)).abs()
    return error.abs().mean((1, 2, 3)) + 0.5 * laplacian(error).abs().mean((1, 2, 3)) + 0.8 * energy.mean((1, 2, 3))


def _latent(judged: Judged) -> Tensor:
    return judged.returned * (judged.estimate - judged.clean).square().mean((1, 2, 3))


def _target_latent(judged: Judged) -> Tensor:
    """L1 distance to latents on the way from the photo's (scale 0) to the result's (scale 1 and above)."""
    share = judged.strength[:, None, None, None]
    target = judged.clean + share * (judged.result.latents - judged.clean)
    return judged.aimed * (judged.estimate - target).abs().mean((1, 2, 3))


def _noise(judged: Judged) -> Tensor:
    """Squared error of the noise that an estimate implies, which is that of the latent times the signal-to-noise ratio."""
    return judged.signal_to_noise * _latent(judged)


def _target(judged: Judged) -> Tensor:
    return judged.aimed * judged.strength * target_distance(judged.features, judged.result.features, judged.settings.target_layers)


def _target_texture(judged: Judged) -> Tensor:
    return judged.aimed * judged.strength * texture_distance(judged.features, judged.result.features, judged.settings.texture_layers)


def _target_color(judged: Judged) -> Tensor:
    with torch.no_grad():
        target = color_quantiles(judged.result.picture, max_pixels=OUR_PIXELS)
    return judged.aimed * judged.strength * color_distance(judged.colors, target)


def _target_gram(judged: Judged) -> Tensor:
    layers = judged.settings.target_gram_layers
    target = {name: gram(judged.result.features[name]) for name in layers}
    return judged.aimed * judged.strength * GRAM_FORMS[judged.settings.gram_form](judged.features, target, layers)


TERMS: dict[str, Term] = {
    "style": _style,
    "distribution": _distribution,
    "gram": _gram,
    "color": _color,
    "transport": _transport,
    "contextual": _contextual,
    "content": _content,
    "relief": _relief,
    "lattice": _lattice,
    "repetition": _repetition,
    "clouds": _clouds,
    "blocks": _blocks,
    "reconstruction": _reconstruction,
    "latent": _latent,
    "target_latent": _target_latent,
    "noise": _noise,
    "target": _target,
    "target_texture": _target_texture,
    "target_gram": _target_gram,
    "target_color": _target_color,
}
"""Every term gives one value per sample (batch,)."""

TAPS = {
    "style": "style_layers",
    "distribution": "distribution_layers",
    "gram": "gram_layers",
    "transport": "transport_layers",
    "contextual": "contextual_layers",
    "content": "content_layers",
    "target": "target_layers",
    "target_texture": "texture_layers",
    "target_gram": "target_gram_layers",
}
"""The setting that lists the VGG layers of a term."""

OF_CROPS = ("transport", "contextual")
"""Terms that compare features with those of a crop of the painting."""

OF_TARGETS = ("target", "target_texture", "target_gram")
"""Terms that compare features with those of another method's results."""

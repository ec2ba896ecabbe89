"""The loss terms of the temporal stage, by name: the consistency loss in its two forms, and flicker itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hicast.config.train import TemporalTraining
from hicast.losses.consistency import consistency_terms
from hicast.losses.published import published_consistency_terms
from hicast.losses.terms import LossTerms
from hicast.losses.warping import warping_distance
from hicast.models.temporal_layers import clip_volume
from hicast.training.tracks import frame_pairs


@dataclass(frozen=True)
class Steadied:
    """What the terms of one batch look at.

    `prediction` of the net with temporal layers, that of the net for pictures on the same noisy frames (`image`), what the
    prediction should be (`target`), and clean latents, estimated and the content's own (`clean`): all (batch * frames,
    channels, height, width). `content` (batch, frames, 3, height, width) with its `places` and `seen` (`TrackedClip`).
    """

    settings: TemporalTraining
    prediction: Tensor
    image: Tensor
    target: Tensor
    estimate: Tensor
    clean: Tensor
    content: Tensor
    places: Tensor
    seen: Tensor


def temporal_terms(steadied: Steadied, decode: Callable[[Tensor], Tensor], generator: torch.Generator) -> LossTerms:
    """All terms that the settings give a weight.

    `noise`: the prediction is what the net was taught to predict ("global to the noise"); `image`: it is that of the net
    for pictures; `contrast` and `correlation`: the estimate differs from pixel to pixel, and moves, as the content does
    (`losses.consistency`, or `losses.published` by `reference`). `warp`: the decoded estimate does not flicker
    (`losses.warping`). The `generator` draws the places of the contrast.
    """
    settings = steadied.settings
    frames, wanted = settings.frames, settings.losses
    volumes = [clip_volume(getattr(steadied, name), frames) for name in ("prediction", "target", "image", "estimate", "clean")]
    consistency = published_consistency_terms if settings.reference else consistency_terms
    terms = {}
    if any(wanted.get(name) for name in ("noise", "image", "contrast", "correlation")):
        terms = consistency(*volumes, generator)
    if wanted.get("warp"):
        decoded = decode(steadied.estimate).float().unflatten(0, (-1, frames))
        pairs = frame_pairs(frames)
        terms["warp"] = warping_distance(decoded, steadied.content, pairs, steadied.places, steadied.seen).mean()
    return {name: value for name, value in terms.items() if wanted.get(name)}

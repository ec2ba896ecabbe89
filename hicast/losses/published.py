"""The published training losses where they differ from ours, and its metric, kept to reproduce its results.

Of the temporal stage two terms train nothing: `content_query_contrast` always, and `reciprocal_correlation` as
`clamped_correlation` weighs it wherever motion correlates by less than 0.714.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hicast.losses.adversarial import masked_mean
from hicast.losses.consistency import correlation, draw_positions, frame_motion, global_distance, local_contrast
from hicast.losses.perceptual import gram
from hicast.losses.terms import LossTerms

CONSISTENCY_WEIGHTS = {"noise": 0.01, "image": 2.0, "contrast": 10.0, "correlation": 1.0}
"""Published weights of `published_consistency_terms` (reference, 7.7)."""

CORRELATION_CLAMP, CORRELATION_CLAMPED_WEIGHT = 0.7, 0.1


def style_vector_loss(ours: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
    """Mean squared difference of style vectors (batch, 2944), both zeroed where the boolean `keep` (batch,) is False."""
    return masked_mean((ours.float() - target.float()).square().mean(1), keep)


def masked_logits(logits: Tensor, keep: Tensor) -> Tensor:
    """Logits (batch * n, 1) set to 0 where `keep` (batch,) is False: in a softplus each of them still adds log 2."""
    keep = keep.bool().repeat_interleave(len(logits) // len(keep))
    return torch.where(keep[:, None], logits, logits.new_zeros(()))


def training_gram_distance(ours: Tensor, target: Tensor) -> Tensor:
    """Summed squared difference of Gram matrices per sample (batch,), of features (batch, channels, h, w).

    The matrices are divided by (h * w) squared; published features are relu1_2 of a picture in [-1, 1] that does not
    pass the scaling layer (reference, 7.4).
    """
    difference = gram(ours) / ours[0, 0].numel() - gram(target) / target[0, 0].numel()
    return difference.square().sum((1, 2))


def training_gram_loss(distances: Tensor, keep: Tensor) -> Tensor:
    """Published Gram loss, a scalar: the `training_gram_distance` (batch,) of all samples, times the number of those to `keep` (batch,).

    The published mask is broadcast against the wrong axis, so dropped samples count as well. Multiply the distances by
    the mask for what was meant (reference, 7.4).
    """
    return distances.sum() * keep.sum()


def metric_gram_distance(ours: Tensor, target: Tensor) -> Tensor:
    """Gram distance of the published metric per sample (batch,), of features (batch, channels, height, width).

    Features are divided by their channels, the matrices by the feature height only; squared differences are summed.
    Published features are relu2_2, relu3_2 and relu4_2 of pictures in [0, 1] through a scaling layer meant for [-1, 1]
    (reference, 8).
    """
    scaled = [gram(features) * features.shape[3] / features.shape[1] ** 2 for features in (ours, target)]
    return (scaled[0] - scaled[1]).square().sum((1, 2))


def content_query_contrast(estimate: Tensor, latents: Tensor, positions: Tensor) -> Tensor:
    """Published local contrast, a scalar without gradient: the content as query, the estimate as key, first clip only."""
    return local_contrast(latents[:1].detach(), estimate[:1], positions).mean()


def reciprocal_correlation(estimate: Tensor, latents: Tensor) -> Tensor:
    """Published motion loss 1 / (2 r), a scalar: r is correlated over the whole batch's pixels, then averaged.

    0.5 for identical motion, without bound near r = 0, and negative below, where it pulls r up to 0 only.
    """
    pairs = correlation(frame_motion(estimate), frame_motion(latents), (0, 3, 4))
    return 0.5 / pairs.mean()


def clamped_correlation(loss: Tensor) -> Tensor:
    """`reciprocal_correlation` as it is added up: above 0.7 it is clamped, which stops its gradient, and weighs 0.1."""
    clamped = CORRELATION_CLAMPED_WEIGHT * loss.clamp(max=CORRELATION_CLAMP)
    return torch.where(loss > CORRELATION_CLAMP, clamped, loss)


def published_consistency_terms(prediction: Tensor, noise: Tensor, image_prediction: Tensor, estimate: Tensor,
                                latents: Tensor, generator: torch.Generator) -> LossTerms:
    """`consistency.consistency_terms` as published, for `CONSISTENCY_WEIGHTS`; contrast and correlation skip frame 0.

    Raises UsageError for fewer than three frames. Source: reference, 7.7.
    """
    positions = draw_positions(*latents.shape[-2:], generator)
    estimate, latents = estimate[:, :, 1:], latents[:, :, 1:]
    return {
        "noise": global_distance(prediction, noise).mean(),
        "image": global_distance(prediction, image_prediction).mean(),
        "contrast": content_query_contrast(estimate, latents, positions),
        "correlation": clamped_correlation(reciprocal_correlation(estimate, latents)),
    }

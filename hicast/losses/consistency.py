"""The harmonious consistency loss of the temporal stage: near the noise, near the image model, and moving like the content.

Latents are (batch, channels, frames, height, width). Corrected forms; what the published code computes instead, and
which of its terms train nothing, is in `published`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hicast.errors import UsageError
from hicast.losses.adversarial import masked_mean
from hicast.losses.terms import LossTerms

TEMPERATURE = 0.07
POSITIONS = 8
NORM_EPS = 1e-7

STILL = 1e-5
"""Variance of a frame difference below which a channel counts as standing still."""


def consistency_terms(prediction: Tensor, noise: Tensor, image_prediction: Tensor, estimate: Tensor, latents: Tensor,
                      generator: torch.Generator, keep: Tensor | None = None) -> LossTerms:
    """The terms `noise`, `image`, `contrast` and `correlation` of a batch of clips; none changes its inputs.

    `prediction` of the video net, the true `noise` and the `image_prediction` of the image net for the same noisy
    frames; `estimate`, the clean latents that follow from `prediction`, and the content's `latents`. All have one shape
    (see the module). The `generator` draws the places of the contrast; clips not in the boolean `keep` (batch,) count as 0.
    """
    positions = draw_positions(*latents.shape[-2:], generator)
    values = {
        "noise": global_distance(prediction, noise),
        "image": global_distance(prediction, image_prediction),
        "contrast": local_contrast(estimate, latents, positions),
        "correlation": motion_distance(estimate, latents),
    }
    return {name: masked_mean(value, keep) for name, value in values.items()}


def global_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference per sample (batch,); no gradient reaches `target`."""
    return (prediction.float() - target.detach().float()).square().flatten(1).mean(1)


def draw_positions(height: int, width: int, generator: torch.Generator, count: int = POSITIONS) -> Tensor:
    """Flat places (count,) of different inner pixels of a grid, fewer if it has not so many.

    Raises UsageError for a grid without an inner pixel.
    """
    if min(height, width) < 3:
        raise UsageError(f"local contrast: expected latents of 3x3 or more, found {height}x{width}: enlarge the crop")
    inner = torch.randperm((height - 2) * (width - 2), generator=generator, device=generator.device)[:count]
    return (inner // (width - 2) + 1) * width + inner % (width - 2) + 1


def neighbour_differences(frames: Tensor, positions: Tensor) -> Tensor:
    """Unit vectors (n, 8 * count, channels) from each place to its neighbours in frames (n, channels, height, width).

    The first neighbour of all places comes first. `positions` are `draw_positions`.
    """
    width = frames.shape[-1]
    offsets = [row * width + column for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]
    flat = frames.float().flatten(2)
    positions = positions.to(flat.device)
    neighbours = torch.cat([positions + offset for offset in offsets])
    difference = flat[..., positions.repeat(len(offsets))] - flat[..., neighbours]
    length = torch.linalg.vector_norm(difference, dim=1, keepdim=True)
    return (difference / (length + NORM_EPS)).transpose(1, 2)


def local_contrast(estimate: Tensor, latents: Tensor, positions: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """How hard it is to tell by an estimate's local differences which of the content's they are, per clip (batch,).

    Within a frame each of the `8 * count` differences in `estimate` is a query; the content's difference at the same
    place is the right key, all others are wrong ones (InfoNCE). The gradient goes to `estimate` only. Source: contrastive
    coherence preserving loss (arXiv 2207.04808), on latents as in reference, 7.7. Differs from the published code, where
    the content is the query and nothing is trained: see `published.content_query_contrast`.
    """
    clips = len(estimate)
    queries = neighbour_differences(_as_pictures(estimate), positions)
    keys = neighbour_differences(_as_pictures(latents.detach()), positions)
    logits = queries @ keys.transpose(1, 2) / temperature
    right = torch.arange(logits.shape[1], device=logits.device).repeat(len(logits))
    return functional.cross_entropy(logits.flatten(0, 1), right, reduction="none").view(clips, -1).mean(1)


def frame_motion(latents: Tensor) -> Tensor:
    """Differences (batch, channels, frames - 1, height, width) of frames that follow each other.

    Raises UsageError for a single frame.
    """
    if latents.shape[2] < 2:
        raise UsageError(f"motion: expected clips of 2 frames or more, found {latents.shape[2]}: set more frames")
    return (latents[:, :, 1:] - latents[:, :, :-1]).float()


def correlation(ours: Tensor, target: Tensor, dims: tuple[int, ...], floor: float = 0.0) -> Tensor:
    """Pearson correlation over `dims`; with a `floor` of the variance two constants correlate fully and no 0/0 occurs."""
    ours = ours - ours.mean(dims, keepdim=True)
    target = target - target.mean(dims, keepdim=True)
    product = (ours * target).mean(dims) + floor
    return product / ((ours.square().mean(dims) + floor) * (target.square().mean(dims) + floor)).sqrt()


def motion_distance(estimate: Tensor, latents: Tensor) -> Tensor:
    """1 - correlation of the frame differences of `estimate` and content `latents`, per clip (batch,), in 0 to 2.

    Correlated over the pixels of each channel and pair of frames, then averaged; 0 for identical motion, also for two
    clips that stand still. Differs from the published code, which takes a reciprocal: see `published.reciprocal_correlation`.
    """
    pairs = correlation(frame_motion(estimate), frame_motion(latents.detach()), (3, 4), STILL)
    return 1 - pairs.mean((1, 2))


def _as_pictures(clips: Tensor) -> Tensor:
    """Frames (batch * frames, channels, height, width) of clips, those of a clip together."""
    return clips.transpose(1, 2).flatten(0, 1)

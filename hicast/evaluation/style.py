"""How much of the painting comes over: colours, Gram matrices, local patterns and statistics of a result against its style."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hicast.encoders.style import channel_statistics
from hicast.encoders.vgg import STYLE_TAPS
from hicast.evaluation.content import cosine
from hicast.evaluation.eye import PUBLISHED_TAPS
from hicast.evaluation.sight import Sight
from hicast.losses.perceptual import gram
from hicast.losses.published import metric_gram_distance, training_gram_distance

GE_TAPS = ("relu2_1", "relu3_1", "relu4_1", "relu5_1")
LP_TAPS = ("relu3_1", "relu4_1")
HISTOGRAM_BINS = 128
PATCH, RESULT_STRIDE = 3, 2
CHUNK = 1024
"""Patches of a painting that all places of a result are compared with at a time: bounds memory and changes nothing else."""


def histograms(pixels: np.ndarray) -> np.ndarray:
    """Counts (3, `HISTOGRAM_BINS`) of the values of each channel of `pixels`, uint8 (height, width, 3)."""
    width = 256 // HISTOGRAM_BINS
    return np.stack([np.bincount(pixels[..., c].ravel() // width, minlength=HISTOGRAM_BINS) for c in range(3)]).astype(np.float64)


def histogram_cosine(ours: np.ndarray, target: np.ndarray) -> float:
    """Mean cosine over channels of the `histograms` of both pictures, uint8 (height, width, 3)."""
    x, y = histograms(ours), histograms(target)
    return float(np.mean((x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1) + 1e-12)))


def histogram_distance(result: Sight, style: Sight) -> float:
    """Mean over channels of the earth mover's distance of the histograms, values 0 to 1; 0 for equal colours.

    Sum over bins of |A - B| / `HISTOGRAM_BINS`, A and B the cumulated shares. Source: Rubner et al. 2000, doi
    10.1023/A:1026543900054.
    """
    x, y = (histograms(sight.pixels) / sight.pixels[..., 0].size for sight in (result, style))
    return float(np.abs(np.cumsum(x - y, axis=1)).sum(1).mean() / HISTOGRAM_BINS)


def global_effects(result: Sight, style: Sight) -> float:
    """GE: half the cosine of colour histograms, half the mean cosine of Gram matrices at `GE_TAPS`; 1 for the painting itself.

    Source: doi 10.1016/j.cviu.2021.103203, published on VGG-19.
    """
    texture = np.mean([cosine(_gram(result, tap), _gram(style, tap)) for tap in GE_TAPS])
    return float(0.5 * histogram_cosine(result.pixels, style.pixels) + 0.5 * texture)


def _gram(sight: Sight, tap: str) -> Tensor:
    return sight.once(("gram", tap), lambda: gram(sight.features[tap]))


def patches(features: Tensor, stride: int = 1) -> Tensor:
    """Patches of `PATCH` x `PATCH` positions of features (1, channels, h, w) as rows of length 1 (count, channels * 9)."""
    columns = functional.unfold(features, PATCH, stride=stride)[0]
    return functional.normalize(columns, dim=0).T.contiguous()


def best_matches(features: Tensor, keys: Tensor, stride: int = 1, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Cosine (count,) of each patch of features (1, channels, h, w) with the nearest of `keys`, and which that is (count,).

    `keys` are rows as `patches` gives them. A convolution with the keys compares all places at once, `chunk` keys at a time.
    """
    kernels = keys.unflatten(1, (-1, PATCH, PATCH))
    found = [functional.conv2d(features, part, stride=stride)[0].flatten(1).max(0) for part in kernels.split(chunk)]
    values, which = torch.stack([part.values for part in found]).max(0)
    indices = torch.stack([part.indices for part in found]).gather(0, which[None])[0] + which * chunk
    ones = features.new_ones(1, 1, PATCH, PATCH)
    lengths = functional.conv2d(features.square().sum(1, keepdim=True), ones, stride=stride).flatten().sqrt()
    return values / lengths.clamp_min(1e-12), indices


def local_patterns(result: Sight, style: Sight) -> float:
    """LP: mean over `LP_TAPS` of half the cosine of patches with their best match in the painting, and half the share of its
    patches that serve as one, of those that the painting itself would use; 1 for the painting itself.

    Every second patch of the result asks, every patch of the painting answers. Source: doi 10.1016/j.cviu.2021.103203,
    published on VGG-19.
    """
    scores = []
    for tap in LP_TAPS:
        keys = style.once(("patches", tap), lambda tap=tap: patches(style.features[tap]))
        own = style.once(("used", tap), lambda tap=tap, keys=keys: _used(style, tap, keys)[1])
        likeness, used = _used(result, tap, keys)
        scores.append(0.5 * likeness + 0.5 * used / own)
    return float(np.mean(scores))


def _used(sight: Sight, tap: str, keys: Tensor) -> tuple[float, int]:
    """Mean cosine of the best matches of a picture's patches, and how many different `keys` they are."""
    cosines, indices = best_matches(sight.features[tap], keys, RESULT_STRIDE)
    return cosines.mean().item(), indices.unique().numel()


def gram_training(result: Sight, style: Sight) -> float:
    """Gram distance of the published training loss: sum of (G - H)^2, G = F F^T / (h w)^2 of the features F (channels, h w) of the
    result at relu1_2, H that of the painting (reference, section 7.4); 0 for the painting itself.

    Differs from it in that the picture passes the scaling that the net of the evaluation was trained with.
    """
    return training_gram_distance(result.features["relu1_2"], style.features["relu1_2"]).item()


def gram_published(result: Sight, style: Sight) -> float:
    """Gram distance of the published metric: mean over relu2_2, relu3_2 and relu4_2 of the sum of (G - H)^2, G = F F^T / (C^2 h) of
    features F (C, h w) of the result, H that of the painting (reference, section 8); 0 for the painting itself.

    Published at 512 pixels on torchvision's VGG-16 behind a scaling layer; here at the size and on the net of the evaluation.
    """
    ours, target = result.published_features, style.published_features
    return float(np.mean([metric_gram_distance(ours[tap], target[tap]).item() for tap in PUBLISHED_TAPS]))


def statistics_of(sight: Sight) -> list[Tensor]:
    """Standard deviations and means (2 * channels,) of the features at each tap of the style vector (reference, section 1)."""
    return sight.once("statistics", lambda: [torch.cat(channel_statistics(sight.features[tap]), 1)[0] for tap in STYLE_TAPS])


def statistics_distance(result: Sight, style: Sight) -> float:
    """Mean over taps of |s - t| / |t|, s and t the statistics of result and painting; 0 for the painting itself.

    The house's own figure of what arXiv 1703.06868 matches, and the style vector holds (reference, section 1).
    """
    pairs = zip(statistics_of(result), statistics_of(style), strict=True)
    return float(np.mean([((ours - own).norm() / own.norm().clamp_min(1e-6)).item() for ours, own in pairs]))

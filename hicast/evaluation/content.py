"""How much of the photo stays: features, structure, self-similarity and control maps of a result against its content."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hicast.controls import Extractor
from hicast.evaluation.sight import Sight

CF_TAPS = ("relu4_1", "relu5_1")
CFSD_TAP = "relu3_1"
CFSD_STRIDE = 2
"""Every second position, down and across, is compared with all others."""

_SSIM_SIGMA, _SSIM_REACH = 1.5, 5
_SSIM_CONSTANTS = (0.01**2, 0.03**2)
_FLAT = 1e-6
"""What is left of a map that is a plane, but for rounding."""

_LUMA = (0.299, 0.587, 0.114)


def cosine(ours: Tensor, target: Tensor) -> float:
    """Cosine similarity of two tensors of one shape, taken as vectors."""
    return functional.cosine_similarity(ours.flatten(), target.flatten(), dim=0).item()


def content_fidelity(result: Sight, content: Sight) -> float:
    """CF: mean over `CF_TAPS` of F . G / (|F| |G|), F and G the features of result and content as vectors; 1 for the content itself.

    Source: doi 10.1016/j.cviu.2021.103203, published on VGG-19.
    """
    return float(np.mean([cosine(result.features[tap], content.features[tap]) for tap in CF_TAPS]))


def ssim(ours: Tensor, target: Tensor) -> float:
    """Structural similarity of two grey images (1, 1, height, width) in [0, 1]; 1 for equal ones.

    Mean of (2 m_x m_y + c) (2 v_xy + d) / ((m_x^2 + m_y^2 + c) (v_x + v_y + d)), c = 0.01^2 and d = 0.03^2; means m and
    (co)variances v in a Gaussian window of 11 pixels and deviation 1.5, only where it fits in whole. Source: Wang et al. 2004,
    doi 10.1109/TIP.2003.819861.
    """
    steps = torch.arange(-_SSIM_REACH, _SSIM_REACH + 1, dtype=torch.float64)
    line = torch.exp(-steps.square() / (2 * _SSIM_SIGMA**2))
    line = line / line.sum()

    def blurred(values: Tensor) -> Tensor:
        return functional.conv2d(functional.conv2d(values, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))

    x, y = ours.double().cpu(), target.double().cpu()
    mean_x, mean_y = blurred(x), blurred(y)
    spread_x, spread_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    joint = blurred(x * y) - mean_x * mean_y
    small, large = _SSIM_CONSTANTS
    scores = (2 * mean_x * mean_y + small) * (2 * joint + large) / ((mean_x**2 + mean_y**2 + small) * (spread_x + spread_y + large))
    return scores.mean().item()


def structure(result: Sight, content: Sight) -> float:
    """SSIM of the luma of both pictures."""
    return ssim(_grey(result), _grey(content))


def _grey(sight: Sight) -> Tensor:
    weights = sight.image.new_tensor(_LUMA).view(1, 3, 1, 1)
    return sight.once("grey", lambda: ((sight.image / 2 + 0.5) * weights).sum(1, keepdim=True))


def self_similarity(features: Tensor, stride: int = 1) -> Tensor:
    """Logarithm of the softmax over all positions of their cosine with every `stride`-th: (count, h * w) of features
    (1, channels, h, w).
    """
    unit = functional.normalize(features[0], dim=0)
    return functional.log_softmax(unit[:, ::stride, ::stride].flatten(1).T @ unit.flatten(1), dim=1)


def structural_distance(result: Sight, content: Sight) -> float:
    """CFSD: mean over places of sum p log(p / q), p and q the self-similarities of content and result at `CFSD_TAP`; 0 for the
    content itself.

    It asks which places look alike and not what they look like. Source: arXiv 2312.09008, published on VGG-19; differs
    from it in that it asks at every `CFSD_STRIDE`-th place.
    """
    own, weight = content.once("self-similarity", lambda: _with_weights(self_similarity(content.features[CFSD_TAP], CFSD_STRIDE)))
    ours = self_similarity(result.features[CFSD_TAP], CFSD_STRIDE)
    return (weight * (own - ours)).sum().item() / len(own)


def _with_weights(logarithms: Tensor) -> tuple[Tensor, Tensor]:
    return logarithms, logarithms.exp()


def map_correlation(ours: Tensor, target: Tensor) -> float:
    """Correlation (Pearson) of two maps of one shape, x . y / (|x| |y|) of both less their means; 1 where they are the same, 0
    where one of them alone is flat.
    """
    x, y = (values.double().flatten() - values.double().mean() for values in (ours, target))
    scale = (x.norm() * y.norm()).item()
    if scale < 1e-9:
        return 1.0 if torch.equal(ours, target) else 0.0
    return (x @ y).item() / scale


def without_plane(drawn: Tensor) -> Tensor:
    """A map (..., height, width) less the plane a + b x + c y that fits it best (least squares), in float64."""
    height, width = drawn.shape[-2:]
    across, down = (torch.linspace(-1, 1, side, dtype=torch.float64, device=drawn.device) for side in (width, height))
    values, slopes = drawn.double() - drawn.double().mean((-2, -1), keepdim=True), []
    for line in (across.expand(height, width), down[:, None].expand(height, width)):
        slopes.append((values * line).sum((-2, -1), keepdim=True) / line.square().sum() * line)
    rest = values - slopes[0] - slopes[1]
    return torch.where(rest.abs().amax((-2, -1), keepdim=True) < _FLAT, 0.0, rest)


def map_agreement(ours: Tensor, target: Tensor) -> float:
    """Share of places at which two maps (1, 3, height, width) of region colours have the same one."""
    return ((ours - target).abs().amax(1) < 0.5 / 255).double().mean().item()


def control_fidelity(result: Sight, content: Sight, name: str, extractor: Extractor) -> float:
    """How far the map that `extractor` draws of the result is that of the content: `seg` by `map_agreement`, `edge` by
    `map_correlation`, and `depth` by that of maps `without_plane`, for depth falls from bottom to top in nearly all pictures.

    Differs from the published training loss, a squared error: figures of different extractors can be compared.
    """
    maps = [sight.once(("map", name), lambda sight=sight: _map(sight, extractor)) for sight in (result, content)]
    if name == "seg":
        return map_agreement(*maps)
    return map_correlation(*(map(without_plane, maps) if name == "depth" else maps))


def _map(sight: Sight, extractor: Extractor) -> Tensor:
    with torch.inference_mode():
        return extractor(sight.image.to(sight.eye.device)).float().cpu()

"""Distances between images in the features of a classification network: detail, content, style and lattices."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hicast.encoders.style import channel_statistics
from hicast.losses.color import odd_stride

Features = Mapping[str, Tensor]


def feature_distance(ours: Features, target: Features) -> Tensor:
    """Mean over samples and layers of the L1 distance relative to the target's mean activation (scale-free); its gradient by `target` is 0.

    Differences are taken in the features' own dtype and summed in float32, which spares copies: what is compared is the largest of a step.
    """
    terms = [MeanDistance.apply(ours[name], target[name]) / _mean_size(target[name].detach()).clamp_min(1e-6) for name in ours]
    return torch.stack(terms).mean()


class MeanDistance(torch.autograd.Function):
    """Mean absolute difference (batch,), float32, of two tensors (batch, ...) of one dtype; nothing flows back to the second."""

    @staticmethod
    def forward(context, ours: Tensor, target: Tensor) -> Tensor:
        """The means; the difference is kept."""
        difference = ours - target
        context.save_for_backward(difference)
        return _mean_size(difference)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:
        """Signs of the difference over how many there are."""
        (difference,) = context.saved_tensors
        share = (gradient / difference[0].numel()).to(difference.dtype)
        return difference.sign().mul_(share.view(-1, *[1] * (difference.dim() - 1))), None


def _mean_size(values: Tensor) -> Tensor:
    """Mean absolute value of every row (batch,), at least in float32."""
    return torch.linalg.vector_norm(values, 1, tuple(range(1, values.dim())), dtype=torch.promote_types(values.dtype, torch.float32)) / values[0].numel()


def laplacian(image: Tensor) -> Tensor:
    """Discrete Laplacian (batch, channels, height - 2, width - 2) of an image: its finest detail."""
    centre = image[..., 1:-1, 1:-1]
    return (
        4 * centre
        - image[..., :-2, 1:-1]
        - image[..., 2:, 1:-1]
        - image[..., 1:-1, :-2]
        - image[..., 1:-1, 2:]
    )


def detail_energy(image: Tensor, window: int = 8) -> Tensor:
    """Root mean square of the Laplacian in overlapping windows (batch, channels, ., .): how crisp, not where exactly.

    Absolute errors alone teach an autoencoder to blur what it cannot place; matching this keeps the amount of detail.
    """
    return (F.avg_pool2d(laplacian(image).square(), window, stride=window // 2) + 1e-6).sqrt()


def instance_normalize(features: Tensor, eps: float = 1e-5) -> Tensor:
    """Zero mean and unit variance per sample and channel, in float32."""
    return F.instance_norm(features.float(), eps=eps)


def content_distance(ours: Features, target: Features, weights: Mapping[str, float]) -> Tensor:
    """Squared error of mean-variance normalised features per sample (batch,): where things are, not their style.

    Source of the normalisation: AdaIN style transfer (arXiv 1703.06868), here on several layers with `weights`.
    """
    terms = [
        weight * (instance_normalize(ours[name]) - instance_normalize(target[name])).square().mean((1, 2, 3))
        for name, weight in weights.items()
    ]
    return torch.stack(terms).sum(0)


def layer_statistics(features: Tensor) -> Tensor:
    """Standard deviation and mean per channel (batch, 2 * channels) in float32, in the order of the style vector."""
    return torch.cat(channel_statistics(features), dim=1)


def style_distance(ours: Features, target: Mapping[str, Tensor], scale: Mapping[str, float],
                   weights: Mapping[str, float]) -> Tensor:
    """Squared error of feature statistics per sample (batch,), each layer in units of its spread over the data set.

    `target[name]` are `layer_statistics` (batch, 2 * channels) of the style images; `scale[name]` is the mean over the
    layer of the statistics' variance over many paintings, so that layers weigh alike before `weights`.
    """
    terms = [
        weight * (layer_statistics(ours[name]) - target[name]).square().mean(1) / scale[name]
        for name, weight in weights.items()
    ]
    return torch.stack(terms).sum(0)


def gram(features: Tensor) -> Tensor:
    """Gram matrix (batch, channels, channels) of features (batch, channels, h, w), divided by h * w, in float32."""
    flat = features.float().flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def gram_distance(ours: Features, target: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Relative squared Frobenius distance of Gram matrices per sample (batch,); `target[name]` are Gram matrices.

    Differs from the published training loss (one layer, summed, not normalised): here no layer or image dominates.
    """
    terms = [
        weight
        * (gram(ours[name]) - target[name]).square().sum((1, 2))
        / target[name].square().sum((1, 2)).clamp_min(1e-6)
        for name, weight in weights.items()
    ]
    return torch.stack(terms).sum(0)


def gram_angle(ours: Features, target: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """1 - cosine of Gram matrices plus the squared logarithm of the ratio of their norms, per sample (batch,); `target[name]` are Gram matrices.

    What `gram_distance` sees of a matrix that points elsewhere is least where ours is smaller by the cosine of the angle, so that a net that cannot reach the target learns
    paler pictures; here strength is asked for whatever the angle. A nearly flat painting counts no more than another.
    """
    terms = []
    for name, weight in weights.items():
        mine, theirs = gram(ours[name]).flatten(1), target[name].flatten(1)
        norms, wanted = (matrix.norm(dim=1).clamp_min(1e-6) for matrix in (mine, theirs))
        terms.append(weight * (1 - (mine * theirs).sum(1) / (norms * wanted) + (norms / wanted).log().square()))
    return torch.stack(terms).sum(0)


GRAM_FORMS = {"squared": gram_distance, "angle": gram_angle}
"""How Gram matrices are compared, by name."""


def feature_quantiles(features: Tensor, directions: int = 32, count: int = 32, max_positions: int = 4096) -> Tensor:
    """Quantiles (batch, directions, count) of features (batch, channels, h, w) along fixed random directions.

    At most `max_positions` positions in strides of `odd_stride` are sorted. The directions depend on the number of channels alone.
    """
    rows = features.permute(0, 2, 3, 1).flatten(1, 2)
    rows = rows[:, :: odd_stride(rows.shape[1], max_positions)].float()
    generator = torch.Generator().manual_seed(rows.shape[2])
    basis = F.normalize(torch.randn(rows.shape[2], directions, generator=generator), dim=0).to(rows.device)
    ordered = (rows @ basis).transpose(1, 2).sort(dim=2).values
    position = (torch.arange(count, device=rows.device) + 0.5) / count * ordered.shape[2]
    return ordered[..., position.long()]


OUR_POSITIONS = 1024
"""Positions of a result that are sorted: quantiles of more are hardly nearer, and sorting takes most of the term's time."""


def distribution_distance(ours: Features, target: Mapping[str, Tensor], scale: Mapping[str, float],
                          weights: Mapping[str, float]) -> Tensor:
    """Sliced Wasserstein distance of feature distributions per sample (batch,), layers in units of their spread.

    `target[name]` are `feature_quantiles` of the paintings, `scale[name]` the mean variance of the quantiles over many
    paintings. Standard deviations alone are met most cheaply by a few extreme spots; whole distributions are not.
    Source: sliced Wasserstein loss for texture synthesis (arXiv 2006.07229).
    """
    terms = [
        weight * (feature_quantiles(ours[name], max_positions=OUR_POSITIONS) - target[name]).square().mean((1, 2)) / scale[name]
        for name, weight in weights.items()
    ]
    return torch.stack(terms).sum(0)


def lattice_energy(image: Tensor, periods: tuple[int, ...] = (8, 16), window: int = 64) -> Tensor:
    """Share of an image's fine detail that repeats with the autoencoder's period, per sample (batch,); 0 is clean.

    The image (batch, channels, height, width) is high-passed with a box blur; within windows the mean tile of each
    period is compared with the whole energy, per colour channel, because lattices are often coloured and local.
    """
    high = _high_pass(image, 9)
    window = min(window, *image.shape[-2:])
    step = max(window // 2, 16)
    windows = high.unfold(2, window, step).unfold(3, window, step)
    energy = windows.square().mean((4, 5)).sum(1) + 1e-4
    total = image.new_zeros(image.shape[0])
    for period in periods:
        count = window // period
        cells = windows[..., : count * period, : count * period].unflatten(4, (count, period)).unflatten(6, (count, period))
        tile = cells.mean((4, 6))
        noise_floor = 1.0 / count**2
        share = tile.square().mean((4, 5)).sum(1) / energy
        total = total + (share - noise_floor).clamp_min(0).mean((1, 2))
    return total


_SHIFTS = ((0, 8), (8, 0), (8, 8), (8, -8), (0, 16), (16, 0), (16, 16), (16, -16), (0, 24), (24, 0), (0, 32), (32, 0))


def repetition(image: Tensor, content: Tensor, slack: float = 0.15) -> Tensor:
    """How much `image` repeats itself at multiples of eight pixels beyond its content, per sample (batch,); 0 is clean.

    A net on latents of 8x8 pixels earns style statistics most cheaply by stamping one motif again and again, in any
    order, which no average over a period shows. Local autocorrelations at such shifts betray it; those of `content`
    (both (batch, 3, height, width)) and `slack` are allowed, since edges and fences repeat as well.
    """
    ours, theirs = _local_correlations(image), _local_correlations(content)
    return (ours - theirs.clamp_min(0) - slack).clamp_min(0).square().mean((1, 2, 3)) * len(_SHIFTS)


_LUMA = (0.299, 0.587, 0.114)


def relief_distance(image: Tensor, content: Tensor, box: int = 13) -> Tensor:
    """How far the fine light and shade of `image` is from that of `content`, per sample (batch,); 1 where it has none.

    Both are (batch, 3, height, width) in [-1, 1]; compared is the luma less its mean in a box of `box` pixels, as a squared distance
    over the content's own energy. It says nothing of colours nor of broad light: a net of depth lives on what is left.
    """
    luma = image.new_tensor(_LUMA).view(1, 3, 1, 1)
    ours, theirs = (_high_pass((picture.float() * luma).sum(1, keepdim=True), box) for picture in (image, content))
    return (ours - theirs).square().mean((1, 2, 3)) / (theirs.square().mean((1, 2, 3)) + _FAINT)


_FAINT = 1e-3
"""Energy of fine light and shade that no photo must be held to more exactly for being faint, about 4 of 255 levels."""


def _local_correlations(image: Tensor, box: int = 17, window: int = 32) -> Tensor:
    """Autocorrelation (batch, shifts, rows, columns) of the high-passed image in windows of `window` pixels."""
    high = _high_pass(image, box)
    reach = max(max(abs(dy), abs(dx)) for dy, dx in _SHIFTS)
    height, width = high.shape[-2] - reach, high.shape[-1] - 2 * reach
    here = high[..., :height, reach : reach + width]
    energy = F.avg_pool2d(here.square().sum(1, keepdim=True), window, window // 2)
    found = []
    for dy, dx in _SHIFTS:
        there = high[..., dy : dy + height, reach + dx : reach + dx + width]
        product = F.avg_pool2d((here * there).sum(1, keepdim=True), window, window // 2)
        other = F.avg_pool2d(there.square().sum(1, keepdim=True), window, window // 2)
        found.append(product / (0.5 * (energy + other) + 2e-3))
    return torch.cat(found, dim=1)


def _high_pass(image: Tensor, box: int) -> Tensor:
    """`image` less its mean in a box of `box` pixels (odd), along one axis after the other, which is several times faster."""
    wide = F.pad(image, (box // 2,) * 4, mode="reflect")
    return image - F.avg_pool2d(F.avg_pool2d(wide, (box, 1), 1), (1, box), 1)

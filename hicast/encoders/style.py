"""From a style picture to its code: VGG-16 statistics and, if the model asks for them, a few tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional

from hicast.encoders.aim import Aim
from hicast.encoders.latent_moments import LatentMoments, mix_moments
from hicast.encoders.vgg import BLOCKS, STYLE_TAPS, Vgg16
from hicast.errors import UsageError

STYLE_DIM = 2 * sum(width for width, _ in BLOCKS)
"""Length of the style vector: a standard deviation and a mean per channel of five taps, 2944."""

TOKEN_TAPS = ("relu3_3", "relu4_3")
TOKEN_DIM = 256 + 512
"""Width of a style token: the channels of both `TOKEN_TAPS`."""

_SMALLEST_STD = 1e-6

_AT_ONCE = 2**18
"""Values per picture that stay in a processor's cache while they are summed up."""


@dataclass(frozen=True)
class StyleCode:
    """What the net is told of a style: `vector` (batch, 2944) and `tokens` (batch, count, 768) or None.

    `moments` are those of the painting's latents, for a net that moves its own towards them; `aim` is what it matches to, found from them
    where it is not given.
    """

    vector: Tensor
    tokens: Tensor | None = None
    moments: LatentMoments | None = None
    aim: Aim | None = None


def statistics(features: Mapping[str, Tensor]) -> Tensor:
    """Style vector (batch, 2944), float32, of VGG `features`: unbiased std, then mean, tap after tap.

    Source: reference, section 1. Differs from it where a tap is a single position: its std is 0, not NaN.
    """
    parts = []
    for tap in STYLE_TAPS:
        parts += channel_statistics(features[tap])
    return torch.cat(parts, dim=1)


def channel_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Unbiased standard deviation and mean (batch, channels) each of features (batch, channels, h, w), in float32.

    Sums run over rows of channels, the order in which channels_last features lie in memory: several times faster on a
    CPU than `torch.std_mean`, forth and back. A single position has a standard deviation of 0.
    """
    return _ChannelStatistics.apply(features)


class _ChannelStatistics(torch.autograd.Function):
    """`channel_statistics` with a gradient that takes one pass over the features, and no copy of them that has to be kept."""

    @staticmethod
    def forward(context, features: Tensor) -> tuple[Tensor, Tensor]:
        rows = features.permute(0, 2, 3, 1).flatten(1, 2)
        context.last = max(1, rows.shape[1] - 1)
        parts = rows.split(max(1, _AT_ONCE // rows.shape[2]), dim=1)
        near = parts[0].float().mean(1, keepdim=True)  # sums of squares about it lose nothing to rounding
        total = squares = torch.zeros_like(near[:, 0])
        for part in parts:
            away = part.to(torch.float32, copy=True).sub_(near)
            total, squares = total + away.sum(1), squares + away.square_().sum(1)
        off = total / rows.shape[1]
        std = ((squares - off * total) / context.last).clamp_min(_SMALLEST_STD**2).sqrt()
        context.save_for_backward(features, std, near[:, 0] + off)
        return std, near[:, 0] + off

    @staticmethod
    def backward(context, of_std: Tensor, of_mean: Tensor) -> Tensor:
        features, std, mean = context.saved_tensors
        slope = torch.where(std > _SMALLEST_STD, of_std / (std * context.last), torch.zeros_like(std))
        shift = of_mean / (features.shape[2] * features.shape[3]) - slope * mean
        return torch.addcmul(shift[..., None, None], features, slope[..., None, None]).to(features.dtype)


def pooled_tokens(features: Mapping[str, Tensor], grid: int) -> Tensor:
    """Means (batch, 768, grid, grid) of the token taps over a `grid` x `grid` partition of the picture, in float32."""
    return torch.cat([functional.adaptive_avg_pool2d(features[tap].float(), grid) for tap in TOKEN_TAPS], dim=1)


def blend_styles(codes: Sequence[tuple[StyleCode, float]]) -> StyleCode:
    """One code from several and their weights: the vectors' weighted mean; tokens of each in proportion to its weight; moments of the mixture.

    Averaging tokens would mix regions that have nothing in common, so every token of the result is one of a painting.
    Raises UsageError unless the weights sum to more than 0.
    """
    total = sum(weight for _, weight in codes)
    if total <= 0:
        raise UsageError(f"style weights: expected a sum above 0, found {total:g}")
    if len(codes) == 1:
        return codes[0][0]
    shares = [weight / total for _, weight in codes]
    vector = torch.stack([share * code.vector for (code, _), share in zip(codes, shares, strict=True)]).sum(0)
    moments = [code.moments for code, _ in codes]
    moments = None if moments[0] is None else mix_moments(moments, shares)
    if codes[0][0].tokens is None:
        return StyleCode(vector, None, moments)
    count = codes[0][0].tokens.shape[1]
    bounds = [round(count * sum(shares[:i])) for i in range(len(shares) + 1)]
    parts = []
    for (code, _), start, stop in zip(codes, bounds[:-1], bounds[1:], strict=True):
        chosen = torch.linspace(0, count - 1, stop - start).round().long()
        parts.append(code.tokens[:, chosen.to(code.tokens.device)])
    return StyleCode(vector, torch.cat(parts, dim=1), moments)


class StyleEncoder(ModelMixin, ConfigMixin):
    """VGG-16 and the numbers that bring its statistics to the scale the net was trained with.

    Buffers: `mean`, `std` (2944) of the vector, `null_style` (2944), and with tokens `token_mean`, `token_std` (768).
    Cast `encoder.vgg` alone to bfloat16, so that the buffers keep their precision.
    """

    @register_to_config
    def __init__(self, normalization: str = "caffe", token_grid: int = 0, clamp: float | None = None) -> None:
        """`token_grid` g gives g * g tokens (0: none); normalised values are held within +-`clamp` (None: not)."""
        super().__init__()
        self.vgg = Vgg16(normalization)
        self.register_buffer("mean", torch.zeros(STYLE_DIM))
        self.register_buffer("std", torch.ones(STYLE_DIM))
        self.register_buffer("null_style", torch.zeros(STYLE_DIM))
        if token_grid:
            self.register_buffer("token_mean", torch.zeros(TOKEN_DIM))
            self.register_buffer("token_std", torch.ones(TOKEN_DIM))

    def forward(self, image: Tensor, keep: Tensor | None = None) -> StyleCode:
        """Code of `image` (batch, 3, height, width) in [-1, 1]; null where the boolean `keep` (batch,) is False."""
        return self.code(self.vgg(image, STYLE_TAPS), keep)

    def code(self, features: Mapping[str, Tensor], keep: Tensor | None = None) -> StyleCode:
        """Code of VGG `features` that are at hand already (taps `STYLE_TAPS`); null where `keep` is False."""
        grid = self.config.token_grid
        tokens = pooled_tokens(features, grid).flatten(2).transpose(1, 2) if grid else None
        return self.normalized(statistics(features), tokens, keep)

    def normalized(self, vector: Tensor, tokens: Tensor | None = None, keep: Tensor | None = None) -> StyleCode:
        """Code from raw `statistics` (batch, 2944) and raw tokens (batch, count, 768); null where `keep` is False."""
        vector = self._normalize(vector, self.mean, self.std)
        if tokens is not None:
            tokens = self._normalize(tokens, self.token_mean, self.token_std)
        if keep is None:
            return StyleCode(vector, tokens)
        null = self.null(len(vector))
        vector = torch.where(keep[:, None], vector, null.vector)
        if tokens is not None:
            tokens = torch.where(keep[:, None, None], tokens, null.tokens)
        return StyleCode(vector, tokens)

    def null(self, batch: int) -> StyleCode:
        """The code that stands for 'no style', `batch` times: the null vector and tokens of zeros."""
        vector = self.null_style.float().expand(batch, -1)
        grid = self.config.token_grid
        return StyleCode(vector, vector.new_zeros(batch, grid * grid, TOKEN_DIM) if grid else None)

    def _normalize(self, values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        values = (values - mean.float()) / std.float().clamp_min(_SMALLEST_STD)
        limit = self.config.clamp
        return values if limit is None else values.clamp(-limit, limit)

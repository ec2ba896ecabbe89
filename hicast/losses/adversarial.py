"""Adversarial losses: a discriminator of whole pictures, one of patches against a painting's patches, and what they say.

Equalised convolutions, blur and residual blocks after StyleGAN2 (arXiv 1912.04958); the patch co-occurrence
discriminator after the swapping autoencoder (arXiv 2007.00653). Names of weights as in the published `discriminator.pt`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hicast.errors import UsageError

WIDTHS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}
"""Channels of the picture discriminator where its features have this many positions a side."""

PATCHES = 8
"""Patches cut from a picture that is judged."""

REFERENCES = 4
"""Patches of the painting that one patch is compared with, so `PATCHES * REFERENCES` are cut from the painting."""

_PATCH_WIDTHS = (2, 4, 8, 12, 12, 24)
_HALVINGS = {"image": (True, True, True, True, True, False), "latent": (True, False, True, False, True, False)}


def masked_mean(values: Tensor, keep: Tensor | None = None) -> Tensor:
    """Mean of per-sample `values` (batch * n,), those of samples where the boolean `keep` (batch,) is False counting as 0.

    Divided by the whole batch, kept or not: a rare kept sample is not blown up, and processes with different shares of
    kept samples average to what one process computes. Samples may have n values each, in order (patches).
    """
    if keep is None:
        return values.mean()
    keep = keep.bool().repeat_interleave(len(values) // len(keep))
    return torch.where(keep, values, values.new_zeros(())).mean()


def d_logistic_loss(real: Tensor, fake: Tensor, keep: Tensor | None = None) -> Tensor:
    """What a discriminator minimises: mean of softplus(-real) + softplus(fake) over logits (batch * n, 1).

    Samples where the boolean `keep` (batch,) is False count neither as real nor as fake. Source: arXiv 1406.2661.
    """
    values = functional.softplus(-real.float()) + functional.softplus(fake.float())
    return masked_mean(values.flatten(), keep)


def g_nonsaturating_loss(fake: Tensor, keep: Tensor | None = None) -> Tensor:
    """What the generator minimises: mean of softplus(-fake) over logits (batch * n, 1), without samples not in `keep`.

    Source: arXiv 1406.2661. Differs from the published code, where a dropped sample adds log 2
    (`published.masked_logits`).
    """
    return masked_mean(functional.softplus(-fake.float()).flatten(), keep)


def r1_penalty(logits: Tensor, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """Mean squared norm of the gradient of `logits` (batch * n, 1) for the real `images` they were computed from.

    `images` (batch * n, channels, height, width) must require a gradient. Source: arXiv 1801.04406.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return masked_mean(gradient.float().square().flatten(1).sum(1), keep)


def draw_crops(height: int, width: int, generator: torch.Generator, count: int = PATCHES) -> Tensor:
    """Places (count, 4) of square patches: top, left, height, width, with a side of 1/8 to 1/4 of the short side."""
    shares, tops, lefts = torch.rand(3, count, generator=generator, device=generator.device).cpu().double()
    side = ((1 + shares) / 8 * min(height, width)).long().clamp_min(1)
    return torch.stack([(tops * (height - side + 1)).long(), (lefts * (width - side + 1)).long(), side, side], dim=1)


def patchify(image: Tensor, crops: Tensor, side: int | None = None) -> Tensor:
    """Patches (batch * count, channels, side, side) of `image` (batch, channels, height, width), those of one picture together.

    `crops` are `draw_crops`, the same for the whole batch; `side` is a quarter of the short side unless given.
    """
    side = side or max(1, min(image.shape[-2:]) // 4)
    patches = [
        functional.interpolate(image[..., top : top + height, left : left + width], (side, side), mode="bilinear")
        for top, left, height, width in crops.tolist()
    ]
    return torch.stack(patches, dim=1).flatten(0, 1)


class ImageDiscriminator(nn.Module):
    """Logit per picture or latent: residual blocks halve it down to 4 x 4, two linear layers judge (reference, 7.5)."""

    def __init__(self, channels: int, size: int, width: float = 1.0) -> None:
        """For squares of `size` 4 or more, reduced to a power of two; `width` scales all channels (published: 1)."""
        super().__init__()
        self.side = _power_of_two(size, 4)
        widths = {side: max(1, round(width * count)) for side, count in WIDTHS.items()}
        sides = [side for side in sorted(widths, reverse=True) if side <= self.side]
        blocks = [_ResidualBlock(widths[side], widths[side // 2], down=True) for side in sides[:-1]]
        self.convs = nn.Sequential(_convolution(channels, widths[self.side], 1), *blocks)
        self.final_conv = _convolution(widths[4], widths[4], 3)
        self.final_linear = nn.Sequential(
            _EqualLinear(16 * widths[4], widths[4], activate=True), _EqualLinear(widths[4], 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits (batch, 1) of `image` (batch, channels, height, width): pictures in [-1, 1], or latents."""
        features = self.final_conv(self.convs(_resized(image, self.side)))
        return self.final_linear(features.flatten(1))


class PatchDiscriminator(nn.Module):
    """Logit per patch: could it come from the painting that the reference patches were cut from? (reference, 7.5)."""

    def __init__(self, channels: int, size: int, kind: str = "image", base: int = 32) -> None:
        """For patches of squares of `size` 8 or more; `kind` image or latent says how fast blocks halve.

        `base` scales all channels. Differs from the published net where patches are too small for its halvings: the last
        ones are left out. Raises UsageError for another `kind` or `size`.
        """
        super().__init__()
        if kind not in _HALVINGS:
            raise UsageError(f"patch discriminator: expected kind {' or '.join(_HALVINGS)}, found '{kind}'")
        self.side = side = _power_of_two(size, 8) // 4
        blocks, before = [], base
        for factor, down in zip(_PATCH_WIDTHS, _HALVINGS[kind], strict=True):
            down = down and side > 2
            blocks.append(_ResidualBlock(before, factor * base, down))
            before, side = factor * base, side // 2 if down else side
        kernel = 3 if size > 511 else 2
        last = _convolution(before, 12 * base, kernel, padding=0)
        self.encoder = nn.Sequential(_convolution(channels, base, 1), *blocks, last)
        inputs = 2 * 12 * base * (side - kernel + 1) ** 2
        hidden = (32 * base, 32 * base, 16 * base)
        layers = [_EqualLinear(i, o, activate=True) for i, o in zip((inputs, *hidden[:-1]), hidden, strict=True)]
        self.linear = nn.Sequential(*layers, _EqualLinear(hidden[-1], 1))

    def forward(self, patches: Tensor, references: Tensor) -> Tensor:
        """Logits (batch, 1) of `patches` (batch, channels, side, side), each against its share of the `references`.

        `references` (batch * group, channels, side, side) lie as `patchify` makes them: the first group belongs to the
        first patch. To judge several sets of patches against the same painting, call `score` with features kept.
        """
        return self.score(patches, self.reference_features(references, len(references) // len(patches)))

    def reference_features(self, references: Tensor, group: int = REFERENCES) -> Tensor:
        """Mean features (batch, features, h, w) of every `group` reference patches in order."""
        return self._encode(references).unflatten(0, (-1, group)).mean(1)

    def score(self, patches: Tensor, features: Tensor) -> Tensor:
        """Logits (batch, 1) of `patches` against `reference_features`."""
        return self.linear(torch.cat([self._encode(patches), features], dim=1).flatten(1))

    def _encode(self, patches: Tensor) -> Tensor:
        return self.encoder(_resized(patches, self.side))


class _EqualConv(nn.Module):
    """Convolution without bias whose weights are N(0, 1) and are scaled by 1 / sqrt(inputs) when used."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.stride, self.padding, self.scale = stride, padding, 1 / math.sqrt(inputs * kernel**2)

    def forward(self, features: Tensor) -> Tensor:
        return functional.conv2d(features, self.weight * self.scale, stride=self.stride, padding=self.padding)


class _EqualLinear(nn.Module):
    """Linear layer, equalised like `_EqualConv`, with or without the activation."""

    def __init__(self, inputs: int, outputs: int, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.activate, self.scale = activate, 1 / math.sqrt(inputs)

    def forward(self, features: Tensor) -> Tensor:
        features = functional.linear(features, self.weight * self.scale, self.bias)
        return _leaky_relu(features) if self.activate else features


class _Activation(nn.Module):
    """A bias per channel and the leaky ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        return _leaky_relu(features + self.bias[:, None, None])


class _Blur(nn.Module):
    """Smoothing with the 4 x 4 kernel of [1, 3, 3, 1], so that the stride that follows does not alias."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", torch.outer(row, row) / 64)
        self.padding = padding

    def forward(self, features: Tensor) -> Tensor:
        channels = features.shape[1]
        kernel = self.kernel.to(features.dtype).expand(channels, 1, 4, 4)
        return functional.conv2d(features, kernel, padding=self.padding, groups=channels)


class _ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a 1 x 1 one, summed with the variance kept; the second halves if `down`."""

    def __init__(self, inputs: int, outputs: int, down: bool) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, 3)
        self.conv2 = _convolution(outputs, outputs, 3, down=down)
        self.skip = _convolution(inputs, outputs, 1, down=down, activate=False)

    def forward(self, features: Tensor) -> Tensor:
        return (self.skip(features) + self.conv2(self.conv1(features))) / math.sqrt(2)


def _convolution(inputs: int, outputs: int, kernel: int, *, down: bool = False, activate: bool = True,
                 padding: int | None = None) -> nn.Sequential:
    """Convolution, after a blur and with stride 2 if `down`, and then the activation if `activate`."""
    if down:
        layers = [_Blur(2 if kernel == 3 else 1), _EqualConv(inputs, outputs, kernel, stride=2)]
    else:
        layers = [_EqualConv(inputs, outputs, kernel, padding=kernel // 2 if padding is None else padding)]
    return nn.Sequential(*layers, *([_Activation(outputs)] if activate else []))


def _leaky_relu(features: Tensor) -> Tensor:
    return functional.leaky_relu(features, 0.2) * math.sqrt(2)


def _resized(image: Tensor, side: int) -> Tensor:
    if image.shape[-2:] == (side, side):
        return image
    return functional.interpolate(image, (side, side), mode="bilinear")


def _power_of_two(size: int, smallest: int) -> int:
    """The largest power of two up to `size`; raises UsageError outside `smallest` to 2047."""
    if not smallest <= size < 2048:
        raise UsageError(f"discriminator: expected a size from {smallest} to 2047, found {size}: change the crop")
    return 2 ** (size.bit_length() - 1)

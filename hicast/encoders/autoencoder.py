"""Images to latents and back: a small convolutional autoencoder and one codec for it and for Stable Diffusion's."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to their input; no normalisation, so a tile equals its place in the whole."""

    def __init__(self, width: int) -> None:
        """`width` channels in and out; starts as the identity."""
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) to the same."""
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class ResidualAutoencoder(ModelMixin, ConfigMixin):
    """Linear 8x8 patch projection plus small convolutional corrections on both sides, downsampling by 8.

    `fit_linear` sets the projection to the principal components of image patches (whitened, so that latents have
    about unit variance); training then learns what convolutions add. There is no normalisation layer and every
    operation is local, hence tiles with enough overlap reproduce the whole picture exactly.
    """

    patch = 8

    @register_to_config
    def __init__(self, latent_channels: int = 24, widths: tuple[int, int, int] = (32, 64, 128),
                 decoder_blocks: tuple[int, int, int] = (1, 1, 2)) -> None:
        """`latent_channels` per 8x8 pixels; `widths` of the layers at 1/2, 1/4 and 1/8 of the picture's size, and how many residual
        blocks the decoder has there.

        `fitted` tells whether `fit_linear` made its weights, whose last bits depend on the machine.
        """
        super().__init__()
        self.fitted = False
        half, quarter, eighth = widths
        self.project = nn.Conv2d(3, latent_channels, 8, stride=8)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, quarter, 3, padding=1),
            ResidualBlock(quarter),
            nn.Conv2d(quarter, eighth, 3, stride=2, padding=1),
            ResidualBlock(eighth),
            nn.SiLU(),
            nn.Conv2d(eighth, latent_channels, 3, padding=1),
        )
        self.unproject = nn.ConvTranspose2d(latent_channels, 3, 8, stride=8)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, eighth, 3, padding=1),
            *(ResidualBlock(eighth) for _ in range(decoder_blocks[2])),
            nn.Conv2d(eighth, 4 * quarter, 1),
            nn.PixelShuffle(2),
            *(ResidualBlock(quarter) for _ in range(decoder_blocks[1])),
            nn.Conv2d(quarter, 4 * half, 1),
            nn.PixelShuffle(2),
            *(ResidualBlock(half) for _ in range(decoder_blocks[0])),
            nn.SiLU(),
            nn.Conv2d(half, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        for layer in (self.encoder[-1], self.decoder[-2]):
            nn.init.normal_(layer.weight, std=1e-3)
            nn.init.zeros_(layer.bias)

    def encode(self, image: Tensor) -> Tensor:
        """Image (batch, 3, height, width) in [-1, 1], sides divisible by 8, to latents (batch, channels, h/8, w/8)."""
        return self.project(image) + self.encoder(image)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (batch, channels, h, w) to an image (batch, 3, 8h, 8w), about [-1, 1], not clamped."""
        return self.unproject(latents) + self.decoder(latents)

    @property
    def reach(self) -> int:
        """How many latent pixels to each side a decoded pixel depends on, rounded up; the encoder sees no farther."""
        half, quarter, eighth = self.config.decoder_blocks
        return math.ceil(1 + 2 * eighth + 2 * quarter / 2 + (2 * half + 1) / 4)

    def deepened(self, decoder_blocks: tuple[int, int, int]) -> ResidualAutoencoder:
        """A copy with more residual blocks in the decoder, at least as many as now; it decodes to the same until it learns.

        Raises ValueError for fewer.
        """
        if any(wanted < held for wanted, held in zip(decoder_blocks, self.config.decoder_blocks, strict=True)):
            raise ValueError(f"expected at least {tuple(self.config.decoder_blocks)} blocks in the decoder, found {tuple(decoder_blocks)}")
        deeper = ResidualAutoencoder(self.config.latent_channels, self.config.widths, tuple(decoder_blocks)).to(self.dtype)
        for name in ("project", "encoder", "unproject"):
            getattr(deeper, name).load_state_dict(getattr(self, name).state_dict())
        for held, wanted in zip(_runs_of_blocks(self.decoder), _runs_of_blocks(deeper.decoder), strict=True):
            for source, layer in zip(held, wanted, strict=False):
                layer.load_state_dict(source.state_dict())
        return deeper

    @torch.no_grad()
    def fit_linear(self, patches: Tensor) -> None:
        """Set the linear parts to the principal components of `patches` (count, 192), pixels in [-1, 1], whitened."""
        self.fitted = True
        patches = patches.double()
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
        channels = self.config.latent_channels
        basis = vectors[:, -channels:].flip(1).T
        scale = values[-channels:].flip(0).clamp_min(1e-8).sqrt()[:, None]
        self.project.weight.copy_((basis / scale).view(channels, 3, 8, 8))
        self.project.bias.copy_(-(basis / scale) @ mean)
        self.unproject.weight.copy_((basis * scale).view(channels, 3, 8, 8))
        self.unproject.bias.copy_(mean.view(3, 64).mean(1))


def _runs_of_blocks(layers: nn.Sequential) -> list[list[nn.Module]]:
    """The layers in runs of residual blocks and of others."""
    return [list(run) for _, run in groupby(layers, lambda layer: isinstance(layer, ResidualBlock))]


AUTOENCODERS = {"ResidualAutoencoder": ResidualAutoencoder, "AutoencoderKL": AutoencoderKL}
"""Kinds of autoencoders by the name of their class."""

DECODING = {"ResidualAutoencoder": ("unproject", "decoder"), "AutoencoderKL": ("post_quant_conv", "decoder")}
"""The parts that decode, by the kind of autoencoder."""


def with_learning_decoder(autoencoder: ResidualAutoencoder | AutoencoderKL) -> ResidualAutoencoder | AutoencoderKL:
    """`autoencoder`, of which nothing but the decoder learns: latents, and nets trained on them, stay valid."""
    autoencoder.requires_grad_(False)
    for name in DECODING[type(autoencoder).__name__]:
        getattr(autoencoder, name).requires_grad_(True)
    return autoencoder


SLICE_PIXELS = 2**19
"""Pixels that Stable Diffusion's autoencoder gets at once, unless one picture alone has more: two frames of 512 x 512."""


class LatentCodec:
    """One face for our autoencoder and for `AutoencoderKL`: scaled latents in, scaled latents out, tiled when large.

    For `ResidualAutoencoder` tiles overlap by more than its reach, so the result equals the untiled one; for
    `AutoencoderKL`, whose group normalisation sees the tile only, neighbouring tiles are blended over a wide ramp.
    """

    def __init__(self, autoencoder: ResidualAutoencoder | AutoencoderKL, tile: int = 128) -> None:
        """`tile` is the side in latent pixels above which the work is split."""
        self.autoencoder = autoencoder
        self.stochastic = isinstance(autoencoder, AutoencoderKL)
        self.scaling = autoencoder.config.scaling_factor if self.stochastic else 1.0
        if self.stochastic:
            self.factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
        else:
            self.factor = autoencoder.patch
        self.margin = 2 if self.stochastic else autoencoder.reach
        self.overlap = 16 if self.stochastic else 2 * self.margin + 2
        self.tile = max(tile, 2 * self.overlap)

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Image (batch, 3, height, width) in [-1, 1] to scaled latents; `noise` samples the posterior, else its mode."""
        image = image.to(self._dtype)
        if not self.stochastic:
            return self._tiled(self.autoencoder.encode, image, 1 / self.factor)
        moments = self._tiled(self._moments, image, 1 / self.factor)
        mean, log_variance = moments.chunk(2, dim=1)
        if noise is not None:
            mean = mean + noise.to(mean) * (0.5 * log_variance.clamp(-30, 20)).exp()
        return mean * self.scaling

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (batch, channels, h, w) to an image (batch, 3, height, width), not clamped."""
        latents = latents.to(self._dtype) / self.scaling
        return self._tiled(self._decode, latents, self.factor)

    @torch.no_grad()
    def colors(self, device: torch.device | str = "cpu") -> Tensor:
        """What each channel of latents adds to the mean red, green and blue of its place (3, channels) by the decoder's linear part, float32, on
        `device`; zeros for Stable Diffusion's autoencoder, which has none."""
        channels = self.autoencoder.config.latent_channels
        if self.stochastic:
            return torch.zeros(3, channels, device=device)
        weight = self.autoencoder.unproject.weight
        if weight.is_meta:  # the layer waits in the machine's memory until it computes
            units = torch.cat([torch.zeros(1, channels), 64 * torch.eye(channels)])[..., None, None]
            nothing, *each = self.autoencoder.unproject(units.to(device, self._dtype)).float() / 64
            weight = torch.stack([one - nothing for one in each])
        return weight.to(device).float().mean((2, 3)).mT

    @property
    def _dtype(self) -> torch.dtype:
        """That of the weights, without the walk through all modules that the autoencoder's own `dtype` takes."""
        return next(self.autoencoder.parameters()).dtype

    def _tiled(self, function: Callable[[Tensor], Tensor], x: Tensor, scale: float) -> Tensor:
        """In tiles, and Stable Diffusion's autoencoder in slices of the batch: a clip takes no more memory than a few frames."""
        pixels = x.shape[-2] * x.shape[-1] * (self.factor**2 if scale > 1 else 1)
        slices = x.split(max(SLICE_PIXELS // pixels, 1)) if self.stochastic else (x,)
        done = [tiled(function, part, self.tile, self.overlap, self.margin, scale) for part in slices]
        return done[0] if len(done) == 1 else torch.cat(done)

    def _moments(self, image: Tensor) -> Tensor:
        return self.autoencoder.encode(image).latent_dist.parameters

    def _decode(self, latents: Tensor) -> Tensor:
        decoded = self.autoencoder.decode(latents)
        return decoded.sample if self.stochastic else decoded


def latent_shape(codec: LatentCodec, image: Tensor) -> tuple[int, int, int]:
    """Channels, height and width of the latents of `image` (batch, 3, height, width)."""
    height, width = image.shape[-2:]
    return codec.autoencoder.config.latent_channels, height // codec.factor, width // codec.factor


def tiled(
    function: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, margin: int, scale: float, align: int = 1
) -> Tensor:
    """Apply `function` to overlapping tiles of `x` (batch, channels, height, width) and blend the results.

    `tile`, `overlap` and `margin` count latent pixels; `scale` is output size over input size (8 when decoding, 1/8
    when encoding, 1 for a function of latents); tiles begin at multiples of `align`. The outer `margin` of a tile inside the picture is discarded; over
    the rest of each overlap the tiles' weights ramp linearly.
    """
    unit, grain = (round(1 / scale), 1) if scale < 1 else (1, round(scale))
    height, width = x.shape[-2] // unit, x.shape[-1] // unit
    if height <= tile and width <= tile:
        return function(x)
    result = weight = None
    for top in tile_starts(height, tile, overlap, align):
        for left in tile_starts(width, tile, overlap, align):
            bottom, right = min(top + tile, height), min(left + tile, width)
            part = function(x[..., top * unit : bottom * unit, left * unit : right * unit])
            if result is None:
                result = part.new_zeros(*part.shape[:2], height * grain, width * grain)
                weight = part.new_zeros(1, 1, height * grain, width * grain)
            vertical = tile_weights(top, bottom, height, overlap, margin, grain).to(part)
            ramp = vertical[:, None] * tile_weights(left, right, width, overlap, margin, grain).to(part)
            where = (..., slice(top * grain, bottom * grain), slice(left * grain, right * grain))
            result[where] += part * ramp
            weight[where] += ramp
    return result / weight


def tile_starts(length: int, tile: int, overlap: int, align: int = 1) -> list[int]:
    """First positions of tiles that cover `length`, evenly spread, overlapping by at least `overlap`.

    All are multiples of `align`, provided that `length`, `tile` and `overlap` are.
    """
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [i * (length - tile) // (count - 1) // align * align for i in range(count - 1)] + [length - tile]


def tile_weights(start: int, stop: int, length: int, overlap: int, margin: int, grain: int = 1) -> Tensor:
    """Blending weights (`(stop - start) * grain`) of one tile along one axis; 1 towards the borders of the picture."""
    count = (stop - start) * grain
    position = (torch.arange(count) + 0.5) / grain
    width = max(overlap - 2 * margin, 1)
    rising = ((position - margin) / width).clamp(0, 1) if start > 0 else torch.ones(count)
    falling = ((stop - start - position - margin) / width).clamp(0, 1) if stop < length else torch.ones(count)
    return rising * falling

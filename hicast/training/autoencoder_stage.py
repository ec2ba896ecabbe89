"""Stage `autoencoder`: photos and paintings through the latent and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hicast.config.train import AutoencoderTraining
from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.vgg import Vgg16
from hicast.io.images import to_pixels
from hicast.io.sheets import contact_sheet
from hicast.io.weights import place
from hicast.losses.perceptual import detail_energy, feature_distance, laplacian
from hicast.losses.terms import LossTerms
from hicast.models.device import statistics_dtype
from hicast.training.cache_keys import weights_digest
from hicast.training.data import PicturePool, center_crop, evenly, random_crop, sample_generator, to_batch
from hicast.training.origins import files_digest
from hicast.training.sources import OnNote

DETAIL_TAPS = ("relu1_2", "relu2_2")
SHEET_ROWS = 4


@dataclass(frozen=True)
class AutoencoderBatch:
    """Crops (batch, 3, crop, crop) in [-1, 1] and the noise (batch, channels, crop / 8, crop / 8) for their latents."""

    image: Tensor
    noise: Tensor


class AutoencoderStage:
    """Trains a `ResidualAutoencoder` by errors of pixels, fine detail and its energy and, later, VGG features.

    Latents receive a little noise before decoding, since the diffusion net never hits them exactly.
    """

    def __init__(self, settings: AutoencoderTraining, folders: Sequence[Path], vgg: Vgg16,
                 device: torch.device | str = "cpu", start: ResidualAutoencoder | None = None,
                 on_note: OnNote | None = None) -> None:
        """Train on the pictures of `folders`; `start` continues an earlier result, else principal components."""
        self.settings, self.device = settings, torch.device(device)
        self.pool = PicturePool(folders, settings.image_side, int(settings.cache_gigabytes * 2**30), on_note)
        self.autoencoder = start or fitted_autoencoder(settings.autoencoder, self.pool, settings.seed)
        self.autoencoder.requires_grad_(True)
        for part in (self.autoencoder.project, self.autoencoder.encoder):
            part.requires_grad_(not settings.freeze_encoder)
        place(self.autoencoder, self.device)
        self._encode, self._decode = (self._prepared(part) for part in (self.autoencoder.encode, self.autoencoder.decode))
        dtype = statistics_dtype(getattr(torch, settings.frozen_dtype))
        self.vgg = place(vgg.requires_grad_(False), self.device, dtype)

    def trainable(self) -> dict[str, nn.Module]:
        """The autoencoder; with `freeze_encoder` only its decoder has gradients."""
        return {"vae": self.autoencoder}

    def stands_on(self) -> dict[str, str]:
        """Digests of the pictures and of the VGG that judges."""
        return {"files of content and style": files_digest(self.pool.places, self.pool.files), "weights of the VGG": weights_digest(self.vgg).hex()}

    def batch(self, step: int, rows: range) -> AutoencoderBatch:
        """The part `rows` of the crops and the noise of `step`."""
        settings, crops = self.settings, []
        for row in rows:
            random = sample_generator(settings.seed, step * settings.batch_size + row)
            pixels = self.pool[int(random.integers(len(self.pool)))]
            crops.append(random_crop(pixels, settings.crop, settings.zoom, random))
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        side = settings.crop // self.autoencoder.patch
        scale = torch.rand(settings.batch_size, 1, 1, 1, generator=generator) * settings.latent_noise
        shape = (settings.batch_size, self.autoencoder.config.latent_channels, side, side)
        noise = torch.randn(shape, generator=generator) * scale
        return AutoencoderBatch(to_batch(crops), noise[rows.start : rows.stop])

    def step(self, batch: AutoencoderBatch, step: int) -> LossTerms:
        """Absolute, Laplacian and detail-energy error and, from `perceptual_from` on, relative error of VGG features."""
        settings = self.settings
        image = batch.image.to(self.device, memory_format=torch.channels_last)
        dtype = getattr(torch, settings.autocast)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            decoded = self._decode(self._encode(image) + batch.noise.to(self.device))
        decoded = decoded.float()
        terms = {
            "l1": lambda: (decoded - image).abs().mean(),
            "detail": lambda: (laplacian(decoded) - laplacian(image)).abs().mean(),
            "energy": lambda: (detail_energy(decoded) - detail_energy(image)).abs().mean(),
        }
        if step >= settings.perceptual_from * settings.steps:
            terms["perceptual"] = lambda: feature_distance(self.vgg(decoded, DETAIL_TAPS), self._features(image))
        return {name: term() for name, term in terms.items() if settings.losses.get(name)}

    @torch.no_grad()
    def preview(self) -> np.ndarray:
        """Rows of picture and reconstruction."""
        side = 2 * self.settings.crop
        pictures = [center_crop(self.pool[at], side) for at in evenly(len(self.pool), SHEET_ROWS)]
        decoded = [self.autoencoder.decode(self.autoencoder.encode(to_batch([picture]).to(self.device))) for picture in pictures]
        rows = [[picture, to_pixels(image.float().cpu())] for picture, image in zip(pictures, decoded, strict=True)]
        return contact_sheet(rows, [str(number) for number in range(1, len(rows) + 1)], ("picture", "through the latent"), side)

    def save(self, folder: Path) -> None:
        """Write `folder/vae`."""
        self.autoencoder.save_pretrained(folder / "vae")

    @torch.no_grad()
    def _features(self, image: Tensor) -> dict[str, Tensor]:
        return self.vgg(image, DETAIL_TAPS)

    def _prepared(self, part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """`part` of the autoencoder as the settings want it computed."""
        if self.settings.compile:
            part = torch.compile(part)
        if self.settings.gradient_checkpointing:
            return lambda x: checkpoint(part, x, use_reentrant=False)
        return part


def fitted_autoencoder(config: dict, pool: PicturePool, seed: int) -> ResidualAutoencoder:
    """A fresh autoencoder whose linear parts are the principal components of patches of the pictures in `pool`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = ResidualAutoencoder(**config)
    autoencoder.fit_linear(_patches(pool, seed))
    return autoencoder


def _patches(pool: PicturePool, seed: int, pictures: int = 400, per_picture: int = 100) -> Tensor:
    """Random 8x8 patches (count, 192) in [-1, 1]."""
    patches = []
    for index in range(pictures):
        random = sample_generator(seed, 2**40 + index)
        pixels = pool[int(random.integers(len(pool)))]
        tops = random.integers(0, pixels.shape[0] - 8, per_picture)
        lefts = random.integers(0, pixels.shape[1] - 8, per_picture)
        patches += [pixels[t : t + 8, x : x + 8] for t, x in zip(tops, lefts, strict=True)]
    stacked = np.stack(patches).transpose(0, 3, 1, 2).reshape(len(patches), -1)
    return torch.from_numpy(stacked.astype(np.float32) / 127.5 - 1)

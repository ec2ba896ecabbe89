"""Stage `autoencoder`: photos and paintings through the latent and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hicast.config.train import AutoencoderTraining
from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.vgg import Vgg16
from hicast.io.weights import place
from hicast.losses.perceptual import detail_energy, feature_distance, laplacian
from hicast.losses.terms import LossTerms
from hicast.training.data import PicturePool, prefetched, random_crop, sample_generator, to_batch

DETAIL_TAPS = ("relu1_2", "relu2_2")


class AutoencoderStage:
    """Trains a `ResidualAutoencoder` by errors of pixels, fine detail and its energy and, later, VGG features.

    Latents receive a little noise before decoding, since the diffusion net never hits them exactly.
    """

    def __init__(self, settings: AutoencoderTraining, folders: Sequence[Path], vgg: Vgg16,
                 device: torch.device | str = "cpu", start: ResidualAutoencoder | None = None) -> None:
        """Train on the pictures below `folders`; `start` continues an earlier result, else principal components."""
        self.settings, self.device = settings, torch.device(device)
        self.pool = PicturePool(folders, settings.image_side, int(settings.cache_gigabytes * 2**30))
        torch.manual_seed(settings.seed)
        self.autoencoder = start or ResidualAutoencoder(**settings.model)
        if start is None:
            self.autoencoder.fit_linear(self._patches())
        self.autoencoder.requires_grad_(True)
        for part in (self.autoencoder.project, self.autoencoder.encoder):
            part.requires_grad_(not settings.freeze_encoder)
        place(self.autoencoder, self.device)
        dtype = getattr(torch, settings.frozen_dtype)
        self.vgg = place(vgg.requires_grad_(False), self.device, dtype)

    def trainable(self) -> dict[str, nn.Module]:
        """The autoencoder; with `freeze_encoder` only its decoder has gradients."""
        return {"vae": self.autoencoder}

    def batches(self, first: int, last: int) -> Iterator[Tensor]:
        """Crops (batch, 3, crop, crop) in [-1, 1]."""
        return prefetched(self._batch, first, last)

    def step(self, batch: Tensor, step: int) -> LossTerms:
        """Absolute, Laplacian and detail-energy error and, from `perceptual_from` on, relative error of VGG features."""
        settings = self.settings
        image = batch.to(self.device, memory_format=torch.channels_last)
        noise = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        scale = torch.rand(len(image), 1, 1, 1, generator=noise) * settings.latent_noise
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.autocast == "bfloat16"):
            latents = self.autoencoder.encode(image)
            shaken = latents + (torch.randn(latents.shape, generator=noise) * scale).to(self.device)
            decoded = self.autoencoder.decode(shaken)
        decoded = decoded.float()
        terms = {
            "l1": (decoded - image).abs().mean(),
            "detail": (laplacian(decoded) - laplacian(image)).abs().mean(),
            "energy": (detail_energy(decoded) - detail_energy(image)).abs().mean(),
        }
        if settings.losses.get("perceptual", 0) > 0 and step >= settings.perceptual_from * settings.steps:
            with torch.no_grad():
                target = self.vgg(image, DETAIL_TAPS)
            terms["perceptual"] = feature_distance(self.vgg(decoded, DETAIL_TAPS), target)
        return terms

    def save(self, folder: Path) -> None:
        """Write `folder/vae`."""
        self.autoencoder.save_pretrained(folder / "vae")

    def _batch(self, step: int) -> Tensor:
        size = self.settings.batch_size
        crops = []
        for index in range(step * size, (step + 1) * size):
            random = sample_generator(self.settings.seed, index)
            pixels = self.pool[int(random.integers(len(self.pool)))]
            crops.append(random_crop(pixels, self.settings.crop, self.settings.zoom, random))
        return to_batch(crops)

    def _patches(self, pictures: int = 400, per_picture: int = 100) -> Tensor:
        """Random 8x8 patches (count, 192) in [-1, 1] for the principal components."""
        patches = []
        for index in range(pictures):
            random = sample_generator(self.settings.seed, 2**40 + index)
            pixels = self.pool[int(random.integers(len(self.pool)))]
            tops = random.integers(0, pixels.shape[0] - 8, per_picture)
            lefts = random.integers(0, pixels.shape[1] - 8, per_picture)
            patches += [pixels[t : t + 8, x : x + 8] for t, x in zip(tops, lefts, strict=True)]
        stacked = np.stack(patches).transpose(0, 3, 1, 2).reshape(len(patches), -1)
        return torch.from_numpy(stacked.astype(np.float32) / 127.5 - 1)

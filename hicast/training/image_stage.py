"""Stage `image`: the latent diffusion model learns to repaint a content picture in the style of a painting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hicast.config.train import OF_LATENTS, ImageTraining
from hicast.encoders.autoencoder import LatentCodec, with_learning_decoder
from hicast.io.images import to_pixels
from hicast.io.sheets import contact_sheet
from hicast.io.weights import place
from hicast.losses.terms import LossTerms
from hicast.models.conditions import Conditions
from hicast.pipeline import HiCastPipeline
from hicast.training.adversary import Adversary
from hicast.training.crop_source import Crop, Keeping, PictureCrops, TargetCrops
from hicast.training.data import center_crop, evenly, random_crop, sample_generator, to_batch
from hicast.training.image_terms import OF_CROPS, OF_TARGETS, TAPS, TERMS, Result, image_terms
from hicast.training.repaint_stage import SHEET_ROWS, RepaintBatch, RepaintStage, taps
from hicast.training.sources import OnNote
from hicast.training.targets import TargetPool


@dataclass(frozen=True)
class ImageBatch(RepaintBatch):
    """Also `result`, the same crops of another method's results, for self pairs the content, and `painting`, crops of the
    paintings for discriminators; `clean` and `result_latents` are latents of content and result where they are kept.

    Pictures that no term looks at are empty.
    """

    result: Tensor | None = None
    painting: Tensor | None = None
    clean: Tensor | None = None
    result_latents: Tensor | None = None


class ImageStage(RepaintStage):
    """Trains the U-Net and the content projection with autoencoder, VGG and style encoder frozen.

    The net predicts the clean latent. It is decoded and compared with the painting (statistics, Gram matrices,
    colours) and with the content (normalised features); where style is dropped, or the content is the painting
    itself, the latent must come back. The style scale given to the net moves the weights between the two sides, so
    that one evaluation serves every scale (as guidance distillation does, arXiv 2210.03142, here without a teacher).
    """

    def __init__(self, settings: ImageTraining, content: Sequence[Path], style: Sequence[Path],
                 pipeline: HiCastPipeline, cache: Path, *, fit_style: bool = True, device: torch.device | str = "cpu",
                 on_measure: Callable[[int, int], None] | None = None, on_note: OnNote | None = None) -> None:
        """Train the net of `pipeline`, whose other parts are frozen; measured paintings are kept in the file `cache`.

        `fit_style` sets the style encoder's normalisation from the paintings (for a fresh model only).
        """
        super().__init__(settings, content, style, pipeline, cache, fit_style=fit_style, device=device,
                         on_measure=on_measure, on_note=on_note)
        self.model.requires_grad_("net" in settings.trained)
        if "decoder" in settings.trained:
            self.codec = LatentCodec(place(with_learning_decoder(pipeline.autoencoder), self.device))
        self.terms = TERMS
        self.adversary = Adversary(settings, self.device)
        self.real_taps = taps(settings, {name: TAPS[name] for name in OF_CROPS})
        self.paired = bool(self.adversary.modules or self.real_taps)
        """Whether a crop of the painting goes with each sample."""
        self.seen = any(weight for name, weight in settings.losses.items() if name not in OF_LATENTS)
        keeping = Keeping(settings, self.codec, cache.parent, self.seen, on_measure)
        self.photo_crops, self.painting_crops = PictureCrops(self.photos, "photos", keeping), PictureCrops(self.paintings, "paintings", keeping)
        targets = TargetPool(settings.targets, self.photos, self.paintings, on_note) if settings.targets else None
        self.target_crops = TargetCrops(targets, self.photo_crops) if targets else None
        self.target_taps = taps(settings, {name: TAPS[name] for name in OF_TARGETS})

    def trainable(self) -> dict[str, nn.Module]:
        """The U-Net and the content projection, or the autoencoder, or all of them, and the discriminators in use."""
        net = {"unet": self.model.unet, "content_projection": self.model.content_projection}
        own = {"net": net, "decoder": {"vae": self.codec.autoencoder}}
        return {name: module for part in self.settings.trained for name, module in own[part].items()} | self.adversary.modules

    def batch(self, step: int, rows: range) -> ImageBatch:
        """The part `rows` of the batch of `step`: content crops with everything drawn for them."""
        settings = self.settings
        drawn = [self._sample(step * settings.batch_size + row) for row in rows]
        crops, results, real, paintings, scales, keep_style, keep_content, is_self = zip(*drawn, strict=True)
        return ImageBatch(_pixels(crops), torch.tensor(paintings), torch.tensor(scales, dtype=torch.float32),
                          torch.tensor(keep_style), torch.tensor(keep_content), torch.tensor(is_self), self.noise(step, rows),
                          self.timestep(step), _pixels(results) if self.target_crops else None,
                          to_batch(real) if self.paired else None, _latents(crops), _latents(results) if self.target_crops else None)

    def step(self, batch: ImageBatch, step: int) -> LossTerms:
        """Loss terms of one batch; see the class."""
        clean = self.encode(batch.content) if batch.clean is None else batch.clean.to(self.device).float()
        with torch.set_grad_enabled("net" in self.settings.trained):
            estimate = self.estimate(batch, clean, self.conditions(batch, clean))
        judged = self.judged(batch, clean, estimate, self._result(batch), decode=self.seen)
        painting = batch.painting.to(self.device, memory_format=torch.channels_last) if self.paired else None
        if self.real_taps:
            with torch.no_grad():
                judged = replace(judged, real=self.vgg(painting, self.real_taps))
        if self.settings.losses.get("reconstruction"):
            judged = replace(judged, restored=self.codec.decode(clean).float())
        terms = image_terms(judged, self.terms)
        if not self.adversary.modules:
            return terms
        return terms | self.adversary.terms(judged.decoded, painting, batch.keep_style.to(self.device), step)

    def estimate(self, batch: ImageBatch, clean: Tensor, conditions: Conditions) -> Tensor:
        """The clean latent that the net predicts for photos whose latent is `clean`."""
        return self.own_estimate(batch, conditions)

    @torch.no_grad()
    def preview(self) -> np.ndarray:
        """Rows of photo, painting and result, all sampled from noise of the same seed."""
        settings = self.settings
        photos = [center_crop(self.photos[at], settings.crop) for at in evenly(len(self.photos), SHEET_ROWS)]
        chosen = [evenly(len(self.paintings), len(photos))[row % len(self.paintings)] for row in range(len(photos))]
        images = self.sheet_images(self.encode(to_batch(photos)), chosen)
        rows = [[photo, self.paintings[at], to_pixels(image[None])] for photo, at, image in zip(photos, chosen, images, strict=True)]
        return contact_sheet(rows, [str(at) for at in range(1, len(rows) + 1)], ("content", "style", "result"), settings.crop)

    def save(self, folder: Path) -> None:
        """Write the whole model, so that `--model FOLDER` takes it at once."""
        self.pipeline.save_pretrained(folder)

    @torch.no_grad()
    def _result(self, batch: ImageBatch) -> Result | None:
        """What the terms need of the other method's results."""
        if batch.result is None:
            return None
        picture, latents = batch.result.to(self.device, memory_format=torch.channels_last), None
        if self.settings.losses.get("target_latent"):
            latents = self.encode(picture) if batch.result_latents is None else batch.result_latents.to(self.device).float()
        return Result(picture, self.vgg(picture, self.target_taps) if self.target_taps else {}, latents)

    def _sample(self, index: int) -> _Sample:
        """Crops, painting, style scale and the three flags of the sample with this global index."""
        settings = self.settings
        random = sample_generator(settings.seed, index)
        row = int(random.integers(len(self.paintings)))
        is_self, result = random.random() < settings.self_pairs, None
        if is_self:
            crop = self.painting_crops.draw(row, random)
        elif self.target_crops:
            crop, result, row = self.target_crops.draw(random)
        else:
            crop = self.photo_crops.draw(int(random.integers(len(self.photos))), random)
        scale = 1.0 if random.random() < 0.5 else float(random.uniform(*settings.style_scale))
        dropped = random.random()
        keep_style = dropped >= settings.drop_style
        keep_content = not settings.drop_style <= dropped < settings.drop_style + settings.drop_content
        real = random_crop(self.paintings[row], settings.crop, settings.zoom, random) if self.paired else None
        return _Sample(crop, crop if result is None else result, real, row, scale, keep_style, keep_content, is_self)


class _Sample(NamedTuple):
    """One sample of an `ImageBatch`."""

    content: Crop
    result: Crop
    real: np.ndarray | None
    painting: int
    style_scale: float
    keep_style: bool
    keep_content: bool
    is_self: bool


def _pixels(crops: Sequence[Crop]) -> Tensor:
    """Pictures (batch, 3, side, side) in [-1, 1] of `crops`, empty where they have none."""
    return torch.empty(len(crops), 3, 0, 0) if crops[0].pixels is None else to_batch([crop.pixels for crop in crops])


def _latents(crops: Sequence[Crop]) -> Tensor | None:
    """Latents (batch, channels, height, width) of `crops`, where they are kept."""
    return None if crops[0].latents is None else torch.stack([crop.latents for crop in crops])


def image_taps(settings: ImageTraining) -> tuple[str, ...]:
    """VGG layers at which the decoded estimate is read."""
    return taps(settings, TAPS)

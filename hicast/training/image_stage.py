"""Stage `image`: the latent diffusion model learns to repaint a content picture in the style of a painting."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from hicast.config.train import ImageTraining
from hicast.diffusion.sampling import draw_noise, make_scheduler, sample
from hicast.encoders.autoencoder import LatentCodec
from hicast.encoders.style import StyleCode
from hicast.errors import UsageError
from hicast.io.images import to_pixels
from hicast.io.sheets import contact_sheet
from hicast.io.weights import place
from hicast.losses.terms import LossTerms
from hicast.models.hicast_model import Conditions
from hicast.pipeline import HiCastPipeline
from hicast.training.data import PicturePool, center_crop, evenly, random_crop, sample_generator, to_batch
from hicast.training.image_terms import OF_TARGETS, TAPS, TERMS, Judged, image_terms, shares
from hicast.training.sources import OnNote
from hicast.training.style_library import load_or_measure
from hicast.training.targets import TargetPool


SHEET_ROWS = 4


@dataclass(frozen=True)
class ImageBatch:
    """Crops (batch, 3, crop, crop), rows of the style library, and what was drawn per sample.

    `style_scale` (batch,) is what the net is told; `keep_style`, `keep_content` and `is_self` (batch,) are boolean;
    `noise` and `timestep` belong to the denoising step. `result` are the same crops of another
    method's results, for self pairs the content.
    """

    content: Tensor
    style: Tensor
    style_scale: Tensor
    keep_style: Tensor
    keep_content: Tensor
    is_self: Tensor
    noise: Tensor
    timestep: int
    result: Tensor | None = None


class ImageStage:
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
        self.pipeline = pipeline
        self.settings, self.device = settings, torch.device(device)
        room = int(settings.cache_gigabytes * 2**30)
        self.photos = PicturePool(content, settings.image_side, room, on_note)
        self.paintings = PicturePool(style, settings.image_side, room, on_note)
        frozen = getattr(torch, settings.frozen_dtype)
        self.style_encoder = pipeline.style_encoder.requires_grad_(False).to(self.device)
        self.vgg = _frozen_copy(self.style_encoder.vgg, self.device, frozen)
        grid = self.style_encoder.config.token_grid
        self.library = load_or_measure(cache, self.paintings, self.vgg, settings.style_side, grid,
                                       tuple(settings.gram_layers), tuple(settings.style_layers), on_measure)
        if fit_style:
            self.library.fit(self.style_encoder)
        self.codec = LatentCodec(_frozen_copy(pipeline.autoencoder, self.device, frozen))
        self.model = place(pipeline.model.train().requires_grad_(True), self.device)
        if settings.gradient_checkpointing:
            self.model.unet.enable_gradient_checkpointing()
            if isinstance(self.codec.autoencoder, AutoencoderKL):
                self.codec.autoencoder.train().enable_gradient_checkpointing()
        if settings.compile:
            _compile(self.model.unet)
        self.scheduler = make_scheduler("ddim", pipeline.scheduler_config)
        self.context = None if pipeline.context is None else pipeline.context.to(self.device)
        self.terms = TERMS
        self.targets = TargetPool(settings.targets, self.photos, self.paintings, on_note) if settings.targets else None
        self.target_taps = _taps(settings, {name: TAPS[name] for name in OF_TARGETS})
        self.taps = image_taps(settings)

    def trainable(self) -> dict[str, nn.Module]:
        """The U-Net and the content projection."""
        return {"unet": self.model.unet, "content_projection": self.model.content_projection}

    def batch(self, step: int, rows: range) -> ImageBatch:
        """The part `rows` of the batch of `step`: content crops with everything drawn for them."""
        settings = self.settings
        drawn = [self._sample(step * settings.batch_size + row) for row in rows]
        crops, results, paintings, scales, keep_style, keep_content, is_self = zip(*drawn, strict=True)
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        side = settings.crop // self.codec.factor
        channels = self.model.unet.config.out_channels
        noise = torch.randn(settings.batch_size, channels, side, side, generator=generator)[rows.start : rows.stop]
        timestep = self._timestep(sample_generator(settings.seed, 2**41 + step))
        return ImageBatch(to_batch(crops), torch.tensor(paintings), torch.tensor(scales, dtype=torch.float32),
                          torch.tensor(keep_style), torch.tensor(keep_content), torch.tensor(is_self), noise, timestep,
                          to_batch(results) if self.targets else None)

    def step(self, batch: ImageBatch, step: int) -> LossTerms:
        """Loss terms of one batch; see the class."""
        with torch.no_grad():
            clean = self.codec.encode(batch.content.to(self.device, memory_format=torch.channels_last)).float()
        estimate = self._estimate(batch, clean, self.conditions(batch, clean))
        return image_terms(self._judged(batch, clean, estimate), self.terms)

    def conditions(self, batch: ImageBatch, clean: Tensor) -> Conditions:
        """What the net is told, dropped parts replaced by their null forms."""
        code = self._style_code(batch.style, batch.keep_style)
        conditions = Conditions.of(clean, code, self.context, style_scale=batch.style_scale.to(self.device))
        keep = batch.keep_content.to(self.device)[:, None, None, None]
        return Conditions(
            content=conditions.content * keep,
            content_mean=conditions.content_mean * keep,
            content_std=conditions.content_std * keep,
            style=conditions.style,
            context=conditions.context,
            style_scale=conditions.style_scale,
            keep_style=batch.keep_style.to(self.device),
        )

    @torch.no_grad()
    def preview(self) -> np.ndarray:
        """Rows of photo, painting and result, all sampled from noise of the same seed."""
        settings = self.settings
        photos = [center_crop(self.photos[at], settings.crop) for at in evenly(len(self.photos), SHEET_ROWS)]
        chosen = [evenly(len(self.paintings), len(photos))[row % len(self.paintings)] for row in range(len(photos))]
        clean = self.codec.encode(to_batch(photos).to(self.device)).float()
        code = self._style_code(torch.tensor(chosen), torch.ones(len(chosen), dtype=torch.bool))
        conditions = Conditions.of(clean, code, self.context, style_scale=1.0)
        noise = draw_noise(clean.shape, settings.seed, self.device)
        result = sample(lambda latents, at: self._predict(latents, at, conditions), noise, self.scheduler, settings.sheet_steps,
                        torch.Generator().manual_seed(settings.seed))
        images = self.codec.decode(result).float().cpu()
        rows = [[photo, self.paintings[at], to_pixels(image[None])] for photo, at, image in zip(photos, chosen, images, strict=True)]
        return contact_sheet(rows, [str(at) for at in range(1, len(rows) + 1)], ("content", "style", "result"), settings.crop)

    def save(self, folder: Path) -> None:
        """Write the whole model, so that `--model FOLDER` takes it at once."""
        self.pipeline.save_pretrained(folder)

    def _style_code(self, rows: Tensor, keep: Tensor) -> StyleCode:
        """The code of the paintings `rows` of the library, null where `keep` is False."""
        vectors, tokens = self.library.vectors[rows].to(self.device), self.library.tokens
        tokens = None if tokens is None else tokens[rows].float().to(self.device)
        return self.style_encoder.normalized(vectors, tokens, keep.to(self.device))

    def _timestep(self, random: np.random.Generator) -> int:
        """That of a whole batch: pure noise, or a later step of the sampling grid."""
        last = self.scheduler.config.num_train_timesteps - 1
        later = random.random() < self.settings.later_steps
        return int(random.integers(last // 10, last)) if later else last

    def _estimate(self, batch: ImageBatch, clean: Tensor, conditions: Conditions) -> Tensor:
        """Predicted clean latent, from noise or, at a later timestep, from the net's own first estimate."""
        noise = batch.noise.to(self.device)
        if batch.timestep >= self.scheduler.config.num_train_timesteps - 1:
            return self._predict(noise, batch.timestep, conditions)
        with torch.no_grad():
            first = self._predict(noise, self.scheduler.config.num_train_timesteps - 1, conditions)
        timestep = torch.full((len(noise),), batch.timestep, device=self.device)
        noisy = self.scheduler.add_noise(first, noise, timestep)
        return self._predict(noisy, batch.timestep, conditions)

    def _predict(self, latents: Tensor, timestep: Tensor | int, conditions: Conditions) -> Tensor:
        """The net in the precision that the settings want."""
        dtype = getattr(torch, self.settings.autocast)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return self.model(latents, timestep, conditions)

    def _judged(self, batch: ImageBatch, clean: Tensor, estimate: Tensor) -> Judged:
        """What the terms look at: the decoded estimate, and its features beside those of photo and result."""
        settings = self.settings
        image = batch.content.to(self.device, memory_format=torch.channels_last)
        with torch.no_grad():
            content = self.vgg(image, tuple(settings.content_layers)) if settings.losses.get("content") else {}
            result = None
            if batch.result is not None:
                result = self.vgg(batch.result.to(self.device, memory_format=torch.channels_last), self.target_taps)
        decoded = self.codec.decode(estimate).float()
        drawn = (batch.style_scale, batch.keep_style, batch.keep_content, batch.is_self)
        features = self.vgg(decoded, self.taps) if self.taps else {}
        return Judged(settings, self.library, decoded, features, image, content, result, estimate, clean,
                      batch.style, **shares(*(values.to(self.device) for values in drawn)))

    def _sample(self, index: int) -> _Sample:
        """Crops, painting, style scale and the three flags of the sample with this global index."""
        settings = self.settings
        random = sample_generator(settings.seed, index)
        row = int(random.integers(len(self.paintings)))
        is_self, result = random.random() < settings.self_pairs, None
        if is_self or self.targets is None:
            pixels = self.paintings[row] if is_self else self.photos[int(random.integers(len(self.photos)))]
            crop = random_crop(pixels, settings.crop, settings.zoom, random)
        else:
            crop, result, row = self.targets.crops(int(random.integers(len(self.targets))), settings.crop, settings.zoom, random)
        scale = 1.0 if random.random() < 0.5 else float(random.uniform(*settings.style_scale))
        dropped = random.random()
        keep_style = dropped >= settings.drop_style
        keep_content = not settings.drop_style <= dropped < settings.drop_style + settings.drop_content
        return _Sample(crop, crop if result is None else result, row, scale, keep_style, keep_content, is_self)


class _Sample(NamedTuple):
    """One sample of an `ImageBatch`."""

    content: np.ndarray
    result: np.ndarray
    painting: int
    style_scale: float
    keep_style: bool
    keep_content: bool
    is_self: bool


def image_taps(settings: ImageTraining) -> tuple[str, ...]:
    """VGG layers at which the decoded estimate is read."""
    return _taps(settings, TAPS)


def _taps(settings: ImageTraining, keys: Mapping[str, str]) -> tuple[str, ...]:
    """VGG layers that the terms in use read, `keys` naming for each term the setting that lists them."""
    layers = [getattr(settings, key) for term, key in keys.items() if settings.losses.get(term)]
    return tuple(dict.fromkeys(name for group in layers for name in group))


def _compile(unet: UNet2DConditionModel) -> None:
    """Compile `unet` in place; UsageError where torch (2.15 still) gets the gradient of its padding wrong."""
    if unet.config.get("conv_padding_mode", "zeros") != "zeros":
        raise UsageError(
            f"compile: expected a U-Net that pads with zeros, found {unet.config.conv_padding_mode}, whose gradient torch cannot "
            "compile; set compile=false"
        )
    unet.compile()


def _frozen_copy(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A copy to compute with in `dtype`, so that the original is saved with the precision it came with."""
    return place(copy.deepcopy(module).requires_grad_(False), device, dtype)

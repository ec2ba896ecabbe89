"""What stages share that let the net repaint pictures and judge the result: data, frozen parts, conditions, sampling."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from hicast.config.train import RepaintTraining
from hicast.diffusion.sampling import draw_noise, make_scheduler, sample
from hicast.encoders.autoencoder import LatentCodec
from hicast.encoders.style import StyleCode
from hicast.errors import UsageError
from hicast.io.weights import place
from hicast.models.adapters import Residuals
from hicast.models.conditions import Conditions
from hicast.models.device import statistics_dtype
from hicast.models.hicast_model import HiCastModel
from hicast.pipeline import HiCastPipeline
from hicast.training.data import PicturePool, sample_generator
from hicast.training.image_terms import TAPS, Judged, Result, shares
from hicast.training.origins import extra_digests, files_digest, frozen_digests
from hicast.training.sources import OnNote
from hicast.training.style_library import MomentsLibrary, load_or_measure

SHEET_ROWS = 4


@dataclass(frozen=True)
class RepaintBatch:
    """Crops (batch, 3, crop, crop), rows of the style library, and what was drawn per sample.

    `style_scale` (batch,) is the user's, of which the net is told the model's `style_unit`; `keep_style`, `keep_content` and `is_self` (batch,) are boolean;
    `noise` and `timestep` belong to the denoising step.
    """

    content: Tensor
    style: Tensor
    style_scale: Tensor
    keep_style: Tensor
    keep_content: Tensor
    is_self: Tensor
    noise: Tensor
    timestep: int


class RepaintStage:
    """Everything of a whole model that is not trained, in the precision it computes in, and the paintings' library.

    A net for subjects tells of photos here; of paintings the library keeps what VGG-16 shows alone, without faces.
    """

    def __init__(self, settings: RepaintTraining, content: Sequence[Path], style: Sequence[Path], pipeline: HiCastPipeline,
                 cache: Path, *, fit_style: bool = False, device: torch.device | str = "cpu",
                 on_measure: Callable[[int, int], None] | None = None, on_note: OnNote | None = None) -> None:
        """Take the parts of `pipeline`; measured paintings are kept in the file `cache`.

        `fit_style` sets the style encoder's normalisation from the paintings (for a fresh model only).
        """
        self.pipeline, self.fresh = pipeline, fit_style
        self.settings, self.device = settings, torch.device(device)
        room = int(settings.cache_gigabytes * 2**30)
        self.photos = PicturePool(content, settings.image_side, room, on_note)
        self.paintings = PicturePool(style, settings.image_side, room, on_note)
        frozen = getattr(torch, settings.frozen_dtype)
        self.style_encoder = pipeline.style_encoder.requires_grad_(False).to(self.device)
        self.vgg = frozen_copy(self.style_encoder.vgg, self.device, statistics_dtype(frozen))
        grid = self.style_encoder.config.token_grid
        self.library = load_or_measure(cache, self.paintings, self.vgg, settings.style_side, grid,
                                       tuple(settings.gram_layers), tuple(settings.style_layers), on_measure)
        if fit_style:
            self.library.fit(self.style_encoder)
        self.codec = LatentCodec(frozen_copy(pipeline.autoencoder, self.device, frozen))
        self.model = self.placed(pipeline.model.train())
        self.moments = None
        if self.model.has_colors:
            self.moments = MomentsLibrary(self.paintings, self.codec, settings.style_side, self.device, self.library.figures)
        self.context = None if pipeline.context is None else pipeline.context.to(self.device)
        if settings.gradient_checkpointing:
            self.model.unet.enable_gradient_checkpointing()
            if isinstance(self.codec.autoencoder, AutoencoderKL):
                self.codec.autoencoder.train().enable_gradient_checkpointing()
        if settings.compile:
            _compile(self.model.unet)
        self.scheduler = make_scheduler("ddim", pipeline.scheduler_config)
        self.last = self.scheduler.config.num_train_timesteps - 1
        self.taps = taps(settings, TAPS)

    def placed(self, model: HiCastModel) -> HiCastModel:
        """The net where it computes, in the precision that it does so in: float32, as it may train."""
        return place(model, self.device)

    def stands_on(self) -> dict[str, str]:
        """Digests of the nets that do not train, and of photos, paintings and what else the settings name."""
        trained = self.trainable()
        net, autoencoder = (None if name in trained else part for name, part in (("unet", self.model), ("vae", self.codec.autoencoder)))
        nets = frozen_digests(net, autoencoder, self.style_encoder, self.context, self.fresh)
        pools = {"files of content": self.photos, "files of style": self.paintings}
        return nets | {name: files_digest(pool.places, pool.files) for name, pool in pools.items()} | extra_digests(self.settings)

    def noise(self, step: int, rows: range) -> Tensor:
        """The part `rows` of the noise of `step`."""
        settings, side = self.settings, self.settings.crop // self.codec.factor
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        channels = self.model.unet.config.out_channels
        noise = torch.randn(settings.batch_size, channels, side, side, generator=generator)
        scales = torch.empty(settings.batch_size, 1, 1, 1).uniform_(*(settings.noise_scale or [self.pipeline.noise_scale] * 2), generator=generator)
        return (noise * scales)[rows.start : rows.stop]

    def timestep(self, step: int) -> int:
        """The last timestep, where all is noise, or for a share of the steps a later one of sampling."""
        random = sample_generator(self.settings.seed, 2**41 + step)
        later = random.random() < self.settings.later_steps
        return int(random.integers(self.last // 10, self.last)) if later else self.last

    def encode(self, image: Tensor) -> Tensor:
        """Latents of pictures (batch, 3, height, width), without gradient."""
        with torch.no_grad():
            return self.codec.encode(image.to(self.device, memory_format=torch.channels_last)).float()

    def conditions(self, batch: RepaintBatch, clean: Tensor, residuals: Residuals | None = None) -> Conditions:
        """What the net is told, dropped parts replaced by their null forms."""
        code = self.style_code(batch.style, batch.keep_style)
        subject = self.model.subject_of(batch.content.to(self.device), self.vgg) if batch.content.numel() else None
        conditions = Conditions.of(clean, code, self.context, residuals, self.pipeline.style_unit * batch.style_scale.to(self.device), subject=subject)
        keep = batch.keep_content.to(self.device)[:, None, None, None]
        return replace(
            conditions,
            content=conditions.content * keep,
            content_mean=conditions.content_mean * keep,
            content_std=conditions.content_std * keep,
            keep_style=batch.keep_style.to(self.device),
        )

    def style_code(self, rows: Tensor, keep: Tensor) -> StyleCode:
        """The code of the paintings `rows` of the library, null where `keep` is False."""
        vectors = self.library.vectors[rows].to(self.device)
        tokens = self.library.tokens[rows].float().to(self.device) if self.style_encoder.config.token_grid else None
        code = self.style_encoder.normalized(vectors, tokens, keep.to(self.device))
        return replace(code, moments=self.moments.of(rows.tolist())) if self.moments else code

    def predict(self, latents: Tensor, timestep: Tensor | int, conditions: Conditions) -> Tensor:
        """The net in the precision that the settings want."""
        dtype = getattr(torch, self.settings.autocast)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return self.model(latents, timestep, conditions)

    def own_estimate(self, batch: RepaintBatch, conditions: Conditions) -> Tensor:
        """Predicted clean latent, from noise or, at a later timestep, from the net's own first estimate."""
        noise = batch.noise.to(self.device)
        if batch.timestep >= self.last:
            return self.predict(noise, batch.timestep, conditions)
        with torch.no_grad():
            first = self.predict(noise, self.last, conditions)
        noisy = self.scheduler.add_noise(first, noise, torch.full((len(noise),), batch.timestep, device=self.device))
        return self.predict(noisy, batch.timestep, conditions)

    def judged(self, batch: RepaintBatch, clean: Tensor, estimate: Tensor, result: Result | None = None,
               decode: bool = True) -> Judged:
        """What the terms look at: the estimate, decoded unless no term needs it, beside the photo and the `result`."""
        settings = self.settings
        image = batch.content.to(self.device, memory_format=torch.channels_last)
        with torch.no_grad():
            content = self.vgg(image, tuple(settings.content_layers)) if settings.losses.get("content") else {}
        decoded = self.codec.decode(estimate).float() if decode else None
        features = self.vgg(decoded, self.taps) if self.taps and decode else {}
        drawn = (batch.style_scale, batch.keep_style, batch.keep_content, batch.is_self)
        return Judged(settings, self.library, decoded, features, image, content, result, estimate, clean, batch.style,
                      **shares(*(values.to(self.device) for values in drawn)))

    def sheet_images(self, clean: Tensor, paintings: Sequence[int], residuals: Residuals | None = None) -> Tensor:
        """Pictures (batch, 3, height, width) on the CPU, sampled over `clean` latents in the style of `paintings`."""
        code = self.style_code(torch.tensor(paintings), torch.ones(len(paintings), dtype=torch.bool))
        conditions = Conditions.of(clean, code, self.context, residuals, self.pipeline.style_unit)
        noise = draw_noise(clean.shape, self.settings.seed, self.device) * self.pipeline.noise_scale
        result = sample(lambda latents, at: self.predict(latents, at, conditions), noise, self.scheduler, self.settings.sheet_steps,
                        torch.Generator().manual_seed(self.settings.seed))
        return self.codec.decode(result).float().cpu()


def taps(settings: RepaintTraining, keys: Mapping[str, str]) -> tuple[str, ...]:
    """VGG layers that the terms in use read, `keys` naming for each term the setting that lists them.

    Only `style` does without those of weight 0, which may stand there for `distribution`.
    """
    layers = [(term, getattr(settings, key)) for term, key in keys.items() if settings.losses.get(term)]
    return tuple(dict.fromkeys(name for term, group in layers for name, weight in group.items() if weight or term != "style"))


def frozen_copy(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A copy to compute with in `dtype`, so that the original is saved with the precision it came with."""
    return place(copy.deepcopy(module).requires_grad_(False), device, dtype)


def _compile(unet: UNet2DConditionModel) -> None:
    """Compile `unet` in place; UsageError where torch (2.15 still) gets the gradient of its padding wrong."""
    if unet.config.get("conv_padding_mode", "zeros") != "zeros":
        raise UsageError(
            f"compile: expected a U-Net that pads with zeros, found {unet.config.conv_padding_mode}, whose gradient torch cannot "
            "compile; set compile=false"
        )
    unet.compile()

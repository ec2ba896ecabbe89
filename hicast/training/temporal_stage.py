"""Stage `temporal`: layers between the frames of a clip learn to make it steady, the net for pictures staying as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from hicast.config.train import TemporalTraining
from hicast.diffusion.noise import SHARED, copy_unmoved, draw_clip_noise, frame_generator, residual_mask
from hicast.diffusion.prediction import clean_estimate, prediction_kind, regression_target
from hicast.diffusion.sampling import make_scheduler, sample
from hicast.encoders.autoencoder import LatentCodec
from hicast.errors import UsageError
from hicast.io.bases import FORMAT_VERSION, INDEX_FILE, TEMPORAL, base_name
from hicast.io.images import to_pixels
from hicast.io.sheets import contact_sheet
from hicast.io.weights import place, save_json, save_module
from hicast.losses.terms import LossTerms
from hicast.models.conditions import Conditions
from hicast.models.device import statistics_dtype
from hicast.pipeline import HiCastPipeline
from hicast.training.clip_source import ClipSource
from hicast.training.data import PicturePool, sample_generator, to_batch
from hicast.training.origins import files_digest, frozen_digests
from hicast.training.sources import OnNote
from hicast.training.style_library import MomentsLibrary, load_or_measure
from hicast.training.temporal_terms import Steadied, temporal_terms

SHEET_CLIPS, SHEET_SIDE, SHEET_FROM = 2, 128, 2**42


@dataclass(frozen=True)
class TemporalBatch:
    """Clips (batch, frames, 3, crop, crop) in [-1, 1] and what was drawn for them.

    `places` and `seen` are those of `TrackedClip`; `style` (batch,) rows of the style library; `style_scale` (batch,) the
    user's, of which the net is told the model's `style_unit`; `noise` (batch, frames, channels, crop / 8, crop / 8) and `timestep` belong to the denoising step.
    """

    content: Tensor
    places: Tensor
    seen: Tensor
    style: Tensor
    style_scale: Tensor
    noise: Tensor
    timestep: int


class TemporalStage:
    """Trains the temporal layers of a pipeline; autoencoder, style encoder and all two-dimensional weights are frozen.

    Source: reference, 7.7. Differs from it where the settings do not say `reference`: see `temporal_terms`.
    """

    def __init__(self, settings: TemporalTraining, pipeline: HiCastPipeline, cache: Path, *, base: Path | None = None,
                 device: torch.device | str = "cpu", on_measure: Callable[[int, int], None] | None = None,
                 on_note: OnNote | None = None) -> None:
        """Train `pipeline.temporal`; measured paintings are kept in the file `cache`.

        `base` is the folder that `pipeline` was loaded from and that the result refers to; None for a fresh model, which
        is then written whole. Raises UsageError where the settings want it compiled.
        """
        if settings.compile:
            raise UsageError("compile: expected false for the stage temporal, whose layers are put into the net, found true; set compile=false")
        self.settings, self.device, self.base, self.pipeline = settings, torch.device(device), base, pipeline
        frozen = getattr(torch, settings.frozen_dtype)
        self.clips = ClipSource(settings, on_note)
        self.paintings = PicturePool(settings.style, settings.image_side, int(settings.cache_gigabytes * 2**30), on_note)
        self.style_encoder = pipeline.style_encoder.requires_grad_(False).to(self.device)
        vgg = place(copy.deepcopy(self.style_encoder.vgg), self.device, statistics_dtype(frozen))
        grid = self.style_encoder.config.token_grid
        self.library = load_or_measure(cache, self.paintings, vgg, settings.style_side, grid, (), (), on_measure)
        if base is None:
            self.library.fit(self.style_encoder)
        self.model, autoencoder = (_frozen(part, base is None, self.device, frozen) for part in (pipeline.model, pipeline.autoencoder))
        self.codec = LatentCodec(autoencoder)
        self.moments = None
        if self.model.has_colors:
            self.moments = MomentsLibrary(self.paintings, self.codec, settings.style_side, self.device, self.library.figures)
        self.scheduler = make_scheduler("ddim", pipeline.scheduler_config)
        self.last = self.scheduler.config.num_train_timesteps - 1
        self.layers = place(pipeline.temporal.train(), self.device, torch.float32)
        for name, parameter in self.layers.named_parameters():
            parameter.requires_grad_(not (settings.reference and "down_blocks" in name))
        self.layers.inject(self.model.unet)
        self.layers.frames = settings.frames  # from here on, since a checkpointed backward pass runs the net again
        if settings.gradient_checkpointing:
            self.model.train().unet.enable_gradient_checkpointing()
            if isinstance(autoencoder, AutoencoderKL):
                autoencoder.train().enable_gradient_checkpointing()

    def trainable(self) -> dict[str, nn.Module]:
        """The temporal layers; by `reference` those of the way down have no gradients."""
        return {"temporal": self.layers}

    def stands_on(self) -> dict[str, str]:
        """Digests of the nets for pictures, and of clips, photos and paintings."""
        nets = frozen_digests(self.model, self.codec.autoencoder, self.style_encoder, self.pipeline.context, self.base is None)
        places = {"video": self.settings.video, "content": self.settings.content, "style": self.settings.style}
        pools = {"video": self.clips.videos, "content": self.clips.pictures, "style": self.paintings}
        return nets | {f"files of {key}": files_digest(places[key], pool.files) for key, pool in pools.items() if pool}

    def batch(self, step: int, rows: range) -> TemporalBatch:
        """The part `rows` of the clips of `step`, with everything drawn for them."""
        first = step * self.settings.batch_size
        random = sample_generator(self.settings.seed, 2**41 + step)
        later = random.random() < self.settings.later_steps
        return self._batch([first + row for row in rows], int(random.integers(self.last + 1)) if later else self.last)

    def step(self, batch: TemporalBatch, step: int) -> LossTerms:
        """Loss terms of one batch; see `temporal_terms`."""
        content = batch.content.to(self.device)
        with torch.no_grad():
            clean = self._latents(content)
            conditions = self._conditions(batch, clean)
            noise = batch.noise.flatten(0, 1).to(self.device)
            noisy = self._noisy(batch.timestep, clean, noise, conditions)
            image = self._as_pictures(noisy, batch.timestep, conditions)
            target = self._target(batch.timestep, clean, noise, conditions)
        prediction = self._predict(noisy, batch.timestep, conditions)
        estimate = clean_estimate(self.scheduler, prediction, noisy, batch.timestep)
        tracks = (batch.places.to(self.device), batch.seen.to(self.device))
        steadied = Steadied(self.settings, prediction, image, target, estimate, clean, content, *tracks)
        return temporal_terms(steadied, self.codec.decode, torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step))

    @torch.no_grad()
    def preview(self) -> np.ndarray:
        """For two fixed clips the content, the result frame by frame and the result with temporal layers."""
        batch = self._batch([SHEET_FROM + number for number in range(SHEET_CLIPS)], self.last)
        clean = self._latents(batch.content.to(self.device))
        conditions = self._conditions(batch, clean)
        noise = batch.noise.flatten(0, 1).to(self.device)
        rows, labels = [list(batch.content)], []
        for denoise in (self._as_pictures, self._predict):
            result = sample(lambda latents, at, net=denoise: net(latents, at, conditions), noise, self.scheduler, self.settings.sheet_steps,
                            torch.Generator().manual_seed(self.settings.seed))
            rows.append(list(self.codec.decode(result).float().cpu().split(self.settings.frames)))
        tiles = []
        for number in range(SHEET_CLIPS):
            tiles += [[to_pixels(frame[None]) for frame in clips[number]] for clips in rows]
            labels += [f"{number + 1} {kind}" for kind in ("content", "frame by frame", "temporal")]
        return contact_sheet(tiles, labels, [str(at) for at in range(1, self.settings.frames + 1)], SHEET_SIDE)

    def save(self, folder: Path) -> None:
        """Write `folder/temporal` and an index that refers to the base, or the whole model where there is none."""
        if self.base is None:
            self.pipeline.save_pretrained(folder)
        else:
            save_module(self.layers, folder / TEMPORAL)
            base = base_name(self.base, folder)
            save_json({"_class_name": HiCastPipeline.__name__, "format": FORMAT_VERSION, "base": base}, folder / INDEX_FILE)

    def _batch(self, indices: list[int], timestep: int) -> TemporalBatch:
        """The clips with these global indices."""
        settings, tracked, styles, scales, noise = self.settings, [], [], [], []
        for index in indices:
            random = sample_generator(settings.seed, index)
            styles.append(int(random.integers(len(self.paintings))))
            scales.append(1.0 if random.random() < 0.5 else float(random.uniform(*settings.style_scale)))
            shared = float(random.uniform(*settings.shared_noise))
            tracked.append(self.clips.draw(random))
            noise.append(self._clip_noise(index, to_batch(tracked[-1].frames), shared))
        content = torch.stack([to_batch(clip.frames) for clip in tracked])
        places, seen = (torch.from_numpy(np.stack([getattr(clip, name) for clip in tracked])) for name in ("places", "seen"))
        return TemporalBatch(content, places, seen, torch.tensor(styles), torch.tensor(scales, dtype=torch.float32), torch.stack(noise), timestep)

    def _clip_noise(self, index: int, frames: Tensor, shared: float) -> Tensor:
        """Noise (frames, channels, h, w) for one clip, keyed by its global index; by `reference` the same for all."""
        settings, side = self.settings, frames.shape[-1] // self.codec.factor
        key = settings.seed if settings.reference else (settings.seed << 64) + index
        own = [frame_generator(key, at) for at in range(len(frames))]
        shape = (self.model.unet.config.out_channels, side, side)
        noise = self.pipeline.noise_scale * draw_clip_noise(shape, own, frame_generator(key, SHARED), shared)
        if not settings.residual_threshold:
            return noise
        return copy_unmoved(noise, residual_mask(frames, (side, side), settings.residual_threshold))

    def _latents(self, content: Tensor) -> Tensor:
        """Latents (batch * frames, channels, h, w) of clips (batch, frames, 3, height, width)."""
        return self.codec.encode(content.flatten(0, 1).contiguous(memory_format=torch.channels_last)).float()

    def _conditions(self, batch: TemporalBatch, clean: Tensor) -> Conditions:
        """What the net is told of every frame."""
        rows = batch.style.repeat_interleave(self.settings.frames)
        vectors, tokens = self.library.vectors[rows].to(self.device), self.library.tokens
        tokens = tokens[rows].float().to(self.device) if self.style_encoder.config.token_grid else None
        code = self.style_encoder.normalized(vectors, tokens)
        if self.moments:
            code = replace(code, moments=self.moments.of(rows.tolist()))
        scale = batch.style_scale.repeat_interleave(self.settings.frames).to(self.device) if self.model.has_embedded_scale else None
        scale = None if scale is None else self.pipeline.style_unit * scale
        context = None if self.pipeline.context is None else self.pipeline.context.to(self.device)
        return Conditions.of(clean, code, context, style_scale=scale, frames=self.settings.frames)

    def _noisy(self, timestep: int, clean: Tensor, noise: Tensor, conditions: Conditions) -> Tensor:
        """What the net is given: noise, upon the content's latents or the net's own first estimate of the frames."""
        start = clean
        if self.settings.noised == "estimate":
            if timestep == self.last:
                return noise
            start = clean_estimate(self.scheduler, self._as_pictures(noise, self.last, conditions), noise, self.last)
        return self.scheduler.add_noise(start, noise, torch.full((len(noise),), timestep, device=self.device))

    def _target(self, timestep: int, clean: Tensor, noise: Tensor, conditions: Conditions) -> Tensor:
        """What the term `noise` holds the prediction to.

        For nets that predict noise (or velocity) the noise itself, as published. A net that predicts the sample was taught
        to repaint it, so the content is not its target: there it is what the net for pictures makes of the frames from one
        noise for all of them, that of the clip's first.
        """
        if not self.settings.losses.get("noise") or prediction_kind(self.scheduler) != "sample":
            return regression_target(self.scheduler, clean, noise, timestep)
        frames = self.settings.frames
        one = noise.unflatten(0, (-1, frames))[:, :1].expand(-1, frames, -1, -1, -1).flatten(0, 1)
        return self._as_pictures(self._noisy(timestep, clean, one, conditions), timestep, conditions)

    def _as_pictures(self, latents: Tensor, timestep: Tensor | int, conditions: Conditions) -> Tensor:
        """The net for pictures, frame by frame."""
        with self.layers.clip(None):
            return self._predict(latents, timestep, conditions)

    def _predict(self, latents: Tensor, timestep: Tensor | int, conditions: Conditions) -> Tensor:
        """The net with its temporal layers, in the precision that the settings want."""
        dtype = getattr(torch, self.settings.autocast)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return self.model(latents, timestep, conditions)


def _frozen(module: nn.Module, copied: bool, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """`module` to compute with in `dtype`; a copy where the original is yet to be saved with its own precision."""
    return place((copy.deepcopy(module) if copied else module).requires_grad_(False).eval(), device, dtype)

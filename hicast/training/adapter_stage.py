"""Stage `adapter`: a control adapter learns to hold what a map says of the photo, in a net that stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import T2IAdapter
from PIL import Image
from torch import Tensor, nn

from hicast.config.train import AdapterTraining
from hicast.diffusion.sampling import clean_estimate
from hicast.encoders.style import statistics
from hicast.encoders.vgg import STYLE_TAPS
from hicast.io.bases import ADAPTERS, FORMAT_VERSION, INDEX_FILE, base_name
from hicast.io.images import to_pixels
from hicast.io.sheets import contact_sheet
from hicast.io.weights import place, save_json, save_module
from hicast.losses.published import style_vector_loss
from hicast.losses.terms import LossTerms
from hicast.models.adapters import AdapterSet, Residuals, adapter_widths
from hicast.models.conditions import Conditions
from hicast.models.hicast_model import HiCastModel
from hicast.pipeline import HiCastPipeline
from hicast.training.data import crop_window, cut, evenly, random_crop, sample_generator, to_batch
from hicast.training.drawing import open_drawing
from hicast.training.image_terms import Judged, image_terms
from hicast.training.maps import MapPool, middle
from hicast.training.repaint_stage import SHEET_ROWS, RepaintBatch, RepaintStage, frozen_copy
from hicast.training.sources import OnNote

MARGIN = 2
"""Latent pixels along a cut of the map where the picture may be either."""


@dataclass(frozen=True)
class AdapterBatch(RepaintBatch):
    """Also `photo`, the pictures that the maps are of, and `control`, their maps in [0, 1] (batch, 3, crop, crop) where they
    are read and not drawn.

    `photo` is `content`, but as published, where the painting may take the photo's place and not the map's. `covered` (batch, 1, crop, crop) is 0
    where the map is to be black.
    """

    photo: Tensor
    control: Tensor | None = None
    covered: Tensor | None = None


class AdapterStage(RepaintStage):
    """Trains one stock T2I-Adapter (arXiv 2302.08453) for a control, everything else frozen (reference, 7.6).

    The net, given the adapter's features of the photo's map, predicts the clean latent in one step; it is decoded, and its own map
    must be that of the photo (`control`), seen by an extractor that has a gradient. The other terms are those of the stage
    `image`. An adapter starts as diffusers initialises it, near nothing and nowhere at zero, so that every weight has a gradient.
    With `reference` terms and drawing are the published ones: differs from them in that latents are the encoder's
    mean, not a sample, that paintings keep their aspect ratio, and that the range of a depth map is that of its picture, not
    of the batch.

    Group normalisation and attention carry what an adapter does in one place to all others. So that a map on half of a picture acts on that half,
    a share `partial` of the samples has a map that is black beyond a cut: there `outside` wants the latent that the net predicts without adapter, which
    also stands there for all other terms.
    """

    def __init__(self, settings: AdapterTraining, content: Sequence[Path], style: Sequence[Path], pipeline: HiCastPipeline,
                 cache: Path, adapter: T2IAdapter, *, base: Path | None = None, fit_style: bool = False,
                 device: torch.device | str = "cpu", on_measure: Callable[[int, int], None] | None = None,
                 on_note: OnNote | None = None) -> None:
        """Train `adapter` on the net of `pipeline`, which lies in the folder `base` (None: nowhere, so it is saved too).

        Raises UsageError, ModelError or InputError where the settings' extractors, maps or adapter do not fit.
        """
        self.drawing, self.base = open_drawing(settings, torch.device(device)), base
        super().__init__(settings, content, style, pipeline, cache, fit_style=fit_style, device=device,
                         on_measure=on_measure, on_note=on_note)
        self.adapter = place(adapter.train().requires_grad_(True), self.device)
        widths = adapter_widths(self.model.unet)
        self.adapters = AdapterSet({settings.control: self.adapter}, widths)
        for surplus in self.adapter.adapter.body[len(widths) :]:
            surplus.requires_grad_(False)
        if not settings.biases:
            _drop_biases(self.adapter)
        self.resample = Image.Resampling.NEAREST if settings.control == "seg" else Image.Resampling.BICUBIC
        self.maps = MapPool(settings.maps, self.photos, self.resample, on_note) if settings.maps else None
        self.noised = settings.reference or self.scheduler.config.prediction_type != "sample"
        if settings.reference and settings.losses.get("style"):
            self.taps = STYLE_TAPS

    def placed(self, model: HiCastModel) -> HiCastModel:
        """The net, frozen, in the settings' precision of such nets; a copy where the original is yet to be saved with its own."""
        dtype = getattr(torch, self.settings.frozen_dtype)
        if self.base is None and dtype != torch.float32:
            return frozen_copy(model, self.device, dtype)
        return place(model.requires_grad_(False), self.device, dtype)

    def trainable(self) -> dict[str, nn.Module]:
        """The adapter; a level that the net has no use for stays as it is."""
        return {"adapter": self.adapter}

    def batch(self, step: int, rows: range) -> AdapterBatch:
        """The part `rows` of the batch of `step`: crops, maps where they are read, and everything drawn for them."""
        drawn = [self._sample(step * self.settings.batch_size + row) for row in rows]
        crops, photos, maps, paintings, scales, keep_style, keep_content, is_self, covered = zip(*drawn, strict=True)
        control = to_batch(maps) / 2 + 0.5 if self.maps else None
        return AdapterBatch(to_batch(crops), torch.tensor(paintings), torch.tensor(scales, dtype=torch.float32),
                            torch.tensor(keep_style), torch.tensor(keep_content), torch.tensor(is_self), self.noise(step, rows),
                            self.timestep(step), to_batch(photos), control, torch.cat(covered) if self.settings.partial else None)

    def timestep(self, step: int) -> int:
        """That of the stage `image`; where noise is added to the latents themselves, any, as published."""
        if not self.noised:
            return super().timestep(step)
        return int(sample_generator(self.settings.seed, 2**41 + step).integers(self.last + 1))

    def step(self, batch: AdapterBatch, step: int) -> LossTerms:
        """Loss terms of one batch; see the class."""
        clean, photo = self.encode(batch.content), batch.photo.to(self.device)
        with torch.no_grad():
            whole = self.drawing.draw(photo) if batch.control is None else batch.control.to(self.device)
        control = whole if batch.covered is None else whole * batch.covered.to(self.device)
        conditions = self.conditions(batch, clean, self._residuals(control))
        estimate = self._noised_estimate(batch, clean, conditions) if self.noised else self.own_estimate(batch, conditions)
        outside = None
        if batch.covered is not None:
            estimate, outside = self._parted(batch, clean, conditions, estimate)
        judged = self.judged(batch, clean, estimate)
        terms = _published_terms(judged, batch.keep_style.to(self.device)) if self.settings.reference else image_terms(judged)
        if self.drawing.compare:
            terms["control"] = self._control_term(judged.decoded, photo, whole)
        if outside is not None and self.settings.losses.get("outside"):
            terms["outside"] = outside
        return terms

    def _parted(self, batch: AdapterBatch, clean: Tensor, conditions: Conditions, estimate: Tensor) -> tuple[Tensor, Tensor]:
        """`estimate` with what the net predicts without adapter where the map is black, and the mean squared difference of both there."""
        with torch.no_grad():
            bare = replace(conditions, residuals=None)
            plain = self._noised_estimate(batch, clean, bare) if self.noised else self.own_estimate(batch, bare)
        away = nn.functional.max_pool2d(batch.covered.to(self.device), self.codec.factor)
        away = 1 - nn.functional.max_pool2d(away, 2 * MARGIN + 1, 1, MARGIN)
        difference = (away * (estimate - plain).square()).mean()
        return torch.lerp(estimate, plain, away), difference / away.mean().clamp_min(1e-6)

    @torch.no_grad()
    def preview(self) -> np.ndarray:
        """Rows of photo, map, painting, the result without and the one with the adapter, from noise of the same seed."""
        photos, control = self._fixed_samples()
        chosen = [evenly(len(self.paintings), len(photos))[row % len(self.paintings)] for row in range(len(photos))]
        clean = self.encode(to_batch(photos))
        shown = [control.cpu() * 2 - 1, *(self.sheet_images(clean, chosen, residuals) for residuals in (None, self._residuals(control)))]
        rows = []
        for at, photo in enumerate(photos):
            drawn, *results = (to_pixels(images[at, None]) for images in shown)
            rows.append([photo, drawn, self.paintings[chosen[at]], *results])
        names = ("content", self.settings.control, "style", "without", "with")
        return contact_sheet(rows, [str(at) for at in range(1, len(rows) + 1)], names, self.settings.crop)

    def save(self, folder: Path) -> None:
        """Write the adapter and the name of its base; without a base the whole model, so that `--model FOLDER` takes either."""
        control = self.settings.control
        about = {"control": control, "extractor": self.drawing.extractor}
        if self.base is None:
            self.pipeline.adapters, self.pipeline.about = self.adapters, {control: about}
            self.pipeline.save_pretrained(folder)
            return
        base = base_name(self.base, folder)
        save_module(self.adapter, folder / ADAPTERS / control, metadata=about | {"base": base})
        save_json({"_class_name": HiCastPipeline.__name__, "format": FORMAT_VERSION, "base": base}, folder / INDEX_FILE)

    def _residuals(self, control: Tensor) -> Residuals:
        """The adapter's features of maps, in the precision that the settings want."""
        dtype = getattr(torch, self.settings.autocast)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return self.adapters.features({self.settings.control: control})[self.settings.control]

    def _fixed_samples(self) -> tuple[list[np.ndarray], Tensor]:
        """The middle of a few photos, and their maps (rows, 3, crop, crop) in [0, 1]."""
        side, of = self.settings.crop, self.maps or self.photos
        found = [of[at] for at in evenly(len(of), SHEET_ROWS)]
        if not self.maps:
            photos = [cut(photo, middle(photo.shape[:2]), side) for photo in found]
            return photos, self.drawing.draw(to_batch(photos).to(self.device))
        photos = [cut(photo, middle(photo.shape[:2]), side) for photo, _ in found]
        maps = [cut(pixels, middle(pixels.shape[:2]), side, self.resample) for _, pixels in found]
        return photos, (to_batch(maps) / 2 + 0.5).to(self.device)

    def _noised_estimate(self, batch: AdapterBatch, clean: Tensor, conditions: Conditions) -> Tensor:
        """The clean latent as predicted from the `clean` one with noise of the batch's timestep (reference, 7.1)."""
        noise = batch.noise.to(self.device)
        noisy = self.scheduler.add_noise(clean, noise, torch.full((len(noise),), batch.timestep, device=self.device))
        return clean_estimate(self.predict(noisy, batch.timestep, conditions), noisy, batch.timestep, self.scheduler)

    def _control_term(self, decoded: Tensor, photo: Tensor, control: Tensor) -> Tensor:
        """Mean squared difference of the maps of result and photo."""
        drawing = self.drawing
        with torch.no_grad():
            target = control if drawing.same else drawing.compare(photo)
        found = drawing.compare(decoded if drawing.live else decoded.detach())
        return (found - target).square().mean()

    def _sample(self, index: int) -> _Sample:
        """Crops, map, painting, style scale and flags of the sample with this global index."""
        settings = self.settings
        random = sample_generator(settings.seed, index)
        row = int(random.integers(len(self.paintings)))
        is_self, dropped = random.random() < settings.self_pairs, random.random()
        keep_style = dropped >= settings.drop_style
        keep_content = not settings.drop_style <= dropped < settings.drop_style + settings.drop_content
        scale = 1.0 if settings.reference or random.random() < 0.5 else float(random.uniform(*settings.style_scale))
        if settings.reference:
            is_self = not keep_content or (is_self and keep_style)
        photo, control = self._photo(random, self.paintings[row] if is_self and not settings.reference else None)
        crop = random_crop(self.paintings[row], settings.crop, settings.zoom, random) if is_self and settings.reference else photo
        return _Sample(crop, photo, control, row, scale, keep_style, keep_content, is_self, _covered(settings, random))

    def _photo(self, random: np.random.Generator, pixels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """A random crop of `pixels`, or of a random photo, and of its map where it is read."""
        settings, control = self.settings, None
        if self.maps:
            pixels, control = self.maps[int(random.integers(len(self.maps)))]
        elif pixels is None:
            pixels = self.photos[int(random.integers(len(self.photos)))]
        window = crop_window(pixels.shape[:2], settings.crop, settings.zoom, random)
        return cut(pixels, window, settings.crop), None if control is None else cut(control, window, settings.crop, self.resample)


class _Sample(NamedTuple):
    """One sample of an `AdapterBatch`."""

    content: np.ndarray
    photo: np.ndarray
    control: np.ndarray | None
    painting: int
    style_scale: float
    keep_style: bool
    keep_content: bool
    is_self: bool
    covered: Tensor | None


def _covered(settings: AdapterTraining, random: np.random.Generator) -> Tensor | None:
    """Where the map of a sample stays (1, 1, crop, crop): everywhere, or on one side of an upright or level cut; None where all maps are whole."""
    if not settings.partial:
        return None
    covered = torch.ones(1, 1, settings.crop, settings.crop)
    if random.random() < settings.partial:
        cut_at = int(round(random.uniform(0.25, 0.75) * settings.crop))
        covered[..., :cut_at] = 0
        covered = torch.rot90(covered, int(random.integers(4)), (2, 3))
    return covered


def _drop_biases(adapter: T2IAdapter) -> None:
    """Hold every bias of `adapter` at 0: with ReLU between its convolutions, c times a map then gives c times its features, for c of 0 or more."""
    for name, parameter in adapter.named_parameters():
        if name.endswith(".bias"):
            parameter.detach().zero_()
            parameter.requires_grad_(False)


def _published_terms(judged: Judged, keep_style: Tensor) -> LossTerms:
    """The published style and content terms (reference, 7.2 and 7.6): whole style vectors, and the latent of the target."""
    wanted = judged.settings.losses
    terms: LossTerms = {}
    if wanted.get("style"):
        target = judged.library.vectors[judged.paintings].to(judged.decoded.device)
        terms["style"] = style_vector_loss(statistics(judged.features), target, keep_style)
    if wanted.get("latent"):
        terms["latent"] = (judged.estimate - judged.clean).square().mean()
    return terms

"""Stage `image` for nets that predict the noise, such as Stable Diffusion's: one-step estimates at random timesteps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hicast.config.train import ImageTraining
from hicast.encoders.vgg import STYLE_TAPS
from hicast.errors import ModelError, UsageError
from hicast.models.conditions import Conditions
from hicast.training.data import sample_generator
from hicast.training.image_stage import ImageBatch, ImageStage
from hicast.training.image_terms import Judged, Result
from hicast.training.published_terms import PUBLISHED_TERMS

HALF_RANGE = 127.5
"""How many times larger a picture in 0 to 255 is than one in [-1, 1]."""


class NoiseStage(ImageStage):
    """Adds noise to the target's latent at one timestep for the whole batch, and judges the clean latent that the net implies.

    The target is the content, or the painting itself: in self pairs and where the content is dropped (reference, 7.1).
    With `reference` the losses are the published ones. Differs from the published stage in what both leave open or we
    keep: crops instead of squashed pictures, the mode of the autoencoder's posterior instead of a sample, and a null
    style of zeros in normalised units, which does not train.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """As `ImageStage`."""
        super().__init__(*arguments, **named)
        if self.settings.reference:
            self.terms = PUBLISHED_TERMS
            self.taps = tuple(dict.fromkeys((*STYLE_TAPS, *self.settings.gram_layers)))

    def timestep(self, step: int) -> int:
        """Any timestep, the same for the whole batch of `step`."""
        return int(sample_generator(self.settings.seed, 2**41 + step).integers(self.last + 1))

    def _sample(self, index: int) -> Any:
        """As drawn by `ImageStage`, but a painting where the content is dropped, and a photo where the style is."""
        drawn, settings = super()._sample(index), self.settings
        is_self = not drawn.keep_content or (drawn.is_self and drawn.keep_style)
        if is_self != drawn.is_self:
            random = sample_generator(settings.seed, 2**42 + index)
            if is_self:
                crop = self.painting_crops.draw(drawn.painting, random)
            else:
                crop = self.photo_crops.draw(int(random.integers(len(self.photos))), random)
            drawn = drawn._replace(content=crop, result=crop, is_self=is_self)
        return drawn if self.model.has_embedded_scale else drawn._replace(style_scale=1.0)

    def estimate(self, batch: ImageBatch, clean: Tensor, conditions: Conditions) -> Tensor:
        """Clean latent from the noise predicted in `clean` with noise of the batch's timestep (reference, 7.1)."""
        noise = batch.noise.to(self.device)
        signal = float(self.scheduler.alphas_cumprod[batch.timestep])
        noisy = signal**0.5 * clean + (1 - signal) ** 0.5 * noise
        predicted = self.predict(noisy, batch.timestep, conditions)
        return (noisy - (1 - signal) ** 0.5 * predicted) / signal**0.5

    def judged(self, batch: ImageBatch, clean: Tensor, estimate: Tensor, result: Result | None = None, decode: bool = True) -> Judged:
        """As `ImageStage` does, with the units of published losses and the ratio of signal to noise."""
        signal = float(self.scheduler.alphas_cumprod[batch.timestep])
        published = self.vgg.config.normalization == "lpips"  # ours takes 0 to 255, and its activations are as much larger
        spread = self.library.vector_scale ** 0.5
        returned = (~batch.keep_style | batch.is_self).to(self.device, torch.float32)
        return replace(super().judged(batch, clean, estimate, result, decode), returned=returned, signal_to_noise=signal / (1 - signal),
                       style_unit=1.0 if published else spread, feature_unit=1.0 if published else HALF_RANGE)  # fmt: skip


def stage_class(prediction: str, settings: ImageTraining) -> type[ImageStage]:
    """The stage for nets that predict `prediction` (`sample` or `epsilon`, as schedulers call them).

    Raises ModelError for another kind, UsageError for losses that ask for noise from a net that predicts the sample.
    """
    kinds = {"sample": ImageStage, "epsilon": NoiseStage}
    if prediction not in kinds:
        raise ModelError(f"scheduler: expected prediction_type {' or '.join(kinds)}, found {prediction}; take another base")
    if prediction == "sample" and (settings.reference or settings.losses.get("noise")):
        raise UsageError("reference, losses.noise: expected a net that predicts noise, found one that predicts the sample; leave them out")
    return kinds[prediction]

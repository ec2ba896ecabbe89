"""The published loss of the image stage as terms by name, mistakes included (reference, 7.2 and 7.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from hicast.encoders.style import statistics
from hicast.losses.perceptual import gram
from hicast.losses.published import style_vector_loss, training_gram_loss
from hicast.training.image_terms import Judged, Term


def _latent(judged: Judged) -> Tensor:
    """Squared error of the latent, of every sample: transfer pairs are pulled to the photo (published name: content)."""
    return (judged.estimate - judged.clean).square().mean((1, 2, 3))


def _noise(judged: Judged) -> Tensor:
    """The published alternative to `latent`: squared error of the noise."""
    return judged.signal_to_noise * _latent(judged)


def _style(judged: Judged) -> Tensor:
    """Squared difference of style vectors, in units of their mean spread where the VGG is not the published one."""
    ours = statistics(judged.features) / judged.style_unit
    target = judged.library.vectors[judged.paintings].to(ours) / judged.style_unit
    return style_vector_loss(ours, target, judged.styled > 0)


def _gram(judged: Judged) -> Tensor:
    """The published Gram loss of all samples, dropped ones included (`losses.published.training_gram_loss`).

    Matrices are divided by (h * w) squared, with h and w of the decoded picture for both sides. Differs from the published
    code: features have passed the VGG's own scaling layer, and those of a 0 to 255 scale are divided by its range.
    """
    total = judged.estimate.new_zeros(len(judged.estimate))
    for name in judged.settings.gram_layers:
        features = judged.features[name].float()
        target = judged.library.grams[name][judged.paintings].to(features)
        scale = features[0, 0].numel() * judged.feature_unit**2
        total = total + ((gram(features) - target) / scale).square().sum((1, 2))
    return training_gram_loss(total, judged.styled > 0)


PUBLISHED_TERMS: dict[str, Term] = {"latent": _latent, "noise": _noise, "style": _style, "gram": _gram}
"""What `reference` asks for, in place of `image_terms.TERMS`."""

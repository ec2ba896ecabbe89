"""The two discriminators of the image stage, and the terms by which they learn and teach."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hicast.config.train import ImageTraining
from hicast.io.weights import place
from hicast.losses.adversarial import (
    PATCHES,
    REFERENCES,
    ImageDiscriminator,
    PatchDiscriminator,
    d_logistic_loss,
    draw_crops,
    g_nonsaturating_loss,
    patchify,
    r1_penalty,
)
from hicast.losses.published import masked_logits
from hicast.losses.terms import LossTerms

IMAGE, PATCH = "discriminator", "patch_discriminator"
"""Names of the discriminators, and of the terms by which they learn, which always weigh 1."""


class Adversary:
    """A discriminator of whole crops for the term `adversarial`, one of patches against the painting's for `patch`.

    Only those whose term has a weight exist. Real are crops of the paintings, fake the decoded estimates; samples without
    style count as neither. Source: reference, 7.2 to 7.5. Differs from it in size (`discriminator_width`, `patch_base`), where
    `discriminator_every` is not 10, and in that discriminators learn on the net's own batch, not on one drawn for them. With
    `reference` a sample without style has logits of 0, as published: they train nothing, and add log 2 to a term.
    """

    def __init__(self, settings: ImageTraining, device: torch.device) -> None:
        """Fresh discriminators for crops of `settings.crop`, drawn from `settings.seed`."""
        self.settings, self.modules = settings, {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            if settings.losses.get("adversarial"):
                self.modules[IMAGE] = ImageDiscriminator(3, settings.crop, settings.discriminator_width)
            if settings.losses.get("patch"):
                self.modules[PATCH] = PatchDiscriminator(3, settings.crop, base=settings.patch_base)
        for module in self.modules.values():
            place(module, device)

    def terms(self, decoded: Tensor, paintings: Tensor, keep: Tensor, step: int) -> LossTerms:
        """Terms for `decoded` against crops of `paintings` (both (batch, 3, crop, crop)), where the boolean `keep` (batch,) is True.

        On steps that are not a multiple of `discriminator_every` the discriminators have a gradient of zero.
        """
        found: LossTerms = {}
        learning = step % self.settings.discriminator_every == 0
        if IMAGE in self.modules:
            found |= self._of_images(decoded, paintings, keep, learning)
        if PATCH in self.modules:
            found |= self._of_patches(decoded, paintings, keep, learning, step)
        return found

    def _of_images(self, decoded: Tensor, paintings: Tensor, keep: Tensor, learning: bool) -> LossTerms:
        judge = self.modules[IMAGE]
        found = {"adversarial": self._teaching(functional_call(judge, _frozen(judge), (decoded,)), keep)}
        if not learning:
            return found | {IMAGE: _nothing(judge)}
        real = paintings.requires_grad_(self.settings.r1 > 0)
        logits = judge(real)
        found[IMAGE] = self._learning(logits, judge(decoded.detach()), keep)
        if self.settings.r1:
            found[IMAGE] = found[IMAGE] + 0.5 * self.settings.r1 * r1_penalty(logits, real, keep)
        return found

    def _of_patches(self, decoded: Tensor, paintings: Tensor, keep: Tensor, learning: bool, step: int) -> LossTerms:
        judge, generator = self.modules[PATCH], torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step)
        height, width = decoded.shape[-2:]
        places, others = (draw_crops(height, width, generator, count) for count in (PATCHES, PATCHES * REFERENCES))
        references, patches = patchify(paintings, others), patchify(decoded, places)
        found = {"patch": self._teaching(functional_call(judge, _frozen(judge), (patches, references)), keep)}
        if not learning:
            return found | {PATCH: _nothing(judge)}
        features = judge.reference_features(references)
        real, fake = (judge.score(cut, features) for cut in (patchify(paintings, places), patches.detach()))
        return found | {PATCH: self._learning(real, fake, keep)}

    def _teaching(self, fake: Tensor, keep: Tensor) -> Tensor:
        """What the net minimises of the logits of its pictures."""
        return g_nonsaturating_loss(masked_logits(fake, keep)) if self.settings.reference else g_nonsaturating_loss(fake, keep)

    def _learning(self, real: Tensor, fake: Tensor, keep: Tensor) -> Tensor:
        """What a discriminator minimises."""
        if self.settings.reference:
            return d_logistic_loss(masked_logits(real, keep), masked_logits(fake, keep))
        return d_logistic_loss(real, fake, keep)


def _frozen(module: nn.Module) -> dict[str, Tensor]:
    """Weights of `module` that receive no gradient."""
    return {name: value.detach() for name, value in module.named_parameters()}


def _nothing(module: nn.Module) -> Tensor:
    """A zero that reaches every weight, so that processes sharing the module agree on its gradient."""
    return sum(value.flatten()[0] for value in module.parameters()) * 0

"""The discriminators of the image stage: what each term trains, and when."""

from __future__ import annotations

import math

import pytest
import torch

from hicast.config.presets import load_preset
from hicast.config.train import ImageTraining
from hicast.training.adversary import IMAGE, PATCH, Adversary


def _adversary(**changes: object) -> Adversary:
    values = {"crop": 32, "losses": {"adversarial": 1.0, "patch": 1.0}, "discriminator_width": 1 / 64, "patch_base": 2}
    return Adversary(ImageTraining(**(values | changes)), torch.device("cpu"))


def _pictures() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    decoded, paintings = (torch.randn(2, 3, 32, 32, generator=generator) for _ in range(2))
    return decoded.requires_grad_(), paintings, torch.tensor([True, False])


def test_nets_terms_reach_the_picture_and_discriminators_terms_themselves() -> None:
    adversary, (decoded, paintings, keep) = _adversary(), _pictures()
    terms = adversary.terms(decoded, paintings, keep, 0)
    assert set(terms) == {"adversarial", "patch", IMAGE, PATCH}
    for name, judge in (("adversarial", IMAGE), ("patch", PATCH)):
        weights = [*adversary.modules[judge].parameters()]
        to_picture, *to_weights = torch.autograd.grad(terms[name], [decoded, *weights], retain_graph=True, allow_unused=True)
        assert to_picture[0].abs().sum() > 0 and to_picture[1].abs().sum() == 0
        assert to_weights == [None] * len(weights)
        to_picture, *to_weights = torch.autograd.grad(terms[judge], [decoded, *weights], allow_unused=True)
        assert to_picture is None and all(gradient.abs().sum() > 0 for gradient in to_weights)


def test_discriminators_rest_between_their_steps_but_take_part() -> None:
    adversary, (decoded, paintings, keep) = _adversary(discriminator_every=3), _pictures()
    for step, learns in ((3, True), (4, False)):
        terms = adversary.terms(decoded, paintings, keep, step)
        gradients = torch.autograd.grad(terms[IMAGE] + terms[PATCH], [w for m in adversary.modules.values() for w in m.parameters()])
        assert any(gradient.abs().sum() > 0 for gradient in gradients) == learns


def test_only_discriminators_in_use_exist() -> None:
    assert _adversary(losses={"content": 1.0}).modules == {}
    assert list(_adversary(losses={"patch": 1.0}).modules) == [PATCH]


def test_slope_at_real_crops_is_added_where_asked() -> None:
    decoded, paintings, keep = _pictures()
    plain, steadied = (_adversary(r1=r1).terms(decoded, paintings.clone(), keep, 0)[IMAGE] for r1 in (0.0, 10.0))
    assert steadied > plain


def test_same_seed_gives_the_same_discriminators() -> None:
    one, again, other = (_adversary(seed=seed).modules[IMAGE].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_published_masks_add_a_constant_for_samples_without_style() -> None:
    ours, theirs = _adversary(), _adversary(reference=True)
    decoded, paintings, keep = _pictures()
    corrected, published = (adversary.terms(decoded, paintings, keep, 0) for adversary in (ours, theirs))
    for name, logits in (("adversarial", 1), ("patch", 1), (IMAGE, 2), (PATCH, 2)):
        assert published[name].item() == pytest.approx(corrected[name].item() + 0.5 * logits * math.log(2), rel=1e-5)
    inputs = [decoded, *(weight for module in theirs.modules.values() for weight in module.parameters())]
    wanted = torch.autograd.grad(sum(corrected.values()), [decoded, *(w for m in ours.modules.values() for w in m.parameters())])
    found = torch.autograd.grad(sum(published.values()), inputs)
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(found, wanted, strict=True))


def test_published_preset_has_the_published_weights_and_schedule() -> None:
    preset = load_preset("sd15-image-reference", "train")
    assert {name: weight for name, weight in preset["losses"].items() if weight} == {"latent": 1, "style": 2, "gram": 1, "adversarial": 1, "patch": 2}
    assert [preset[key] for key in ("discriminator_every", "discriminator_width", "patch_base")] == [10, 1, 32]
    assert preset["discriminator_rate"] == pytest.approx(16 / 17, abs=1e-3)


@pytest.mark.parametrize("every", [1, 10])
def test_a_discriminator_learns_as_fast_whatever_it_rests(every: int) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    options = ImageTraining(discriminator_every=every).optimizer(IMAGE)
    optimizer = torch.optim.AdamW([weight], lr=options["scale"], betas=options["betas"], weight_decay=0.0)
    places = []
    for step in range(600 * every):
        weight.grad = torch.full_like(weight, 3.0 if step % every == 0 else 0.0)
        optimizer.step()
        places.append(weight.item())
    assert places[-every - 1] - places[-1] == pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize("module,betas", [("unet", (0.9, 0.99)), (IMAGE, (0.0, 0.99)), (PATCH, (0.0, 0.99))])
def test_discriminators_have_an_optimizer_of_their_own_kind(module: str, betas: tuple[float, float]) -> None:
    options = ImageTraining(discriminator_rate=0.5).optimizer(module)
    assert options["betas"] == betas
    assert options["scale"] == (1.0 if module == "unet" else 0.5)

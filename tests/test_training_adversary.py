"""The discriminators of the image stage: what each term trains, and when."""

from __future__ import annotations

import pytest
import torch

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


@pytest.mark.parametrize("module,betas", [("unet", (0.9, 0.99)), (IMAGE, (0.0, 0.99)), (PATCH, (0.0, 0.99))])
def test_discriminators_have_an_optimizer_of_their_own_kind(module: str, betas: tuple[float, float]) -> None:
    options = ImageTraining(discriminator_rate=0.5).optimizer(module)
    assert options["betas"] == betas
    assert options["scale"] == (1.0 if module == "unet" else 0.5)

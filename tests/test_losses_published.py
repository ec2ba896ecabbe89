"""The published forms of the losses: values, gradients, and which of them train nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file

from hicast.encoders.vgg import Vgg16, rename_torchvision_keys
from hicast.losses.adversarial import g_nonsaturating_loss
from hicast.losses.consistency import consistency_terms, draw_positions, local_contrast, motion_distance
from hicast.losses.published import (
    CONSISTENCY_WEIGHTS,
    clamped_correlation,
    content_query_contrast,
    masked_logits,
    metric_gram_distance,
    published_consistency_terms,
    reciprocal_correlation,
    style_vector_loss,
    training_gram_distance,
    training_gram_loss,
)
from hicast.losses.terms import weighted_sum

FOLDER = Path(__file__).parent / "data" / "parity"
KEEP = torch.tensor([True, False])
CONVOLUTIONS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
                17: (256, 512), 19: (512, 512)}  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return load_file(FOLDER / "losses_io.safetensors")


@pytest.fixture(scope="module")
def clip():
    return load_file(FOLDER / "temporal_loss_io.safetensors")


@pytest.fixture(scope="module")
def features(images):
    """Taps of both stored pictures: with the scaling layer (`scaled`, pictures brought to [0, 1]) and without."""
    state = {}
    for index, (inputs, outputs) in CONVOLUTIONS.items():
        random = numpy.random.RandomState(1000 + index)
        weight = random.standard_normal((outputs, inputs, 3, 3)) * numpy.sqrt(2 / (9 * inputs))
        state[f"{index}.weight"] = torch.from_numpy(weight.astype("float32"))
        state[f"{index}.bias"] = torch.from_numpy((random.standard_normal((outputs,)) * 0.01).astype("float32"))
    with torch.device("meta"):
        vgg = Vgg16("lpips")
    vgg.load_state_dict(rename_torchvision_keys(state), strict=False, assign=True)
    shift, scale = (torch.tensor(x).view(1, 3, 1, 1) for x in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    pictures = [images["gram_img_a"], images["gram_img_b"]]
    with torch.no_grad():
        return {
            "plain": [vgg(picture * scale + shift, ("relu1_2",))["relu1_2"] for picture in pictures],
            "scaled": [vgg(picture, ("relu2_2", "relu3_2", "relu4_2")) for picture in pictures],
        }


def assert_relative(found, expected):
    torch.testing.assert_close(found.detach().reshape(expected.shape), expected, rtol=1e-4, atol=0)


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


def clips(batch=1, frames=4, side=6, seed=0):
    return torch.randn(batch, 4, frames, side, side, generator=generator(seed))


def correlated(share, seed=0):
    """Two clips whose motion correlates by about `share`."""
    latents, other = clips(side=24, seed=seed), clips(side=24, seed=seed + 1)
    return share * latents + math.sqrt(1 - share**2) * other, latents


def test_style_vector_loss(images):
    assert_relative(style_vector_loss(images["style_vec_a"], images["style_vec_b"]), images["style_mse"])
    assert_relative(style_vector_loss(images["style_vec_a"], images["style_vec_b"], KEEP), images["style_mse_flag_TF"])


def test_training_gram(images, features):
    distances = training_gram_distance(*features["plain"])
    assert_relative(distances.sum(), images["train_gram_loss"])
    assert_relative(training_gram_loss(distances, KEEP), images["train_gram_loss_flag4d_TF"])
    assert_relative((distances * KEEP).sum(), images["train_gram_loss_flag_TF"])


def test_the_published_gram_mask_lets_dropped_samples_count():
    ours, target = torch.rand(3, 5, 4, 4, generator=generator()), torch.rand(3, 5, 4, 4, generator=generator(1))
    ours.requires_grad_()
    keep = torch.tensor([True, True, False])
    (gradient,) = torch.autograd.grad(training_gram_loss(training_gram_distance(ours, target), keep), ours)
    assert gradient[2].abs().sum() > 0
    (gradient,) = torch.autograd.grad((training_gram_distance(ours, target) * keep).sum(), ours)
    assert gradient[2].abs().sum() == 0 and gradient[:2].abs().sum() > 0
    flag, grams = keep.view(3, 1, 1, 1), [x @ x.transpose(1, 2) / 16**2 for x in (ours.flatten(2), target.flatten(2))]
    literal = (flag * grams[0] - flag * grams[1]).square().sum()
    torch.testing.assert_close(training_gram_loss(training_gram_distance(ours, target), keep), literal)


@pytest.mark.parametrize("tap", ["relu2_2", "relu3_2", "relu4_2"])
def test_metric_gram(images, features, tap):
    ours, target = (found[tap] for found in features["scaled"])
    assert_relative(metric_gram_distance(ours, target).sum(), images[f"metric_gram_{tap}"])


def test_dropped_logits_add_a_constant():
    logits = clips().flatten()[:6, None].requires_grad_()
    loss = g_nonsaturating_loss(masked_logits(logits, KEEP))
    assert loss.item() == pytest.approx((g_nonsaturating_loss(logits, KEEP) + math.log(2) / 2).item())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:3] != 0).all() and (gradient[3:] == 0).all()


def test_contrast_value_and_no_gradient(clip):
    estimate = clip["pred_x0"][:, :, 1:].clone().requires_grad_()
    loss = content_query_contrast(estimate, clip["latents"][:, :, 1:], draw_positions(16, 16, generator()))
    assert_relative(loss, clip["ccpl_loss"])
    assert not loss.requires_grad


def test_contrast_sees_the_first_clip_only():
    estimate, latents, positions = clips(2), clips(2, seed=1), torch.tensor([7, 14])
    found = content_query_contrast(estimate, latents, positions)
    assert found.equal(content_query_contrast(estimate[:1], latents[:1], positions))


def test_correlation_value_and_gradient(clip):
    estimate = clip["pred_x0"].clone().requires_grad_()
    loss = reciprocal_correlation(estimate[:, :, 1:], clip["latents"][:, :, 1:])
    assert_relative(loss, clip["CFC_loss"])
    (gradient,) = torch.autograd.grad(loss, estimate)
    assert (gradient - clip["CFC_grad"]).abs().max() < 1e-4 * clip["CFC_grad"].abs().max()
    ours = motion_distance(estimate[:, :, 1:], clip["latents"][:, :, 1:])
    assert_relative(ours, 1 - 0.5 / clip["CFC_loss"])


def test_correlation_trains_nothing_below_a_threshold():
    for share, trains in ((0.9, True), (0.5, False), (0.2, False), (-0.5, True)):
        estimate, latents = correlated(share)
        estimate.requires_grad_()
        raw = reciprocal_correlation(estimate, latents)
        assert raw.item() == pytest.approx(0.5 / share, rel=0.3)
        value = clamped_correlation(raw)
        (gradient,) = torch.autograd.grad(value, estimate)
        assert (gradient.abs().sum() > 0) == trains
        assert value.item() == pytest.approx(raw.item() if trains else 0.07)
        (corrected,) = torch.autograd.grad(motion_distance(estimate, latents).mean(), estimate)
        assert corrected.abs().sum() > 0
    assert raw < 0, "opposite motion is rewarded"


def test_identical_motion_is_a_half():
    latents = clips()
    assert reciprocal_correlation(latents + 1, latents).item() == pytest.approx(0.5, rel=1e-4)


def test_terms_of_a_clip(clip):
    estimate, latents = clip["pred_x0"], clip["latents"]
    before = estimate.clone(), latents.clone()
    prediction, noise, image_prediction = (torch.randn(latents.shape, generator=generator(seed)) for seed in range(3))
    terms = published_consistency_terms(prediction, noise, image_prediction, estimate, latents, generator())
    assert_relative(terms["contrast"], clip["ccpl_loss"])
    assert_relative(terms["correlation"], clip["CFC_loss"])
    assert_relative(terms["noise"], (prediction - noise).square().mean())
    assert_relative(terms["image"], (prediction - image_prediction).square().mean())
    total = 0.01 * terms["noise"] + 2 * terms["image"] + 10 * terms["contrast"] + terms["correlation"]
    assert_relative(weighted_sum(terms, CONSISTENCY_WEIGHTS), total)
    assert estimate.equal(before[0]) and latents.equal(before[1])


def test_published_terms_have_the_names_of_ours_and_leave_out_frame_0():
    given = [clips(seed=seed) for seed in range(5)]
    estimate = given[3] = (given[4] + 0.1 * given[3]).requires_grad_()
    terms = published_consistency_terms(*given, generator())
    assert list(terms) == list(consistency_terms(*given, generator())) == list(CONSISTENCY_WEIGHTS)
    (gradient,) = torch.autograd.grad(terms["correlation"], estimate)
    assert gradient[:, :, 0].abs().sum() == 0 and gradient[:, :, 1:].abs().sum() > 0
    assert not terms["contrast"].requires_grad
    assert local_contrast(estimate, given[4], torch.tensor([7])).requires_grad

"""Discriminators and adversarial losses: equal to the published ones, and masked samples count for nothing."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file

from hicast.errors import UsageError
from hicast.losses.adversarial import (
    ImageDiscriminator,
    PatchDiscriminator,
    d_logistic_loss,
    draw_crops,
    g_nonsaturating_loss,
    masked_mean,
    patchify,
    r1_penalty,
)

FIXTURES = Path(__file__).parent / "data" / "parity" / "losses_io.safetensors"


@pytest.fixture(scope="module")
def stored():
    return {name: value.float() if value.is_floating_point() else value for name, value in load_file(FIXTURES).items()}


def assert_relative(found, expected):
    torch.testing.assert_close(found.detach().reshape(expected.shape), expected, rtol=1e-4, atol=0)


def by_rule(net, prefix):
    """`net` with the weights that the fixtures were made with, drawn from each parameter's published name."""
    for name, parameter in net.named_parameters():
        random = numpy.random.RandomState(zlib.crc32((prefix + name).encode()) & 0x7FFFFFFF)
        value = torch.from_numpy(random.standard_normal(tuple(parameter.shape)).astype("float32"))
        parameter.data = value if name.endswith("weight") else value * 0.1
    return net


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


@pytest.mark.parametrize("channels, size", [(3, 32), (3, 64), (4, 64)])
def test_picture_discriminator_is_the_published_one(stored, channels, size):
    net = by_rule(ImageDiscriminator(channels, size), f"disc{channels}_{size}.")
    name = f"disc_c{channels}_s{size}"
    image = stored[f"{name}_in"].requires_grad_(size == 32)
    logits = net(image)
    assert_relative(logits, stored[f"{name}_out"])
    if size == 32:
        assert_relative(r1_penalty(logits, image), stored["d_r1_penalty_c3_s32"])


@pytest.mark.parametrize("kind, size, channels", [("image", 256, 3), ("image", 384, 3), ("latent", 64, 4)])
def test_patch_discriminator_is_the_published_one(stored, kind, size, channels):
    net = by_rule(PatchDiscriminator(channels, size, kind, base=4), f"co_{kind}_{size}.")
    name = f"co_{kind}_{size}"
    with torch.no_grad():
        features = net.reference_features(stored[f"{name}_ref"])
        assert_relative(features, stored[f"{name}_refinput"])
        assert_relative(net.score(stored[f"{name}_in"], features), stored[f"{name}_out"])
        assert_relative(net(stored[f"{name}_in"], stored[f"{name}_ref"]), stored[f"{name}_out"])


def test_names_and_shapes_are_those_of_the_published_file():
    with torch.device("meta"):
        image, patch = ImageDiscriminator(3, 512).state_dict(), PatchDiscriminator(3, 512).state_dict()
    assert image["convs.0.0.weight"].shape == (32, 3, 1, 1) and image["convs.0.1.bias"].shape == (32,)
    assert {name for name in image if name.startswith("convs.7.")} == {
        f"convs.7.{name}" for name in ("conv1.0.weight", "conv1.1.bias", "conv2.0.kernel", "conv2.1.weight",
                                       "conv2.2.bias", "skip.0.kernel", "skip.1.weight")
    }  # fmt: skip
    assert image["final_linear.0.weight"].shape == (512, 8192) and "final_linear.1.bias" in image
    assert {name for name in patch if name.startswith("encoder.6.")} == {
        f"encoder.6.{name}" for name in ("conv1.0.weight", "conv1.1.bias", "conv2.0.weight", "conv2.1.bias", "skip.0.weight")
    }
    assert patch["encoder.7.0.weight"].shape == (384, 768, 3, 3)
    assert [patch[f"linear.{i}.weight"].shape[0] for i in range(4)] == [1024, 1024, 512, 1]
    assert patch["linear.0.weight"].shape[1] == 2 * 384 * 4


@pytest.mark.parametrize("size, kind", [(8, "image"), (64, "image"), (96, "image"), (16, "latent"), (40, "latent")])
def test_small_pictures_have_discriminators_too(size, kind):
    patches = noise(2, 3, size // 4, size // 4)
    assert PatchDiscriminator(3, size, kind, base=2)(patches, noise(4, 3, size // 4, size // 4)).shape == (2, 1)
    assert ImageDiscriminator(3, size, width=1 / 64)(noise(2, 3, size, size)).shape == (2, 1)


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(UsageError, match="expected a size from 4 to 2047, found 2"):
        ImageDiscriminator(3, 2)
    with pytest.raises(UsageError, match="expected kind image or latent, found 'video'"):
        PatchDiscriminator(3, 64, "video")


def test_losses_are_the_published_ones(stored):
    real, fake = stored["logits_real"], stored["logits_fake"]
    assert_relative(d_logistic_loss(real, fake), stored["d_logistic_loss"])
    assert_relative(g_nonsaturating_loss(fake), stored["g_nonsaturating_loss"])


def test_patches_are_the_published_ones(stored):
    found = patchify(stored["patchify_img"], stored["patchify_crops_yxhw"])
    torch.testing.assert_close(found, stored["patchify_out"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("height, width", [(64, 64), (64, 96), (8, 8)])
def test_crops_stay_inside_and_follow_the_generator(height, width):
    crops = draw_crops(height, width, generator(), count=200)
    top, left, tall, wide = crops.unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (top + tall <= height).all() and (left + wide <= width).all()
    assert tall.equal(wide) and tall.min() == min(height, width) // 8 and tall.max() <= min(height, width) // 4
    assert (left + wide).max() == width and left.min() == 0
    assert crops.equal(draw_crops(height, width, generator(), count=200))


def test_a_masked_sample_contributes_nothing():
    keep = torch.tensor([True, False])
    real, fake = noise(6, 1).requires_grad_(), noise(6, 1, seed=1).requires_grad_()
    for loss in (lambda r, f: d_logistic_loss(r, f, keep), lambda r, f: g_nonsaturating_loss(f, keep) + 0 * r.sum()):
        value = loss(real, fake)
        (gradient,) = torch.autograd.grad(value, fake)
        assert (gradient[:3] != 0).all() and (gradient[3:] == 0).all()
        changed = torch.cat([fake[:3], fake[3:] + 5])
        assert loss(real, changed).equal(value)
    wanted = sum(math.log1p(math.exp(-logit)) for logit in fake[:3, 0].tolist()) / 6
    assert g_nonsaturating_loss(fake, keep).item() == pytest.approx(wanted, rel=1e-5)
    assert g_nonsaturating_loss(fake, torch.zeros(2)).item() == 0


def test_processes_with_different_masks_average_to_one():
    values, keep = noise(4), torch.tensor([True, True, False, True])
    halves = (masked_mean(values[:2], keep[:2]) + masked_mean(values[2:], keep[2:])) / 2
    torch.testing.assert_close(masked_mean(values, keep), halves)


def test_r1_is_the_squared_slope_per_sample():
    images, slope = noise(2, 3, 4, 4).requires_grad_(), noise(3, 4, 4, seed=1)
    logits = (images * slope).sum((1, 2, 3), keepdim=True)[:, :, 0, 0]
    wanted = slope.square().sum()
    torch.testing.assert_close(r1_penalty(logits, images), wanted)
    torch.testing.assert_close(r1_penalty(logits, images, torch.tensor([False, True])), wanted / 2)


def test_every_loss_trains_what_it_should():
    torch.manual_seed(0)
    image = noise(2, 3, 32, 32).requires_grad_()
    net, patch = ImageDiscriminator(3, 32, width=1 / 64), PatchDiscriminator(3, 32, base=2)
    patches = patchify(image, draw_crops(32, 32, generator(), count=2))
    score = patch(patches, noise(8, 3, 8, 8))
    for loss in (g_nonsaturating_loss(net(image)), g_nonsaturating_loss(score)):
        (gradient,) = torch.autograd.grad(loss, image, retain_graph=True)
        assert gradient.abs().sum() > 0
    (d_logistic_loss(net(noise(2, 3, 32, 32)), net(image.detach())) + r1_penalty(net(image), image)).backward()
    d_logistic_loss(patch(noise(4, 3, 8, 8), noise(8, 3, 8, 8)), score).backward()
    assert all(parameter.grad.abs().sum() > 0 for part in (net, patch) for parameter in part.parameters())

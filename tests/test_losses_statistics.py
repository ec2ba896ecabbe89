"""Statistics and quantiles of features and colours: what they say, of which places, and their gradients."""

from __future__ import annotations

import pytest
import torch

from hicast.encoders.style import channel_statistics
from hicast.losses.color import color_quantiles, odd_stride
from hicast.losses.perceptual import feature_distance, feature_quantiles


@pytest.mark.parametrize(("positions", "most", "stride"), [(100, 100, 1), (101, 100, 3), (128 * 128, 4096, 5), (128 * 128, 1024, 17), (300, 100, 3)])
def test_strides_are_odd_and_leave_no_more_than_asked_for(positions, most, stride):
    assert odd_stride(positions, most) == stride and len(range(0, positions, stride)) <= most


def test_every_column_of_a_picture_has_its_turn():
    image = torch.zeros(1, 3, 128, 128, requires_grad=True)
    drawn = image + torch.rand(image.shape, generator=torch.Generator().manual_seed(1))
    color_quantiles(drawn, count=4096, max_pixels=4096).sum().backward()
    assert (image.grad.abs().sum((0, 1, 2)) > 0).all()


def test_fewer_places_say_nearly_the_same():
    features = torch.randn(2, 16, 64, 64, generator=torch.Generator().manual_seed(2))
    whole, part = (feature_quantiles(features, max_positions=most) for most in (4096, 1024))
    assert (whole - part).abs().mean() < 0.1 * whole.abs().mean()
    assert (whole.diff(dim=2) >= 0).all()


def test_colours_of_a_grey_picture_lie_on_one_line():
    grey = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    red, green, blue, luma, *differences = color_quantiles(grey)[0]
    assert torch.allclose(red, grey[0, 0].flatten()) and torch.equal(red, green) and torch.equal(red, blue)
    assert torch.allclose(luma, red, atol=1e-6) and max(one.abs().max() for one in differences) < 1e-3


def test_gradient_of_statistics_is_that_of_their_formulas():
    features = torch.rand(2, 5, 6, 7, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
    features[0, 0] = 0.25  # a flat channel has no slope
    of_std, of_mean = torch.rand(2, 5), torch.rand(2, 5)
    gradients = []
    for measure in (channel_statistics, lambda x: (x.flatten(2).var(2).clamp_min(1e-12).sqrt(), x.flatten(2).mean(2))):
        given = features.clone().requires_grad_()
        std, mean = measure(given)
        ((std * of_std).sum() + (mean * of_mean).sum()).backward()
        gradients.append(given.grad)
    assert torch.allclose(*gradients, atol=1e-6)
    half = features.bfloat16().requires_grad_()
    channel_statistics(half)[0].sum().backward()
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_distance_of_features_is_relative_to_the_target_with_the_gradient_of_its_formula(dtype, near):
    generator = torch.Generator().manual_seed(0)
    shapes = {"fine": (2, 4, 12, 10), "coarse": (2, 8, 6, 5)}
    ours, target = ({name: torch.rand(shape, generator=generator).to(dtype).requires_grad_() for name, shape in shapes.items()} for _ in range(2))
    found = feature_distance(ours, {name: value * scale for (name, value), scale in zip(target.items(), (1, 1000), strict=True)})
    found.backward()
    gradients = [value.grad.double() for value in ours.values()]
    assert all(value.grad is None for value in target.values())
    wide = {name: value.detach().double().requires_grad_() for name, value in ours.items()}
    terms = []
    for name, scale in (("fine", 1), ("coarse", 1000)):
        wanted = target[name].detach().double() * scale
        terms.append((wide[name] - wanted).abs().mean((1, 2, 3)) / wanted.mean((1, 2, 3)))
    expected = torch.stack(terms).mean()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=near)
    for gradient, value in zip(gradients, wide.values(), strict=True):
        assert (gradient - value.grad).abs().max() <= near * value.grad.abs().max()

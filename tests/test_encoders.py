"""VGG features and style codes, with random weights and synthetic pictures."""

from __future__ import annotations

import pytest
import torch

from hicast.encoders.style import STYLE_TAPS, StyleEncoder, statistics
from hicast.encoders.vgg import Vgg16, caffe_input, lpips_input, rename_torchvision_keys
from hicast.errors import InputError, ModelError, UsageError


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return StyleEncoder(token_grid=2, clamp=6.0)


def picture(height=48, width=32, batch=1):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_caffe_input_is_bgr_minus_mean():
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)
    assert torch.allclose(caffe_input(red).flatten(), torch.tensor([-103.939, -116.779, 255 - 123.68]))


def test_lpips_input_scales_each_channel():
    found = lpips_input(torch.zeros(1, 3, 1, 1)).flatten()
    assert torch.allclose(found, torch.tensor([0.030 / 0.458, 0.088 / 0.448, 0.188 / 0.450]))


def test_vgg_stops_after_the_deepest_tap(encoder):
    called = []
    hooks = [m.register_forward_hook(lambda *_, n=n: called.append(n)) for n, m in encoder.vgg.named_children()]
    features = encoder.vgg(picture(), ("relu2_1", "relu1_2"))
    for hook in hooks:
        hook.remove()
    assert called == ["conv1_1", "conv1_2", "conv2_1"]
    assert features["relu1_2"].shape == (1, 64, 48, 32) and features["relu2_1"].shape == (1, 128, 24, 16)
    assert len(features) == 2


def test_bfloat16_weights_compute_in_bfloat16():
    vgg = Vgg16("lpips").to(torch.bfloat16)
    assert vgg(picture(), ("relu1_1",))["relu1_1"].dtype == torch.bfloat16


def test_vgg_refuses_what_cannot_work(encoder):
    with pytest.raises(UsageError, match="found relu9_9"):
        encoder.vgg(picture(), ("relu9_9",))
    with pytest.raises(InputError, match="16x16 pixels or more, found 8x32"):
        encoder(picture(8, 32))
    with pytest.raises(ModelError, match="float16"):
        Vgg16().half()(picture())
    with pytest.raises(UsageError, match="caffe, lpips"):
        Vgg16("imagenet")


@pytest.mark.parametrize("key", ["28.bias", "features.28.bias", "vgg.slice5.28.bias"])
def test_torchvision_names(key):
    assert list(rename_torchvision_keys({key: torch.zeros(512)})) == ["conv5_3.bias"]


def test_torchvision_names_refuse_others():
    with pytest.raises(ModelError, match="found 'classifier.0.weight.extra'"):
        rename_torchvision_keys({"classifier.0.weight.extra": torch.zeros(1)})
    with pytest.raises(ModelError, match="found 'features.1.weight'"):
        rename_torchvision_keys({"features.1.weight": torch.zeros(1)})


def test_statistics_by_hand():
    widths = (64, 128, 256, 512, 512)
    features = {tap: torch.randn(2, width, 3, 5) for tap, width in zip(STYLE_TAPS, widths, strict=True)}
    vector = statistics(features)
    assert vector.shape == (2, 2944)
    values = features["relu2_2"][1, 7].flatten().tolist()
    mean = sum(values) / 15
    std = (sum((value - mean) ** 2 for value in values) / 14) ** 0.5
    assert vector[1, 128 + 7].item() == pytest.approx(std, rel=1e-5)
    assert vector[1, 128 + 128 + 7].item() == pytest.approx(mean, rel=1e-4, abs=1e-6)


def test_tokens_are_pooled_row_by_row(encoder):
    image = picture(32, 32)
    deep = encoder.vgg(image, ("relu4_3",))["relu4_3"]
    tokens = encoder(image).tokens
    assert tokens.shape == (1, 4, 768)
    upper_right = deep[0, :, :2, 2:].mean(dim=(1, 2))
    assert torch.allclose(tokens[0, 1, 256:], upper_right.clamp(-6, 6), atol=1e-5)


def test_codes_are_normalised_and_clamped():
    encoder = StyleEncoder(clamp=0.5)
    raw = encoder.vgg(picture())
    encoder.mean.fill_(0.1)
    encoder.std.fill_(2.0)
    assert torch.allclose(encoder(picture()).vector, ((statistics(raw) - 0.1) / 2).clamp(-0.5, 0.5))
    assert encoder(picture()).tokens is None


def test_dropped_styles_are_the_null_style(encoder):
    image = picture(batch=2)
    code, null = encoder(image, torch.tensor([True, False])), encoder.null(1)
    assert torch.equal(code.vector[1], null.vector[0]) and torch.equal(code.tokens[1], null.tokens[0])
    assert torch.allclose(code.vector[0], encoder(image[:1]).vector[0], atol=1e-5)
    assert code.vector[0].abs().sum() > 0


@pytest.mark.parametrize("size", [16, 40])
def test_constant_pictures_give_finite_codes(encoder, size):
    code = encoder(torch.full((1, 3, size, size), 0.3))
    assert code.vector.isfinite().all() and code.tokens.isfinite().all()


def test_saved_encoder_gives_the_same_code(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    again = StyleEncoder.from_pretrained(tmp_path)
    assert torch.equal(again(picture()).vector, encoder(picture()).vector)

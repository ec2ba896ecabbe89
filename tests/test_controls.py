"""Controls: the table, each extractor against its definition, and what is said where weights are missing."""

import re
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from hicast.config.train import AdapterTraining
from hicast.controls import CONTROLS, Control, find_any_extractor, find_extractor
from hicast.controls.depth import load_dpt, normalize_depth
from hicast.controls.edge import canny_edges, gradient_edges
from hicast.controls.hed import MEAN_BGR, load_hed
from hicast.errors import ModelError, UsageError

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """Two pictures (2, 3, 48, 64) of soft blobs."""
    small = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return functional.interpolate(small, size=(48, 64), mode="bicubic").clamp(-1, 1)


def test_the_table_has_the_controls_of_the_settings():
    literal, _ = get_args(AdapterTraining.model_fields["control"].annotation)
    assert set(CONTROLS) == set(get_args(literal))
    for entry in CONTROLS.values():
        assert entry.default is None or not entry.extractors[entry.default].weights
    names = [name for entry in CONTROLS.values() for name in entry.extractors]
    assert len(names) == len(set(names))


def test_names_are_found_or_answered_with_the_nearest(monkeypatch):
    assert [find_extractor(control)[0] for control in CONTROLS] == ["soft", "compact", "regions"]
    assert find_extractor("edge", "hed")[1].differentiable and find_any_extractor("dpt-hybrid-midas")[0] == "depth"
    with pytest.raises(UsageError, match="control: expected the name of one, found egde; did you mean edge"):
        find_extractor("egde")
    with pytest.raises(UsageError, match="extractor of edge: expected the name of one, found cany; did you mean canny"):
        find_extractor("edge", "cany")
    with pytest.raises(UsageError, match="did you mean gradient"):
        find_any_extractor("gradiet")
    monkeypatch.setitem(CONTROLS, "seg", Control({}))
    assert find_extractor("seg") is None
    with pytest.raises(UsageError, match="extractor of seg: expected the name of one, found x; it has none: give maps of your own"):
        find_extractor("seg", "x")


@pytest.mark.parametrize("extract", [gradient_edges, canny_edges])
def test_maps_have_the_size_and_range_of_maps_and_each_sample_is_alone(image, extract):
    both = extract(image)
    assert both.shape == image.shape and both.dtype == torch.float32 and both.min() >= 0 and both.max() <= 1 and both.std() > 0.05
    assert torch.equal(both[:, 0], both[:, 2])
    assert torch.allclose(both[1:], extract(image[1:]), atol=1e-6)


def test_gradient_edges_are_zero_on_flat_and_strongest_on_the_edge():
    assert gradient_edges(torch.full((1, 3, 20, 20), 0.3)).abs().max() < 1e-6
    step = torch.full((1, 3, 20, 20), -0.5)
    step[..., 10:] = 0.5
    edges = gradient_edges(step)[0, 0]
    assert set(edges.argmax(1).tolist()) <= {9, 10} and edges[:, :5].max() < 1e-6 and edges.max() > 0.7
    assert torch.allclose(edges, gradient_edges(step.transpose(2, 3))[0, 0].T, atol=1e-6)


def test_gradient_edges_are_those_of_the_formula_and_hardly_change_with_contrast(image):
    grey = np.tensordot([0.299, 0.587, 0.114], image[0].double().numpy(), 1) / 2
    weights = np.exp(-np.arange(-2, 3) ** 2 / 2)
    smooth = cv2.sepFilter2D(np.pad(grey, 3, mode="edge"), -1, weights / weights.sum(), weights / weights.sum())[2:-2, 2:-2]
    strength = np.hypot(smooth[1:-1, 2:] - smooth[1:-1, :-2], smooth[2:, 1:-1] - smooth[:-2, 1:-1])
    expected = strength / (strength + 2 * strength.mean())
    assert np.abs(gradient_edges(image[:1])[0, 0].numpy() - expected).max() < 0.02
    assert (gradient_edges(image) - gradient_edges(0.5 * image)).abs().max() < 0.05


def test_gradient_edges_have_a_gradient_also_on_flat_pictures(image):
    for picture in (image.clone(), torch.zeros(1, 3, 16, 16)):
        picture.requires_grad_(True)
        (gradient_edges(picture) * torch.rand(picture.shape)).sum().backward()
        assert picture.grad.isfinite().all()
    assert torch.autograd.grad(gradient_edges(image.requires_grad_(True)).sum(), image)[0].abs().max() > 0
    image.requires_grad_(False)


def test_canny_is_opencvs_at_the_published_thresholds(image):
    pixels = ((image[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    expected = cv2.Canny(np.ascontiguousarray(pixels), 100, 200)
    assert expected.any() and (canny_edges(image)[0, 1].numpy() * 255 == expected).all()
    assert not canny_edges(image.clone().requires_grad_(True)).requires_grad


def _random_convolutions() -> dict[str, torch.Tensor]:
    """Weights of a HED net under the names of the original ones."""
    generator = torch.Generator().manual_seed(1)
    state, channels = {}, 3
    for block, (width, count) in enumerate(BLOCKS, 1):
        for i in range(1, count + 1):
            scale = (2 / (9 * channels)) ** 0.5
            state[f"conv{block}_{i}.weight"] = torch.randn(width, channels, 3, 3, generator=generator) * scale
            state[f"conv{block}_{i}.bias"] = torch.randn(width, generator=generator) * 0.1
            channels = width
        state[f"dsn{block}.weight"] = torch.randn(1, width, 1, 1, generator=generator) * 0.005 / width**0.5
        state[f"dsn{block}.bias"] = torch.randn(1, generator=generator) * 0.1
    state["fuse.weight"], state["fuse.bias"] = torch.rand(1, 5, 1, 1, generator=generator), torch.tensor([-0.2])
    return state


def _scores(state: dict[str, torch.Tensor], features: torch.Tensor, size: tuple[int, int]) -> list[torch.Tensor]:
    """The five score maps of the definition, enlarged to `size`."""
    found = []
    for block, (_, count) in enumerate(BLOCKS, 1):
        if block > 1:
            features = functional.max_pool2d(features, 2)
        for i in range(1, count + 1):
            features = functional.conv2d(features, state[f"conv{block}_{i}.weight"], state[f"conv{block}_{i}.bias"], padding=1).relu()
        score = functional.conv2d(features, state[f"dsn{block}.weight"], state[f"dsn{block}.bias"])
        found.append(functional.interpolate(score, size=size, mode="bilinear", align_corners=False))
    return found


def test_hed_is_that_of_the_definition(tmp_path, image):
    state = _random_convolutions()
    save_file(state, tmp_path / "hed.safetensors")
    bgr = image.flip(1) * 127.5 + 127.5 - torch.tensor(MEAN_BGR).view(1, 3, 1, 1)
    scores = torch.cat(_scores(state, bgr, (48, 64)), 1)
    expected = functional.conv2d(scores, state["fuse.weight"], state["fuse.bias"]).sigmoid()
    assert expected.std() > 0.02
    for place in (tmp_path / "hed.safetensors", tmp_path):
        assert torch.allclose(load_hed(place)(image), expected.expand(-1, 3, -1, -1), atol=1e-4)


def test_hed_has_a_gradient_and_nothing_of_it_trains(tmp_path, image):
    save_file({name: tensor.half() for name, tensor in _random_convolutions().items()}, tmp_path / "x.safetensors")
    net = find_extractor("edge", "hed")[1].open(tmp_path / "x.safetensors", torch.device("cpu"), torch.bfloat16)
    assert net.vgg.dtype == torch.bfloat16 and net.mean.tolist() == pytest.approx(MEAN_BGR)
    picture = image.clone().requires_grad_(True)
    net(picture).mean().backward()
    assert picture.grad.abs().max() > 0 and not any(parameter.requires_grad for parameter in net.parameters())


def test_hed_takes_the_weights_of_controlnet_aux(tmp_path, image):
    state, aux = _random_convolutions(), {"norm": torch.tensor([120.0, 110.0, 90.0]).view(1, 3, 1, 1)}
    for name, tensor in state.items():
        part, kind = name.split(".")
        if part.startswith("conv"):
            block, i = part[4:].split("_")
            aux[f"block{block}.convs.{int(i) - 1}.{kind}"] = tensor
        elif part.startswith("dsn"):
            aux[f"block{part[3:]}.projection.{kind}"] = tensor
    torch.save(aux, tmp_path / "ControlNetHED.pth")
    rgb = image * 127.5 + 127.5 - aux["norm"]
    expected = torch.stack(_scores(state, rgb, (48, 64))).mean(0).sigmoid()
    assert torch.allclose(load_hed(tmp_path)(image), expected.expand(-1, 3, -1, -1), atol=1e-4)
    (tmp_path / "ControlNetHED.pth").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="extractor hed: expected controlnet-aux's weights in .*ControlNetHED.pth"):
        load_hed(tmp_path)


def test_hed_without_weights_or_with_others_is_one_line(tmp_path):
    with pytest.raises(ModelError) as caught:
        load_hed("no-such/place")
    assert str(caught.value) == (
        "extractor hed: expected weights (a .safetensors file, or the folder of lllyasviel/Annotators), found no-such/place; give them, or "
        "take soft, gradient or canny, which need none, or maps of your own"
    )
    with pytest.raises(ModelError, match="found .*/nothing; give them"):
        load_hed(tmp_path / "nothing")
    state = _random_convolutions()
    del state["dsn3.bias"]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="found another scores.2.bias"):
        load_hed(tmp_path / "x.safetensors")


def test_depth_has_the_range_of_its_picture_or_clip_and_never_of_the_batch():
    depth = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 3.0, 50.0]).view(4, 1, 1) - 2
    alone = normalize_depth(depth)
    assert torch.allclose(alone.amin((1, 2, 3)), torch.zeros(4)) and torch.allclose(alone.amax((1, 2, 3)), torch.ones(4))
    assert torch.allclose(alone[1:2], normalize_depth(depth[1:2]))
    clips = normalize_depth(depth, frames=2)
    first = depth[:2] - depth[:2].min()
    assert torch.allclose(clips[:2, 0], first / first.max()) and clips[2:].max() == 1 and clips[2].max() < 1
    assert (normalize_depth(torch.full((1, 4, 4), 7.0)) == 0).all()


def test_dpt_is_read_from_a_folder_and_each_picture_is_alone(tmp_path, image):
    from transformers import DPTConfig, DPTForDepthEstimation

    torch.manual_seed(0)
    config = DPTConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=384, patch_size=32,
                       backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, reassemble_factors=[4, 2, 1, 0.5],
                       is_hybrid=False, initializer_range=0.3)  # fmt: skip
    DPTForDepthEstimation(config).save_pretrained(tmp_path)
    net = load_dpt(tmp_path)
    picture = image.clone().requires_grad_(True)
    depth = net(picture)
    assert depth.shape == image.shape and depth.min() == 0 and torch.allclose(depth.amax((1, 2, 3)), torch.ones(2))
    assert torch.allclose(net(image[1:]), depth[1:], atol=1e-4)
    depth.mean().backward()
    assert picture.grad.abs().max() > 0
    with pytest.raises(ModelError, match=re.escape("expected weights (the folder of Intel/dpt-hybrid-midas), found no-such; give them, or take compact, which needs none, or maps")):
        load_dpt("no-such")

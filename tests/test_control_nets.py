"""The nets of control maps that ship: the net and its folding, each extractor by its definition, sizes of the weights."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from hicast.controls import find_any_extractor, find_extractor
from hicast.controls.compact_depth import CompactDepth
from hicast.controls.depth import fixed_range, normalize_depth
from hicast.controls.edge import CANNY_THRESHOLDS, canny_edges
from hicast.controls.map_net import SHIPPED, MapNet, load_map_net, save_map_net
from hicast.controls.oneformer import PALETTE as COCO
from hicast.controls.oneformer import load_oneformer
from hicast.controls.person import PersonMask
from hicast.controls.regions import PALETTE, RADIUS, SMALLEST_CONTRAST, Regions, guided, load_regions
from hicast.controls.soft import SoftEdges
from hicast.encoders.vgg import Vgg16
from hicast.errors import ModelError, UsageError
from hicast.io.weights import read_metadata

CPU = torch.device("cpu")
LIMITS = {"soft": 1e6, "compact_depth": 4e6, "regions": 0.5e6, "person": 1e6}


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """Two pictures (2, 3, 50, 70) of soft blobs, no side a multiple of 32."""
    small = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return functional.interpolate(small, size=(50, 70), mode="bicubic").clamp(-1, 1)


@pytest.fixture
def net() -> MapNet:
    torch.manual_seed(0)
    return MapNet((4, 6, 8)).eval()


def test_a_net_takes_any_size_and_sees_the_same_wherever_a_picture_is_padded(net, image):
    values = net(image)
    assert values.shape == (2, 1, 50, 70) and net.multiple == 8 and values.std() > 0
    padded = functional.pad(image, (0, 2, 0, 6), mode="replicate")
    assert torch.allclose(net(padded)[..., :50, :70], values, atol=1e-5)
    assert torch.allclose(net(image[1:]), values[1:], atol=1e-5)
    assert net(torch.zeros(1, 3, 3, 5)).shape == (1, 1, 3, 5)


def test_folding_changes_nothing(image):
    torch.manual_seed(0)
    learning = MapNet((4, 6, 8), norm=True)
    for _ in range(3):
        learning(torch.rand(4, 3, 32, 32) * 2 - 1)
    for name, tensor in learning.named_parameters():
        if name.endswith(("gain", "bias")):
            tensor.data.add_(0.3 * torch.rand_like(tensor))
    folded, learning = learning.folded(), learning.eval()
    assert torch.allclose(folded(image), learning(image), atol=1e-5) and not any("gain" in name for name in folded.state_dict())
    assert not torch.allclose(learning.train()(image), folded(image), atol=1e-2)


def test_a_saved_net_comes_back_frozen_and_another_file_is_one_line(net, image, tmp_path):
    path = tmp_path / "net.safetensors"
    save_map_net(net, path, {"kind": "soft"})
    again = load_map_net(path)
    assert torch.allclose(again(image), net(image), atol=2e-2) and not any(part.requires_grad for part in again.parameters())
    assert json.loads(read_metadata(path)["widths"]) == [4, 6, 8] and read_metadata(path)["kind"] == "soft"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="net.safetensors': expected a net of control maps, found no such metadata; give another file"):
        load_map_net(path)
    save_file({"x": torch.zeros(1)}, path, {"widths": "[4, 6]"})
    with pytest.raises(ModelError, match="expected 'down.0.0.bias', found no such tensor"):
        load_map_net(path)


def test_soft_edges_are_the_sigmoid_of_the_net(net, image):
    assert torch.allclose(SoftEdges(net)(image)[:, 1], net(image)[:, 0].sigmoid())


def test_compact_depth_sees_one_size_and_keeps_one_scale(net, image):
    seen = functional.interpolate(image, size=(192, 320), mode="bilinear", antialias=True)
    depth = CompactDepth(net).depth(image)
    assert torch.allclose(depth, net(seen)[:, 0], atol=1e-5) and depth.shape == (2, 192, 320)
    expected = normalize_depth(functional.interpolate(depth[:, None], size=(50, 70), mode="bilinear")[:, 0])
    assert torch.allclose(CompactDepth(net)(image), expected)


def test_a_known_range_is_that_of_the_clip():
    depth = torch.tensor([[[1.0, 2.0], [3.0, 9.0]]])
    assert fixed_range(depth, 1.0, 5.0)[0, 2].tolist() == [[0.0, 0.25], [0.5, 1.0]]
    assert (fixed_range(depth, 3.0, 3.0) <= 1).all()


def test_frames_of_a_clip_share_the_range_of_the_frames_seen_before(net, image):
    extractor = CompactDepth(net)
    draw = extractor.for_clip(image)
    together = torch.cat([draw(frame) for frame in image.split(1)])
    assert together.min() == 0 and together.max() == 1
    depth = functional.interpolate(extractor.depth(image)[:, None], size=(50, 70), mode="bilinear")
    low, high = depth.min(), depth.max()
    assert torch.allclose(together[:, :1], (depth - low) / (high - low), atol=1e-5)
    assert not torch.allclose(together, extractor(image), atol=1e-3)


def test_people_are_seen_in_a_square(net, image):
    mask = PersonMask(net)(image)
    square = net(functional.interpolate(image, size=(256, 256), mode="bilinear", antialias=True)).sigmoid()
    assert torch.allclose(mask[:, :1], functional.interpolate(square, size=(50, 70), mode="bilinear"), atol=1e-5)


def test_people_are_seen_by_the_shipped_net_or_by_one_of_ones_own(net, image, tmp_path):
    shipped = find_extractor("seg", "person")[1].open(None, CPU, torch.float32)(image)
    assert shipped.shape == image.shape and 0 <= shipped.min() <= shipped.max() <= 1
    save_map_net(net, tmp_path / "person.safetensors", {})
    masks = find_extractor("seg", "person")[1].open(tmp_path / "person.safetensors", CPU, torch.float32)(image)
    assert torch.allclose(masks, PersonMask(net)(image), atol=1e-2)


@pytest.mark.parametrize("name, limit", LIMITS.items())
def test_shipped_weights_are_small_and_halves(name, limit):
    path = SHIPPED / f"{name}.safetensors"
    assert path.stat().st_size <= limit
    from hicast.io.weights import load_safetensors

    assert {tensor.dtype for tensor in load_safetensors(path).values()} == {torch.float16}


def test_shipped_weights_together_keep_to_their_share():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 5e6 and {path.stem for path in SHIPPED.iterdir()} == set(LIMITS)


@pytest.mark.parametrize("control, name", [("edge", "soft"), ("depth", "compact"), ("seg", "regions")])
def test_shipped_extractors_draw_maps_with_a_gradient_each_picture_alone(image, control, name):
    assert find_any_extractor(name)[1].differentiable
    extractor = find_extractor(control, name)[1].open(None, CPU, torch.float32)
    extractor.short_side = 64  # regions would enlarge the picture
    picture = image.clone().requires_grad_(True)
    maps = extractor(picture)
    assert maps.shape == image.shape and maps.dtype == torch.float32 and maps.min() >= 0 and maps.max() <= 1 + 1e-6
    (maps * torch.rand(maps.shape)).sum().backward()
    assert picture.grad.isfinite().all() and picture.grad.abs().max() > 0
    with torch.no_grad():
        assert (extractor(image[1:]) - maps[1:]).abs().mean() < 1e-3
    assert not any(part.requires_grad for part in extractor.parameters())


def test_soft_edges_find_the_outline_of_a_disc():
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    distance = ((rows - 64).square() + (columns - 64).square()).sqrt() - 40
    disc = torch.where(distance < 0, 0.8, -0.6).expand(1, 3, -1, -1)
    edges = find_extractor("edge")[1].open(None, CPU, torch.float32)(disc)[0, 0]
    assert edges[distance.abs() < 1.5].mean() > 0.6 and edges[distance.abs() > 12].mean() < 0.1


def test_canny_of_controlnet_aux_is_that_of_opencv_where_sides_are_multiples_of_64():
    pytest.importorskip("controlnet_aux")
    blocks = torch.rand(1, 3, 4, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = functional.interpolate(blocks, scale_factor=16, mode="nearest")
    aux = find_extractor("edge", "canny-aux")[1].open(None, CPU, torch.float32)
    assert CANNY_THRESHOLDS == (100, 200) and canny_edges(picture).mean() > 0.01
    assert torch.equal(aux(picture), canny_edges(picture)) and aux(picture[..., :50, :90]).shape == (1, 3, 50, 90)


def test_canny_of_controlnet_aux_without_the_package_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "controlnet_aux", None)
    with pytest.raises(UsageError, match="extractor canny-aux: expected the package controlnet-aux, found: .*; install it, or take canny$"):
        find_extractor("edge", "canny-aux")[1].open(None, CPU, torch.float32)


@pytest.fixture(scope="module")
def vgg() -> Vgg16:
    torch.manual_seed(0)
    return Vgg16("caffe").requires_grad_(False).eval()


def test_regions_are_the_nearest_centroids_in_the_palettes_colours(vgg):
    """On two flat halves, away from their border and from that of the picture."""
    picture = torch.full((1, 3, 128, 192), -0.5)
    picture[..., 96:] = torch.tensor([0.9, 0.1, -0.8]).view(3, 1, 1)
    with torch.no_grad():
        taps = [functional.normalize(vgg(picture, (tap,))[tap], dim=1) for tap in ("relu4_3", "relu5_3")]
    raw = torch.cat([taps[0], functional.interpolate(taps[1], size=taps[0].shape[-2:], mode="bilinear")], 1)
    left, right = raw[0, :, 8, 6], raw[0, :, 8, 18]
    axes = torch.linalg.qr(torch.randn(1024, 5, generator=torch.Generator().manual_seed(1)))[0]
    centroids = torch.stack([right @ axes, left @ axes, (left @ axes) + 3])
    regions = Regions(vgg, torch.zeros(1024), 100 * axes, 100 * centroids)
    assert regions.short_side == 256
    regions.short_side = 128
    labels = regions.labels(picture)[0]
    assert set(labels[56:72, 40:56].flatten().tolist()) == {1} and set(labels[56:72, 136:152].flatten().tolist()) == {0}
    colours = (regions(picture)[0, :, 64, [48, 144]] * 255).round().T.tolist()
    assert colours == [list(PALETTE[1]), list(PALETTE[0])]
    assert torch.allclose(regions.shares(picture).sum(1), torch.ones(1, 128, 192), atol=1e-4)


def test_the_guided_filter_is_that_of_its_formula():
    generator = torch.Generator().manual_seed(0)
    guide, values = torch.rand(1, 1, 30, 40, generator=generator), torch.rand(1, 2, 30, 40, generator=generator)

    def window(tensor, row, column):
        return tensor[..., row - RADIUS : row + RADIUS + 1, column - RADIUS : column + RADIUS + 1].flatten(2).double()

    slopes, offsets = [], []
    for row in range(15 - RADIUS, 15 + RADIUS + 1):
        for column in range(20 - RADIUS, 20 + RADIUS + 1):
            inside, wanted = window(guide, row, column), window(values, row, column)
            spread = inside.var(-1, unbiased=False) + SMALLEST_CONTRAST
            slopes.append(((inside * wanted).mean(-1) - inside.mean(-1) * wanted.mean(-1)) / spread)
            offsets.append(wanted.mean(-1) - slopes[-1] * inside.mean(-1))
    expected = torch.stack(slopes).mean(0) * guide[0, 0, 15, 20] + torch.stack(offsets).mean(0)
    assert torch.allclose(guided(values, guide)[0, :, 15, 20].double(), expected[0], atol=1e-4)


def test_colours_of_regions_are_far_from_each_other_and_are_enough(vgg, tmp_path):
    colours = torch.tensor(PALETTE).float()
    distances = torch.cdist(colours, colours) + 1000 * torch.eye(len(colours))
    assert distances.min() > 50
    with pytest.raises(ModelError, match="extractor regions: expected at most 20 centroids, found 21; give another file"):
        Regions(vgg, torch.zeros(1024), torch.zeros(1024, 2), torch.zeros(21, 2))
    save_file({"mean": torch.zeros(1024), "axes": torch.zeros(1024, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="expected mean, axes and centroids, found no centroids; give another file"):
        load_regions(tmp_path / "x.safetensors")


@pytest.fixture(scope="module")
def oneformer(tmp_path_factory):
    """The folder of a tiny random net in the layout of the published one, and the net."""
    from transformers import CLIPTokenizer, OneFormerConfig, OneFormerForUniversalSegmentation, SwinConfig

    folder = tmp_path_factory.mktemp("oneformer")
    torch.manual_seed(0)
    backbone = SwinConfig(image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
                          out_features=["stage1", "stage2", "stage3", "stage4"])  # fmt: skip
    config = OneFormerConfig(backbone_config=backbone, num_queries=12, num_labels=133, text_encoder_width=16, text_encoder_num_layers=1,
                             text_encoder_vocab_size=40, conv_dim=32, mask_dim=32, hidden_dim=32, encoder_feedforward_dim=16,
                             num_attention_heads=2, encoder_layers=2, decoder_layers=2, dim_feedforward=16, text_encoder_context_length=8,
                             task_seq_len=8, is_training=False)  # fmt: skip
    config.id2label = {number: str(number) for number in range(133)}
    net = OneFormerForUniversalSegmentation(config).eval()
    net.save_pretrained(folder)
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz", *(f"{letter}</w>" for letter in "thesmic")]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    seen = {"size": {"shortest_edge": 96, "longest_edge": 130}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(seen))
    return folder, net


def test_oneformer_draws_the_likeliest_class_in_cocos_colour(oneformer, image):
    folder, net = oneformer
    extractor = find_extractor("seg", "oneformer-coco")[1].open(folder, CPU, torch.float32)
    size = (round(50 * 130 / 70), 130)
    seen = functional.interpolate(image / 2 + 0.5, size=size, mode="bilinear", antialias=True)
    seen = (seen - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    with torch.no_grad():
        found = net(pixel_values=seen, task_inputs=extractor.task.expand(2, -1))
    shares = found.class_queries_logits.softmax(-1)[..., :-1].transpose(1, 2) @ found.masks_queries_logits.sigmoid().flatten(2)
    scores = functional.interpolate(shares.unflatten(2, found.masks_queries_logits.shape[-2:]), size=(50, 70), mode="bilinear")
    colours = np.frombuffer(COCO, np.uint8).reshape(133, 3)[scores.argmax(1).numpy()]
    maps = extractor(image)
    assert (maps.permute(0, 2, 3, 1) * 255).round().byte().numpy().tolist() == colours.tolist()
    assert extractor.task.shape == (1, 8) and extractor.task[0, 0] == 0 and not maps.requires_grad


def test_cocos_palette_is_complete():
    colours = np.frombuffer(COCO, np.uint8).reshape(-1, 3).tolist()
    assert len(colours) == 133 and len({tuple(colour) for colour in colours}) == 133
    assert (colours[0], colours[79], colours[80], colours[119], colours[132]) == (
        [220, 20, 60], [191, 162, 208], [255, 255, 128], [70, 130, 180], [250, 141, 255])  # fmt: skip


def test_oneformer_without_weights_is_one_line(tmp_path):
    with pytest.raises(ModelError) as caught:
        load_oneformer(tmp_path)
    assert str(caught.value) == (
        f"extractor oneformer-coco: expected weights (the folder of shi-labs/oneformer_coco_swin_large), found {tmp_path}; give them, or take "
        "regions, which needs none, or maps of your own"
    )

"""The stage `adapter` on tiny nets: its terms, its drawing, its maps."""

from dataclasses import fields, replace
from pathlib import Path

import json
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from hicast.config.train import AdapterTraining
from hicast.controls import CONTROLS
from hicast.controls.edge import canny_edges, gradient_edges
from hicast.encoders.style import statistics
from hicast.encoders.vgg import STYLE_TAPS
from hicast.errors import InputError, UsageError
from hicast.training import drawing
from hicast.training.drawing import dead_terms
from hicast.training.maps import MapPool

NOISE_UNET = {
    "in_channels": 12, "out_channels": 8, "block_out_channels": [16, 16, 16], "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "attention_head_dim": 4, "cross_attention_dim": 16, "norm_num_groups": 8,
}  # fmt: skip
NOISE = {
    "unet": NOISE_UNET,
    "style_encoder": {"normalization": "lpips", "token_grid": 0},
    "content_projection": {"content_channels": 8, "refined_channels": 4},
    "scheduler": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "epsilon",
                  "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
}  # fmt: skip
"""A net of the published kind: it predicts noise, and has a constant context in place of style tokens."""

ALL = {"control": 1.0, "style": 1.0, "distribution": 1.0, "gram": 1.0, "color": 1.0, "content": 1.0, "relief": 1.0, "lattice": 1.0, "repetition": 1.0, "latent": 1.0, "outside": 1.0}
LIGHT = {"adapter_type": "light_adapter", "num_res_blocks": 1}


def _terms(stage, step=0):
    batch = stage.batch(step, range(stage.settings.batch_size))
    return batch, stage.step(batch, step)


def _gradients(stage, value):
    parameters = [p for p in stage.adapter.parameters() if p.requires_grad]
    return torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)


def _assert_live(stage, terms, dead=frozenset()):
    for name, value in terms.items():
        live = value.requires_grad and any(g is not None and g.abs().max() > 0 for g in _gradients(stage, value))
        assert live == (name not in dead), name


def test_every_term_has_a_gradient_and_only_the_adapter_trains(stage_of):
    stage = stage_of(losses=ALL, partial=0.5, drop_style=0.3, self_pairs=0.2, batch_size=8, crop=96)
    batch, terms = _terms(stage)
    assert set(terms) == set(ALL) and (~batch.keep_style).any() and not dead_terms(stage.settings)
    _assert_live(stage, terms)
    frozen = (stage.model, stage.vgg, stage.codec.autoencoder, stage.style_encoder)
    assert not any(parameter.requires_grad for part in frozen for parameter in part.parameters())


@pytest.mark.parametrize("adapter", [LIGHT, LIGHT | {"adapter_type": "full_adapter"}], ids=["light", "full"])
def test_no_weight_starts_at_a_dead_point(stage_of, adapter):
    stage = stage_of(adapter=adapter)
    named = {name: parameter for name, parameter in stage.adapter.named_parameters() if parameter.requires_grad}
    gradients = _gradients(stage, _terms(stage)[1]["control"])
    assert [name for name, gradient in zip(named, gradients, strict=True) if gradient is None or gradient.abs().max() == 0] == []
    frozen = {name.split(".")[2] for name, parameter in stage.adapter.named_parameters() if not parameter.requires_grad}
    assert frozen == ({"3"} if adapter is LIGHT else set())


@pytest.mark.parametrize("adapter", [LIGHT, LIGHT | {"adapter_type": "full_adapter"}], ids=["light", "full"])
def test_without_biases_black_says_nothing_and_brightness_is_strength(stage_of, adapter):
    stage = stage_of(adapter=adapter, biases=False, learning_rate=1e-2)
    weights = [p for p in stage.adapter.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, 1e-2)
    stage.step(stage.batch(0, range(4)), 0)["control"].backward()
    assert all(p.grad.abs().max() > 0 for p in weights)
    optimizer.step()
    control = stage.drawing.draw(stage.batch(1, range(2)).photo)
    whole, half, black = (stage._residuals(share * control) for share in (1.0, 0.5, 0.0))
    for level, (one, other, none) in enumerate(zip(whole, half, black, strict=True)):
        assert none.abs().max() == 0 and one.abs().max() > 0, level
        assert torch.allclose(other, one / 2, rtol=1e-3, atol=1e-6), level


def test_the_net_is_told_as_much_style_as_when_it_paints(stage_of):
    stage = stage_of(style_scale=(0.5, 2.0), batch_size=8)
    batch = stage.batch(0, range(8))
    clean = stage.encode(batch.content)
    assert batch.style_scale.unique().numel() > 1 and torch.equal(stage.conditions(batch, clean).style_scale, batch.style_scale)
    stage.pipeline.index["style_unit"] = 0.4
    assert torch.allclose(stage.conditions(batch, clean).style_scale, 0.4 * batch.style_scale)


def test_partial_maps_are_held_to_the_net_without_adapter_beyond_their_cut(stage_of):
    stage = stage_of(partial=1.0, losses={"control": 1.0, "outside": 1.0}, biases=False, crop=64, batch_size=8)
    predict, decode, decoded, estimates = stage.own_estimate, stage.codec.decode, [], []
    stage.own_estimate = lambda *given: estimates.append(predict(*given)) or estimates[-1]
    stage.codec.decode = lambda latents: decoded.append(latents) or decode(latents)
    batch, terms = _terms(stage)
    _assert_live(stage, terms)
    with_map, without = estimates
    assert with_map.requires_grad and not without.requires_grad
    for row, covered in enumerate(batch.covered[:, 0]):
        assert 0.2 < covered.mean() < 0.8 and (covered == covered[:1]).all() | (covered == covered[:, :1]).all()  # an upright or a level cut
        cells = covered.unflatten(0, (8, 8)).unflatten(2, (8, 8)).amax((1, 3))
        near = functional.max_pool2d(cells[None], 5, 1, 2)[0] > 0
        assert torch.equal(decoded[0][row][:, ~near], without[row][:, ~near])
        assert torch.equal(decoded[0][row][:, near], with_map[row][:, near]) and not torch.equal(with_map[row], without[row])
    assert terms["outside"].item() > 0
    assert stage_of(losses={"control": 1.0}).batch(0, range(4)).covered is None


def test_control_term_is_the_difference_of_maps(stage_of):
    seen = []
    for changes in ({}, {"extractor": "canny", "loss_extractor": "gradient"}):
        stage = stage_of(**changes)
        draw, decode = stage.drawing.draw, stage.codec.decode
        drawn, decoded = [], []
        stage.drawing = replace(stage.drawing, draw=lambda image: drawn.append(draw(image)) or drawn[-1])
        stage.codec.decode = lambda latents: decoded.append(decode(latents)) or decoded[-1]
        batch, terms = _terms(stage)
        assert torch.equal(drawn[0], (canny_edges if changes else gradient_edges)(batch.photo))
        expected = (gradient_edges(decoded[0]) - gradient_edges(batch.photo)).square().mean()
        assert terms["control"].item() == pytest.approx(expected.item(), rel=1e-5)
        seen.append(terms["control"].item())
    assert seen[0] != seen[1]


def test_a_few_steps_on_one_batch_bring_the_map_nearer(stage_of):
    stage = stage_of(learning_rate=3e-3)
    batch = stage.batch(0, range(4))
    optimizer = torch.optim.Adam([p for p in stage.adapter.parameters() if p.requires_grad], 3e-3)
    values = []
    for _ in range(12):
        value = stage.step(batch, 0)["control"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.97 * values[0]


def test_published_terms_are_those_of_the_definition(stage_of):
    stage = stage_of(NOISE, losses={"control": 1.0, "style": 0.05, "latent": 1.0}, reference=True, drop_style=0.3, self_pairs=0.5, batch_size=8)
    decode, decoded = stage.codec.decode, []
    stage.codec.decode = lambda latents: decoded.append(decode(latents)) or decoded[-1]
    batch, terms = _terms(stage)
    assert (~batch.keep_style).any()
    clean = stage.encode(batch.content)
    alpha = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[batch.timestep]
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * batch.noise
    residuals = stage._residuals(gradient_edges(batch.photo))
    noise = stage.predict(noisy, batch.timestep, stage.conditions(batch, clean, residuals))
    estimate = (noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    assert torch.allclose(decode(estimate), decoded[0], atol=1e-3)
    assert terms["latent"].item() == pytest.approx((estimate - clean).square().mean().item(), rel=1e-3)
    keep = batch.keep_style[:, None].float()
    style = functional.mse_loss(statistics(stage.vgg(decoded[0], STYLE_TAPS)) * keep, stage.library.vectors[batch.style] * keep)
    assert terms["style"].item() == pytest.approx(style.item(), rel=1e-4)
    _assert_live(stage, terms)


def test_nets_that_predict_noise_train_on_the_corrected_terms_too(stage_of):
    stage = stage_of(NOISE, losses={"control": 1.0, "style": 1.0, "content": 1.0, "latent": 1.0}, drop_style=0.5)
    _assert_live(stage, _terms(stage)[1])


def test_published_drawing_swaps_the_target_and_not_the_map(stage_of):
    stage = stage_of(reference=True, drop_content=0.3, drop_style=0.1, self_pairs=0.5, batch_size=64)
    batches = [stage.batch(step, range(64)) for step in range(4)]
    swapped, content, style = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("is_self", "keep_content", "keep_style"))
    assert (content | style).all() and swapped[~content].all() and not swapped[~style].any()
    assert [share.float().mean().item() for share in (~content, ~style, swapped & content)] == pytest.approx([0.3, 0.1, 0.3], abs=0.1)
    for batch in batches:
        same = (batch.content == batch.photo).all(3).all(2).all(1)
        assert torch.equal(same, ~batch.is_self) and (batch.style_scale == 1).all()
    assert len({batch.timestep for batch in batches}) > 1 and max(batch.timestep for batch in batches) < 1000


def test_corrected_drawing_maps_the_picture_that_must_come_back(stage_of):
    stage = stage_of(self_pairs=0.5, drop_content=0.3, batch_size=32)
    batch = stage.batch(0, range(32))
    assert torch.equal(batch.content, batch.photo) and batch.is_self.any() and (~batch.is_self).any()
    conditions = stage.conditions(batch, stage.encode(batch.content))
    assert (conditions.content[~batch.keep_content] == 0).all() and (~batch.keep_content).any()


class _Depth(torch.nn.Module):
    def forward(self, image):
        return image.mean(1, keepdim=True).expand(-1, 3, -1, -1) / 2 + 0.5


@pytest.mark.parametrize("reference", [False, True])
def test_published_depth_term_is_dead_and_the_corrected_one_lives(stage_of, monkeypatch, reference):
    monkeypatch.setattr("hicast.controls.depth.load_dpt", lambda weights: _Depth())
    stage = stage_of(control="depth", extractor="dpt-hybrid-midas", reference=reference, losses={"control": 1.0, "style": 1.0})
    assert dead_terms(stage.settings) == ({"control"} if reference else set())
    _, terms = _terms(stage)
    assert set(terms) == {"control", "style"}
    _assert_live(stage, terms, dead_terms(stage.settings))
    if reference:
        with pytest.raises(UsageError, match="losses: expected a term with a gradient beside control with reference, found none"):
            stage_of(control="depth", extractor="dpt-hybrid-midas", reference=True)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"extractor": "canny"},
            "losses.control: expected an extractor with a gradient, found canny; set loss_extractor to one of soft, gradient, hed, compact, "
            "dpt-hybrid-midas, regions, person",
        ),
    ],
)
def test_what_cannot_be_drawn_or_trained_is_one_line(changes, message):
    with pytest.raises(UsageError) as caught:
        drawing.check_drawing(AdapterTraining(**({"control": "edge"} | changes)))
    assert str(caught.value) == message


def test_a_control_without_a_default_needs_maps_and_something_that_sees_them(monkeypatch):
    monkeypatch.setitem(CONTROLS, "seg", replace(CONTROLS["seg"], default=None))
    with pytest.raises(UsageError, match="control seg: expected maps, found none; set maps=FOLDER or extractor=regions or extractor=person or"):
        drawing.check_drawing(AdapterTraining(control="seg"))
    with pytest.raises(UsageError, match="losses.control: expected an extractor that results are seen by, found none for seg; set loss_ex"):
        drawing.check_drawing(AdapterTraining(control="seg", maps="somewhere"))


def _maps(folder: Path, photos: Path, make=lambda picture: picture) -> Path:
    for path in photos.rglob("*.png"):
        target = folder / path.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            make(picture).save(target)
    return folder


def test_maps_are_cut_like_their_photos(stage_of, folders, tmp_path):
    notes = []
    maps = _maps(tmp_path / "maps", folders[0])
    stage = stage_of(maps=maps, losses={"control": 1.0, "style": 1.0})
    batch, terms = _terms(stage)
    assert torch.allclose(batch.control * 2 - 1, batch.photo, atol=1e-6)
    assert terms["control"] > 0 and stage.drawing.extractor == "maps" and stage.drawing.draw is None
    assert stage.preview().std() > 0
    (maps / "sub" / "0.png").unlink()
    Image.new("RGB", (80, 80)).save(maps / "sub" / "1.png")
    (maps / "sub" / "2.png").write_bytes(b"")
    pool = MapPool(maps, stage.photos, stage.resample, notes.append)
    assert [np.abs(photo.astype(int) - control).max() for photo, control in (pool[i] for i in range(3))] == [0, 0, 0]
    assert len(notes) == 3 and "left out 1 of 4 photos: without map" in notes[0]
    assert any("expected the aspect ratio of its photo (80x100), found 80x80" in note for note in notes)
    with pytest.raises(InputError, match="expected maps with the names of the photos, such as .*0.png, found none"):
        MapPool(tmp_path, stage.photos, stage.resample)
    with pytest.raises(InputError, match="maps: expected a folder that mirrors the photos, found none at gone; check the path"):
        stage_of(maps="gone")


def test_labels_of_regions_are_never_blended(stage_of, folders, tmp_path):
    labels = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)

    def regions(picture):
        picked = labels[np.random.default_rng(0).integers(0, 3, (5, 6))]
        return Image.fromarray(picked).resize((picture.width // 2, picture.height // 2), Image.Resampling.NEAREST)

    maps = _maps(tmp_path / "maps", folders[0], regions)
    names = ("regions", "regions", "person", "unheard-of")
    for drawn, wanted in ((names[:2], "regions"), (names[:3], "maps"), (names[3:], "maps")):
        entries = {f"{number}.png": {"extractor": name} for number, name in enumerate(drawn)}
        (maps / "controls.json").write_text(json.dumps({"control": "seg", "maps": entries}))
        stage = stage_of(control="seg", maps=maps, losses={"control": 1.0}, loss_extractor="gradient")
        assert stage.drawing.extractor == wanted
    batch, terms = _terms(stage)
    assert set(map(tuple, batch.control.permute(0, 2, 3, 1).reshape(-1, 3).tolist())) == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    _assert_live(stage, terms)


def test_parts_of_a_batch_are_those_of_the_whole(stage_of, folders, tmp_path):
    for changes in ({"self_pairs": 0.5, "reference": True}, {"maps": _maps(tmp_path / "maps", folders[0])}):
        stage = stage_of(**changes)
        whole, parts = stage.batch(3, range(4)), [stage.batch(3, rows) for rows in (range(2), range(2, 4))]
        for field in fields(whole):
            values = [getattr(part, field.name) for part in parts]
            if isinstance(values[0], torch.Tensor):
                assert torch.equal(torch.cat(values), getattr(whole, field.name)), field.name
            else:
                assert values == [getattr(whole, field.name)] * 2


def test_gradient_checkpointing_changes_no_gradient(stage_of):
    found = []
    for checkpointing in (False, True):
        stage = stage_of(gradient_checkpointing=checkpointing)
        calls = []
        stage.model.unet.up_blocks[0].resnets[0].register_forward_pre_hook(lambda *_: calls.append(1))
        _, terms = _terms(stage)
        before = len(calls)
        found.append(_gradients(stage, terms["control"]))
        assert (len(calls) > before) == checkpointing
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-7) for one, other in zip(*found, strict=True))

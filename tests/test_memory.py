"""The memory that a run needs: counted without taking it, told part by part, refused with what would fit."""

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from hicast.cli.main import run
from hicast.config.presets import load_preset
from hicast.config.train import AdapterTraining, AutoencoderTraining, ImageTraining, TemporalTraining
from hicast.errors import MemoryLimitError
from hicast.training import memory
from hicast.training.activations import Activations, count_activations
from hicast.training.adversary import Adversary
from hicast.training.memory import GIB, Counts, Outline, available, check_memory, count, expected, smaller
from hicast.training.outlines import outline_autoencoder, outline_image, predict
from hicast.training.run import STAGES

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
COUNTS = Counts(trained=1000, frozen=50, predict=Activations(800, 100, 200), judge=Activations(400, 40, 60))


def _settings(preset: str, kind: type = ImageTraining, **changes):
    values = {key: value for key, value in load_preset(preset, "train").items() if key != "stage"}
    values |= {"base": "stock"} if preset.startswith("sd15") else {}
    return kind(**values | changes)


def _set(message: str) -> dict[str, str]:
    return dict(re.findall(r"--set (\w+)=([\w.]+)", message))


def test_saved_bytes_are_those_of_the_layers():
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 3))
    found = count_activations([net], lambda: net(torch.empty(2, 4, device="meta")))
    assert found == Activations(whole=4 * 2 * (4 + 8 + 8), kept=4 * 2 * (4 + 8 + 8), largest_block=0)


def test_attention_keeps_no_matrix():
    query = torch.empty(1, 2, 1000, 8, device="meta", requires_grad=True)
    found = count_activations([], lambda: nn.functional.scaled_dot_product_attention(query, query, query))
    assert found.whole == 2 * 4 * query.numel()


def test_meta_device_counts_what_a_real_pass_saves():
    from hicast.config.model import ModelConfig
    from hicast.models.build import build_model

    model = build_model(ModelConfig(**load_preset("debug", "models"))).train()
    latents = torch.randn(2, 8, 4, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hicast.training.outlines.meta", lambda *shape, gradient=False: torch.zeros(shape))
        real = count_activations([model.unet, model.content_projection], lambda: predict(model, latents, 2))
    model = model.to("meta")
    assert count_activations([model.unet, model.content_projection], lambda: predict(model, latents.to("meta"), 2)) == real
    assert 0 < real.checkpointed < real.whole


@pytest.fixture(scope="module")
def full_size() -> Counts:
    return count(outline_image(_settings("sd15-image")))


@pytest.mark.parametrize("preset", ["compact-image", "sd15-image", "compact-autoencoder"])
def test_outline_has_the_weights_of_its_stage(preset, full_size):
    kind, outline = (AutoencoderTraining, outline_autoencoder) if "autoencoder" in preset else (ImageTraining, outline_image)
    counts = full_size if preset == "sd15-image" else count(outline(_settings(preset, kind)))
    millions = {"compact-image": 13.4, "sd15-image": 864.9, "compact-autoencoder": 1.26}[preset]
    assert counts.trained / 4e6 == pytest.approx(millions, abs=0.1)
    vgg, autoencoder = 14_714_688, {"compact-image": 1.26e6, "sd15-image": 83.65e6, "compact-autoencoder": 0}[preset]
    assert counts.frozen == pytest.approx(6 * (vgg + autoencoder), rel=0.05)
    assert counts.judge.whole > 0 and (counts.predict.whole > counts.predict.checkpointed) == (kind is ImageTraining)


def test_compact_is_counted_in_less_than_a_second():
    count(outline_image(_settings("debug-image")))
    start = time.process_time()
    count(outline_image(_settings("compact-image")))
    assert time.process_time() - start < 1


def test_parts_are_their_formulas():
    settings = ImageTraining(batch_size=8, accumulate=2, cache_gigabytes=1, image_side=100, crop=32, readers=1)
    parts = expected(settings, COUNTS, {"content": 10, "style": 5}, CPU)
    assert parts == {
        "weights": 1000, "gradients": 1000, "optimizer": 2000, "averages": 1000, "frozen nets": 50,
        "activations": round(1.3 * 4 * (800 + 400)), "libraries": GIB,
        "pictures": round(15 * 3 * 100**2 * 1.4 + 3 * 8 * 2 * 3 * 4 * 32**2 + 5 * (170_000 + 2 * (128**2 + 256**2))),
    }  # fmt: skip
    saving = settings.model_copy(update={"gradient_checkpointing": True, "autocast": "bfloat16"})
    assert expected(saving, COUNTS, {}, CPU)["activations"] == round(1.3 * 4 * (0.75 * 300 + 100) + 500)


def test_processes_and_gpus_differ(monkeypatch):
    settings = ImageTraining(batch_size=8, cache_gigabytes=0)
    alone, shared = (expected(settings, COUNTS, {}, GPU, processes) for processes in (1, 2))
    assert shared["gradients"] == 2 * alone["gradients"] and shared["activations"] * 2 == alone["activations"]
    assert not {"pictures", "libraries"} & alone.keys()
    assert expected(settings.model_copy(update={"batch_size": 1}), Counts(10**6, 0, *[Activations(1, 1, 1)] * 2), {}, GPU)["activations"] == 10**6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert expected(settings, COUNTS, {}, CPU, 4)["weights"] == 2000


def test_available_memory_is_that_of_machine_container_and_gpu(monkeypatch, tmp_path):
    assert available(CPU) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 4096}.__getitem__)
    (tmp_path / "limit").write_text("1000\n")
    (tmp_path / "none").write_text("max\n")
    for names, bytes_there in (((), 409600), (("none",), 409600), (("none", "limit"), 1000)):
        monkeypatch.setattr(memory, "_CGROUP_LIMITS", [str(tmp_path / name) for name in names])
        assert available(CPU) == bytes_there
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70, 80))
    assert available(GPU) == 70
    monkeypatch.delattr(os, "sysconf")
    assert available(CPU) is None


def test_what_cannot_fit_is_refused_with_settings_that_do(monkeypatch):
    settings, outline = _settings("compact-image"), STAGES["image"].outline
    counts = count(outline(settings))
    need = sum(expected(settings, counts, {}, CPU).values())
    for room in (need, need - 1):
        monkeypatch.setattr(memory, "available", lambda device, room=room: room)
        notes: list[str] = []
        if room == need:
            check_memory(settings, outline, {}, CPU, 1, notes.append)
        else:
            with pytest.raises(MemoryLimitError) as error:
                check_memory(settings, outline, {}, CPU, 1, notes.append)
    assert notes[0].startswith(f"expects {need / GIB:.1f} GiB of memory, there are {need / GIB:.1f}: weights 0.05, ")
    assert _set(str(error.value)) == {"gradient_checkpointing": "true"}
    assert sum(expected(settings.model_copy(update={"gradient_checkpointing": True}), counts, {}, CPU).values()) < need


def test_smallest_settings_that_fit_are_found_down_to_the_crop(monkeypatch, full_size):
    settings, outline = _settings("sd15-image"), lambda settings: settings.crop
    monkeypatch.setattr(memory, "count", lambda crop: full_size.scaled(crop**2 / 512**2))
    for gibibytes, wanted in ((34, {"accumulate"}), (20, {"accumulate", "crop", "cache_gigabytes"})):
        monkeypatch.setattr(memory, "available", lambda device, room=gibibytes * GIB: room)
        with pytest.raises(MemoryLimitError) as error:
            check_memory(settings, outline, {"content": 500, "style": 500}, CPU)
        words = _set(str(error.value))
        assert words.keys() == wanted, str(error.value)
        fits = settings.model_copy(update={"accumulate": int(words["accumulate"]), "crop": int(words.get("crop", 512)),
                                           "cache_gigabytes": float(words.get("cache_gigabytes", 4))})  # fmt: skip
        check_memory(fits, outline, {"content": 500, "style": 500}, CPU)
    monkeypatch.setattr(memory, "available", lambda device: 8 * GIB)
    with pytest.raises(MemoryLimitError, match="no batch or crop that fits; take a smaller --model or a machine with more memory$"):
        check_memory(settings, outline, {}, CPU)


def test_changes_go_from_cheap_to_costly():
    settings = ImageTraining(batch_size=8, crop=128, cache_gigabytes=4)
    assert list(smaller(settings, 2)) == [
        {"gradient_checkpointing": True}, {"accumulate": 2}, {"accumulate": 4},
        {"gradient_checkpointing": True, "accumulate": 2}, {"gradient_checkpointing": True, "accumulate": 4},
        {"gradient_checkpointing": True, "accumulate": 4, "cache_gigabytes": 0.25},
        {"gradient_checkpointing": True, "accumulate": 4, "cache_gigabytes": 0.25, "crop": 64},
    ]  # fmt: skip


def test_command_tells_and_refuses_before_anything_is_opened(workplace, monkeypatch, capsys):
    monkeypatch.setattr(memory, "available", lambda device: GIB // 2)
    words = ["train", "--stage", "image", "--preset", "debug-image", "--content", "photos", "--style", "paintings", "--device", "cpu"]
    assert run([*words, "--output", "out"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("expects 1.") and "there are 0.5: weights" in lines[0] and "libraries 1.0" in lines[0]
    assert lines[1].startswith("hicast: expected a run of at most 0.5 GiB, found one of 1.") and len(lines) == 2
    assert not Path("out").exists()


def test_activations_grow_with_the_pixels():
    one, other = (count(outline_image(_settings("debug-image", crop=crop))).scaled((256 / crop) ** 2) for crop in (128, 256))
    assert one.predict.whole == pytest.approx(other.predict.whole, rel=0.05)
    assert one.judge.whole == pytest.approx(other.judge.whole, rel=0.05)


def test_adapter_trains_alone_and_its_net_has_no_copy():
    settings = _settings("compact-adapter", AdapterTraining, control="edge")
    plain, lean = (count(STAGES["adapter"].outline(settings.model_copy(update=changes))) for changes in ({}, {"losses": {"latent": 1.0}}))
    adapter, unet, vgg, autoencoder = (0.6e6, 13.4e6, 14_714_688, 1.26e6)
    assert plain.trained < 4 * 1e6 and plain.trained == lean.trained > adapter
    assert plain.frozen == pytest.approx(2 * unet + 6 * (vgg + autoencoder), rel=0.05)
    assert plain.judge.whole > 2 * lean.judge.whole  # VGG-16 is not run where no term reads it
    seen = count(STAGES["adapter"].outline(settings.model_copy(update={"control": "depth", "extractor": "dpt-hybrid-midas"})))
    assert seen.frozen - plain.frozen == pytest.approx(2 * 122.4e6, rel=0.01) and seen.judge.whole > 3 * plain.judge.whole


def test_adapters_activations_are_those_behind_it():
    """The way down before the first residual keeps nothing; a net that trained itself would keep its inputs too."""
    adapter = count(STAGES["adapter"].outline(_settings("debug-adapter", AdapterTraining)))
    image = count(outline_image(_settings("debug-image")))
    assert 0 < adapter.predict.checkpointed < adapter.predict.whole < 1.5 * image.predict.whole


def test_temporal_layers_are_counted_per_clip():
    settings = _settings("compact-temporal", TemporalTraining, content="photos")
    counts = {frames: count(STAGES["temporal"].outline(settings.model_copy(update={"frames": frames}))) for frames in (4, 8)}
    assert counts[4].trained == counts[8].trained < 4 * 2e6
    for part in ("predict", "judge"):
        assert getattr(counts[8], part).whole == pytest.approx(2 * getattr(counts[4], part).whole, rel=0.1)
    unet, vgg, autoencoder = 13.4e6, 14_714_688, 1.26e6
    assert counts[4].frozen == pytest.approx(2 * (unet + autoencoder) + 4 * vgg, rel=0.05)  # cast where they are: the base has the originals
    fresh = count(STAGES["temporal"].outline(settings.model_copy(update={"model": "debug", "temporal": {}})))
    assert fresh.frozen > 4 * vgg and fresh.latents == 6 * 8 * 16**2


def test_published_layers_train_on_the_way_up_alone():
    settings = _settings("published-temporal", TemporalTraining, content="photos", model="debug", temporal={})
    own = count(STAGES["temporal"].outline(settings.model_copy(update={"reference": False, "losses": {"image": 1.0}})))
    assert 0 < count(STAGES["temporal"].outline(settings)).trained < own.trained


def test_discriminators_are_part_of_the_image_stage():
    plain = count(outline_image(_settings("debug-image")))
    losses = {"adversarial": 1.0, "patch": 1.0}
    with_both = count(outline_image(_settings("debug-image", losses=losses)))
    with torch.device("meta"):
        modules = Adversary(_settings("debug-image", losses=losses), torch.device("meta")).modules.values()
    weights = sum(parameter.numel() for module in modules for parameter in module.parameters())
    assert with_both.trained - plain.trained == 4 * weights > 0
    sloped = count(outline_image(_settings("debug-image", losses=losses, r1=1.0)))
    assert sloped.judge.whole > with_both.judge.whole


def test_kept_latents_are_part_of_the_pictures():
    settings = ImageTraining(cached_crops=4, cache_gigabytes=0, frozen_dtype="bfloat16", crop=32)
    counts = Counts(0, 0, *[Activations(0, 0, 0)] * 2, latents=100)
    kept, none = (expected(changed, counts, {"content": 7, "style": 3}, CPU)["pictures"] for changed in (settings, settings.model_copy(update={"cached_crops": 0})))
    less = expected(settings.model_copy(update={"cached_crops": 0}), replace(counts, latents=0), {"style": 3}, CPU)["pictures"]
    more = expected(settings.model_copy(update={"cached_crops": 0}), counts, {"style": 3}, CPU)["pictures"]
    assert more - less == 3 * (2 * 81 * 64 * 100 // 16)  # blocks of paintings' latents, float16
    assert kept - none == 10 * 4 * 100 * 2 * memory.LATENT_COPIES
    assert count(outline_image(_settings("debug-image"))).latents == 8 * 4 * 4


@pytest.mark.parametrize("stage, preset, more", [("adapter", "compact-adapter", {"control": "edge"}), ("temporal", "compact-temporal", {"content": "photos"})])
def test_other_stages_are_refused_with_what_fits(monkeypatch, stage, preset, more):
    settings = _settings(preset, STAGES[stage].settings, **more, gradient_checkpointing=True)
    need = sum(expected(settings, count(STAGES[stage].outline(settings)), {}, CPU).values())
    monkeypatch.setattr(memory, "available", lambda device: need - 1)
    with pytest.raises(MemoryLimitError, match="--set accumulate=") as error:
        check_memory(settings, STAGES[stage].outline, {}, CPU)
    check_memory(settings.model_copy(update={key: int(value) for key, value in _set(str(error.value)).items()}), STAGES[stage].outline, {}, CPU)


def test_outline_of_another_stage_needs_no_judge():
    with torch.device("meta"):
        net = nn.Linear(3, 3)
    counts = count(Outline((net,), (), lambda samples: net(torch.empty(samples, 3, device="meta"))))
    assert counts == Counts(48, 0, Activations(12, 12, 0), Activations(0, 0, 0))

"""What is missing, damaged or foreign in a published folder is one line that names it, and nothing of it is left out in silence."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import T2IAdapter
from safetensors.torch import load_file

from hicast.cli.main import run
from hicast.encoders.text import empty_prompt
from hicast.errors import ModelError, OutputError
from hicast.io import hub
from hicast.io.published_folder import find_published
from hicast.io.weights import cast_weights
from hicast.models.conversion import convert_published
from hicast.models.published import convert_unet
from hicast.models.verification import verify_model

PICKLE = "diffusion_pytorch_model.bin"
IMAGE, VIDEO = Path("checkpoint") / "image_model", Path("checkpoint") / "video_model"
STOCK = Path("pretrained_models") / "stable-diffusion-v1-5"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, published_layout) -> Path:
    return published_layout.write_tiny(tmp_path_factory.mktemp("whole"), same_net=True)


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy to spoil: its large files are linked, so that tests replace them and never write into them."""
    target = tmp_path / "in"
    shutil.copytree(whole, target, copy_function=lambda source, goal: Path(goal).hardlink_to(source))
    return target


def replace_file(path, content):
    path.unlink()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def change_config(folder, **changes):
    path = folder / "config.json"
    found = {key: value for key, value in (json.loads(path.read_text()) | changes).items() if value is not None}
    replace_file(path, json.dumps(found))


def change_weights(folder, change):
    state = torch.load(folder / PICKLE, weights_only=True)
    change(state)
    (folder / PICKLE).unlink()
    torch.save(state, folder / PICKLE)


def refused(folder, words):
    """Converting `folder` raises ModelError with `words`, and nothing is left behind."""
    target = folder.parent / "out"
    with pytest.raises(ModelError, match=words):
        convert_published(find_published(folder), target)
    assert not target.exists() and not list(folder.parent.glob(".*"))


@pytest.mark.parametrize(("gone", "words"), [
    (IMAGE / "unet" / "config.json", rf"image_model': expected unet/config.json and its weights, found {PICKLE}: half of it is here"),
    (IMAGE / "unet", "image_model': expected unet/config.json and its weights, found no unet: half of it is here"),
    (VIDEO / "depth_adapter" / "config.json", "expected '.*depth_adapter/config.json', found no such file"),
    (VIDEO / "hed_adapter" / PICKLE, "hed_adapter': expected .* found none of them: fetch it again"),
])  # fmt: skip
def test_a_net_that_is_half_there_is_not_left_out(folder, gone, words):
    """Before, an image net without its configuration was passed over, and the video net converted alone."""
    place = folder / gone
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(ModelError, match=words):
        find_published(folder)


@pytest.mark.parametrize(("place", "changes", "words"), [
    (IMAGE / "unet", {"block_out_channels": None}, "image_model/unet/config.json': expected a config that can be built, found no block_out_channels"),
    (IMAGE / "unet", {"block_out_channels": "x"}, "expected a config that can be built, found: Must provide the same number"),
    (VIDEO / "unet", {"down_block_types": None}, "video_model/unet/config.json': expected a config that can be built, found no down_block_types"),
    (IMAGE / "hed_adapter", {"colour": 1}, "hed_adapter/config.json': expected a config that can be built, found: .*colour"),
    (STOCK / "vae", {"colour": 1}, "vae/config.json': expected a config that can be built, found: .*colour"),
])  # fmt: skip
def test_configs_that_cannot_be_built_are_named(folder, place, changes, words):
    change_config(folder / place, **changes)
    refused(folder, words)


def test_shapes_are_those_of_the_config(folder):
    """Before, they were stored as they were, and only loading failed."""
    change_weights(folder / IMAGE / "unet", lambda state: state.update({"conv_out.weight": state["conv_out.weight"][:2]}))
    refused(folder, r"U-Net has conv_out.weight of shape \(2, 16, 3, 3\) where its config asks for \(4, 16, 3, 3\)")
    (folder / IMAGE / "unet" / PICKLE).unlink()
    shutil.rmtree(folder / IMAGE)
    change_weights(folder / VIDEO / "unet", lambda state: state.update({"conv_out.conv_temporal.bias": torch.zeros(3)}))
    refused(folder, r"convolutions.conv_out.bias of shape \(3,\) where its config asks for \(4,\)")


def test_adapters_of_another_net_are_refused_and_found(folder, tmp_path):
    wide = T2IAdapter(channels=[8, 16, 16, 16], num_res_blocks=2, downscale_factor=8, adapter_type="full_adapter")
    place = folder / IMAGE / "hed_adapter"
    change_config(place, channels=[8, 16, 16, 16])
    change_weights(place, lambda state: (state.clear(), state.update(wide.state_dict())))
    refused(folder, r"adapter 'hed_adapter': expected levels of widths \(16, 32, 48, 64\), found \(8, 16, 16, 16\)")
    shutil.rmtree(place)
    shutil.rmtree(folder / VIDEO)
    convert_published(find_published(folder), tmp_path / "out")
    edge = tmp_path / "out" / "adapters" / "edge"
    wide.save_pretrained(edge)
    (tmp_path / "out" / "context.safetensors").unlink()
    found = {check.name: check.problems for check in verify_model(tmp_path / "out") if check.problems}
    assert "expected levels of widths (16, 32, 48, 64), found (8, 16, 16, 16)" in found["adapters/edge"][0]
    assert found["index"] == ("expected context.safetensors, found no such file",)
    shutil.rmtree(tmp_path / "out" / "scheduler")
    assert "expected scheduler/scheduler_config.json, context.safetensors" in verify_model(tmp_path / "out")[0].problems[0]


def test_text_encoders_of_other_releases_are_read(folder):
    stock = folder / STOCK
    place, expected = stock / "text_encoder", empty_prompt(stock)
    state = load_file(place / "model.safetensors")
    (place / "model.safetensors").rename(place / "model.fp16.safetensors")
    assert torch.equal(empty_prompt(stock), expected)
    (place / "model.fp16.safetensors").unlink()
    torch.save({**state, "text_model.embeddings.position_ids": torch.arange(7)[None]}, place / "pytorch_model.bin")
    assert torch.equal(empty_prompt(stock), expected)
    (place / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="expected model.safetensors or model.fp16.safetensors or pytorch_model.bin, found none of them"):
        empty_prompt(stock)


class Trap:
    """Pickled, it would make the folder `place` when it is read."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        import os

        return os.mkdir, (self.place,)


@pytest.mark.parametrize("place", [IMAGE / "unet" / PICKLE, VIDEO / "hed_adapter" / PICKLE, STOCK / "vae" / PICKLE, STOCK / "text_encoder" / "pytorch_model.bin"])
def test_code_in_any_of_the_pickles_is_refused_in_one_line(folder, place, tmp_path, capsys):
    shutil.rmtree(folder / (VIDEO if IMAGE in place.parents else IMAGE))
    (folder / place).unlink(missing_ok=True)
    (folder / place).with_name("model.safetensors").unlink(missing_ok=True)
    torch.save({"weight": Trap(tmp_path / "made")}, folder / place)
    assert run(["models", "convert", str(folder), "-o", str(tmp_path / "out"), "-q"]) == 1
    error = capsys.readouterr().err
    assert f"{place}': expected tensors only, found a pickle that asks for" in error and error.count("\n") == 1 and "weights_only" not in error
    assert not (tmp_path / "made").exists() and not (tmp_path / "out").exists()


def test_damaged_words_and_schedules_are_told_before_the_nets_are_read(folder, monkeypatch):
    monkeypatch.setattr("hicast.models.conversion.convert_unet", lambda *given: pytest.fail("read the net first"))
    (folder / STOCK / "tokenizer" / "vocab.json").rename(folder / "vocab.json")
    refused(folder, "tokenizer': expected the words of a CLIP tokenizer, found no vocab.json; fetch them again")
    (folder / "vocab.json").rename(folder / STOCK / "tokenizer" / "vocab.json")
    replace_file(folder / STOCK / "scheduler" / "scheduler_config.json", '{"beta_schedule": 3}')
    refused(folder, "scheduler_config.json': expected a config that can be built, found: 3 is not implemented")


def test_values_that_are_no_numbers_are_not_blamed_on_the_precision():
    with pytest.raises(ModelError, match="'a': expected finite values, found others: the weights are damaged"):
        cast_weights({"a": torch.tensor([float("nan")])}, torch.float16)
    with pytest.raises(ModelError, match="'a': expected values that torch.float16 can hold, found larger ones; take --dtype bfloat16"):
        cast_weights({"a": torch.tensor([1e6])}, torch.float16)


def test_folders_of_something_else_say_what_to_do_with_them(folder, workplace, capsys):
    (folder / STOCK / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    Path("nothing").mkdir()
    for model, words in (
        (folder, f"found no model_index.json; published checkpoints are converted first: hicast models convert {folder}"),
        (folder / STOCK, "found one of StableDiffusionPipeline; Stable Diffusion is what training starts from: hicast train --stage image --model sd15 --base"),
        ("nothing", "found no model_index.json; take a folder that hicast train or hicast models convert has written"),
        ("wd1511/fast-ldm", "found 'wd1511/fast-ldm', which is neither; hicast models pull fast fetches sd15"),
        ("compcat", "found 'compcat', which is neither; check the path (hicast models list says what is here)"),
    ):
        assert run(["stylize-image", "photo.jpg", "--style", "painting.jpg", "--model", str(model), "-o", "a.png"]) == 1
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error


def test_a_disk_that_fills_up_is_not_taken_for_the_network():
    def full(client):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="expected to write what was fetched, found no way to: .*No space left.*; make room or choose another place with --downloads"):
        hub._asked(hub.FAST, full)


def test_published_checkpoint_with_strange_tensors():
    config = {"block_out_channels": (16, 32, 48, 64), "cross_attention_dim": 32, "norm_num_groups": 8}
    with pytest.raises(ModelError, match="U-Net has unknown motion.weight.*style encoder lacks null_style"):
        convert_unet({"motion.weight": torch.zeros(1)}, config)

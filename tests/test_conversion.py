"""Published folders become model folders: every tensor accounted for, and the published runs come out of them again."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hicast.errors import ModelError, OutputError
from hicast.io.hashes import hash_problems
from hicast.io.images import to_pixels
from hicast.io.pickles import load_pickle
from hicast.io.published_folder import find_published
from hicast.io.weights import read_metadata
from hicast.models.conversion import convert_published
from hicast.models.verification import verify_model
from hicast.pipeline import HiCastPipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLE = "diffusion_pytorch_model.bin"


@pytest.fixture(scope="module")
def published(tmp_path_factory, published_layout) -> Path:
    return published_layout.write_tiny(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def converted(tmp_path_factory, published) -> Path:
    """The parity weights in float32, so that VGG-16 keeps the bits that the runs were made with."""
    target = tmp_path_factory.mktemp("models") / "parity"
    convert_published(find_published(published), target, torch.float32)
    return target


@pytest.fixture(scope="module")
def lean(tmp_path_factory, published_layout) -> Path:
    """Video and image net with the same 2-D weights, as they are expected to be published."""
    folder = published_layout.write_tiny(tmp_path_factory.mktemp("same"), same_net=True)
    target = tmp_path_factory.mktemp("models") / "lean"
    convert_published(find_published(folder), target)
    return target


def at_hand(pipeline, run):
    """`pipeline` with the runs' own prompt and painting, and the painting's code at its own size."""
    pipeline.context = run["prompt_embeds"]
    pipeline.index["style_side"] = min(run["style_image"].shape[-2:])
    return pipeline.encode_style([(run["style_image"], 1.0)])


def test_image_run_is_reproduced(converted, published_layout, monkeypatch):
    run = published_layout.load("image_pipeline_io")
    pipeline = HiCastPipeline.from_pretrained(converted, "cpu", "float32")
    code = at_hand(pipeline, run)
    monkeypatch.setattr("hicast.pipeline.draw_noise", lambda shape, seed: run["latents0"])
    monkeypatch.setattr("hicast.repainting.painter.content_noise", lambda shape, seed: run["content_noise"])
    maps = {control: run[f"map_{name}"] for control, name in (("edge", "hed"), ("depth", "depth"), ("seg", "seg"))}
    image = pipeline.stylize_image(run["content_image"], code, steps=4, size=128, controls=maps, adapters=dict.fromkeys(maps, 0.1), content_latent="sample")
    expected = run["pipe_default_image_hwc01"][0].permute(2, 0, 1)
    assert (image[0] / 2 + 0.5 - expected).abs().max() < 5e-4
    levels = to_pixels(image).astype(int) - run["pipe_default_image_uint8"].squeeze().numpy().astype(int)
    assert abs(levels).max() <= 1
    mode = pipeline.stylize_image(run["content_image"], code, steps=4, size=128, controls=maps, adapters=dict.fromkeys(maps, 0.1))
    assert not torch.equal(mode, image)


@pytest.mark.parametrize(("name", "style_scale", "content_scale", "weights", "threshold"), [
    ("pipe_default", 0.8, 1.0, (0.1, 0.1), 0.15), ("pipe_noresid", 0.8, 1.0, (0.1, 0.1), 0.0),
])  # fmt: skip
def test_video_runs_are_reproduced(converted, published_layout, monkeypatch, name, style_scale, content_scale, weights, threshold):
    run = published_layout.load("video_pipeline_io")
    pipeline = HiCastPipeline.from_pretrained(converted / "video", "cpu", "float32")
    code = at_hand(pipeline, run)
    monkeypatch.setattr("hicast.repainting.painter.content_noise", lambda shape, seed: run["content_noise"])
    noise = run["latents0"].transpose(1, 2).flatten(0, 1)
    monkeypatch.setattr("hicast.repainting.clip.film_noise", lambda shape, seed, numbers, shared_noise: noise[list(numbers)])
    maps = {control: run[f"map_{key}"][0].split(1) for control, key in (("edge", "hed"), ("depth", "depth"))}
    with torch.inference_mode():
        found = torch.cat(list(pipeline.stylize_video(
            run["frames"][0].split(1), code, steps=4, size=128, style_scale=style_scale, content_scale=content_scale, window=4, content_latent="sample",
            controls=maps, adapters=dict(zip(maps, weights, strict=True)), residual_threshold=threshold,
        )))  # fmt: skip
        latents = run[f"{name}_latents"].transpose(1, 2).flatten(0, 1)
        expected = pipeline.autoencoder.decode(latents / 0.18215).sample.clamp(-1, 1)
    assert (found - expected).abs().max() < 1e-3


def test_clips_use_the_temporal_layers_and_pictures_do_not(lean, published_layout):
    run = published_layout.load("video_pipeline_io")
    pipeline = HiCastPipeline.from_pretrained(lean / "video", "cpu", "float32")
    code, frames = at_hand(pipeline, run), run["frames"][0]
    options = {"steps": 2, "size": 128, "style_scale": 0.8}
    clip = torch.cat(list(pipeline.stylize_video(frames.split(1), code, window=4, **options)))
    alone = torch.cat(list(pipeline.stylize_video(frames.split(1), code, window=1, **options)))
    assert clip.shape == frames.shape and clip.isfinite().all() and not torch.allclose(clip, alone, atol=1e-3)
    picture = HiCastPipeline.from_pretrained(lean, "cpu", "float32")
    picture.context = pipeline.context
    assert picture.temporal is None and picture.adapters.names == ("depth", "edge", "seg")
    image = picture.stylize_image(frames[:1], code, steps=2, size=128)
    assert torch.equal(image, pipeline.stylize_image(frames[:1], code, steps=2, size=128))


def test_nothing_is_stored_twice(lean, converted):
    assert sorted(path.relative_to(lean / "video").as_posix() for path in (lean / "video").rglob("*") if path.is_file()) == [
        "model_index.json", "temporal/config.json", f"temporal/{WEIGHTS}",
    ]  # fmt: skip
    assert (converted / "video" / "unet" / WEIGHTS).is_file() and not (converted / "video" / "adapters").exists()
    assert all(value.dtype == torch.float16 for value in load_file(lean / "unet" / WEIGHTS).values())
    assert read_metadata(lean / "adapters" / "edge" / WEIGHTS)["extractor"] == "hed"


def test_a_video_net_alone_is_a_whole_model(tmp_path, published_layout):
    folder = published_layout.write_tiny(tmp_path / "in", parts=("video",))
    tallies = convert_published(find_published(folder), tmp_path / "out", torch.bfloat16)
    assert [(tally.read, tally.shared) for tally in tallies] == [(949, 0), (40, 0), (40, 0)]
    assert not any(check.problems for check in verify_model(tmp_path / "out"))
    assert HiCastPipeline.from_pretrained(tmp_path / "out" / "video", "cpu", "float32").adapters.names == ("depth", "edge")


def test_every_tensor_is_accounted_for_at_the_published_counts(tmp_path, published_layout):
    """A fifth of the true width has the true number of tensors: 729, 947 and 38 (reference, section 9)."""
    published_layout.write_random(tmp_path / "in", 0.1)
    notes: list[str] = []
    image, adapter, video = convert_published(find_published(tmp_path / "in"), tmp_path / "out", on_note=notes.append)
    assert (image.read, image.stored, image.dropped) == (729, 725, {"input that is not used": 2, "constants": 2})
    assert (adapter.read, adapter.stored) == (38, 38)
    assert (video.read, video.shared) == (947, 725) and video.dropped["layers that do nothing"] > 100
    assert notes[-1] == (
        "video_model/unet: 947 tensors, 76 stored, 725 shared with the image net, 4 dropped (input that is not used), "
        "2 dropped (constants), 140 dropped (layers that do nothing)"
    )
    temporal = (tmp_path / "out" / "video" / "temporal" / WEIGHTS).stat().st_size
    assert temporal < (tmp_path / "in" / "video_model" / "unet" / PICKLE).stat().st_size / 8
    video.stored -= 1
    with pytest.raises(ModelError, match="expected to account for 947 tensors, found a place for 946"):
        video.check()


def test_unknown_and_missing_tensors_are_refused_and_leave_nothing(tmp_path, published_layout):
    folder = published_layout.write_tiny(tmp_path / "in", parts=("image",))
    path = folder / "checkpoint" / "image_model" / "unet" / PICKLE
    state = torch.load(path, weights_only=True)
    torch.save(state | {"lora.up": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="U-Net has unknown lora.up"):
        convert_published(find_published(folder), tmp_path / "out")
    torch.save({key: value for key, value in state.items() if key != "content_in.0.bias"}, path)
    with pytest.raises(ModelError, match="content projection lacks projection.0.bias"):
        convert_published(find_published(folder), tmp_path / "out")
    torch.save(state | {"conv_out.bias": torch.full((4,), 1e6)}, path)
    with pytest.raises(ModelError, match="'conv_out.bias': expected values that torch.float16 can hold.*take --dtype bfloat16"):
        convert_published(find_published(folder), tmp_path / "out")
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="found one that is there already"):
        convert_published(find_published(folder), tmp_path / "out")


def test_folders_that_are_none_are_refused(tmp_path, published_layout, published):
    with pytest.raises(ModelError, match="expected a folder, found none"):
        find_published(tmp_path / "gone")
    with pytest.raises(ModelError, match="expected unet/config.json with content_channels, found none"):
        find_published(tmp_path)
    stock = tmp_path / "stock" / "unet"
    published_layout.write_part(stock, {}, {"_class_name": "UNet2DConditionModel"})
    with pytest.raises(ModelError, match=r"only nets of another family: .*stock \(UNet2DConditionModel\)"):
        find_published(tmp_path)
    only = tmp_path / "only"
    shutil.copytree(published / "checkpoint", only)
    with pytest.raises(ModelError, match="expected its vae, text_encoder, tokenizer, scheduler in .* name one in diffusers layout with --base"):
        find_published(only)
    base = published / "pretrained_models" / "stable-diffusion-v1-5"
    assert find_published(only, base).stock == base and find_published(published).stock == base
    weights = only / "image_model" / "unet" / PICKLE
    weights.rename(weights.with_name("abc.incomplete"))
    with pytest.raises(ModelError, match="found only abc.incomplete, half downloaded"):
        find_published(only, base)
    shutil.copytree(only / "video_model", only / "again")
    weights.with_name("abc.incomplete").rename(weights)
    with pytest.raises(ModelError, match="expected one video net, found"):
        find_published(only, base)


class Harmless:
    """Pickled, it would make a folder when it is read."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __reduce__(self):
        import os

        return os.mkdir, (self.place,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: Path(path).write_bytes(pickle.dumps(content, 2))], ids=["torch", "plain"])
def test_pickles_with_code_are_refused_and_not_run(tmp_path, save):
    trap = tmp_path / "made"
    save({"weight": Harmless(str(trap))}, tmp_path / "bad.bin")
    with pytest.raises(ModelError, match=r"expected tensors only, found a pickle that asks for (posix|nt|os).mkdir, which is never run; take a .safetensors"):
        load_pickle(tmp_path / "bad.bin")
    assert not trap.exists()
    action, words = Harmless(str(trap)).__reduce__()
    action(*words)
    assert trap.exists(), "the file would have done it"


def test_damaged_and_odd_pickles_are_told(tmp_path):
    path = tmp_path / "a.bin"
    torch.save({"w": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ModelError, match="expected tensors, found 900 bytes that cannot be read"):
        load_pickle(path)
    path.write_bytes(b"<html>")
    with pytest.raises(ModelError, match="expected tensors, found 6 bytes that are none, or that ask for code, which is never run"):
        load_pickle(path)
    torch.save({"w": torch.ones(1), "step": 3}, path)
    with pytest.raises(ModelError, match="expected nothing but tensors, found also step"):
        load_pickle(path)
    torch.save({"state_dict": {"w": torch.ones(1)}, "step": 3}, path)
    assert load_pickle(path).keys() == {"w"}
    with pytest.raises(ModelError, match="expected a file, found none"):
        load_pickle(tmp_path / "gone.bin")


def test_verification_finds_what_is_wrong(tmp_path, lean):
    folder = tmp_path / "model"
    shutil.copytree(lean, folder)
    assert not any(check.problems for check in verify_model(folder))
    assert hash_problems(folder) == []
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cross_attention_dim": 24}))
    (folder / "extra.txt").write_text("x")
    shutil.rmtree(folder / "adapters" / "seg")
    (folder / "vae" / WEIGHTS).write_bytes((folder / "vae" / WEIGHTS).read_bytes()[:-1])
    found = {check.name: check.problems for check in verify_model(folder) if check.problems}
    assert found.keys() == {"unet", "vae", "hashes"}
    assert "of shape (16, 24), found (16, 32)" in found["unet"][0]
    assert "whole safetensors file" in found["vae"][0]
    words = " | ".join(found["hashes"])
    assert f"adapters/seg/{WEIGHTS}: expected by the hash list, found no such file" in words and "extra.txt: not in the hash list" in words
    assert "unet/config.json: expected SHA-256" in words and f"vae/{WEIGHTS}: expected SHA-256" in words
    shutil.rmtree(folder / "content_projection")
    assert "found no content_projection" in verify_model(folder)[0].problems[0]

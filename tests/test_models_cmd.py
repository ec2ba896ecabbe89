"""`hicast models`: what it lists and tells, and a published folder on its way to pictures and clips."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hicast.cli.main import run
from hicast.pipeline import HiCastPipeline

SHIPPED = Path(__file__).resolve().parents[1] / "hicast" / "weights" / "compact"
RENEWAL = "`hicast models verify hicast/weights/compact --write-hashes`"


@pytest.fixture(scope="module")
def published(tmp_path_factory, published_layout) -> Path:
    return published_layout.write_tiny(tmp_path_factory.mktemp("published"), same_net=True)


@pytest.fixture
def place(workplace, monkeypatch) -> Path:
    """The user's folder of models, empty."""
    folder = workplace.parent / "data" / "hicast" / "models"
    monkeypatch.delenv("HICAST_MODELS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder.parents[1]))
    return folder


def test_a_published_folder_becomes_sd15_and_stylizes(published, place, workplace, capsys):
    assert run(["models", "convert", str(published), "--json"]) == 0
    out = capsys.readouterr()
    report = json.loads(out.out)
    assert report["output"] == str(place / "sd15") and report["bytes_after"] < report["bytes_before"] / 2
    assert [row["read"] for row in report["tensors"]] == [731, 40, 40, 40, 949, 40, 40]
    assert all(row["read"] == row["stored"] + row["shared"] + sum(row["dropped"].values()) for row in report["tensors"])
    assert "checkpoint" not in out.out and "video_model/unet: 949 tensors" in out.err and "Loading weights" not in out.err
    words = ["--style", "painting.jpg", "--model", "sd15", "--size", "64", "--steps", "2", "--dtype", "float32"]
    assert run(["stylize-image", "photo.jpg", *words, "-o", "a.png"]) == 0, capsys.readouterr().err
    assert Image.open("a.png").size == Image.open("photo.jpg").size
    assert run(["stylize-image", "photo.jpg", *words, "--model", str(place / "sd15"), "-o", "b.png"]) == 0
    assert np.array_equal(Image.open("a.png"), Image.open("b.png"))
    assert run(["stylize-image", "photo.jpg", *words, "--set", "square=true", "--keep-size", "-o", "c.png"]) == 0
    assert Image.open("c.png").size == (64, 64)
    for number in (1, 2):
        more = ["--set", "content_latent=sample", "--seed", str(number)]
        assert run(["stylize-image", "photo.jpg", *words, *more, "-o", f"d{number}.png"]) == 0
    assert not np.array_equal(Image.open("d1.png"), Image.open("d2.png"))


def test_clips_take_the_part_for_clips(published, place, workplace, monkeypatch, capsys):
    assert run(["models", "convert", str(published), "-o", "own", "-q"]) == 0
    loaded = []
    load = HiCastPipeline.from_pretrained.__func__
    monkeypatch.setattr(HiCastPipeline, "from_pretrained", classmethod(lambda cls, name, **more: loaded.append(load(cls, name, **more)) or loaded[-1]))
    words = ["--style", "painting.jpg", "--model", "own", "--size", "32", "--steps", "1", "--window", "8", "--overlap", "2", "--dtype", "float32"]
    assert run(["stylize-video", "clip.mp4", *words, "-o", "r.mp4"]) == 0, capsys.readouterr().err
    assert loaded[0].temporal is not None and loaded[0].looks_back
    from hicast.io.video_info import probe_video

    assert probe_video(Path("r.mp4")).width == probe_video(Path("clip.mp4")).width


def test_list_and_info(published, place, capsys):
    assert run(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["compact", "shipped"] and "hicast models pull fast, or hicast models convert FOLDER" in lines[2]
    assert run(["models", "convert", str(published), "-q"]) == 0
    capsys.readouterr()
    rows = []
    for _ in range(2):  # nets that an engine has made of the weights are no part of the model
        assert run(["models", "list", "--json"]) == 0
        rows.append(json.loads(capsys.readouterr().out)[1])
        (place / "sd15" / ".compiled").mkdir(exist_ok=True)
        (place / "sd15" / ".compiled" / "a.net").write_bytes(b"x" * 1000)
    assert rows[0] == rows[1] and rows[0]["bytes"] > 10**6
    assert run(["models", "info", "sd15", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    parts = {part["part"]: part for part in about["parts"]}
    assert about["defaults"] == {"steps": 20} and about["folder"] == str(place / "sd15")
    assert parts.keys() == {"unet", "content_projection", "vae", "style_encoder", "context", "adapters/depth", "adapters/edge", "adapters/seg", "video/temporal"}
    assert parts["unet"]["dtype"] == "F16" and parts["adapters/edge"]["metadata"]["extractor"] == "hed" and parts["context"]["values"] == 7 * 32
    assert run(["models", "info", str(place / "sd15" / "video")]) == 0
    assert f"base: {place / 'sd15' / 'video' / '..'}" in capsys.readouterr().out.splitlines()


def test_verify_says_good_or_fails(published, place, capsys):
    assert run(["models", "convert", str(published), "-q"]) == 0
    assert run(["models", "verify", "sd15", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n", 1)[1])["whole"]
    weights = place / "sd15" / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert run(["models", "verify", "sd15"]) == 1
    out = capsys.readouterr()
    assert "hashes: vae/diffusion_pytorch_model.safetensors: expected SHA-256" in out.out and "found 1 problem in hashes" in out.err


def test_the_shipped_model_is_as_its_hash_list_says(capsys):
    assert run(["models", "verify", str(SHIPPED)]) == 0, f"the weights have changed: run {RENEWAL} and commit the hash list with them"
    assert "hashes: good (as listed)" in capsys.readouterr().out, f"the hash list is gone: run {RENEWAL} and commit it"


def test_a_hash_list_is_written_anew_where_all_else_is_good(workplace, make_pipeline, capsys):
    make_pipeline("edge").save_pretrained("own")
    assert run(["models", "verify", "own"]) == 0
    assert "hashes: good (no hash list)" in capsys.readouterr().out
    assert run(["models", "verify", "own", "--write-hashes"]) == 0
    assert "hashes: good (written anew)" in capsys.readouterr().out and run(["models", "verify", "own"]) == 0
    index, listed = Path("own/model_index.json"), Path("own/hashes.json").read_text()
    index.write_text(index.read_text() + " ")
    assert run(["models", "verify", "own"]) == 1
    assert "model_index.json: expected SHA-256" in capsys.readouterr().out
    shutil.move("own/vae", "vae")
    assert run(["models", "verify", "own", "--write-hashes"]) == 1
    assert Path("own/hashes.json").read_text() == listed
    shutil.move("vae", "own/vae")
    assert run(["models", "verify", "own", "--write-hashes"]) == 0
    assert Path("own/hashes.json").read_text() != listed and run(["models", "verify", "own"]) == 0


@pytest.mark.parametrize("change", [{"noise_scale": "a"}, {"autoencoder": ["a"]}])
def test_every_command_tells_of_a_nonsense_index_in_a_line(workplace, make_pipeline, capsys, change):
    make_pipeline("edge").save_pretrained("own")
    index, (key,) = Path("own/model_index.json"), change
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    for words in (
        ["stylize-image", "photo.jpg", "--style", "painting.jpg", "--model", "own", "-o", "a.png"],
        ["stylize-video", "clip.mp4", "--style", "painting.jpg", "--model", "own", "-o", "a.mp4"],
        ["train", "--stage", "adapter", "--control", "edge", "--content", "photos", "--style", "paintings", "--from", "own", "-o", "run"],
        ["bench", "--model", "own"],
        ["models", "info", "own"],
        ["models", "convert", "own", "-o", "whole"],
    ):
        assert run(words) == 1, words
        *notes, line = capsys.readouterr().err.splitlines()
        assert f"'{index}': {key}: expected" in line and "correct it, or leave the key out" in line, line
        assert not any("error" in note.lower() for note in notes), notes
    assert run(["models", "verify", "own"]) == 1
    out = capsys.readouterr()
    assert f"index: '{index}': {key}: expected" in out.out and " in index" in out.err


def test_wrong_words_are_one_line(place, workplace, capsys):
    for words, code, text in (
        (["info", "nothing"], 1, "expected compact or a folder, found 'nothing', which is neither"),
        (["info", "sd15"], 1, "which is neither; hicast models pull fast fetches sd15, hicast models convert FOLDER makes it"),
        (["pull", "other"], 2, "expected one of fast, found other"),
        (["convert", "photos"], 1, "expected unet/config.json with content_channels, found none"),
        (["convert", "photos", "-o", "clips"], 2, "expected a new folder, found one that is there already"),
        (["convert", "photos", "--dtype", "int8"], 2, "int8"),
    ):
        assert run(["models", *words]) == code, words
        error = capsys.readouterr().err
        assert text in error and len(error.splitlines()) == 1, error

"""Models on the hub by their id: from a cache in the hub's own layout, fetched where they are not there, and told in a line where they cannot be."""

import hashlib
import json
import os
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from hicast.cli.main import run
from hicast.errors import ModelError
from hicast.io.hub_models import cached_model, hub_model, is_hub_id
from hicast.io.model_places import clip_model
from hicast.io.weights import resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WORDS = ["stylize-image", "photo.jpg", "--style", "painting.jpg", "--size", "64", "--dtype", "float32"]


def _in_cache(source: Path, cache: Path, name: str) -> Path:
    """The files of `source` as the hub's client keeps a repository: content by hash, links to it in the snapshot that `main` names."""
    place = cache / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMIT
    (place / "blobs").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    for path in source.rglob("*"):
        if path.is_file():
            blob, link = place / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest(), snapshot / path.relative_to(source)
            blob.write_bytes(path.read_bytes())
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


@pytest.fixture
def cache(workplace, monkeypatch) -> Path:
    """An empty cache of the hub, and no way to the hub."""
    folder = workplace.parent / "hub"
    folder.mkdir()
    monkeypatch.setenv("HICAST_MODELS", str(workplace.parent / "models"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def test_a_hub_id_is_what_can_be_no_path(workplace):
    assert all(map(is_hub_id, ("someone/net", "some.one/net-2_b", Path("someone/net"))))
    assert not any(map(is_hub_id, ("net", "./someone/net", "someone/net/unet", "/someone/net", "~/net", "../net", "some one/net", "photos/net")))


def test_a_cached_model_is_used_without_the_hub(cache, make_pipeline, capsys):
    make_pipeline("edge").save_pretrained("own")
    snapshot = _in_cache(Path("own"), cache, "someone/net")
    assert resolve_model("someone/net") == cached_model("someone/net") == snapshot and clip_model("someone/net") == "someone/net"
    for model, name in (("own", "a.png"), ("someone/net", "b.png")):
        assert run([*WORDS, "--model", model, "-o", name]) == 0, capsys.readouterr().err
    assert "fetching" not in capsys.readouterr().err
    assert np.array_equal(Image.open("a.png"), Image.open("b.png"))
    assert Image.open("b.png").size == Image.open("photo.jpg").size
    assert run(["models", "verify", "someone/net"]) == 0
    assert run(["models", "info", "someone/net", "--json"]) == 0
    assert '"adapters/edge"' in capsys.readouterr().out
    (snapshot / "video").mkdir()
    (snapshot / "video" / "model_index.json").write_text(json.dumps({"base": ".."}))
    assert clip_model("someone/net") == snapshot / "video"


def test_without_cache_and_hub_there_is_one_line(cache, capsys, caplog):
    assert run([*WORDS, "--model", "someone/net", "-o", "a.png"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "model someone/net: not whole in the hub's cache, fetching it",
        "hicast: model 'someone/net': expected a folder, or a hub id in the hub's cache or within reach, found neither (LocalEntryNotFoundError); "
        "check the name and the network, copy the model's folder here and name that, or go on with --model compact",
    ]
    assert not caplog.records, "the client tries again and again"
    assert run([*WORDS, "--model", "photos/net", "-o", "a.png"]) == 1
    assert "found 'photos/net', which is neither; check the path" in capsys.readouterr().err
    assert run([*WORDS, "--model", "wd1511/fast-ldm", "-o", "a.png"]) == 1
    assert "hicast models pull fast fetches sd15" in capsys.readouterr().err


class FakeHub:
    """A hub with one repository, whose files come into the cache when they are asked for."""

    def __init__(self, source: Path, cache: Path) -> None:
        self.source, self.cache, self.fetched = source, cache, []
        self.cached = huggingface_hub.snapshot_download

    def snapshot(self, name, local_files_only=False, **patterns):
        if local_files_only:
            return self.cached(name, local_files_only=True, **patterns)
        self.fetched.append(patterns["allow_patterns"])
        return str(_in_cache(self.source, self.cache, name) if "*.json" in patterns["allow_patterns"] else self.source)


@pytest.fixture
def fake(cache, workplace, monkeypatch) -> FakeHub:
    hub = FakeHub(workplace / "own", cache)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot)
    return hub


def test_what_is_not_in_the_cache_is_fetched_once(fake, make_pipeline, capsys):
    make_pipeline().save_pretrained("own")
    assert run([*WORDS, "--model", "someone/net", "-o", "a.png"]) == 0, capsys.readouterr().err
    assert "model someone/net: not whole in the hub's cache, fetching it" in capsys.readouterr().err
    assert run([*WORDS, "--model", "someone/net", "-o", "b.png"]) == 0
    assert fake.fetched == [["model_index.json"], ["*.json", "*.safetensors"]] and "fetching" not in capsys.readouterr().err
    (resolve_model("someone/net") / "model_index.json").unlink()
    assert cached_model("someone/net") is None


def test_nothing_is_fetched_of_what_is_no_model_of_ours(fake, workplace):
    (workplace / "own").mkdir()
    (workplace / "own" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ModelError, match="expected a hicast model, found one of StableDiffusionPipeline"):
        hub_model("someone/net")
    assert fake.fetched == [["model_index.json"]]

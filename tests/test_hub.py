"""Published checkpoints from a hub that stands in a folder: what is taken, checked, gone on with, and told where it cannot be reached."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

from hicast.cli.main import run
from hicast.errors import ModelError, OutputError
from hicast.io import hub
from hicast.io.hashes import git_hash
from hicast.io.model_places import installed_models

UNWANTED = ("checkpoint/image_model/discriminator.pt", "README.md", "checkpoint/image_model/unet/optimizer.bin")


class FakeHub:
    """Repositories in folders; `fetched` are the files that were asked for, `spoilt` those that arrive with other bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched, self.spoilt = folder, [], set()

    def repo_info(self, repo, files_metadata):
        assert files_metadata
        root = self.folder / repo
        return SimpleNamespace(sha="abc", siblings=[self._sibling(path, root) for path in sorted(root.rglob("*")) if path.is_file()])

    def _sibling(self, path, root):
        large = path.suffix in (".bin", ".safetensors")
        lfs = SimpleNamespace(sha256=hashlib.sha256(path.read_bytes()).hexdigest()) if large else None
        return SimpleNamespace(rfilename=path.relative_to(root).as_posix(), size=path.stat().st_size, lfs=lfs, blob_id=git_hash(path))

    def download(self, repo, path, *, revision, local_dir, tqdm_class=None):
        assert revision == "abc"
        self.fetched.append(path)
        target = Path(local_dir) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        content = (self.folder / repo / path).read_bytes()
        if tqdm_class:
            with tqdm_class(total=len(content), initial=0, desc=path, unit="B", disable=False, name="x") as bar:
                bar.update(len(content) // 2)
                bar.update(len(content) - len(content) // 2)
        target.write_bytes(content[::-1] if path in self.spoilt else content)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory, published_layout) -> Path:
    """Both repositories: the published net of a few thousand numbers and Stable Diffusion's other parts, and files that nobody needs."""
    folder, local = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("local")
    published_layout.write_tiny(local, same_net=True)
    shutil.copytree(local / "checkpoint", folder / hub.FAST / "checkpoint")
    stock = folder / hub.STABLE_DIFFUSION
    shutil.copytree(local / "pretrained_models" / "stable-diffusion-v1-5", stock)
    from safetensors.torch import save_file

    save_file(torch.load(stock / "vae" / "diffusion_pytorch_model.bin", weights_only=True), stock / "vae" / "diffusion_pytorch_model.safetensors")
    for name in UNWANTED:
        (folder / hub.FAST / name).write_bytes(b"not needed")
    (stock / "unet").mkdir()
    (stock / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not needed either")
    return folder


@pytest.fixture
def fake(repositories, monkeypatch, workplace) -> FakeHub:
    fake = FakeHub(repositories)
    monkeypatch.setenv("HICAST_MODELS", str(workplace.parent / "models"))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    return fake


def test_only_what_is_needed_is_listed(fake):
    paths = {file.path for repo in (hub.FAST, hub.STABLE_DIFFUSION) for file in hub.list_needed(repo)}
    nets = {f"checkpoint/{net}_model/{part}" for net, parts in (("image", ("unet", "hed_adapter", "depth_adapter", "seg_adapter")),
                                                                 ("video", ("unet", "hed_adapter", "depth_adapter"))) for part in parts}  # fmt: skip
    expected = {f"{net}/{name}" for net in nets for name in ("config.json", "diffusion_pytorch_model.bin")}
    expected |= {"vae/config.json", "vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "text_encoder/model.safetensors"}
    expected |= {f"tokenizer/{name}" for name in ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")}
    assert paths == expected | {"scheduler/scheduler_config.json"}


def test_pull_fetches_converts_and_is_then_a_model(fake, workplace, capsys):
    assert run(["models", "pull", "fast", "--dtype", "float32"]) == 0, capsys.readouterr().err
    out = capsys.readouterr()
    target = workplace.parent / "models" / "sd15"
    assert out.out.strip() == str(target) and installed_models() == {"sd15": target}
    assert "its authors state no licence" in out.err and "Open RAIL-M" in out.err and "23 files" in out.err
    assert not set(UNWANTED) & set(fake.fetched) and "unet/diffusion_pytorch_model.safetensors" not in fake.fetched
    assert run(["models", "list", "--json"]) == 0
    assert [row["model"] for row in json.loads(capsys.readouterr().out)] == ["compact", "sd15"]
    words = ["photo.jpg", "--style", "painting.jpg", "--model", "sd15", "--steps", "1", "--size", "64", "-o", "r.png"]
    assert run(["stylize-image", *words]) == 0, capsys.readouterr().err
    assert run(["models", "pull", "fast"]) == 2
    assert "expected a new folder, found one that is there already" in capsys.readouterr().err


def test_a_stopped_download_goes_on_and_whole_files_stay(fake, tmp_path):
    files = hub.list_needed(hub.FAST)
    reports: list[tuple[int, int]] = []
    hub.fetch(files[:3], tmp_path)
    hub.fetch(files, tmp_path, lambda done, total: reports.append((done, total)))
    assert sorted(fake.fetched) == sorted(file.path for file in files), "each file once"
    total = sum(file.size for file in files)
    assert reports == sorted(reports) and reports[-1] == (total, total) and len(reports) > len(files)
    hub.local_path(files[1], tmp_path).write_bytes(b"cut off")
    assert hub.check_disk(files, tmp_path, tmp_path) == files[1].size
    hub.fetch(files, tmp_path)
    assert fake.fetched[-1] == files[1].path and len(fake.fetched) == len(files) + 1


def test_other_bytes_than_listed_are_refused_and_removed(fake, tmp_path):
    for file in [next(file for file in hub.list_needed(hub.FAST) if file.path.endswith(suffix)) for suffix in (".bin", ".json")]:
        fake.spoilt = {file.path}
        with pytest.raises(ModelError, match=rf"expected the {file.size} bytes that the hub lists, found {file.size} bytes of another content"):
            hub.fetch([file], tmp_path)
        assert not hub.local_path(file, tmp_path).exists()


def test_git_hash_is_gits(tmp_path):
    (tmp_path / "a").write_bytes(b"hello\n")
    assert git_hash(tmp_path / "a") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_full_disk_is_told_before_anything_is_fetched(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match="GB of free disk, found 0.0 GB; make room or choose another place with --output"):
        hub.check_disk(hub.list_needed(hub.FAST), tmp_path, tmp_path / "models" / "sd15")
    assert run(["models", "pull", "fast"]) == 1 and fake.fetched == []


def test_an_unreachable_hub_names_what_is_here(fake, monkeypatch, capsys):
    def offline(repo, files_metadata):
        raise OSError("no\nroute")

    monkeypatch.setattr(fake, "repo_info", offline)
    assert run(["models", "pull", "fast"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("hicast: hub repository wd1511/fast-ldm: expected an answer, found none (OSError); go on with --model compact, or copy")


def test_a_repository_of_another_layout_is_told(fake, monkeypatch):
    monkeypatch.setattr(fake, "repo_info", lambda repo, files_metadata: SimpleNamespace(
        sha="abc", siblings=[SimpleNamespace(rfilename="weights/a.pt", size=3, lfs=None, blob_id="x")]))  # fmt: skip
    with pytest.raises(ModelError, match="expected the published layout, found weights; fetch it by hand"):
        hub.list_needed(hub.FAST)

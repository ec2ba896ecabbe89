"""Published checkpoints from the hub: only what is needed, checked, and going on where it stopped."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hicast.errors import ModelError, OutputError
from hicast.io.hashes import file_hash, git_hash
from hicast.io.model_places import installed_models

FAST = "wd1511/fast-ldm"
STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
LICENCES = {
    FAST: "its authors state no licence, so all rights are theirs: ask them before you do more with it than look",
    STABLE_DIFFUSION: "CreativeML Open RAIL-M, which forbids some uses (huggingface.co/spaces/CompVis/stable-diffusion-license)",
}

_WANTED = {
    FAST: (
        r"(.*/)?(image_model|video_model)/(unet|hed_adapter|depth_adapter|seg_adapter)/(config\.json|diffusion_pytorch_model\.(safetensors|bin))",
    ),
    STABLE_DIFFUSION: (
        r"vae/(config\.json|diffusion_pytorch_model\.safetensors)",
        r"text_encoder/(config\.json|model\.safetensors)",
        r"tokenizer/[^/]+\.(json|txt)",
        r"scheduler/scheduler_config\.json",
    ),
}
"""Paths in each repository that a model is made of; discriminators, Stable Diffusion's own U-Net and all else stay there."""

OnProgress = Callable[[int, int], None]

_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository at one `revision`; its content is known by SHA-256 where it is large, else by its git hash."""

    repo: str
    revision: str
    path: str
    size: int
    sha256: str | None
    git: str | None

    def is_whole(self, path: Path) -> bool:
        """Whether the file at `path` has this content."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256:
            return file_hash(path) == self.sha256
        return self.git is None or git_hash(path) == self.git


def list_needed(repo: str) -> list[RemoteFile]:
    """What is needed of `repo`, as it is there now; raises ModelError where the hub cannot be reached or holds something else."""
    info = _asked(repo, lambda hub: hub.HfApi().repo_info(repo, files_metadata=True))
    files = [_remote(repo, info.sha, sibling) for sibling in info.siblings or ()]
    wanted = [file for file in files if any(re.fullmatch(pattern, file.path) for pattern in _WANTED[repo])]
    safe = {file.path.rpartition(".")[0] for file in wanted if file.path.endswith(".safetensors")}
    wanted = [file for file in wanted if not (file.path.endswith(".bin") and file.path.removesuffix(".bin") in safe)]
    if not any(file.path.endswith((".bin", ".safetensors")) for file in wanted):
        found = ", ".join(sorted({file.path.split("/")[0] for file in files})[:8]) or "nothing"
        raise ModelError(f"hub repository {repo}: expected the published layout, found {found}; fetch it by hand and run hicast models convert FOLDER")
    return wanted


def check_disk(files: Sequence[RemoteFile], downloads: Path, target: Path) -> int:
    """Bytes still to fetch; raises OutputError where these, and the converted model of half their size, do not fit on the disk."""
    left = sum(file.size for file in files if not _is_there(file, downloads))
    converted = sum(file.size for file in files) // 2
    places = {_existing(downloads): left}
    places[_existing(target)] = places.get(_existing(target), 0) + converted
    if len({place.stat().st_dev for place in places}) == 1:
        places = {_existing(target): left + converted}
    for place, need in places.items():
        free = shutil.disk_usage(place).free
        if need > free:
            raise OutputError(f"'{place}': expected {_gb(need)} GB of free disk, found {_gb(free)} GB; make room or choose another place with --output")
    return left


def fetch(files: Iterable[RemoteFile], downloads: Path, on_progress: OnProgress | None = None) -> None:
    """Bring all `files` to `downloads/REPOSITORY/PATH`; what is whole there stays, what is begun goes on.

    Raises ModelError where the hub cannot be reached or a file arrives with another content, which is then removed.
    """
    files = list(files)
    total, done = sum(file.size for file in files), 0
    for file in files:
        folder, target = repo_folder(file.repo, downloads), local_path(file, downloads)
        if not file.is_whole(target):
            bar = _bar(lambda size, done=done: on_progress(min(done + size, total), total)) if on_progress else None
            options = {"revision": file.revision, "local_dir": folder} | ({"tqdm_class": bar} if bar else {})
            _asked(file.repo, lambda hub, file=file, options=options: hub.hf_hub_download(file.repo, file.path, **options))
            if not file.is_whole(target):
                size = target.stat().st_size if target.is_file() else 0
                target.unlink(missing_ok=True)
                raise ModelError(f"'{target}': expected the {file.size} bytes that the hub lists, found {size} bytes of another content; fetch it again")
        done += file.size
        if on_progress:
            on_progress(done, total)


def repo_folder(repo: str, downloads: Path) -> Path:
    """Where the files of a repository go."""
    return downloads / repo.replace("/", "--")


def local_path(file: RemoteFile, downloads: Path) -> Path:
    """Where a file goes."""
    return repo_folder(file.repo, downloads) / file.path


def _is_there(file: RemoteFile, downloads: Path) -> bool:
    path = local_path(file, downloads)
    return path.is_file() and path.stat().st_size == file.size


def _remote(repo: str, revision: str, sibling: Any) -> RemoteFile:
    lfs = getattr(sibling, "lfs", None)
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    return RemoteFile(repo, revision, sibling.rfilename, sibling.size or 0, sha256, None if sha256 else getattr(sibling, "blob_id", None))


def _asked(repo: str, question: Callable[[Any], Any]) -> Any:
    """What the hub's client answers; any trouble becomes one line that names what is here instead."""
    import huggingface_hub

    try:
        return question(huggingface_hub)
    except Exception as error:  # the client raises errors of its own, of httpx and of the system
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise OutputError(f"hub repository {repo}: expected to write what was fetched, found no way to: {error}; make room or choose another place with --downloads; "
                              "the same command goes on with the download") from error  # fmt: skip
        local = ", ".join(f"--model {name}" for name in ("compact", *installed_models()))
        raise ModelError(
            f"hub repository {repo}: expected an answer, found none ({type(error).__name__}); go on with {local}, or copy the published "
            "folder here and run hicast models convert FOLDER; the same command goes on with a download that has begun"
        ) from error


def _bar(on_bytes: Callable[[int], None]) -> type:
    """A class in place of the client's progress bar, which tells the bytes of a file and draws nothing."""
    from tqdm.auto import tqdm

    class Bytes(tqdm):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            known = {key: value for key, value in named.items() if key not in ("name", "disable")}
            super().__init__(*arguments, **known, disable=True)
            self.n = named.get("initial") or 0

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            on_bytes(int(self.n))

    return Bytes


def _existing(path: Path) -> Path:
    """The nearest folder above `path` that is there."""
    return path if path.is_dir() else _existing(path.parent)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}"

"""Models of ours that lie on the hub: found in the hub's own cache, fetched into it where they are not there yet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hicast.errors import ModelError
from hicast.io.model_places import ALSO_CALLED, INDEX_FILE, installed_models

OnNote = Callable[[str], None]

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TAKEN = {"allow_patterns": ["*.json", "*.safetensors"], "ignore_patterns": ["checkpoints/*", "cache/*"]}
"""What a model of ours is made of: no pickles, and nothing that training leaves beside it."""


def is_hub_id(name: str | Path) -> bool:
    """Whether `name` can only mean a repository with a model of ours: `owner/name` where nothing called `owner` lies here, not the published one."""
    return bool(_ID.fullmatch(str(name))) and str(name) not in ALSO_CALLED and not Path(str(name).split("/")[0]).exists()


def cached_model(name: str) -> Path | None:
    """The folder of a hub id in the hub's cache; None where it is not there, or known not to be whole."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True, **_TAKEN))
    except (OSError, ValueError):  # the client's errors of what is not there, and of a name that it does not take
        return None
    return folder if (folder / INDEX_FILE).is_file() else None


def hub_model(name: str, on_note: OnNote | None = None) -> Path:
    """The folder of a hub id: that in the hub's cache, which then stays as it is, else fetched into it, which `on_note` is told.

    The index is fetched first, so that nothing is fetched of what is no model of ours. Raises ModelError where it is neither
    in the cache nor can be fetched.
    """
    if found := cached_model(name):
        return found
    if on_note:
        on_note(f"model {name}: not whole in the hub's cache, fetching it")
    from huggingface_hub import snapshot_download

    from hicast.io.bases import check_own

    try:
        with silent_bars():
            check_own(Path(snapshot_download(name, allow_patterns=[INDEX_FILE])))  # which, unlike that of one file, does not try for long
            return Path(snapshot_download(name, **_TAKEN))
    except ModelError:
        raise
    except Exception as error:  # the client raises errors of its own, of its transport and of the system
        local = ", ".join(f"--model {other}" for other in ("compact", *installed_models()))
        raise ModelError(
            f"model '{name}': expected a folder, or a hub id in the hub's cache or within reach, found neither ({type(error).__name__}); "
            f"check the name and the network, copy the model's folder here and name that, or go on with {local}"
        ) from error


@contextmanager
def silent_bars() -> Iterator[None]:
    """The hub's client without its progress bars for as long as the block runs."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            enable_progress_bars()

"""Where models of the user's own lie by name: what `hicast models pull` and `convert` have put there."""

from __future__ import annotations

import os
from pathlib import Path

INDEX_FILE = "model_index.json"
COMPILED = ".compiled"
"""Sub-folder of a model for nets that an engine has converted: made of the weights, so no part of the model."""

PUBLISHED = "sd15"
"""Name of the converted published model."""

ALSO_CALLED = ("fast", "wd1511/fast-ldm")
"""Names that users may give to it."""

CLIPS = "video"
"""Sub-folder of a model for what belongs to clips alone; it names the model around it as its base."""

WHERE_FROM = f"hicast models pull fast fetches {PUBLISHED}, hicast models convert FOLDER makes it from a copy of the published folder"


def models_folder() -> Path:
    """The user's folder of models: HICAST_MODELS, else `hicast/models` in XDG_DATA_HOME, LOCALAPPDATA or `~/.local/share`."""
    if own := os.environ.get("HICAST_MODELS"):
        return Path(own)
    home = os.environ.get("XDG_DATA_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(home) if home else Path.home() / ".local" / "share") / "hicast" / "models"


def installed_models() -> dict[str, Path]:
    """Whole models in the user's folder, by name."""
    folder = models_folder()
    found = [path for path in folder.iterdir() if (path / INDEX_FILE).is_file()] if folder.is_dir() else []
    return {path.name: path for path in sorted(found)}


def clip_model(name: str | Path) -> str | Path:
    """What to load of the model `name` for clips: its part for these where it has one, else `name` itself."""
    from hicast.io.hub_models import cached_model, is_hub_id

    folder = installed_models().get(str(name)) or (cached_model(str(name)) if is_hub_id(name) else None) or Path(name)
    return folder / CLIPS if (folder / CLIPS / INDEX_FILE).is_file() else name


def model_files(folder: Path) -> list[Path]:
    """All files that a model's folder holds, in order, but those in `COMPILED`."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and COMPILED not in path.relative_to(folder).parts)

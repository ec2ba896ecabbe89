"""`--from-settings`: settings from a file of settings, or from what an earlier result has embedded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hicast.config.layers import Layer, read_yaml
from hicast.errors import UsageError
from hicast.io.files import VIDEOS
from hicast.io.images import load_picture
from hicast.io.metadata import comment_settings

ENGINE_BEFORE = "torch"
"""What painted results whose record names no engine."""

SETTINGS_SUFFIXES = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Record:
    """What a file remembers: a layer of settings, and the paintings with their weights and the preset, which a file of settings may lack."""

    layer: Layer
    styles: tuple[tuple[Path, float], ...] = ()
    preset: str | None = None
    """The preset that the settings were made with."""


def read_record(path: Path | None) -> Record | None:
    """The settings in a YAML or JSON file, a picture or a video; None without a path.

    Raises UsageError where there are none, and InputError for a file that cannot be read.
    """
    if path is None:
        return None
    suffix = path.suffix.lower()
    if suffix in SETTINGS_SUFFIXES:
        values = read_yaml(path)
    elif suffix in VIDEOS.readable and suffix != ".gif":
        from hicast.io.video_info import probe_video

        values = comment_settings(probe_video(path).metadata)
    else:
        values = load_picture(path).settings
    if values is None:
        kind = "video" if suffix in VIDEOS.readable else "picture"
        raise UsageError(f"{path}: expected a {kind} made by hicast, found no settings in it; name another {kind} or a .yaml file")
    inner = values.get("settings", values)
    if not isinstance(inner, dict):
        raise UsageError(f"{path}: settings: expected keys with values, found {inner}; correct the file")
    if "settings" not in values:
        return Record(Layer(str(path), inner))
    return Record(Layer(str(path), {"engine": ENGINE_BEFORE} | inner), _styles(values, path), _preset(values, path))


def _styles(values: dict[str, Any], path: Path) -> tuple[tuple[Path, float], ...]:
    try:
        return tuple((Path(entry["file"]), float(entry["weight"])) for entry in values.get("styles", []))
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{path}: styles: expected a list of file and weight, found {values['styles']}; correct the file") from None


def _preset(values: dict[str, Any], path: Path) -> str | None:
    preset = values.get("preset")
    if not isinstance(preset, str | None):
        raise UsageError(f"{path}: preset: expected text, found {preset}; correct the file")
    return preset

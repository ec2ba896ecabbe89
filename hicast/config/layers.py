"""Settings from several places, laid over one another: YAML files, `KEY=VALUE` words, `hicast.yaml`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from hicast.config.problems import examine, name_advice, validate
from hicast.errors import SettingsError

Settings = TypeVar("Settings", bound=BaseModel)

SETTINGS_FILE = "hicast.yaml"
SHARED_KEYS = ("model", "device", "dtype", "seed", "preset")
"""Keys that may stand at the top level of `hicast.yaml`, for all commands that know them."""

COMMAND_KEYS = ("stylize-image", "stylize-video", "extract-controls", "train", "eval", "bench", "models", "presets")
"""Keys of `hicast.yaml` that hold the settings of one command."""


@dataclass(frozen=True)
class Layer:
    """Values from one place; `origin` names the place in messages."""

    origin: str
    values: Mapping[str, Any]


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number, as YAML 1.2 has it (1.1 asks for a point)."""


_Loader.yaml_implicit_resolvers = {key: list(rules) for key, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()}
for _first in "-+.0123456789":
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).append(
        ("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"))
    )


def parse_yaml(text: str, origin: str) -> Any:
    """The value that a YAML text holds; raises SettingsError with the line of a mistake."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        reason = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise SettingsError([f"{origin}: {line}expected YAML, found a mistake: {reason}"]) from None


def parse_mapping(text: str, origin: str) -> dict[str, Any]:
    """The keys and values of a YAML text; an empty one gives none. Raises SettingsError for anything else."""
    values = parse_yaml(text, origin)
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise SettingsError([f"{origin}: expected keys with values (`key: value`), found something else"])
    return values


def read_text(path: Path | str) -> str:
    """The text of a settings file; raises SettingsError where it is missing or no UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError([f"{path}: expected a settings file, found no such file; check the path"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"{path}: expected a settings file in UTF-8, found other bytes; save it as UTF-8"]) from None
    except OSError as error:
        raise SettingsError([f"{path}: expected a settings file, found: {error.strerror}; check the path"]) from None


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The keys and values of a YAML (or JSON) file; raises SettingsError where it is missing or wrong."""
    return parse_mapping(read_text(path), str(path))


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """One dictionary in which later layers win key by key, at every depth; nothing is changed in place."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            if isinstance(value, Mapping):
                value = merge(below, value) if isinstance(below, Mapping) else merge(value)
            merged[key] = value
    return merged


def parse_set(items: Sequence[str]) -> dict[str, Any]:
    """`["a.b=1", ...]` as nested keys with YAML values; raises SettingsError with every word that is not `KEY=VALUE`."""
    values, problems = read_words(items)
    if problems:
        raise SettingsError(problems)
    return values


def read_words(items: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """As `parse_set`, but without what is wrong, for which there is a sentence each."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for item in items:
        key, equals, text = item.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            problems.append(f"--set {item}: expected KEY=VALUE, found {item}; write for example style_scale=1.2")
            continue
        try:
            value = parse_yaml(text, f"--set {item}")
        except SettingsError as error:
            problems += error.problems
            continue
        for part in reversed(parts):
            value = {part: value}
        values = merge(values, value)
    return values, problems


def combine(layers: Sequence[Layer], model: type[Settings]) -> Settings:
    """`model` from `layers`, the weakest first.

    Every layer is checked on its own, so each problem names the place it comes from; raises one SettingsError for all.
    """
    settings, problems, _ = gather(layers, model)
    if problems:
        raise SettingsError(problems)
    return settings


def gather(layers: Sequence[Layer], model: type[Settings]) -> tuple[Settings | None, list[str], set[str]]:
    """As `combine`, but from what is sound in every layer: a sentence for everything else, and the names of the keys left out.

    The settings are None where nothing can be made of the rest.
    """
    examined = [examine(layer.values, model, layer.origin) for layer in layers]
    problems = [problem for _, found, _ in examined for problem in found]
    left_out = {name for _, _, names in examined for name in names}
    try:
        return validate(merge(*(values for values, _, _ in examined)), model, "settings"), problems, left_out
    except SettingsError as error:
        return None, problems or error.problems, left_out


def config_folder() -> Path:
    """The user's configuration folder: `hicast` in XDG_CONFIG_HOME or APPDATA, else in `~/.config`."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.environ.get("APPDATA")
    return (Path(home) if home else Path.home() / ".config") / "hicast"


def command_layer(command: str, model: type[BaseModel]) -> Layer | None:
    """What `hicast.yaml` (working folder, else the user's configuration folder) holds for `command`, or None without a file.

    Keys under the command's name win over the shared ones at the top level; shared keys that `model` lacks
    are left to other commands, except `preset`, which always comes along. Raises SettingsError for keys that are neither.
    """
    layer, problems = read_command_layer(command, model)
    if problems:
        raise SettingsError(problems)
    return layer


def read_command_layer(command: str, model: type[BaseModel]) -> tuple[Layer | None, list[str]]:
    """As `command_layer`, but without what is wrong, for which there is a sentence each; None for a file that cannot be read."""
    folders = (Path(), config_folder())
    path = next((folder / SETTINGS_FILE for folder in folders if (folder / SETTINGS_FILE).is_file()), None)
    if path is None:
        return None, []
    try:
        content = read_yaml(path)
    except SettingsError as error:
        return None, error.problems
    problems = [
        f"{path}: {key}: expected a command or a shared key, found {key}; "
        + (f"move it under {command}" if key in model.model_fields else name_advice(key, (*COMMAND_KEYS, *SHARED_KEYS)))
        for key in content
        if key not in COMMAND_KEYS + SHARED_KEYS
    ]
    section = content.get(command) or {}
    if not isinstance(section, dict):
        problems.append(f"{path}: {command}: expected keys with values, found {section}")
        section = {}
    shared = {key: content[key] for key in SHARED_KEYS if key in content and (key in model.model_fields or key == "preset")}
    return Layer(str(path), merge(shared, section)), problems

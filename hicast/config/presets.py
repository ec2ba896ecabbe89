"""Presets: named YAML files, shipped in the package or kept in the user's configuration folder."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from hicast.config.layers import config_folder, merge, parse_mapping, read_text
from hicast.config.problems import name_advice
from hicast.errors import SettingsError, UsageError

SUFFIXES = (".yaml", ".yml")
STYLE, TRAINING = "", "train"
"""Kinds of presets that users name: looks, and training runs."""


@dataclass(frozen=True)
class Preset:
    """A preset as it stands in its file: `values` hold neither `base` nor `description`, and nothing inherited."""

    name: str
    description: str
    base: str | None
    values: Mapping[str, Any]
    text: str


def list_presets(kind: str = "") -> list[str]:
    """Names of all presets, sorted; `kind` is a folder of presets such as `train`, style presets have none."""
    return sorted(_files(kind))


def kind_of(name: str, seen: tuple[str, ...] = ()) -> str:
    """`TRAINING` or `STYLE`: a name by where it is found, looks first; a YAML file by a `stage` in it or in the bases it names.

    `seen` are files that have led here. Raises as `read_preset` does.
    """
    if not name.endswith(SUFFIXES):
        for kind in (STYLE, TRAINING):
            if name in _files(kind):
                return kind
        raise _unknown(name, STYLE, TRAINING)
    preset = read_preset(name)
    if "stage" in preset.values:
        return TRAINING
    base = _base_of(preset)
    return STYLE if base is None or base in seen else kind_of(base, (*seen, name))


def read_preset(name: str, kind: str = "") -> Preset:
    """One preset, by name or as a path to a YAML file, without what it inherits.

    Raises UsageError for an unknown name (with the nearest ones), SettingsError for a bad file.
    """
    if name.endswith(SUFFIXES):
        return _parse(name, read_text(name))
    files = _files(kind)
    if name not in files:
        raise _unknown(name, kind)
    return _parse(name, files[name].read_text(encoding="utf-8"))


def load_preset(name: str, kind: str = "") -> dict[str, Any]:
    """Keys and values of a preset laid over those of its `base`, and of that one's, with its own `description`.

    `base` is a name, or a path to a YAML file that is taken from the folder of the file that names it.
    Raises SettingsError where presets inherit from themselves, and as `read_preset` does.
    """
    chain, seen = [], []
    following: str | None = name
    while following is not None:
        preset = read_preset(following, kind)
        chain.append(preset)
        seen.append(following)
        following = _base_of(preset)
        if following in seen:
            circle = " -> ".join([*seen, following])
            raise SettingsError([f"preset {name}: expected bases that end, found the circle {circle}; drop one base"])
    return merge({"description": chain[0].description}, *(preset.values for preset in reversed(chain)))


def _unknown(name: str, *kinds: str) -> UsageError:
    """The names nearest to `name` among those of `kinds`; where none is near, all of the first of them."""
    expected = f"expected the name of a preset or a .yaml file, found {name}"
    if kinds[0] not in (STYLE, TRAINING):
        return UsageError(f"{expected}; {name_advice(name, list_presets(*kinds))}")
    near = difflib.get_close_matches(name, [each for kind in kinds for each in list_presets(kind)])
    advice = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(list_presets(kinds[0]))};"
    return UsageError(f"{expected}; {advice} hicast presets list shows all")


def _base_of(preset: Preset) -> str | None:
    """What to load next: `base` itself, or a path beside the file that names it."""
    if preset.base and preset.base.endswith(SUFFIXES) and preset.name.endswith(SUFFIXES):
        return str(Path(preset.name).parent / preset.base)
    return preset.base


def _files(kind: str) -> dict[str, Traversable]:
    """Preset files by name; the user's win over the shipped ones."""
    shipped = resources.files("hicast.presets").joinpath(kind)
    own = config_folder() / "presets" / kind
    found: dict[str, Traversable] = {}
    for folder in (shipped, own):
        if folder.is_dir():
            found |= {Path(file.name).stem: file for file in folder.iterdir() if file.name.endswith(SUFFIXES)}
    return found


def _parse(name: str, text: str) -> Preset:
    """A preset from its YAML text; raises SettingsError where `base` or `description` is no text."""
    values = parse_mapping(text, f"preset {name}")
    base, description = values.pop("base", None), values.pop("description", "")
    problems = [
        f"preset {name}: {key}: expected text, found {value}"
        for key, value in (("base", base), ("description", description))
        if not isinstance(value, str | None)
    ]
    if problems:
        raise SettingsError(problems)
    return Preset(name, description or "", base, values, text)

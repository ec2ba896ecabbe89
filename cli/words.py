"""Words that name and weigh: `FILE=WEIGHT`, `NAME=VALUE`, `WHERE:KEY=VALUE` and `KEY=V1,V2`, read into settings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hicast.config.layers import parse_yaml
from hicast.config.problems import name_advice
from hicast.config.stylize import Control, RegionSettings
from hicast.errors import UsageError

NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
REGION_KEYS = tuple(key for key in RegionSettings.model_fields if key != "where")
REGION = re.compile(rf"(.*):((?:{'|'.join(REGION_KEYS)})=.*)", re.DOTALL)
BEFORE_KEY = re.compile(rf",(?=(?:{'|'.join(REGION_KEYS)})=)")
CONTROLS: tuple[str, ...] = Control.__args__
SWEPT = ("style_scale", "content_scale", "texture", "steps", "scheduler", "seed", "preserve_color", *CONTROLS)
"""What can differ in a sheet: all that leaves the encoded picture and its maps as they are."""


def look_flags(params: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the options `--adapter`, `--control`, `--extractor` and `--region` say; raises UsageError for wrong words."""
    flags: dict[str, Any] = {}
    for option, key in (("adapter", "adapters"), ("control", "controls"), ("extractor", "extractors")):
        if params.get(option):
            flags[key] = named_values(f"--{option}", params[option])
    if params.get("region"):
        flags["regions"] = [region_of(word) for word in params["region"]]
    return flags


def named_values(option: str, words: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` words by name, taken apart at the first `=`; raises UsageError for others and for two values of one name."""
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name and value):
            raise UsageError(f"{option} {word}: expected NAME=VALUE, found {word}; write for example edge=...")
        if name in values:
            raise UsageError(f"{option} {word}: expected one value for {name}, found {values[name]} and {value}; leave one out")
        values[name] = value
    return values


def region_of(word: str) -> dict[str, Any]:
    """`WHERE:KEY=VALUE[,KEY=VALUE]`, taken apart at the last `:` before a key, so that file names may hold `:`, `,` and `=`."""
    match = REGION.fullmatch(word)
    if match is None or not match[1]:
        raise UsageError(
            f"--region {word}: expected WHERE:KEY=VALUE with a key among {', '.join(REGION_KEYS)}, found {word}; "
            "write for example mask.png:style_scale=0.3"
        )
    region: dict[str, Any] = {"where": match[1]}
    for part in BEFORE_KEY.split(match[2]):
        key, _, value = part.partition("=")
        if key in region:
            raise UsageError(f"--region {word}: expected one value for {key}, found {region[key]} and {value}; leave one out")
        region[key] = value if key == "style" else _number(word, value)
    return region


def _number(word: str, value: str) -> float:
    if not NUMBER.fullmatch(value):
        raise UsageError(f"--region {word}: expected a number for style_scale, found {value}; write for example 0.3")
    return float(value)


def sweeps_of(words: Sequence[str]) -> list[tuple[str, list[Any]]]:
    """`KEY=V1,V2,...` words as keys with their values; raises UsageError for unknown keys, no values, and more than two keys."""
    sweeps = []
    for key, text in named_values("--sweep", words).items():
        key = key.removeprefix("adapters.")
        if key not in SWEPT:
            raise UsageError(f"--sweep {key}: expected a key that can be swept, found {key}; {name_advice(key, SWEPT)}")
        if any(not part.strip() for part in text.split(",")):
            raise UsageError(f"--sweep {key}={text}: expected values with commas between them, found {text}; write for example 0.5,1,1.5")
        sweeps.append((key, [parse_yaml(part, f"--sweep {key}") for part in text.split(",")]))
    if len(sweeps) > 2:
        raise UsageError(f"--sweep: expected at most two keys, columns and rows, found {len(sweeps)}; make several sheets")
    return sweeps


def swept(key: str, value: Any) -> dict[str, Any]:
    """One value of a sweep as settings."""
    return {"adapters": {key: value}} if key in CONTROLS else {key: value}


def weighted_file(word: str) -> tuple[Path, float]:
    """`FILE[=WEIGHT]` taken apart at the last `=` that a number follows, so that names may hold `=`; weight 1 if none is given."""
    name, equals, number = word.rpartition("=")
    if not equals or not name or not NUMBER.fullmatch(number):
        if name and Path(name).is_file() and not Path(word).exists():
            raise UsageError(f"--style {word}: expected a number behind {name}=, found {number or 'nothing'}; give a weight such as 0.5")
        return Path(word), 1.0
    weight = float(number)
    if not 0 <= weight < math.inf:
        raise UsageError(f"--style {word}: expected a weight of at least 0, found {number}; give a number such as 0.5")
    return Path(name), weight


def weighted_files(words: list[str]) -> list[tuple[Path, float]]:
    """All `FILE[=WEIGHT]` words; raises UsageError where no weight is above 0."""
    files = [weighted_file(word) for word in words]
    if not any(weight > 0 for _, weight in files):
        raise UsageError("--style: expected at least one weight above 0, found none; raise one")
    return files

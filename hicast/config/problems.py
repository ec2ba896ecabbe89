"""Checking values against a settings model: all problems at once, each with its place, the expected and the found."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hicast.errors import SettingsError

Settings = TypeVar("Settings", bound=BaseModel)
Schema = Mapping[str, Any]

KINDS = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list",
    "object": "keys with values",
    "null": "null",
}


def validate(values: Mapping[str, Any], model: type[Settings], origin: str) -> Settings:
    """An instance of `model` from `values`; raises SettingsError with every problem, each begun with `origin`."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError(_sentences(error, model, origin)) from None


def examine(values: Mapping[str, Any], model: type[BaseModel], origin: str) -> tuple[dict[str, Any], list[str], set[str]]:
    """`values` without what `model` refuses, one sentence for everything refused, and the names of the keys on the way to it."""
    try:
        model.model_validate(dict(values))
    except ValidationError as error:
        places = [[part for part in detail["loc"] if part != "[key]"] for detail in error.errors()]
        kept: dict[str, Any] = dict(values)
        for place in places:
            kept = _without(kept, place)
        return kept, _sentences(error, model, origin), {part for place in places for part in place if isinstance(part, str)}
    return dict(values), [], set()


def _without(values: Mapping[str, Any], place: list[str | int]) -> dict[str, Any]:
    """`values` without the key at `place`, or without the last key on the way to it that holds no keys itself."""
    kept = dict(values)
    below = kept.pop(place[0], None) if place else None
    if isinstance(below, Mapping) and len(place) > 1 and (rest := _without(below, place[1:])):
        kept[place[0]] = rest
    return kept


def name_advice(name: str, known: Iterable[str]) -> str:
    """Advice on an unknown name: the known ones, and the nearest of them where one is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"known: {', '.join(known)}"


def _sentences(error: ValidationError, model: type[BaseModel], origin: str) -> list[str]:
    """Sentences in the order of pydantic's errors; the several errors of a union become one."""
    root = model.model_json_schema()
    return list(dict.fromkeys(_sentence(detail, root, origin) for detail in error.errors()))


def _sentence(detail: Mapping[str, Any], root: Schema, origin: str) -> str:
    """`origin: a.b: expected ..., found ...` for one pydantic error."""
    place = [part for part in detail["loc"] if part != "[key]"]
    if detail["type"] == "extra_forbidden" or "[key]" in detail["loc"]:
        parent, _ = _descend(root, place[:-1])
        advice = name_advice(str(place[-1]), _known_keys(parent))
        return f"{origin}: {_dotted(place)}: expected a known key, found {place[-1]}; {advice}"
    schema, reached = _descend(root, place)
    prefix = f"{origin}: {_dotted(reached)}" if reached else origin
    if detail["type"] == "missing":
        return f"{prefix}: expected {_describe(schema, root)}, found nothing; add the key"
    if detail["type"] in ("value_error", "assertion_error"):
        return f"{prefix}: {detail['ctx']['error']}"
    return f"{prefix}: expected {_describe(schema, root)}, found {_shown(detail['input'])}"


def _descend(root: Schema, place: list[str | int]) -> tuple[Schema, list[str | int]]:
    """The JSON schema at `place` and the part of `place` that could be followed."""
    schema, reached = _resolve(root, root), []
    for part in place:
        below = schema.get("properties", {}).get(part) or schema.get("additionalProperties") or schema.get("items")
        if not isinstance(below, Mapping):
            break
        schema = _resolve(below, root)
        reached.append(part)
    return schema, reached


def _resolve(schema: Schema, root: Schema) -> Schema:
    """`schema` with its reference into the definitions of `root` followed."""
    reference = schema.get("$ref")
    return root["$defs"][reference.rsplit("/", 1)[-1]] if reference else schema


def _known_keys(schema: Schema) -> list[str]:
    return list(schema.get("properties", {})) or list(schema.get("propertyNames", {}).get("enum", []))


def _describe(schema: Schema, root: Schema) -> str:
    """What a JSON schema allows, in words: `a whole number from 1 to 100 or null`."""
    schema = _resolve(schema, root)
    if "anyOf" in schema:
        return " or ".join(_describe(choice, root) for choice in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    kind = KINDS.get(schema.get("type", ""), "another value")
    low, high = schema.get("minimum"), schema.get("maximum")
    limits = [f"from {low:.12g} to {high:.12g}"] if low is not None and high is not None else []
    if not limits:
        bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
        limits = [f"{words} {schema[key]:.12g}" for key, words in bounds.items() if key in schema]
    if "multipleOf" in schema:
        limits.append(f"that is a multiple of {schema['multipleOf']:g}")
    return " ".join([kind, " and ".join(limits)]).strip()


def _dotted(place: Iterable[str | int]) -> str:
    return ".".join(map(str, place))


def _shown(value: Any) -> str:
    """`value` as the user would write it, on one line and not too long."""
    text = value if isinstance(value, str) and value else json.dumps(value, default=str)
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."

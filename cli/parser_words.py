"""The argument parser's own errors in our words: the option, what it expects, what it found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

CHOICES = re.compile(r"'([^']*)'")
NUMBERS = {"float_parsing": "a number", "int_parsing": "a whole number"}
LIMITS = {"greater_than_equal": ("ge", "a number of at least"), "less_than_equal": ("le", "a number of at most")}


def parser_line(error: Any) -> str:
    """One line for an error of the parser, whichever Click Typer brings along; in its own words where ours know no better."""
    command = getattr(getattr(error, "ctx", None), "command", None)
    if error.message.startswith("Missing command") and getattr(command, "commands", None):
        path = error.ctx.command_path
        return f"{path}: expected a command after it, found none; known: {', '.join(command.commands)} (see {path} --help)"
    cause, parameter = error.__cause__, getattr(error, "param", None)
    if parameter is not None and isinstance(cause, ValidationError):
        detail = cause.errors()[0]
        expected = _expected(detail)
        if expected:
            name = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name.upper()
            return f"{name}: expected {expected}, found {detail['input']}; see --help"
    return f"{error.format_message().rstrip('.')}; see --help"


def _expected(detail: Mapping[str, Any]) -> str | None:
    """What a value should have been, from one of pydantic's errors; None for kinds that no option of ours meets."""
    kind = detail["type"]
    if kind in LIMITS:
        bound, words = LIMITS[kind]
        return f"{words} {detail['ctx'][bound]:g}"
    _, found, known = detail["msg"].partition(" is not one of ")
    return f"one of {', '.join(CHOICES.findall(known))}" if found else NUMBERS.get(kind)

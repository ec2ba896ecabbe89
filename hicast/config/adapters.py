"""How much an adapter counts, and during which share of the sampling steps: `0.8`, or `0.8@0-0.6`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from hicast.errors import UsageError

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
WORD = re.compile(rf"({_NUMBER})(?:@({_NUMBER})-({_NUMBER}))?")
LOOKS_LIKE_WEIGHT = re.compile(r"\s*[-+]?\.?\d")
"""Text that begins like a number, so that a folder of an adapter that does must be written with `./`."""

LARGEST = 10.0
"""Far above what any picture bears; a percentage, or a point left out, is caught by it."""

EXPECTED = f"expected a weight from 0 to {LARGEST:g}, such as 0.8, or 0.8@0-0.6 for a share of the steps"
EXPECTED_SHARE = "expected a share of the steps that rises from 0 to 1, such as 0-0.6"


@dataclass(frozen=True)
class AdapterUse:
    """An adapter's `weight`, from 0 to 10 (`LARGEST`), from the share `start` to the share `end` of the sampling steps, which rise in [0, 1].

    Raises UsageError for other numbers.
    """

    weight: float
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is out of range, NaN too."""
        if not 0 <= self.weight <= LARGEST:
            raise UsageError(f"{EXPECTED}, found {self.weight:g}; 1 is as trained")
        if not 0 <= self.start < self.end <= 1:
            raise UsageError(f"{EXPECTED_SHARE}, found {self.start:g}-{self.end:g}; correct it, or leave it out for all steps")

    def at(self, step: int, steps: int) -> float:
        """The weight in the step with index `step` of `steps`: it counts where the middle of the step lies in its share."""
        return self.weight if self.start <= (step + 0.5) / steps < self.end else 0.0

    @classmethod
    def of(cls, value: float | AdapterUse) -> AdapterUse:
        """A plain number as a weight for all steps."""
        return value if isinstance(value, AdapterUse) else cls(float(value))


def uses_by_name(weights: Mapping[str, float | AdapterUse] | None) -> dict[str, AdapterUse]:
    """Weights by the adapter's name, plain numbers for all steps; none for None. Raises UsageError, which names the adapter."""
    found = {}
    for name, value in (weights or {}).items():
        try:
            found[name] = AdapterUse.of(value)
        except UsageError as error:
            raise UsageError(f"adapters.{name}: {error}") from None
    return found


def read_use(value: Any) -> AdapterUse:
    """A number, or text as `write_use` writes it; raises ValueError for anything else."""
    if isinstance(value, AdapterUse):
        return value
    text = "" if isinstance(value, bool) else str(value).strip()
    match = WORD.fullmatch(text)
    if match is None:
        raise ValueError(f"{EXPECTED}, found {value}")
    try:
        return AdapterUse(*(float(part) for part in match.groups() if part is not None))
    except UsageError as error:
        raise ValueError(str(error)) from None


def write_use(use: AdapterUse) -> float | str:
    """The shortest form that `read_use` takes back."""
    if (use.start, use.end) == (0, 1):
        return use.weight
    weight, start, end = (repr(number).removesuffix(".0") for number in (use.weight, use.start, use.end))
    return f"{weight}@{start}-{end}"


Use = Annotated[
    AdapterUse,
    PlainValidator(read_use),
    PlainSerializer(write_use),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": LARGEST}, {"type": "string"}]}),
]
"""The field of a settings model that holds one."""

"""How much an adapter counts, and during which share of the sampling steps: `0.8`, or `0.8@0-0.6`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
WORD = re.compile(rf"({_NUMBER})(?:@({_NUMBER})-({_NUMBER}))?")
LOOKS_LIKE_WEIGHT = re.compile(r"\s*[-+]?\.?\d")
"""Text that begins like a number, so that a folder of an adapter that does must be written with `./`."""

LARGEST = 10.0
"""Far above what any picture bears; a percentage, or a point left out, is caught by it."""

EXPECTED = f"expected a weight from 0 to {LARGEST:g}, such as 0.8, or 0.8@0-0.6 for a share of the steps"


@dataclass(frozen=True)
class AdapterUse:
    """An adapter's `weight`, 0 to `LARGEST` where it is read, from the share `start` to the share `end` of the sampling steps, both in [0, 1]."""

    weight: float
    start: float = 0.0
    end: float = 1.0

    def at(self, step: int, steps: int) -> float:
        """The weight in the step with index `step` of `steps`: it counts where the middle of the step lies in its share."""
        return self.weight if self.start <= (step + 0.5) / steps < self.end else 0.0

    @classmethod
    def of(cls, value: float | AdapterUse) -> AdapterUse:
        """A plain number as a weight for all steps."""
        return value if isinstance(value, AdapterUse) else cls(float(value))


def read_use(value: Any) -> AdapterUse:
    """A number, or text as `write_use` writes it; raises ValueError for anything else."""
    if isinstance(value, AdapterUse):
        return value
    text = "" if isinstance(value, bool) else str(value).strip()
    match = WORD.fullmatch(text)
    if match is None:
        raise ValueError(f"{EXPECTED}, found {value}")
    weight, start, end = (None if part is None else float(part) for part in match.groups())
    if weight > LARGEST:
        raise ValueError(f"{EXPECTED}, found {value}")
    if start is None:
        return AdapterUse(weight)
    if not 0 <= start < end <= 1:
        raise ValueError(f"expected a share of the steps that rises from 0 to 1, such as 0-0.6, found {start:g}-{end:g}")
    return AdapterUse(weight, start, end)


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

"""Options that commands share, each with its name, its help and its reading of words."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel

from hicast.errors import UsageError

from .console import Console

NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


def _option(*names: str, **more: Any) -> Any:
    return typer.Option(*names, show_default=False, **more)


Json = Annotated[bool, _option("--json", help="Print one JSON document on standard output.")]
Quiet = Annotated[bool, _option("--quiet", "-q", help="No progress and no notes.")]
Verbose = Annotated[bool, _option("--verbose", "-v", help="Say more; with the traceback after an error.")]

Inputs = Annotated[list[str], typer.Argument(metavar="INPUT", help="Pictures, folders of pictures, or - for standard input.", show_default=False)]
Output = Annotated[
    str | None,
    _option(
        "--output", "-o", metavar="PATH",
        help="A file for one input, a folder for several, or - for standard output. Default: NAME-STYLE.EXT in the working folder.",
    ),
]  # fmt: skip
KeepSize = Annotated[bool | None, _option("--keep-size", help="Leave the result at the working size.")]
Overwrite = Annotated[bool, _option("--overwrite", help="Replace results that are already there.")]
SkipExisting = Annotated[bool, _option("--skip-existing", help="Leave out inputs whose result is already there.")]

Style = Annotated[list[str], _option("--style", metavar="FILE[=WEIGHT]", help="A painting; repeat to blend several by weight.")]
Preset = Annotated[str | None, _option("--preset", metavar="NAME", help="A named look (hicast presets list) or a YAML file. Default: balanced.")]
StyleScale = Annotated[float | None, _option("--style-scale", metavar="X", help="Strength of the style, from 0 to 2.")]
ContentScale = Annotated[float | None, _option("--content-scale", metavar="X", help="Strength of the content, from 0 to 3.")]
Size = Annotated[int | None, _option("--size", metavar="N", help="Short side in pixels to work at; the result has the input's size.")]
Steps = Annotated[int | None, _option("--steps", metavar="N", help="Sampling steps, from 1 to 100.")]
Scheduler = Annotated[str | None, _option("--scheduler", metavar="NAME", help="Sampler of diffusers, such as ddim.")]
Seed = Annotated[int | None, _option("--seed", metavar="N", help="Start of the noise; the same seed gives the same bytes. Default: 0.")]
FromSettings = Annotated[
    Path | None,
    _option("--from-settings", metavar="FILE", help="Settings from JSON, YAML or an earlier result, which holds its own."),
]
Set = Annotated[list[str] | None, _option("--set", metavar="KEY=VALUE", help="Any setting by its name; repeat for several.")]

Model = Annotated[str | None, _option("--model", metavar="NAME", help="compact, or a model folder. Default: compact.")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"] | None, _option("--device", help="Where to compute. Default: auto.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    _option("--dtype", help="Precision of the nets; float16 on a GPU only. Default: auto."),
]
Tile = Annotated[int | None, _option("--tile", metavar="N", help="Side of tiles for large pictures, in pixels; smaller takes less memory.")]
MaxMegapixels = Annotated[float | None, _option("--max-megapixels", metavar="X", help="Largest picture that is read. Default: 100.")]


def open_console(ctx: typer.Context, as_json: bool, quiet: bool, verbose: bool) -> Console:
    """The run's console with the switches that every command has."""
    console: Console = ctx.obj
    console.json, console.quiet, console.verbose = as_json, quiet, verbose
    return console


def given_flags(ctx: typer.Context, model: type[BaseModel]) -> dict[str, Any]:
    """Named options that the user gave and that are settings of `model`: the strongest layer."""
    return {key: value for key, value in ctx.params.items() if key in model.model_fields and value is not None}


def weighted_file(word: str) -> tuple[Path, float]:
    """`FILE[=WEIGHT]` taken apart at the last `=` that a number follows, so that names may hold `=`; weight 1 if none is given."""
    name, equals, number = word.rpartition("=")
    if not equals or not name or not NUMBER.fullmatch(number):
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

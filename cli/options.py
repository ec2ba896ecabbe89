"""Options that commands share, each with its name, its help and its reading of words."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel

from hicast.errors import UsageError

from .console import Console

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

Style = Annotated[list[str] | None, _option("--style", metavar="FILE[=WEIGHT]", help="A painting; repeat to blend several by weight.")]
Preset = Annotated[str | None, _option("--preset", metavar="NAME", help="A named look (hicast presets list) or a YAML file. Default: balanced.")]
StyleScale = Annotated[float | None, _option("--style-scale", metavar="X", help="Strength of the style, from 0 to 2.")]
ContentScale = Annotated[float | None, _option("--content-scale", metavar="X", help="Strength of the content, from 0 to 3.")]
Texture = Annotated[float | None, _option("--texture", metavar="X", help="How much of the painting's surface skies and walls get, from 0 (smooth) to 2.")]
Size = Annotated[int | None, _option("--size", metavar="N", help="Short side in pixels to work at; the result has the input's size.")]
Steps = Annotated[int | None, _option("--steps", metavar="N", help="Sampling steps, from 1 to 100.")]
Scheduler = Annotated[str | None, _option("--scheduler", metavar="NAME", help="Sampler of diffusers, such as ddim.")]
Seed = Annotated[int | None, _option("--seed", metavar="N", help="Start of the noise; the same seed gives the same bytes. Default: 0.")]
Adapter = Annotated[
    list[str] | None,
    _option(
        "--adapter", metavar="NAME=WEIGHT[@START-END]",
        help="How firmly edge, depth or seg of the photo is held: 0 not at all, 1 as trained; 0.8@0-0.6 in a share of the steps.",
    ),
]  # fmt: skip
Control = Annotated[
    list[str] | None,
    _option("--control", metavar="NAME=MAP", help="Own map for an adapter: a file, or a folder that mirrors the inputs."),
]
Extractor = Annotated[list[str] | None, _option("--extractor", metavar="NAME=WHICH", help="What draws an adapter's map, such as edge=canny.")]
Region = Annotated[
    list[str] | None,
    _option(
        "--region", metavar="WHERE:KEY=VALUE",
        help="A part of the picture with its own style_scale=X or style=FILE (both: with a comma); WHERE is a mask file, a folder of "
        "masks, or an extractor's name. Repeat for several; later ones lie above.",
    ),
]  # fmt: skip
KeepOutside = Annotated[bool | None, _option("--keep-outside", help="Keep the photo's very pixels where no region is.")]
PreserveColor = Annotated[bool | None, _option("--preserve-color", help="Keep the photo's colours; only the lightness is painted.")]
Sweep = Annotated[
    list[str] | None,
    _option(
        "--sweep", metavar="KEY=V1,V2,...",
        help="A labelled sheet of results for several values of style_scale, content_scale, texture, steps, seed, edge, ...; repeat for rows.",
    ),
]  # fmt: skip
SaveSettings = Annotated[bool, _option("--save-settings", help="Write the settings beside each result too, as RESULT.json.")]
FromSettings = Annotated[
    Path | None,
    _option("--from-settings", metavar="FILE", help="Settings from JSON, YAML or an earlier result, which holds its own."),
]
Set = Annotated[list[str] | None, _option("--set", metavar="KEY=VALUE", help="Any setting by its name; repeat for several.")]

Videos = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT", show_default=False, help="Videos, folders of videos, numbered pictures (frame-%05d.png), or - for standard input."
    ),
]
VideoOutput = Annotated[
    str | None,
    _option(
        "--output", "-o", metavar="PATH",
        help="A file for one input (mp4, mov, mkv, webm, avi, gif, or frame-%05d.png for pictures), a folder for several, or - for "
        "standard output (Matroska). Default: NAME-STYLE.EXT in the working folder.",
    ),
]  # fmt: skip
Start = Annotated[str | None, _option("--start", metavar="T", help="Leave out what comes before: 90, 1:30, 500ms, 2m.")]
End = Annotated[str | None, _option("--end", metavar="T", help="Leave out what comes after.")]
Preview = Annotated[str | None, _option("--preview", metavar="T", help="Only so much, from --start on.")]
WindowFrames = Annotated[int | None, _option("--window", metavar="N", help="Frames that are painted together, from 1 to 128.")]
OverlapFrames = Annotated[int | None, _option("--overlap", metavar="N", help="Frames that neighbouring windows share.")]
Codec = Annotated[
    str | None,
    _option("--codec", metavar="NAME", help="h264, hevc, vp9, av1, prores, ffv1, or an encoder of FFmpeg. Default: h264 (webm: vp9)."),
]
Crf = Annotated[
    float | None, _option("--crf", metavar="X", help="Quality of the encoding: lower is better and larger. Default: 18 for h264.")
]
NoAudio = Annotated[bool, _option("--no-audio", help="Leave out the sound.")]
Passthrough = Annotated[bool, _option("--passthrough", help="Decode and encode only, without the nets: to see what that alone does.")]
NoResume = Annotated[bool, _option("--no-resume", help="Begin anew, also where an earlier run has left finished frames.")]

Model = Annotated[str | None, _option("--model", metavar="NAME", help="compact, sd15 (hicast models), a model folder, or a hub id. Default: compact.")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"] | None, _option("--device", help="Where to compute. Default: auto.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    _option("--dtype", help="Precision of the nets; float16 on a GPU only. Default: auto."),
]
Tile = Annotated[int | None, _option("--tile", metavar="N", help="Side of tiles for large pictures, in pixels; smaller takes less memory.")]
Engine = Annotated[
    Literal["auto", "torch", "openvino"] | None,
    _option("--engine", help="What runs the net on a CPU: torch, or openvino, which is faster (pip install openvino). Default: openvino where it can."),
]
Compile = Annotated[bool | None, _option("--compile", help="Compile the net first: slow to begin, then faster steps. Worth it on a GPU with many inputs.")]
Offload = Annotated[
    Literal["none", "model", "sequential"] | None,
    _option("--offload", help="What of the model is on the GPU: all, the part that computes, or the layer that computes. Default: none."),
]
MaxMegapixels = Annotated[float | None, _option("--max-megapixels", metavar="X", help="Largest picture that is read. Default: 100.")]


TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h)?")
TIME_UNITS = {None: Fraction(1), "ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}


def parse_time(option: str, word: str | None) -> Fraction | None:
    """Seconds of `90`, `1:30`, `0:01:30.5`, `500ms`, `2m` or `1h`; None for None. Raises UsageError for other words."""
    if word is None:
        return None
    match = TIME.fullmatch(word.strip())
    if match is None or (match[2] and match[4]):
        raise UsageError(f"{option} {word}: expected a time such as 90, 1:30, 500ms or 2m, found {word}; write seconds or minutes:seconds")
    hours, minutes, seconds, unit = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + Fraction(seconds) * TIME_UNITS[unit]


def open_console(ctx: typer.Context, as_json: bool, quiet: bool, verbose: bool) -> Console:
    """The run's console with the switches that every command has; raises UsageError for `quiet` and `verbose` together."""
    if quiet and verbose:
        raise UsageError("expected --quiet or --verbose, found both; leave one out")
    console: Console = ctx.obj
    console.json, console.quiet, console.verbose = as_json, quiet, verbose
    return console


def given_flags(ctx: typer.Context, model: type[BaseModel]) -> dict[str, Any]:
    """Named options that the user gave and that are settings of `model`: the strongest layer."""
    return {key: value for key, value in ctx.params.items() if key in model.model_fields and value is not None}

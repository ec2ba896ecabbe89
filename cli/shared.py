"""Options that several commands take, in groups, and their place behind a command's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from . import options

Group = tuple[tuple[str, Any, Any], ...]
"""Parameters: name, annotation with option and help, and value where the option is not given."""

LOOK: Group = (
    ("preset", options.Preset, None),
    ("style_scale", options.StyleScale, None),
    ("content_scale", options.ContentScale, None),
    ("adapter", options.Adapter, None),
    ("control", options.Control, None),
    ("extractor", options.Extractor, None),
    ("region", options.Region, None),
    ("keep_outside", options.KeepOutside, None),
    ("preserve_color", options.PreserveColor, None),
    ("size", options.Size, None),
    ("keep_size", options.KeepSize, None),
    ("steps", options.Steps, None),
    ("scheduler", options.Scheduler, None),
    ("seed", options.Seed, None),
    ("from_settings", options.FromSettings, None),
    ("set_words", options.Set, None),
)
RUN: Group = (
    ("save_settings", options.SaveSettings, False),
    ("overwrite", options.Overwrite, False),
    ("skip_existing", options.SkipExisting, False),
    ("model", options.Model, None),
    ("device", options.Device, None),
    ("dtype", options.Dtype, None),
    ("tile", options.Tile, None),
    ("engine", options.Engine, None),
    ("compile", options.Compile, None),
    ("offload", options.Offload, None),
    ("max_megapixels", options.MaxMegapixels, None),
)
VOICE: Group = (("as_json", options.Json, False), ("quiet", options.Quiet, False), ("verbose", options.Verbose, False))


def takes(*groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command function the options of `groups` in place of its `**shared`, where Typer looks for them."""

    def extended(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for group in groups
            for name, annotation, default in group
        ]
        function.__signature__ = inspect.Signature([*own, *more], return_annotation=None)
        function.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *more)} | {"return": None}
        return function

    return extended

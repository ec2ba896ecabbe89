"""Options that the `eval` commands share, and what their words mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hicast.config.layers import Layer, parse_set
from hicast.config.stylize import StylizeSettings, asked_adapters, resolve_stylize, stylize_layers
from hicast.errors import UsageError

from .console import Console
from .request import check_device, chosen_engine

if TYPE_CHECKING:
    from hicast.evaluation.painter import Painter
    from hicast.evaluation.runner import Evaluation

COMMAND = "eval"


def _option(*names: str, **more: Any) -> Any:
    return typer.Option(*names, show_default=False, **more)


Content = Annotated[Path | None, _option("--content", metavar="PATH", help="Folder of photos, or one. With --pairs: default content beside it.")]
Clips = Annotated[Path | None, _option("--content", metavar="PATH", help="Folder of source clips, or one. With --pairs: default content beside it.")]
Style = Annotated[Path | None, _option("--style", metavar="PATH", help="Folder of paintings, or one. With --pairs: default style beside it.")]
Stylized = Annotated[Path | None, _option("--stylized", metavar="FOLDER", help="Results to judge, named by the pairs file or by their stems.")]
Pairs = Annotated[
    Path | None, _option("--pairs", metavar="FILE", help="CSV with the columns content,style (and kind); result k is 000.png, 001.png, ...")
]
Peers = Annotated[list[str] | None, _option("--peers", metavar="NAME=FOLDER", help="Results of another method; repeat for several.")]
Model = Annotated[str | None, _option("--model", metavar="NAME", help="Stylize the pairs first: compact, or a model folder.")]
Preset = Annotated[str | None, _option("--preset", metavar="NAME", help="The look to stylize in. Default: balanced.")]
Metrics = Annotated[str | None, _option("--metrics", metavar="LIST", help="Names apart by commas. Default: all that can be had.")]
Weights = Annotated[
    list[str] | None,
    _option("--weights", metavar="NAME=PATH", help="Weights of vgg19, lpips (a folder), inception or an extractor such as hed; repeat for several."),
]
Extractors = Annotated[list[str] | None, _option("--extractor", metavar="CONTROL=NAME", help="Which extractor draws the maps of a control.")]
CompareSize = Annotated[int, typer.Option("--size", metavar="N", help="Side in pixels at which everything is compared.")]
BatchSize = Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Pictures that pass the net together.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the report goes.")]
Overwrite = Annotated[bool, _option("--overwrite", help="Replace a report that is already there.")]


def named(option: str, words: list[str] | None) -> dict[str, str]:
    """`NAME=VALUE` words by name; raises UsageError for other words and for a name given twice."""
    found: dict[str, str] = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not (equals and name and value):
            raise UsageError(f"{option} {word}: expected NAME=VALUE, found {word}; put a name and = before it")
        if name in found:
            raise UsageError(f"{option} {name}: expected each name once, found it twice; leave one out")
        found[name] = value
    return found


def named_paths(option: str, words: list[str] | None) -> dict[str, Path]:
    """`NAME=PATH` words by name."""
    return {name: Path(value) for name, value in named(option, words).items()}


def listed(words: str | None) -> list[str] | None:
    """Names apart by commas; None for None."""
    return [word.strip() for word in words.split(",") if word.strip()] if words is not None else None


def model_name(model: str) -> str:
    """What a model is called in tables: its name, or that of its folder."""
    path = Path(model)
    return (path.resolve() if path.is_dir() else path).name or "model"


@dataclass(frozen=True)
class Wanted:
    """How a model is to stylize before it is judged: the `layers` of its settings, and these without the model's own defaults.

    `asked` are adapters that the user has named, not just a preset.
    """

    settings: StylizeSettings
    layers: tuple[Layer, ...]
    asked: frozenset[str]

    def of(self, model: str | Path) -> Wanted:
        """The same of another model."""
        layers = (*self.layers, Layer("command line", {"model": str(model)}))
        return replace(self, settings=resolve_stylize(layers), layers=layers)


def wanted_look(console: Console, preset: str | None, set_words: list[str] | None, model: str | None, device: str | None) -> Wanted:
    """How a model is to stylize before it is judged: presets, `hicast.yaml` (section eval) and --set as everywhere.

    Raises ModelError for a model that is not there.
    """
    flags = {key: value for key, value in (("model", model), ("device", device)) if value is not None}
    _, layers = stylize_layers(COMMAND, preset, None, parse_set(set_words or []), flags)
    settings = resolve_stylize(layers)
    from hicast.io.weights import resolve_model

    resolve_model(settings.model, console.info)
    return Wanted(settings, tuple(layers), frozenset(asked_adapters(layers)))


def open_painter(console: Console, wanted: Wanted, weights: dict[str, Path]) -> tuple[Painter, StylizeSettings]:
    """The model ready to paint, and the settings over its defaults, without adapters that only a preset names and it lacks."""
    settings = wanted.settings
    check_device(settings)
    from hicast.evaluation.painter import Painter, used_adapters
    from hicast.pipeline import HiCastPipeline

    more = {"adapters": settings.adapter_folders} if settings.adapter_folders else {}
    more |= {"engine": chosen_engine(settings, console.info), "on_note": console.info}
    pipeline = HiCastPipeline.from_pretrained(settings.model, device=settings.device, dtype=settings.dtype, **more)
    console.detail(f"model {settings.model} loaded, engine {pipeline.engine}")
    settings = resolve_stylize(wanted.layers, pipeline.defaults)
    lacking = [name for name in used_adapters(settings) if name not in pipeline.adapters.names and name not in wanted.asked]
    for name in lacking:
        console.info(f"adapter {name} of the preset is left out: model {settings.model} has none")
    kept = {name: use for name, use in settings.adapters.items() if name not in lacking}
    return Painter(pipeline, weights), settings.model_copy(update={"adapters": kept, "engine": pipeline.engine})


def show_table(console: Console, done: Evaluation) -> None:
    """The means of every method, for people."""
    from hicast.evaluation.tables import number

    if console.json:
        return
    sets = list(next(iter(done.whole.values()), {}))
    head = ("method", *(f"{column.name} {'+' if column.higher else '-'}" for column in done.columns), *(f"{name} -" for name in sets))
    console.info(f"net {done.net}; + higher is better, - lower is better")
    rows = [(m, *(number(done.estimate(m, c.name).mean) for c in done.columns), *(number(done.whole[m][name]) for name in sets)) for m in done.methods]
    console.table(head, rows)


def finish(console: Console, done: Evaluation, written: list[Path], failed: list[dict[str, str]], more: dict[str, Any] | None = None) -> None:
    """Notes and failures to the user, the table and the page's path as results; leaves with 1 where files were broken.

    `more` joins the JSON document.
    """
    from hicast.evaluation.tables import document

    failed = list({entry["error"]: entry for entry in failed}.values())
    for note in done.notes:
        console.info(note)
    for entry in failed:
        console.info(f"hicast: {entry['error']}")
    if failed:
        console.info(f"{len(failed)} {'files' if len(failed) > 1 else 'file'} could not be used")
    show_table(console, done)
    console.document(document(done) | {"failed": failed, "files": [str(path) for path in written]} | (more or {}))
    console.result(str(written[0]))
    if failed:
        raise typer.Exit(1)

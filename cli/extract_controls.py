"""`hicast extract-controls`: control maps of pictures and videos, stored for stylizing and for training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hicast import __version__
from hicast.config.problems import name_advice
from hicast.controls import CONTROLS, ExtractorKind, find_extractor
from hicast.controls.store import MapFolder, MapSource, find_sources
from hicast.errors import InputError, ModelError, OutputError, UsageError
from hicast.io.files import check_target
from hicast.io.images import Picture, load_picture, save_picture

from . import options
from .console import Console
from .failures import explain

if TYPE_CHECKING:
    import torch

    from hicast.controls import Extractor

FILM_CRF = 10.0
"""Quality of videos of maps: hardly any loss."""

Controls = Annotated[str, typer.Option("--controls", metavar="LIST", help="Which maps, such as edge,depth,seg. Default: edge,depth,seg.", show_default=False)]
Folder = Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where the maps go: FOLDER/edge/NAME.png and so on.", show_default=False)]
Overlay = Annotated[bool, typer.Option("--overlay", help="Also a picture to look at, the map over its source, in FOLDER/overlay.")]
ExtractorOf = Annotated[
    list[str] | None,
    typer.Option(
        "--extractor", metavar="NAME=WHICH", show_default=False,
        help="Another extractor of a control, such as edge=canny; edge=hed:PATH says where its weights lie.",
    ),
]  # fmt: skip
MapSize = Annotated[int | None, typer.Option("--size", metavar="N", min=32, max=8192, help="Short side in pixels to draw at. Default: that of the source.", show_default=False)]


def extract_controls(
    ctx: typer.Context,
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT", help="Pictures, videos, or folders of them.", show_default=False)],
    output: Folder,
    controls: Controls = "edge,depth,seg",
    extractor: ExtractorOf = None,
    size: MapSize = None,
    overlay: Overlay = False,
    overwrite: options.Overwrite = False,
    skip_existing: options.SkipExisting = False,
    device: options.Device = None,
    max_megapixels: options.MaxMegapixels = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Draw control maps of pictures and videos: edges, depth and regions; maps that are there already stay."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    if overwrite and skip_existing:
        raise UsageError("expected --overwrite or --skip-existing, found both; leave one out")
    chosen = choose_extractors(controls, extractor or [])
    root = Path(output)
    sources = find_sources(inputs, root)
    work = Extraction(console, chosen, root, size, overlay, overwrite, skip_existing, device or "auto", max_megapixels or 100.0)
    work.run(sources)
    console.document(work.report())
    if work.failed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Choice:
    """The extractor of a control by name, and where its weights lie (None: its usual place)."""

    name: str
    kind: ExtractorKind
    weights: Path | None


def choose_extractors(controls: str, words: list[str]) -> dict[str, Choice]:
    """What `--controls` and `--extractor` ask for; raises UsageError for unknown, doubled and superfluous names."""
    wanted = [name.strip() for name in controls.split(",") if name.strip()]
    if not wanted or len(set(wanted)) < len(wanted):
        raise UsageError(f"--controls: expected names such as edge,depth,seg, each once, found '{controls}'; name each that is wanted, apart by commas")
    chosen = {name: Choice(*find_extractor(name), None) for name in wanted}
    named: set[str] = set()
    for word in words:
        control, equals, which = word.partition("=")
        if not equals or not which:
            raise UsageError(f"--extractor {word}: expected NAME=WHICH, found no {'=' if not equals else 'name'}; write edge=canny")
        if control not in chosen:
            raise UsageError(f"--extractor {word}: expected a control of --controls, found {control}; {name_advice(control, chosen)}")
        if control in named:
            raise UsageError(f"--extractor {word}: expected one extractor for {control}, found two; leave one out")
        named.add(control)
        name, _, place = which.partition(":")
        chosen[control] = Choice(*find_extractor(control, name), Path(place) if place else None)
    return chosen


@dataclass
class Extraction:
    """The maps of a run, source after source; an extractor is opened when the first map wants it."""

    console: Console
    chosen: dict[str, Choice]
    root: Path
    size: int | None
    overlay: bool
    overwrite: bool
    skip_existing: bool
    device: str
    max_megapixels: float
    results: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    _open: dict[str, Extractor] = field(default_factory=dict)

    def run(self, sources: list[MapSource]) -> None:
        """Draw all that is missing; a file that cannot be done is reported and left behind.

        Raises UsageError, ModelError and all else that opening an extractor raises.
        """
        folders = {control: MapFolder(self.root, control) for control in self.chosen}
        try:
            with self.console.progress("control maps") as on_progress:
                for number, source in enumerate(sources):
                    on_progress(number, len(sources))
                    self._do(source, folders)
                on_progress(len(sources), len(sources))
        finally:
            for folder in folders.values():
                folder.save()
        if self.skipped:
            self.console.info(f"{len(self.skipped)} maps were there already")
        if self.failed and len(sources) > 1:
            self.console.info(f"{len(self.failed)} of {len(sources)} files failed")

    def report(self) -> dict[str, Any]:
        """The JSON document of the run."""
        return {"hicast": __version__, "command": "extract-controls", "extractors": {name: each.name for name, each in self.chosen.items()},
                "results": self.results, "skipped": self.skipped, "failed": self.failed}  # fmt: skip

    def entry(self, source: MapSource, control: str) -> dict[str, Any]:
        """What the manifest says of a map: the source, the extractor and its parameters."""
        choice = self.chosen[control]
        return {"source": source.about, "extractor": choice.name, "weights": str(choice.weights) if choice.weights else None,
                "size": self.size, "hicast": __version__}  # fmt: skip

    def _do(self, source: MapSource, folders: dict[str, MapFolder]) -> None:
        """All maps of one source."""
        try:
            missing = {control: self.entry(source, control) for control in folders if not self._is_done(source, folders[control])}
            picture = load_picture(source.path, self.max_megapixels) if missing and not source.is_film else None
        except Exception as error:
            self._leave(source, error)
            return
        for control, entry in missing.items():
            extractor = self._extractor(control)
            try:
                self._draw(source, picture, extractor, folders[control])
            except (UsageError, ModelError):
                raise
            except Exception as error:
                self._leave(source, error)
                return
            folders[control].add(source, entry)
            self.results.append({"input": str(source.path), "control": control, "output": str(folders[control].target(source))})
            self.console.result(str(folders[control].target(source)))

    def _is_done(self, source: MapSource, folder: MapFolder) -> bool:
        """Whether a map is there already; raises InputError or OutputError where it cannot or must not be drawn."""
        target = folder.target(source)
        same = folder.has(source, self.entry(source, folder.control)) and (not self.overlay or folder.overlay(source).is_file())
        if (same and not self.overwrite) or (self.skip_existing and target.is_file()):
            self.skipped.append(str(target))
            return True
        if not folder.has(source, self.entry(source, folder.control)):
            changes = folder.changes(source, self.entry(source, folder.control))
            if changes and target.is_file() and not self.overwrite:
                raise OutputError(f"{target}: expected no map, or one drawn just so, found one of {changes}; add --overwrite to draw anew, or --skip-existing")
            check_target(target, self.overwrite)
        return False

    def _draw(self, source: MapSource, picture: Picture | None, extractor: Extractor, folder: MapFolder) -> None:
        """Write the map of a source, and the picture to look at where it is wanted."""
        from hicast.controls.draw import draw_map, overlay

        target = folder.target(source)
        if source.is_film:
            self._film(source, extractor, folder)
            return
        pixels = draw_map(extractor, picture.pixels, self.size, self._torch_device)
        save_picture(Picture(pixels), target, settings=self.entry(source, folder.control), overwrite=True)
        if self.overlay:
            save_picture(Picture(overlay(picture.pixels, pixels)), folder.overlay(source), overwrite=True)

    def _film(self, source: MapSource, extractor: Extractor, folder: MapFolder) -> None:
        """Write the video of maps, and the one to look at where it is wanted; raises InputError where a part is lost."""
        from hicast.controls.draw import film_painter, overlay
        from hicast.io.film import Film, make_film

        name, lost = f"{source.path} {folder.control}", None
        with self.console.progress(f"{name}: range") as on_progress:
            draw = film_painter(extractor, source.path, self.size, self._torch_device, on_progress)
        for target in (folder.target(source), folder.overlay(source))[: 1 + self.overlay]:
            over = target != folder.target(source)

            def paint(frames: Any, first: int, lead: int, over: bool = over) -> Any:
                return (overlay(pixels, draw(pixels)) if over else draw(pixels) for pixels in frames)

            film = Film(source.path, target, crf=FILM_CRF, keep_audio=False, look=self.entry(source, folder.control) | {"overlay": over})
            with self.console.film(name, film.step) as on_progress:
                lost = make_film(film, paint, overwrite=True, on_progress=on_progress, on_note=self.console.detail).lost
        if lost:
            raise InputError(f"{source.path}: expected a whole video, {lost}; the maps are of what could be decoded")

    def _extractor(self, control: str) -> Extractor:
        """The open extractor of a control."""
        if control not in self._open:
            import torch

            choice = self.chosen[control]
            self._open[control] = choice.kind.open(choice.weights, self._torch_device, torch.float32)
        return self._open[control]

    @property
    def _torch_device(self) -> torch.device:
        from hicast.models.device import pick_device

        return pick_device(self.device)

    def _leave(self, source: MapSource, error: Exception) -> None:
        """Report what has gone wrong with one source."""
        self.console.failure(error)
        self.failed.append({"input": str(source.path), "error": explain(error)[0]})

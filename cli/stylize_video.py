"""`hicast stylize-video`: clips and films in the style of one or several paintings."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import typer

from hicast.config.stylize import check_windows, resolve_stylize
from hicast.errors import InputError, UsageError
from hicast.io.files import VIDEOS, PlannedOutput
from hicast.io.film import Film, make_film
from hicast.io.film_share import Share
from hicast.io.images import to_pixels, to_tensor
from hicast.io.metadata import settings_comment
from hicast.io.model_places import clip_model, model_files
from hicast.io.video_codecs import STREAM_SUFFIX, pick_codec
from hicast.io.video_read import Span, VideoReader

from . import options
from .batch import Batch, name_of
from .film_memory import expected_bytes
from .foresight import look_ahead
from .recorded import read_record
from .request import read_request
from .shared import LOOK, RUN, VOICE, takes
from .shares import is_follower, open_share, run_shared
from .spool import spooled

if TYPE_CHECKING:
    import numpy as np

COMMAND = "stylize-video"


@dataclass(frozen=True)
class Choices:
    """What is asked of every video of a run beside its look."""

    span: Span
    codec: str | None
    crf: float | None
    keep_audio: bool
    passthrough: bool
    resume: bool


@takes(LOOK, RUN, VOICE)
def stylize_video(
    ctx: typer.Context,
    inputs: options.Videos,
    style: options.Style = None,
    output: options.VideoOutput = None,
    start: options.Start = None,
    end: options.End = None,
    preview: options.Preview = None,
    window: options.WindowFrames = None,
    overlap: options.OverlapFrames = None,
    codec: options.Codec = None,
    crf: options.Crf = None,
    no_audio: options.NoAudio = False,
    passthrough: options.Passthrough = False,
    no_resume: options.NoResume = False,
    **shared: Any,
) -> None:
    """Paint videos in the style of one or several paintings, with their sound; stopped work goes on."""
    console = options.open_console(ctx, shared["as_json"] and not is_follower(), shared["quiet"] or is_follower(), shared["verbose"])
    record = read_record(shared["from_settings"])
    if not style and not passthrough and not (record and record.styles):
        raise UsageError("--style: expected a painting, found none; name one, or add --passthrough")
    choices = Choices(_span(start, end, preview), codec, crf, not no_audio, passthrough, not no_resume)
    cut = {key: value for key, value in (("window", window), ("overlap", overlap)) if value is not None}
    request = read_request(ctx, COMMAND, VIDEOS, record, {"video": cut} if cut else None)
    for item in request.plan:
        pick_codec(item.target.suffix.lower() if item.target else STREAM_SUFFIX, codec, crf)
    console.results_to_stderr = is_follower() or any(item.target is None for item in request.plan)
    with ExitStack() as stack:
        batch = VideoBatch(console, request, shared["overwrite"], shared["skip_existing"], shared["save_settings"], choices=choices, stack=stack)
        share = open_share(stack)
        run_shared(batch, request.plan, share) if share else batch.run(request.plan)
    console.document(batch.report())
    if batch.failed:
        raise typer.Exit(1)


@dataclass(kw_only=True)
class VideoBatch(Batch):
    """Many videos with one model; `stack` holds what is to be cleared away at the end."""

    noun = "video"

    choices: Choices
    stack: ExitStack
    share: Share | None = None
    """The processes that make every video together, if they do."""
    foretold: bool = False
    """Whether it has been said what a window takes."""
    paths: dict[PlannedOutput, Path] = field(default_factory=dict)
    """Where the videos lie that came through a pipe."""

    def read(self, item: PlannedOutput) -> VideoReader:
        """The probed video."""
        self.paths[item] = item.source or spooled(sys.stdin.buffer, self.stack)
        try:
            return VideoReader(self.paths[item], self.choices.span)
        except InputError as error:
            raise InputError(self._named(item, str(error))) from None

    def look_ahead(self, content: VideoReader) -> None:
        """What one window takes, of the settings over the model's defaults; raises UsageError where it is no longer than the overlap."""
        from hicast.io.bases import model_defaults

        settings = resolve_stylize(self.request.layers, model_defaults(self.model()))
        check_windows(settings.video.window, settings.video.overlap)
        self.foretold = look_ahead(self.console, settings, self.model(), (content.info.height, content.info.width), clip=True)

    def begin_again(self) -> None:
        """Frames that are done have been painted with other settings, so they are painted anew."""
        super().begin_again()
        self.choices = replace(self.choices, resume=False)

    @property
    def needs_model(self) -> bool:
        """Whether frames are painted, or passed through as they are."""
        return not self.choices.passthrough

    def stylize(self, item: PlannedOutput, content: VideoReader, label: str) -> None:
        """Stylize and write one video; raises InputError at the end where a part of it could not be decoded."""
        film, begun = self._film(item), perf_counter()
        self.console.info(f"{label}: {_described(content)}{self._needs(content.info)}")
        if item.target:
            self.console.interrupt_advice = f"the same command goes on with {item.target} after the last frames that are finished"
        paint = None if self.choices.passthrough else self._painter(item, content)
        with self.console.film(label, film.step) as on_progress:
            outcome = make_film(film, paint, resume=self.choices.resume, overwrite=self.overwrite, share=self.share, on_progress=on_progress,
                                on_note=lambda text: self.console.info(self._named(item, text)))  # fmt: skip
        if self.share and not self.share.leads:
            return
        self.console.detail(f"{label}: {outcome.frames} frames in {perf_counter() - begun:.2f} s")
        self.done(item, frames=outcome.frames, resumed=outcome.resumed)
        if outcome.lost:
            raise InputError(f"{name_of(item.source)}: expected a whole video, {outcome.lost}; the result holds what could be decoded")

    def model(self) -> str | Path:
        """The model's part for clips, where it has one."""
        return clip_model(self.settings.model)

    def _needs(self, info: VideoInfo) -> str:
        """The memory that is expected, in words; nothing where no net is used, it cannot be counted, or it has been said."""
        if self.foretold or not hasattr(self.pipeline, "frames_at_once"):
            return ""
        return f"; expects {expected_bytes(self.pipeline, self.settings, info) / 2**30:.1f} GiB of memory"

    def leave(self, item: PlannedOutput, error: Exception) -> None:
        """As ever; of videos that several processes make together the first one reports."""
        if self.share is None or self.share.leads:
            super().leave(item, error)

    def _named(self, item: PlannedOutput, text: str) -> str:
        """`text` with standard input called by that name."""
        return text if item.source else text.replace(str(self.paths[item]), "standard input")

    def _film(self, item: PlannedOutput) -> Film:
        """What is to be made of one input."""
        choices, video = self.choices, self.settings.video
        context = video.overlap if self.pipeline is not None and self.pipeline.looks_back else 0
        look = {} if choices.passthrough else self._look()
        return Film(
            source=self.paths[item],
            target=item.target or sys.stdout.buffer,
            span=choices.span,
            codec=choices.codec,
            crf=choices.crf,
            keep_audio=choices.keep_audio,
            step=video.window - context,
            context=context,
            look=look,
            pixel_aspect=Fraction(1) if self.settings.keep_size and not choices.passthrough else None,
            comment=None if choices.passthrough else settings_comment(self.record()),
        )

    def _look(self) -> dict[str, Any]:
        """All that decides how frames are painted; pieces of another look are not joined with these."""
        from hicast.io.weights import resolve_model

        styles = [
            {"weight": weight, "content": hashlib.sha256(path.read_bytes()).hexdigest()} for path, weight in self.request.style_files
        ]
        folder = resolve_model(self.settings.model)
        files = {str(path.relative_to(folder)): path.stat() for path in model_files(folder)}
        model = {name: [status.st_size, status.st_mtime_ns] for name, status in files.items()}
        look = {"hicast": self.request.header["hicast"], "styles": styles, "weights": hashlib.sha256(repr(model).encode()).hexdigest(),
                "settings": self.record()["settings"]}  # fmt: skip
        return look | ({"maps and masks": guides} if (guides := self._guiding_files()) else {})

    def _guiding_files(self) -> dict[str, list[int]]:
        """Sizes and times of all files that guide the painting."""
        settings = self.settings
        places = [*settings.controls.values(), *settings.adapter_folders.values()]
        places += [place for region in settings.regions for place in (region.where, region.style) if place and Path(place).exists()]
        files = {file for place in map(Path, places) for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file()}
        return {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(files)}

    def _painter(self, item: PlannedOutput, content: VideoReader) -> Any:
        """The pipeline as a painter of pixels."""
        info, video, guides = content.info, self.settings.video, self.guides

        def paint(frames: Iterator[np.ndarray], first: int, lead: int) -> Iterator[np.ndarray]:
            painted = self.pipeline.stylize_video(
                (to_tensor(pixels) for pixels in frames),
                self.code,
                **self.look(),
                controls=guides.clip_controls(item, content, first),
                regions=guides.clip_regions(item, content, first),
                window=video.window,
                overlap=video.overlap if self.pipeline.looks_back else 0,
                shared_noise=video.shared_noise,
                residual_threshold=video.residual_threshold,
                first=first,
                lead=lead,
                pixel_aspect=float(info.pixel_aspect),
            )
            deep = info.depth > 8
            return (to_pixels(image, deep) for image in painted)

        return paint


def _span(start: str | None, end: str | None, preview: str | None) -> Span:
    """The part of every video that is wanted; raises UsageError for times that contradict each other."""
    if end is not None and preview is not None:
        raise UsageError("expected --end or --preview, found both; leave one out")
    begin, length = options.parse_time("--start", start), options.parse_time("--preview", preview)
    finish = options.parse_time("--end", end) if length is None else (begin or 0) + length
    if finish is not None and finish <= (begin or 0):
        if preview is not None:
            raise UsageError(f"--preview {preview}: expected a length above 0, found none; write for example 3s")
        raise UsageError(f"--end: expected a time after the start, found {float(finish):g} s; raise it")
    return Span(begin, finish)


def _described(video: VideoReader) -> str:
    """A video in a line, before the work begins."""
    info, count = video.info, video.expected_frames
    frames = f"{count} frames" if count else "frames of unknown number"
    seconds = f", {float(count / info.rate):.1f} s" if count else ""
    return f"{frames} of {info.width} x {info.height} pixels, {float(info.rate):.4g} a second{seconds}"

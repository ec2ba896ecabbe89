"""Frames of a video one at a time: upright, with exact and rising time stamps, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hicast.io.video_color import to_pixels
from hicast.io.video_info import VideoInfo, decoded, open_video, picture_track, probe_video

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

LEAST_LOSS = Fraction(1, 4)
"""Seconds that the last frame may end before the length that the file names, as muxers round it."""


@dataclass(frozen=True)
class Span:
    """The part of a video between two times in seconds from its first frame; None is the beginning or the end."""

    start: Fraction | None = None
    end: Fraction | None = None


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """One decoded frame: its `index` in the span, its time stamp `pts` and `duration` in units of the video's time base."""

    index: int
    pts: int
    duration: int
    picture: VideoFrame


@dataclass
class VideoReader:
    """The frames of a video or of a span of it, decoded once from the first to the last.

    After the last frame `lost` says in words what could not be decoded; None where all is there.
    """

    path: Path | str
    span: Span = Span()
    info: VideoInfo = field(init=False)
    lost: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Probe the file; raises InputError as `probe_video` does."""
        self.info = probe_video(self.path)

    def frames(self, first: int = 0) -> Iterator[SourceFrame]:
        """Frames of the span from index `first` on; those before are decoded, but not turned."""
        info, troubles = self.info, []
        begin = None if self.span.start is None else info.start + self.span.start / info.time_base
        end = None if self.span.end is None else info.start + self.span.end / info.time_base
        index, finish = 0, None
        with open_video(self.path) as container:
            stream = picture_track(container, info.name)
            if begin is not None and begin > info.start:
                container.seek(int(begin), stream=stream)
            for pts, duration, frame in _timed(decoded(container, stream, troubles), info):
                if begin is not None and pts + duration <= begin:
                    continue
                if end is not None and pts >= end:
                    return
                if index >= first:
                    yield SourceFrame(index, pts, duration, self._fitted(upright(frame, info.turning)))
                index, finish = index + 1, pts + duration
        self.lost = self._loss(index, finish, troubles)

    def pixels(self, frame: SourceFrame) -> np.ndarray:
        """RGB, or RGBA where the video has alpha, of one frame: uint8, or uint16 of full scale from 8 bits on up."""
        return to_pixels(frame.picture, self.info.color, deep=self.info.depth > 8, alpha=self.info.alpha)

    def _fitted(self, frame: VideoFrame) -> VideoFrame:
        """`frame` in the size of the first one: some videos change it on the way."""
        if (frame.width, frame.height) == (self.info.width, self.info.height):
            return frame
        return frame.reformat(width=self.info.width, height=self.info.height, interpolation="BICUBIC", threads=1)

    @property
    def expected_frames(self) -> int | None:
        """About how many frames the span holds; None where the file does not tell."""
        info, span = self.info, self.span
        if span.start is None and span.end is None:
            return info.expected_frames
        length = info.duration or (Fraction(info.frames) / info.rate if info.frames else None)
        end = min((time for time in (span.end, length) if time is not None), default=None)
        return None if end is None else max(round((end - (span.start or 0)) * info.rate), 0)

    def _loss(self, count: int, finish: int | None, troubles: list[str]) -> str | None:
        """What is missing at the end of a span that should have gone on to the end of the file."""
        info = self.info
        finish = info.start if finish is None else finish
        missing = Fraction(0)
        if info.duration is not None:
            missing = info.duration - (finish - info.start) * info.time_base
        short = missing > max(LEAST_LOSS, 2 / info.rate) and not (info.frames and self.span.start is None and count >= info.frames)
        if not short and not troubles:
            return None
        seconds = float((finish - info.start) * info.time_base)
        said = f" of {info.expected_frames}" if info.expected_frames and self.span.start is None else ""
        reason = f" ({troubles[0]})" if troubles else ""
        if short:
            return f"found it broken off after {count}{said} frames, at {seconds:.1f} s{reason}"
        return f"found damage in it: {count}{said} frames could be decoded{reason}"


def _timed(frames: Iterator[VideoFrame], info: VideoInfo) -> Iterator[tuple[int, int, VideoFrame]]:
    """Time stamp, duration and frame; stamps that are missing or do not rise are set a frame, or the least step, on."""
    step = max(round(1 / info.rate / info.time_base), 1)
    previous = None
    for frame in frames:
        pts = frame.pts
        if pts is None:
            pts = info.start if previous is None else previous + step
        if previous is not None and pts <= previous:
            pts = previous + 1
        previous = pts
        yield pts, frame.duration or step, frame


def upright(frame: VideoFrame, turning: Sequence[tuple[str, str]]) -> VideoFrame:
    """`frame` turned and mirrored by filters, its numbers untouched."""
    if not turning:
        return frame
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    graph.link_nodes(source, *(graph.add(*filter) for filter in turning), graph.add("buffersink")).configure()
    graph.vpush(frame)
    turned = graph.vpull()
    turned.colorspace, turned.color_range = frame.colorspace, frame.color_range
    return turned

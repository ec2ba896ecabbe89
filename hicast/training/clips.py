"""Clips for training: a few frames about an eighth of a second apart, from a random place of a video."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hicast.errors import InputError
from hicast.io.video_info import picture_track, pixel_aspect_of, turning_of
from hicast.io.video_read import upright
from hicast.training.sources import CLIPS, OnNote, Source, list_sources

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

FRAME_RATE = 8.0
"""Frames per second that a clip is thinned to unless told otherwise."""


class ClipPool:
    """Videos of several folders and tar shards, in any format that PyAV opens; decoded anew for every clip."""

    def __init__(self, places: Sequence[Path], on_note: OnNote | None = None) -> None:
        """List the videos of `places`; InputError when a place is missing or holds none.

        Each file that cannot be used is told to `on_note` once and kept in `skipped` with the reason.
        """
        self.files = list_sources(places, CLIPS, on_note)
        self.skipped: dict[Source, str] = {}
        self._on_note = on_note

    def __len__(self) -> int:
        return len(self.files)

    def clip(self, index: int, frames: int, side: int, zoom: tuple[float, float], random: np.random.Generator,
             rate: float = FRAME_RATE) -> np.ndarray:
        """`frames` frames of video `index` as uint8 (frames, side, side, 3), all cropped and mirrored alike.

        Start, crop and mirroring come from `random`; `rate` is in frames per second, at most the video's own. A video too
        short for it gives frames closer together. In place of one that cannot be used its neighbour serves; InputError
        where none can.
        """
        start, corner, mirrored = random.random(), random.random(3), random.random() < 0.5
        for offset in range(len(self.files)):
            source = self.files[(index + offset) % len(self.files)]
            if source in self.skipped:
                continue
            try:
                pictures = _read_frames(source, frames, start, rate)
            except InputError as error:
                self._skip(source, str(error))
                continue
            cropped = np.stack([_crop(picture, side, zoom, corner) for picture in pictures])
            return cropped[:, :, ::-1] if mirrored else cropped
        raise InputError(f"expected training clips, found only files that cannot be used, such as {self.files[0].name}")

    def _skip(self, source: Source, reason: str) -> None:
        self.skipped[source] = reason
        if self._on_note:
            self._on_note(f"skipped {len(self.skipped)} of {len(self.files)} clips: {reason}")


def _read_frames(source: Source, frames: int, place: float, rate: float) -> list[np.ndarray]:
    """`frames` pictures (height, width, 3), upright and with square pixels, from the share `place` of where a clip can start."""
    import av

    try:
        with av.open(BytesIO(source.read())) as container:
            stream = picture_track(container, source.name)
            stream.thread_type = "AUTO"
            found = _decode(container, stream, frames, place, rate)
    except av.error.FFmpegError as error:
        raise InputError(f"{source.name}: expected a video, found a damaged or foreign file ({error.strerror})") from error
    if len(found) < frames:
        raise InputError(f"{source.name}: expected a video of at least {frames} frames, found {len(found)}")
    return found


def _decode(container: InputContainer, stream: VideoStream, frames: int, place: float, rate: float) -> list[np.ndarray]:
    """Frames at steps of about 1 / `rate` seconds; the last of them is the first at or after each wanted time."""
    own_rate = float(stream.average_rate or 25)
    length = _seconds(container, stream)
    step = max(1 / own_rate, min(1 / rate, (length - 1 / own_rate) / max(1, frames - 1)))
    begin = place * max(0.0, length - 1 / own_rate - step * (frames - 1))
    first = float((stream.start_time or 0) * stream.time_base)
    if begin > 0:
        container.seek(round((first + begin) / stream.time_base), stream=stream)
    wanted, found = begin, []
    for frame in container.decode(stream):
        time = begin if frame.pts is None else float(frame.pts * stream.time_base) - first
        if time < wanted - 0.5 / own_rate:
            continue
        found.append(_seen(frame, stream))
        wanted += step
        if len(found) == frames:
            break
    return found


def _seen(frame: VideoFrame, stream: VideoStream) -> np.ndarray:
    """A frame as players show it: turned as its file says, enlarged to pixels as wide as they are high."""
    turning = turning_of(frame)
    pixels = upright(frame, turning).to_ndarray(format="rgb24")
    aspect = pixel_aspect_of(stream, turning)
    if aspect == 1:
        return pixels
    height, width = pixels.shape[:2]
    size = (round(width * max(aspect, 1)), round(height * max(1 / aspect, 1)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _seconds(container: InputContainer, stream: VideoStream) -> float:
    """Length of the video as its container tells it; 0 where it does not, and clips then start at the beginning."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def _crop(picture: np.ndarray, side: int, zoom: tuple[float, float], corner: np.ndarray) -> np.ndarray:
    """Square crop of `picture` at the place that `corner` (3 shares: size, top, left) says, resized to `side`."""
    height, width = picture.shape[:2]
    shortest = min(height, width)
    extent = int(min(max(shortest * (zoom[0] + corner[0] * (zoom[1] - zoom[0])), min(side, shortest)), shortest))
    top, left = (int(share * (length - extent + 1)) for share, length in zip(corner[1:], (height, width), strict=True))
    square = Image.fromarray(picture[top : top + extent, left : left + extent])
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0))

"""Frames kept as they are: a small lossless clip, for work in between."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hicast.errors import OutputError

RATE = 25


def write_frames(frames: Sequence[np.ndarray], path: Path) -> Path:
    """Write `frames`, uint8 (height, width, 3) of one size, to a Matroska file (FFV1), whole or not at all; gives `path` back.

    Raises OutputError where it cannot be written.
    """
    import av

    draft = path.with_name(f".hicast-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(draft), "w", format="matroska") as container:
            stream = container.add_stream("ffv1", rate=RATE)
            stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "bgr0"
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24").reformat(format="bgr0")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        os.replace(draft, path)
    except OSError as error:
        raise OutputError(f"{path}: expected to be able to write, found: {error.strerror or error}; choose another place") from error
    finally:
        draft.unlink(missing_ok=True)
    return path

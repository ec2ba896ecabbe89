"""Motion that is known: optical flow from files, in place of an estimate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hicast.errors import InputError
from hicast.evaluation.flow import Correspondence

MAGIC = 202021.25
"""What the files of Middlebury's format begin with."""

SUFFIX = ".flo"


def read_flow(path: Path) -> np.ndarray:
    """Flow (height, width, 2), float32 pixels to the right and down, from a Middlebury `.flo` file; raises InputError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a .flo file, found: {error.strerror}; check the path") from error
    head = np.frombuffer(data[:4], "<f4") if len(data) >= 12 else np.zeros(1)
    width, height = (int(value) for value in np.frombuffer(data[4:12], "<i4")) if len(data) >= 12 else (0, 0)
    if head[0] != np.float32(MAGIC) or width < 1 or height < 1 or len(data) != 12 + 8 * width * height:
        raise InputError(f"{path}: expected a whole .flo file, found {len(data)} bytes that are none; get it again")
    return np.frombuffer(data[12:], "<f4").reshape(height, width, 2).copy()


def known_motion(folder: Path, frames: int, size: tuple[int, int]) -> dict[int, Correspondence]:
    """Correspondences of each frame to the next, by the frame's number, from the sorted `.flo` files of a folder.

    File k is the flow from frame k to frame k + 1, as MPI Sintel has it; a `.png` of the same stem, white where a pixel is
    hidden in the next frame, is taken into account. Flow is brought to `size` (height, width). Raises InputError for
    another number of files than `frames` - 1.
    """
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if len(files) != frames - 1:
        raise InputError(f"{folder}: expected {frames - 1} .flo files for {frames} frames, found {len(files)}; give one for each but the last")
    return {at: _correspondence(read_flow(file), _hidden(file), size) for at, file in enumerate(files)}


def _hidden(file: Path) -> np.ndarray | None:
    mask = file.with_suffix(".png")
    if not mask.is_file():
        return None
    from hicast.io.images import load_picture

    return load_picture(mask).pixels[..., 0] > 127


def _correspondence(flow: np.ndarray, hidden: np.ndarray | None, size: tuple[int, int]) -> Correspondence:
    import cv2

    height, width = size
    scale = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
    if flow.shape[:2] != size:
        flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR)
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = columns + flow[..., 0] * scale[0], rows + flow[..., 1] * scale[1]
    seen = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    if hidden is not None:
        seen &= ~(cv2.resize(hidden.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0)
    return Correspondence(x.astype(np.float32), y.astype(np.float32), seen)

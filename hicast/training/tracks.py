"""A clip for training together with where the pixels of its frames come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hicast.evaluation.flow import correspondence


@dataclass(frozen=True)
class TrackedClip:
    """Frames, uint8 (frames, side, side, 3), and how they hang together, a row for each of `frame_pairs`.

    `places` (pairs, side, side, 2) are positions x, y in the earlier frame of the pixels of the later one, float32 from -1
    to 1 over the frame from edge to edge (`grid_sample` without aligned corners); `seen` (pairs, side, side) is boolean.
    """

    frames: np.ndarray
    places: np.ndarray
    seen: np.ndarray


def frame_pairs(frames: int) -> list[tuple[int, int]]:
    """Numbers of an earlier and a later frame: every frame with the one before it, then with the first."""
    return [(at - 1, at) for at in range(1, frames)] + [(0, at) for at in range(2, frames)]


def follow(frames: np.ndarray) -> TrackedClip:
    """The clip `frames`, uint8 (frames, side, side, 3), tracked by optical flow, which errs here and there."""
    found = [correspondence(frames[earlier], frames[later]) for earlier, later in frame_pairs(len(frames))]
    places = np.stack([np.stack([pair.x, pair.y], -1) for pair in found])
    return TrackedClip(frames, to_grid(places + 0.5, frames.shape[1]), np.stack([pair.seen for pair in found]))


def to_grid(positions: np.ndarray, side: int) -> np.ndarray:
    """Positions in pixels, 0 and `side` being the frame's edges, as float32 from -1 to 1."""
    return (positions * (2 / side) - 1).astype(np.float32)

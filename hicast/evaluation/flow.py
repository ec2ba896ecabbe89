"""Where each pixel of a frame was in an earlier one, and whether it was to be seen there (DIS optical flow)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FLOW_TOLERANCE, FLOW_FLOOR = 0.01, 0.5
"""A pixel is hidden where the flow there and back differ, squared, by more than this share of both plus this many pixels."""


@dataclass(frozen=True)
class Correspondence:
    """For each pixel of a later frame its place in an earlier one.

    `x` and `y` (height, width) are float32 pixel positions, 0 in the middle of the first pixel; `seen` (height, width) is
    boolean, False where the place lies outside or is hidden in the earlier frame.
    """

    x: np.ndarray
    y: np.ndarray
    seen: np.ndarray


def correspondence(earlier: np.ndarray, later: np.ndarray) -> Correspondence:
    """The correspondence of two frames, uint8 (height, width, 3) of 12 pixels or more, by dense inverse search.

    Flow is estimated both ways; hidden is what does not come back to where it began. Source: arXiv 1603.03590 (flow),
    arXiv 1604.08610 (the check).
    """
    import cv2

    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    before, after = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (earlier, later))
    back, forth = search.calc(after, before, None), search.calc(before, after, None)
    height, width = before.shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = columns + back[..., 0], rows + back[..., 1]
    returned = cv2.remap(forth, x, y, cv2.INTER_LINEAR)
    lengths = np.square(back).sum(-1) + np.square(returned).sum(-1)
    hidden = np.square(back + returned).sum(-1) > FLOW_TOLERANCE * lengths + FLOW_FLOOR
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return Correspondence(x, y, inside & ~hidden)


def carried(frame: np.ndarray, found: Correspondence) -> np.ndarray:
    """The earlier `frame`, uint8 (height, width, 3), moved to where its pixels are in the later one."""
    import cv2

    return cv2.remap(frame, found.x, found.y, cv2.INTER_LINEAR)

"""How steady a stylized clip is: its warping error in units of its own detail, less that of its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hicast.errors import InputError
from hicast.evaluation.flow import Correspondence, carried, correspondence

GAP = 10
"""Frames apart of the long warping error."""

LOOKED_AT = 8
"""About how many frames of a clip its detail is measured on."""

Clip = Sequence[np.ndarray]
"""Frames, uint8 (height, width, 3)."""


@dataclass(frozen=True)
class Steadiness:
    """Figures of one clip; lower is better but for `sharp`.

    `short`, `long`: warping error between frames 1 and `GAP` apart, values 0 to 1. `rel_short`, `rel_long`: the same over
    the clip's own gradient, about the misplacement in pixels that would cause it, so that muted or blurred clips gain
    nothing. `excess_short`, `excess_long`: less the source's own, which takes out errors of the flow: the figures to
    compare methods by. `difference`: that of frame differences to the source's, free of flow. `sharp`: fine detail
    over the source's.
    """

    short: float
    long: float
    rel_short: float
    rel_long: float
    excess_short: float
    excess_long: float
    difference: float
    sharp: float

class SourceMotion:
    """A source clip and the motion in it, estimated once, against which stylized clips are measured."""

    def __init__(self, source: Clip, gap: int = GAP, known: dict[int, Correspondence] | None = None) -> None:
        """`source` has 2 frames or more; `gap` is cut to its length. Raises InputError for less than 2 frames.

        `known` is the true motion of each frame to the next, by the frame's number; the short error then follows it.
        """
        if len(source) < 2:
            raise InputError(f"clip: expected 2 frames or more to measure steadiness, found {len(source)}; take a longer one")
        self.source = source
        self.gap = min(gap, len(source) - 1)
        self._step = 1 if known is None else -1
        self._short = _follow(source, 1) if known is None else known
        self._long = _follow(source, self.gap)
        self._own = self._relative(source)

    def measure(self, clip: Clip) -> Steadiness:
        """Figures of `clip`, a stylized version of the source; InputError where number or size of frames differ."""
        if len(clip) != len(self.source) or clip[0].shape != self.source[0].shape:
            raise InputError(
                f"clip: expected {len(self.source)} frames of {self.source[0].shape[:2]} like the source, found "
                f"{len(clip)} of {clip[0].shape[:2] if len(clip) else 'no size'}; resize it, or give the right source"
            )
        errors, relative = self._errors(clip), self._relative(clip)
        excess = [ours - own for ours, own in zip(relative, self._own, strict=True)]
        return Steadiness(*errors, *relative, *excess, _motion_difference(clip, self.source), _detail(clip) / _detail(self.source))

    def over_time(self, clip: Clip) -> list[float]:
        """The short warping error of each frame, the first one that has a neighbour first."""
        return warping_errors(clip, self._short, self._step)

    def raw(self, clip: Clip) -> tuple[float, float]:
        """Short and long warping error over all pixels whose place lies in the other frame or at its border, hidden ones too."""
        short, long = _unmasked(self._short), _unmasked(self._long)
        return warping_error(clip, short, self._step), warping_error(clip, long, self.gap)

    def _errors(self, clip: Clip) -> tuple[float, float]:
        return warping_error(clip, self._short, self._step), warping_error(clip, self._long, self.gap)

    def _relative(self, clip: Clip) -> tuple[float, float]:
        slope = gradient(clip)
        short, long = (error / slope if slope else 0.0 for error in self._errors(clip))
        return short, long


def warping_error(clip: Clip, motion: dict[int, Correspondence], gap: int) -> float:
    """Mean over frames of the RMS difference, values 0 to 1, between a frame and the one `gap` before, moved onto it.

    Only pixels that are seen in both count; `motion` is by number of the frame that is moved onto. A negative `gap` compares
    with a later frame. Source: arXiv 1808.00449, whose mean square is here its root, in units of pixel values.
    """
    return float(np.mean(warping_errors(clip, motion, gap)))


def warping_errors(clip: Clip, motion: dict[int, Correspondence], gap: int) -> list[float]:
    """`warping_error` of each frame of `motion`."""
    errors = []
    for later, found in motion.items():
        difference = carried(clip[later - gap], found).astype(np.float32) - clip[later]
        seen = np.square(difference[found.seen] / 255)
        errors.append(float(np.sqrt(seen.mean())) if seen.size else 0.0)
    return errors


def _unmasked(motion: dict[int, Correspondence]) -> dict[int, Correspondence]:
    """The same places, clamped to the frame, every pixel counted."""
    return {
        at: Correspondence(found.x.clip(0, found.x.shape[1] - 1), found.y.clip(0, found.y.shape[0] - 1), np.ones_like(found.seen))
        for at, found in motion.items()
    }


def gradient(clip: Clip) -> float:
    """RMS length of the difference of neighbouring pixels, down and across, values 0 to 1, over some of the frames."""
    squares = []
    for frame in _some(clip):
        values = frame.astype(np.float32) / 255
        down, across = np.diff(values, axis=0)[:, :-1], np.diff(values, axis=1)[:-1]
        squares.append((np.square(down) + np.square(across)).mean())
    return float(np.sqrt(np.mean(squares)))


def _follow(source: Clip, gap: int) -> dict[int, Correspondence]:
    """Correspondences of frames `gap` apart, by number of the later one; every half gap."""
    return {later: correspondence(source[later - gap], source[later]) for later in range(gap, len(source), max(1, gap // 2))}


def _motion_difference(clip: Clip, source: Clip) -> float:
    """RMS of (S_t - S_(t-1)) - (C_t - C_(t-1)) over frames and pixels, S the clip and C its source, values 0 to 1."""
    squares = []
    for at in range(1, len(clip)):
        ours, own = (pair[at].astype(np.float32) - pair[at - 1] for pair in (clip, source))
        squares.append(np.square(ours - own).mean())
    return float(np.sqrt(np.mean(squares))) / 255


def _detail(clip: Clip) -> float:
    """Variance of the Laplacian of grey frames, a mean over some of them."""
    import cv2

    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in _some(clip)]
    return float(np.mean([cv2.Laplacian(frame, cv2.CV_32F).var() for frame in grey]))


def _some(clip: Clip) -> Clip:
    return clip[:: max(1, len(clip) // LOOKED_AT)]

"""What every table is read against: the photo, the painting and a mere transfer of colour, scored like any method."""

from __future__ import annotations

import numpy as np

ANCHORS = ("content", "style", "color")
"""Names that no method may have: the untouched photo, the painting as if it were the result, and the photo recoloured."""


def recolored(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """`content` with mean and deviation of each channel of `style`; both, and the result, uint8 (height, width, 3).

    A method that does not beat it on style has transferred no more than colour. Source: Reinhard et al. 2001, doi
    10.1109/38.946629, here in RGB.
    """
    ours, target = content.astype(np.float32), style.astype(np.float32)
    moved = (ours - ours.mean((0, 1))) / (ours.std((0, 1)) + 1e-6) * target.std((0, 1)) + target.mean((0, 1))
    return np.clip(moved + 0.5, 0, 255).astype(np.uint8)


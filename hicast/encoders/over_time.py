"""What the frames of a clip are together, and how that changes from its beginning to its end."""

from __future__ import annotations

import torch
from torch import Tensor

ENDS, FOLLOWED = 8, 0.4
"""Frames at either end of a clip that tell how values are spread there; and how much of what sets them apart from the whole clip is followed: with
none the next window of a film begins with a jump, with all of it what is slow is less steady."""


def over_time(values: Tensor) -> Tensor:
    """For each frame of clips, whose frames have `values` (clips, frames, ...), their mean over the clip and `FOLLOWED` of the way from there to what
    lies between the mean over the first `ENDS` frames and that over the last, so that windows of a film, which share frames, nearly meet."""
    first, whole, last = (part.mean(1, keepdim=True) for part in (values[:, :ENDS], values, values[:, -ENDS:]))
    share = torch.linspace(0, 1, values.shape[1], device=values.device).view(-1, *[1] * (values.dim() - 2))
    return torch.lerp(whole, torch.lerp(first, last, share), FOLLOWED)

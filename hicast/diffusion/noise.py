"""Noise of the frames of a clip: the same in every window, shared between frames, copied where nothing moves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hicast.errors import UsageError

SHARED = -1
"""The index that stands for no frame: `frame_generator(seed, SHARED)` draws what all frames of a film share."""

CONTENT = -2
"""The index of the noise with which a content's latents are drawn from the autoencoder's posterior."""


def frame_generator(seed: int, frame: int) -> torch.Generator:
    """The generator of one frame of a film, by its index there: a window's noise does not depend on where it begins."""
    digest = hashlib.blake2b(f"{seed}:{frame}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)


def draw_clip_noise(
    shape: Sequence[int], own: Sequence[torch.Generator], common: torch.Generator, shared_noise: float = 0.0
) -> Tensor:
    """Normal noise (frames, channels, height, width) of unit variance for frames of `shape` (channels, height, width).

    Each frame draws from its generator in `own`, all together once from `common`. `shared_noise` in [0, 1] is how much
    of the variance is common: 0 gives independent frames, 1 one noise for all. Float32, on the CPU. Raises UsageError
    for another `shared_noise`.
    """
    if not 0 <= shared_noise <= 1:
        raise UsageError(f"shared_noise: expected a number from 0 to 1, found {shared_noise}")
    frames = torch.stack([torch.randn(tuple(shape), generator=generator) for generator in own])
    together = torch.randn(tuple(shape), generator=common)
    return shared_noise**0.5 * together + (1 - shared_noise) ** 0.5 * frames


def film_noise(shape: Sequence[int], seed: int, numbers: Iterable[int], shared_noise: float) -> Tensor:
    """Noise as `draw_clip_noise` makes it for the frames with these numbers in a film: the same in whichever window they come."""
    own = [frame_generator(seed, number) for number in numbers]
    return draw_clip_noise(shape, own, frame_generator(seed, SHARED), shared_noise)


def content_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Noise of `shape` for drawing content latents: independent of that in which sampling starts, the same for all frames of a film."""
    return torch.randn(tuple(shape), generator=frame_generator(seed, CONTENT))


def residual_mask(maps: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Where something moves from each frame to the next: boolean (frames - 1, height, width).

    `maps` (frames, channels, rows, columns) is a control map in [0, 1] or the frames themselves; `size` is that of the
    latents. The change counts relative to the greatest in the clip and must exceed `threshold` in [0, 1]; a threshold
    of 0 takes all for moved. A clip without any change has moved nowhere. Source: reference, section 6.
    """
    shape = (len(maps) - 1, *size)
    if threshold <= 0:
        return maps.new_ones(shape, dtype=torch.bool)
    change = (maps[1:] - maps[:-1]).abs()
    if not change.any():
        return maps.new_zeros(shape, dtype=torch.bool)
    change = functional.interpolate(change / change.max(), size=size, mode="bilinear")
    return change.mean(dim=1) > threshold


def copy_unmoved(noise: Tensor, moved: Tensor) -> Tensor:
    """`noise` (frames, channels, height, width) in which pixels that did not move hold the previous frame's values.

    `moved` (frames - 1, height, width) as `residual_mask` gives it. In the order of the frames, so that a pixel that
    rests for long keeps the noise of where it came to rest. Source: reference, section 6, which does the same to the
    latents before each of its first control steps.
    """
    frames = [noise[0]]
    for own, elsewhere in zip(noise[1:], moved, strict=True):
        frames.append(torch.where(elsewhere, own, frames[-1]))
    return torch.stack(frames)

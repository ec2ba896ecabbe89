"""Control maps and masks of a picture: drawn or given, brought to the size that it is worked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from torch import Tensor
from torch.nn.functional import interpolate

from hicast.errors import InputError
from hicast.io.images import pad_to_multiple, resize_image

LABELS = ("seg",)
"""Controls whose colours are names and must not be mixed."""

Draw = Callable[[Tensor], Tensor]
"""An extractor: from a picture (batch, 3, height, width) in [-1, 1] to its map in [0, 1]."""

Source = Tensor | Draw
"""What a map comes from: the map itself (1, 1 or 3, height, width) in [0, 1], of any size, or an extractor."""

Key = TypeVar("Key")


def fit_control(name: str, source: Source, picture: Tensor, multiple: int) -> Tensor:
    """The map of a control for `picture` (1, 3, height, width), of its size and grown to a `multiple` as the picture is."""
    drawn = draw(source, picture)
    size = picture.shape[-2:]
    if name in LABELS and drawn.shape[-2:] != size:
        drawn = interpolate(drawn, size=size, mode="nearest-exact")
    else:
        drawn = resize_image(drawn * 2 - 1, size) / 2 + 0.5
    return pad_to_multiple(drawn, multiple)[0].expand(-1, 3, -1, -1)


def fit_mask(source: Source, picture: Tensor) -> Tensor:
    """The mask (1, 1, height, width) in [0, 1] of `picture`: the brightness of the map; where a mask is 0 it stays exactly so."""
    return resize_mask(draw_mask(source, picture), picture.shape[-2:])


def draw_mask(source: Source, picture: Tensor) -> Tensor:
    """As `fit_mask`, but of the size (1, 1, h, w) that the map comes in."""
    return draw(source, picture).mean(1, keepdim=True)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (batch, 1, h, w) at `size` (height, width), with no overshoot."""
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    return interpolate(mask, size=tuple(size), mode="bilinear", antialias=True)


def draw(source: Source, picture: Tensor) -> Tensor:
    """What `source` says of `picture`, float32 on the CPU."""
    return (source if isinstance(source, Tensor) else source(picture)).float().cpu().clamp(0, 1)


def in_step(sources: Mapping[Key, Source | Iterable[Tensor]]) -> Iterator[dict[Key, Source]]:
    """The sources of one frame after another, endless where all are still; a source of several maps gives one to each frame.

    Raises InputError where one of them ends.
    """
    moving = {key: iter(source) for key, source in sources.items() if not (isinstance(source, Tensor) or callable(source))}
    number = 0
    while True:
        now = dict(sources)
        for key, maps in moving.items():
            now[key] = next(maps, None)
            if now[key] is None:
                raise InputError(f"maps of '{key}': expected one for every frame, found {number}; give those of the whole clip")
        yield now
        number += 1

"""A picture made ready to be painted: all that is computed once, however often and with whatever weights it is painted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from hicast.config.adapters import AdapterUse
from hicast.encoders.style import StyleCode
from hicast.models.adapters import Residuals
from hicast.repainting.maps import Source


@dataclass(frozen=True)
class Region:
    """A part of the picture with a strength of style or a style of its own.

    `mask` is a grey picture (1, 1 or 3, height, width) in [0, 1] of any size, or an extractor whose map's brightness is
    taken; for clips it may also be one such picture per frame. None for `style_scale` or `code` takes the picture's own.
    """

    mask: Source | Iterable[Tensor]
    style_scale: float | None = None
    code: StyleCode | None = None


@dataclass(frozen=True)
class Look:
    """How a scene is painted. `steps` of None are the model's, `tile` is in pixels.

    `texture` says how much of the painting's flat areas of pictures get, if the model lays any. With `keep_outside` the photo stays where no region is, with `preserve_color` its colours stay everywhere.
    """

    style_scale: float = 1.0
    content_scale: float = 1.0
    steps: int | None = None
    scheduler: str | None = None
    tile: int | None = None
    adapters: Mapping[str, AdapterUse] = field(default_factory=dict)
    keep_outside: bool = False
    preserve_color: bool = False
    texture: float = 1.0


@dataclass(frozen=True)
class Scene:
    """Pictures (batch) at their working size, encoded.

    `latents` are those of the pictures grown to whole multiples, `size` (height, width) is what is left after cropping, `code` the
    style. `features` are those of the adapters' maps by control. `masks` (batch, 1, h, w) lie over the pictures before they
    are grown, one for each of the `regions`, of any size: a mask as fine as the photo ends in the result where it ends in the photo. `photo` is the picture before it was brought to the working size.
    The pictures of a scene that `is_clip` are frames that the net takes for one clip; those without `texture` get none of the painting's in flat areas,
    as it would flicker. `subject` is what they show, for nets that keep that from texture.
    """

    latents: Tensor
    size: tuple[int, int]
    code: StyleCode
    features: Mapping[str, Residuals]
    masks: tuple[Tensor, ...]
    regions: tuple[Region, ...]
    photo: Tensor | None = None
    is_clip: bool = False
    texture: bool = True
    subject: Tensor | None = None

"""The frames of a clip, painted one window at a time: their noise, their maps, and what of them is given back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hicast.diffusion.noise import copy_unmoved, film_noise, residual_mask
from hicast.diffusion.scenes import is_cut
from hicast.diffusion.windows import Window, cut_windows
from hicast.encoders.style import StyleCode
from hicast.io.images import pad_to_multiple, resize_image
from hicast.models.adapters import Residuals
from hicast.repainting.finish import finished
from hicast.repainting.maps import Source, draw_mask, fit_mask, in_step, resize_mask
from hicast.repainting.painter import MULTIPLE, Painter
from hicast.repainting.scene import Look, Region, Scene

AT_ONCE = 2**19
"""Pixels of frames that a CPU's nets get together; a GPU's get eight times as many."""


@dataclass(frozen=True)
class Shot:
    """A frame at its working size, the `size` (height, width) that it came with, and what is computed of it once.

    `photo` is the frame as it came, where its pixels are needed at the end, and `masks` then have the size that they came in, to end
    where they end in the photo; `watched` (1, 3, height, width) is what tells where
    something moves, where that is asked for.
    """

    frame: Tensor
    size: tuple[int, int]
    features: Mapping[str, Residuals]
    masks: tuple[Tensor, ...]
    photo: Tensor | None
    watched: Tensor | None = None


def frames_at_once(size: tuple[int, int], device: torch.device, layers: int = 1) -> int:
    """How many frames of `size` (height, width) the nets get together, in so many `layers`, where frames do not depend on each other."""
    room = (AT_ONCE if device.type == "cpu" else 8 * AT_ONCE) // layers
    return max(room // (size[0] * size[1]), 1)


@dataclass(frozen=True)
class ClipPainter:
    """Paints the windows of a clip with `painter`, in one look and style.

    `as_clip(frames)` is the context in which the net takes so many rows of a batch for one clip; `looks_back` says whether frames
    depend on each other there. `working_size` gives the size to work at for a frame's.
    """

    painter: Painter
    look: Look
    code: StyleCode
    regions: tuple[Region, ...]
    seed: int
    shared_noise: float
    keep_size: bool
    looks_back: bool
    as_clip: Callable[[int], AbstractContextManager[None]]
    working_size: Callable[[tuple[int, int]], tuple[int, int]]
    content_seed: int | None = None
    """Draws the latents of the frames, as that of `Painter.prepare`."""
    residual_threshold: float = 0.0
    """Of `residual_mask`: pixels that move less keep the noise of the frame before, within a window; 0: none does."""

    def shots(self, frames: Iterable[Tensor], controls: Mapping[str, Source | Iterable[Tensor]]) -> Iterator[Shot]:
        """Each of `frames` (1, 3, height, width) at its working size, with the features of its maps; one at a time."""
        needs_photo = self.look.keep_outside or self.look.preserve_color
        masks = {f"region {number}": region.mask for number, region in enumerate(self.regions, 1)}
        take_mask = draw_mask if self.look.keep_outside else fit_mask
        sources = in_step({**controls, **masks})
        for frame in frames:
            now = next(sources)
            size = tuple(frame.shape[-2:])
            small = resize_image(frame, self.working_size(size))
            maps = self.painter.maps(small, {name: now[name] for name in controls})
            watched = _watched(maps, small) if self.residual_threshold else None
            yield Shot(small, size, self.painter.features_of(maps), tuple(take_mask(now[name], small) for name in masks),
                       frame if needs_photo else None, watched)  # fmt: skip

    def paint(self, shots: Iterable[Shot], window: int, overlap: int, first: int, lead: int) -> Iterator[Tensor]:
        """The painted frames, but those of the context; raises UsageError as `cut_windows` does."""
        is_new_scene = (lambda before, after: is_cut(before.frame, after.frame)) if self.looks_back else None
        for part in cut_windows(shots, window, overlap, first, lead, is_new_scene):
            yield from self._window(part)

    def _window(self, part: Window[Shot]) -> Iterator[Tensor]:
        """The frames of one window, as many at a time as memory should hold; all of them where they look at each other."""
        height, width = part.frames[0].frame.shape[-2:]
        many = frames_at_once((height, width), self.painter.device, 1 + len(self.regions))
        begin, many = (0, len(part.frames)) if self.looks_back else (part.context, many)
        noise: Tensor | None = None
        for start in range(begin, len(part.frames), many):
            shots = part.frames[start : start + many]
            scene = self._scene(shots)
            noise = self._noise(part, scene.latents.shape[1:]) if noise is None else noise
            context = max(part.context - start, 0)
            with self.as_clip(len(shots)):
                images = self.painter.paint(scene, self.look, noise[start : start + many], self.seed, context=context).split(1)
            for shot, image in zip(shots[context:], images, strict=True):
                yield self._finished(shot, image)

    def _noise(self, part: Window[Shot], shape: Sequence[int]) -> Tensor:
        """Noise (frames, channels, height, width) of all frames of a window, its context included, for latents of `shape`."""
        noise = film_noise(shape, self.seed, range(part.first, part.first + len(part.frames)), self.shared_noise)
        if not self.residual_threshold:
            return noise
        watched = torch.cat([shot.watched for shot in part.frames])
        return copy_unmoved(noise, residual_mask(watched, tuple(shape[1:]), self.residual_threshold))

    def _scene(self, shots: Sequence[Shot]) -> Scene:
        features = {name: tuple(map(torch.cat, zip(*(shot.features[name] for shot in shots), strict=True))) for name in shots[0].features}
        frames = torch.cat([shot.frame for shot in shots])
        masks = [torch.cat([resize_mask(mask, frames.shape[-2:]) for mask in masks]) for masks in zip(*(shot.masks for shot in shots), strict=True)]
        scene = self.painter.prepare(frames, self.code, features, self.regions, masks, self.look.tile, content_seed=self.content_seed, texture=False)
        return replace(scene, is_clip=self.looks_back)

    def _finished(self, shot: Shot, image: Tensor) -> Tensor:
        """The frame as it is given back."""
        image = image if self.keep_size else resize_image(image, shot.size)
        return finished(image, shot.photo, shot.masks, self.look)


def _watched(maps: Mapping[str, Tensor], picture: Tensor) -> Tensor:
    """What tells where a clip moves: the map of edges, else the first of the `maps` there are, else the `picture` itself; on the CPU.

    Source: reference, section 6, which takes the first control map, that of edges unless told otherwise.
    """
    if maps:
        return maps["edge" if "edge" in maps else min(maps)].cpu()
    return pad_to_multiple(picture, MULTIPLE)[0].cpu()

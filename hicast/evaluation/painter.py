"""A model with one set of settings after another; what can be shared between its results is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hicast.config.stylize import StylizeSettings
from hicast.controls import Extractor, find_extractor
from hicast.errors import UsageError
from hicast.evaluation.pairing import Pair
from hicast.io.images import load_picture, to_pixels, to_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from hicast.encoders.style import StyleCode
    from hicast.pipeline import HiCastPipeline

LOOK_KEYS = ("style_scale", "content_scale", "steps", "scheduler", "seed", "size", "keep_size", "tile", "preserve_color", "content_latent", "square")
"""Settings that the pipeline takes by their names."""

NOT_TAKEN = ("controls", "regions", "keep_outside")
"""Settings that belong to one picture, so that many pairs cannot be judged with them."""

SAMPLED = 16
"""Frames of a clip, about, that an extractor looks at before it draws the first map."""


class Painter:
    """A pipeline that remembers the codes of paintings and the maps of photos."""

    def __init__(self, pipeline: HiCastPipeline, weights: Mapping[str, Path] | None = None) -> None:
        """`weights` are files for extractors by their names."""
        self.pipeline, self._weights = pipeline, dict(weights or {})
        self._codes: dict[Path, StyleCode] = {}
        self._maps: dict[tuple[str, str, Path], Tensor] = {}
        self._extractors: dict[tuple[str, str], Extractor] = {}

    def code(self, painting: Path, settings: StylizeSettings) -> StyleCode:
        """What a painting is to the net, encoded once."""
        if painting not in self._codes:
            pixels = load_picture(painting, settings.max_megapixels).pixels
            self._codes[painting] = self.pipeline.encode_style([(to_tensor(pixels), 1.0)])
        return self._codes[painting]

    def image(self, pair: Pair, settings: StylizeSettings) -> np.ndarray:
        """The result for `pair`, uint8 (height, width, 3); raises InputError for files that are broken, UsageError as `check`."""
        self.check(settings)
        photo = to_tensor(load_picture(pair.content, settings.max_megapixels).pixels)
        weights = used_adapters(settings)
        maps = {name: self._map(name, pair.content, photo, settings) for name in weights}
        return to_pixels(self.pipeline.stylize_image(photo, self.code(pair.style, settings), **_look(settings), texture=settings.texture, **_guides(maps, weights)))

    def clip(self, frames: Sequence[np.ndarray], painting: Path, settings: StylizeSettings) -> list[np.ndarray]:
        """`frames`, uint8 (height, width, 3), painted as a clip; raises as `image`."""
        self.check(settings)
        video, weights = settings.video, used_adapters(settings)
        maps = {name: self._clip_map(name, frames, settings) for name in weights}
        cut = video.model_dump() | ({} if self.pipeline.looks_back else {"overlap": 0})
        painted = self.pipeline.stylize_video(
            (to_tensor(frame) for frame in frames), self.code(painting, settings), **_look(settings), **_guides(maps, weights), **cut
        )
        return [to_pixels(image) for image in painted]

    def check(self, settings: StylizeSettings) -> None:
        """Raise UsageError for what the model cannot do, and for what is no look of many pairs."""
        wanted = used_adapters(settings)
        names = self.pipeline.adapters.names if wanted else ()
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise UsageError(f"adapters: expected some of {', '.join(names) or 'none'}, which the model has, found {unknown[0]}; leave it out")
        given = [key for key in NOT_TAKEN if getattr(settings, key)]
        if given:
            raise UsageError(f"{given[0]}: expected none where many pairs are judged, found {getattr(settings, given[0])}; leave it out")

    def _map(self, control: str, path: Path, photo: Tensor, settings: StylizeSettings) -> Tensor:
        name, draw = self._extractor(control, settings)
        key = (control, name, path)
        if key not in self._maps:
            with torch.inference_mode():
                self._maps[key] = draw(photo.to(self.pipeline.device)).cpu()
        return self._maps[key]

    def _clip_map(self, control: str, frames: Sequence[np.ndarray], settings: StylizeSettings) -> Callable[[Tensor], Tensor]:
        """What draws the maps of a clip: with one range for all of it, where the extractor can (depth)."""
        _, draw = self._extractor(control, settings)
        for_clip = getattr(draw, "for_clip", None)
        if for_clip:
            some = frames[:: max(len(frames) // SAMPLED, 1)]
            draw = for_clip(torch.cat([to_tensor(frame) for frame in some]).to(self.pipeline.device))
        return lambda image: draw(image.to(self.pipeline.device))

    def _extractor(self, control: str, settings: StylizeSettings) -> tuple[str, Extractor]:
        """The one asked for, that of the adapter's training, or the control's default, opened once."""
        trained = self.pipeline.about.get(control, {}).get("extractor")
        found = find_extractor(control, settings.extractors.get(control) or trained or None)
        if found is None:
            raise UsageError(f"adapters.{control}: expected an extractor, found no default one; set extractors.{control}")
        name, kind = found
        if (control, name) not in self._extractors:
            weights = self._weights.get(name) or settings.extractor_weights.get(name)
            self._extractors[control, name] = kind.open(weights, self.pipeline.device, torch.float32)
        return name, self._extractors[control, name]


def used_adapters(settings: StylizeSettings) -> dict[str, Any]:
    """The adapters whose weight, a number or something that has one, is above 0."""
    return {name: use for name, use in settings.adapters.items() if getattr(use, "weight", use) > 0}


def _look(settings: StylizeSettings) -> dict[str, Any]:
    return {key: getattr(settings, key) for key in LOOK_KEYS}


def _guides(maps: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing where no adapter takes part: a model without adapters need not know the words."""
    return {"controls": dict(maps), "adapters": dict(weights)} if weights else {}

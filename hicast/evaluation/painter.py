"""Results of a model for pairs, made with one set of settings after another; what can be shared between them is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hicast import __version__
from hicast.config.stylize import StylizeSettings
from hicast.controls import Extractor, find_extractor
from hicast.errors import HicastError, UsageError
from hicast.evaluation.pairing import Pair
from hicast.io.images import Picture, load_picture, save_picture, to_pixels, to_tensor
from hicast.io.weights import resolve_model

if TYPE_CHECKING:
    from torch import Tensor

    from hicast.encoders.style import StyleCode
    from hicast.pipeline import HiCastPipeline

OF_THIS_MACHINE = {"device", "max_megapixels", "model"}
"""Settings that do not tell results of one model apart."""

OnProgress = Callable[[int, int], None]


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
        weights = {name: use for name, use in settings.adapters.items() if counts(use)}
        maps = {name: self._map(name, pair.content, photo, settings) for name in weights}
        more = {"controls": maps, "adapters": weights} if weights else {}
        image = self.pipeline.stylize_image(
            photo, self.code(pair.style, settings), style_scale=settings.style_scale, content_scale=settings.content_scale,
            steps=settings.steps, scheduler=settings.scheduler, seed=settings.seed, size=settings.size, tile=settings.tile, **more,
        )  # fmt: skip
        return to_pixels(image)

    def clip(self, frames: Iterable[np.ndarray], painting: Path, settings: StylizeSettings) -> list[np.ndarray]:
        """`frames`, uint8 (height, width, 3), painted as a clip; adapters do not take part."""
        self.check(settings.model_copy(update={"adapters": {}}))
        video = settings.video
        painted = self.pipeline.stylize_video(
            (to_tensor(frame) for frame in frames), self.code(painting, settings), style_scale=settings.style_scale,
            content_scale=settings.content_scale, steps=settings.steps, scheduler=settings.scheduler, seed=settings.seed,
            size=settings.size, tile=settings.tile, window=video.window, shared_noise=video.shared_noise,
            overlap=video.overlap if self.pipeline.looks_back else 0,
        )  # fmt: skip
        return [to_pixels(image) for image in painted]

    def check(self, settings: StylizeSettings) -> None:
        """Raise UsageError for what the model cannot do."""
        wanted = [name for name, use in settings.adapters.items() if counts(use)]
        if wanted:
            names = self.pipeline.adapters.names
            unknown = [name for name in wanted if name not in names]
            if unknown:
                raise UsageError(f"adapters: expected some of {', '.join(names) or 'none'}, which the model has, found {unknown[0]}; leave it out")
        if settings.preserve_color:
            raise UsageError("preserve_color: expected false, found true; figures are of results as the net paints them, leave it out")

    def _map(self, control: str, path: Path, photo: Tensor, settings: StylizeSettings) -> Tensor:
        about = self.pipeline.about.get(control, {}).get("extractor")
        found = find_extractor(control, settings.extractors.get(control) or about or None)
        if found is None:
            raise UsageError(f"adapters.{control}: expected an extractor, found no default one; set extractors.{control}")
        name, kind = found
        if (control, name) not in self._extractors:
            self._extractors[control, name] = kind.open(self._weights.get(name), self.pipeline.device, torch.float32)
        key = (control, name, path)
        if key not in self._maps:
            with torch.inference_mode():
                self._maps[key] = self._extractors[control, name](photo.to(self.pipeline.device)).cpu()
        return self._maps[key]


def counts(use: Any) -> bool:
    """Whether an adapter's weight, a number or something that has one, is above 0."""
    return getattr(use, "weight", use) > 0


def paint_pairs(
    painter: Painter, pairs: Sequence[Pair], settings: StylizeSettings, folder: Path, model: str, *,
    failed: list[dict[str, str]] | None = None, on_progress: OnProgress = lambda done, total: None,
) -> dict[str, Path]:
    """Results of `pairs` in `folder` as KEY.png; those that are there with the same settings and model are left as they are.

    A pair whose files are broken is kept in `failed` and has no result.
    """
    record, paths = look_of(settings, model), {}
    for at, pair in enumerate(pairs):
        path = folder / f"{pair.key}.png"
        try:
            if not (path.is_file() and load_picture(path).settings == {**record, "pair": [pair.content.name, pair.style.name]}):
                save_picture(Picture(painter.image(pair, settings)), path,
                             settings={**record, "pair": [pair.content.name, pair.style.name]}, overwrite=True)  # fmt: skip
            paths[pair.key] = path
        except UsageError:
            raise
        except HicastError as error:
            if failed is not None:
                failed.append({"file": str(pair.content), "error": str(error)})
        on_progress(at + 1, len(pairs))
    return paths


def look_of(settings: StylizeSettings, model: str) -> dict[str, Any]:
    """All that decides what a result looks like: the model's weights and the settings."""
    return {"hicast": __version__, "model": fingerprint(model), "settings": settings.model_dump(mode="json", exclude=OF_THIS_MACHINE)}


def fingerprint(model: str) -> str:
    """A word that changes with the files of a model."""
    folder = resolve_model(model)
    files = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()]
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]

"""Where the crops of the stage `image` come from: cut anew for every sample, or a few fixed ones of each picture with their latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from hicast.config.train import ImageTraining
from hicast.encoders.autoencoder import LatentCodec
from hicast.training.cache_keys import content_digest
from hicast.training.data import PicturePool, cut, random_crop
from hicast.training.latent_cache import CropPlan, FixedCrops, load_or_encode
from hicast.training.targets import TargetPool


@dataclass(frozen=True)
class Crop:
    """A crop's `pixels`, uint8 (side, side, 3), None where nothing looks at them, and its `latents`, None where they are not kept."""

    pixels: np.ndarray | None
    latents: Tensor | None = None


@dataclass(frozen=True)
class Keeping:
    """How fixed crops are made and kept: by the `settings` and the `codec`, in files of `folder`, the work told to `on_measure`.

    `pixels` says whether anything looks at the crops themselves.
    """

    settings: ImageTraining
    codec: LatentCodec
    folder: Path
    pixels: bool
    on_measure: Callable[[int, int], None] | None = None

    def fixed(self, name: str, digests: list[bytes], picture: Callable[[int], np.ndarray | None], windows: Tensor | None = None) -> FixedCrops:
        """Those of pictures with these `digests`, kept under `name`; see `load_or_encode`."""
        settings = self.settings
        plan = CropPlan(settings.cached_crops, settings.crop, settings.zoom, settings.seed, settings.image_side)
        return load_or_encode(self.folder / f"latents-{name}.safetensors", digests, picture, plan, self.codec, windows, self.on_measure)


class PictureCrops:
    """Crops of a pool's pictures.

    With `cached_crops` a picture is only ever seen in that many crops, drawn once, whose latents are kept on disk: the encoder does
    not run, and where no term looks at pixels no picture is read either. The latents are those that the encoder gives, in its
    precision; what it costs is variety: crops x pictures in all, where otherwise hardly two crops of a run are the same.
    """

    def __init__(self, pool: PicturePool, name: str, keeping: Keeping) -> None:
        """Crops of `pool`, whose latents are kept under `name`."""
        self.pool, self.keeping = pool, keeping
        self.fixed: FixedCrops | None = None
        if keeping.settings.cached_crops:
            self.fixed = keeping.fixed(name, [content_digest(file) for file in pool.files], self._usable)

    def draw(self, row: int, random: np.random.Generator) -> Crop:
        """A crop of picture `row`."""
        settings = self.keeping.settings
        if self.fixed is None:
            return Crop(random_crop(self.pool[row], settings.crop, settings.zoom, random))
        number = int(random.integers(settings.cached_crops))
        window = self.fixed.window(row, number)
        return Crop(cut(self.pool[row], window, settings.crop) if self.keeping.pixels else None, self.fixed.latents[row, number])

    def _usable(self, row: int) -> np.ndarray | None:
        pixels = self.pool[row]
        return None if self.pool.files[row] in self.pool.skipped else pixels


class TargetCrops:
    """The same crops of a photo and of another method's result of it; fixed ones are the photo's."""

    def __init__(self, targets: TargetPool, photos: PictureCrops) -> None:
        """Crops of `targets`, whose photos are those of `photos`."""
        self.targets, self.photos = targets, photos
        self.fixed: FixedCrops | None = None
        if photos.fixed:
            digests = [content_digest(targets.results.files[target.result]) for target in targets.targets]
            windows = photos.fixed.windows[[target.photo for target in targets.targets]]
            self.fixed = photos.keeping.fixed("results", digests, lambda index: targets.pictures(index)[1], windows)

    def draw(self, random: np.random.Generator) -> tuple[Crop, Crop, int]:
        """A crop of a photo and of its result, and the row of the painting."""
        keeping, settings = self.photos.keeping, self.photos.keeping.settings
        index = int(random.integers(len(self.targets)))
        if self.fixed is None:
            photo, result, row = self.targets.crops(index, settings.crop, settings.zoom, random)
            return Crop(photo), Crop(result), row
        target, number = self.targets.targets[index], int(random.integers(settings.cached_crops))
        window = self.fixed.window(index, number)
        pixels = [cut(whole, window, settings.crop) for whole in self.targets.pictures(index)] if keeping.pixels else [None, None]
        latents = (self.photos.fixed.latents[target.photo, number], self.fixed.latents[index, number])
        return Crop(pixels[0], latents[0]), Crop(pixels[1], latents[1]), target.painting

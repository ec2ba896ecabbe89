"""What guides the painting of each input: maps for the adapters and masks for the regions, from files or from extractors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hicast.config.problems import name_advice
from hicast.config.stylize import RegionSettings, StylizeSettings
from hicast.controls import CONTROLS, ExtractorKind, find_any_extractor, find_extractor
from hicast.errors import InputError, ModelError, UsageError
from hicast.io.files import IMAGES, VIDEOS, PlannedOutput, first_name
from hicast.io.images import load_picture, to_tensor
from hicast.io.maps import check_shape, find_map, is_clip, load_map
from hicast.io.video_read import Span, VideoReader

from .console import Console

if TYPE_CHECKING:
    from torch import Tensor

    from hicast.pipeline import HiCastPipeline
    from hicast.repainting.scene import Region

SAMPLED = 16
"""Frames spread over a clip that an extractor may look at before the clip is painted."""

SURELY = 0.9
"""Share of a clip's frames below which a file has surely too few, as both counts are those that the files tell, or follow from their length."""


def check_guides(settings: StylizeSettings) -> None:
    """Raise UsageError or InputError for what can be told to be wrong before anything is loaded."""
    for name, which in settings.extractors.items():
        find_extractor(name, which)
    for which in settings.extractor_weights:
        find_any_extractor(which)
    for name, place in settings.controls.items():
        if name not in settings.adapters:
            raise UsageError(f"--control {name}: expected a weight for its adapter, found none; add --adapter {name}=1")
        if not first_name(Path(place)).exists():
            raise InputError(f"--control {name}: expected a map, found no file or folder {place}; check the path")
    for region in settings.regions:
        _mask_extractor(region.where)
    if settings.keep_outside and not settings.regions:
        raise UsageError("--keep-outside: expected a region, found none; add --region mask.png:style_scale=1")


def _mask_extractor(where: str) -> ExtractorKind | None:
    """The extractor that a region is named after, None for a file or folder that is there; raises InputError for neither."""
    path = Path(where)
    if first_name(path).exists():
        return None
    if path.suffix.lower() in (*IMAGES.readable, *VIDEOS.readable) or len(path.parts) > 1:
        raise InputError(f"--region {where}: expected a mask, found no such file; check the path")
    known = [name for control in CONTROLS.values() for name in control.extractors]
    if where not in known:
        raise UsageError(f"--region {where}: expected a mask file or the name of an extractor, found {where}; {name_advice(where, known)}")
    return find_any_extractor(where)[1]


@dataclass
class Guides:
    """Maps and masks for the inputs of one run with an opened `pipeline`; extractors are opened when first used."""

    settings: StylizeSettings
    pipeline: HiCastPipeline
    console: Console
    swept: frozenset[str] = frozenset()
    """Controls that a sheet needs in some of its pictures."""
    codes: list[Any] = field(default_factory=list)
    """The style codes of the regions; None where a region has no painting of its own."""
    opened: dict[str, Any] = field(default_factory=dict)
    noted: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, settings: StylizeSettings, pipeline: HiCastPipeline, console: Console, asked: set[str], swept: Iterable[str]) -> Guides:
        """With settings in which everything is chosen.

        An adapter that the model lacks is an error where it is `asked` for, and a note where only a preset names it. Raises
        ModelError, UsageError.
        """
        swept = frozenset(swept)
        wanted = {name for name, use in settings.adapters.items() if use.weight} | swept
        present = pipeline.adapters.names if wanted else ()
        lacking = sorted(wanted - set(present))
        refused = [name for name in lacking if name in asked | swept]
        if refused:
            raise ModelError(
                f"adapter {refused[0]}: expected one of those of model {settings.model} ({', '.join(present) or 'none'}), found {refused[0]}; "
                f"join one with --set adapters.{refused[0]}=FOLDER"
            )
        for name in lacking:
            console.info(f"adapter {name} of the preset is left out: model {settings.model} has none")
        for name in settings.adapter_folders:
            if name not in settings.adapters and name not in swept:
                console.info(f"adapter {name} is joined but has no weight: add --adapter {name}=1 to use it")
        adapters = {name: use for name, use in settings.adapters.items() if name not in lacking}
        drawn = sorted(wanted - {*lacking, *settings.controls})
        extractors = {**settings.extractors, **{name: _extractor_of(name, settings, pipeline) for name in drawn}}
        chosen = settings.model_copy(update={"adapters": adapters, "extractors": extractors})
        guides = cls(chosen, pipeline, console, swept)
        guides.codes = [None if region.style is None else guides.encode(region.style) for region in chosen.regions]
        return guides

    @property
    def used(self) -> list[str]:
        """Controls whose maps are needed."""
        return sorted({name for name, use in self.settings.adapters.items() if use.weight} | self.swept)

    def encode(self, style: str) -> Any:
        """The style code of a region's own painting."""
        picture = load_picture(Path(style), self.settings.max_megapixels)
        return self.pipeline.encode_style([(to_tensor(picture.pixels), 1.0)], **square_of(self.settings))

    def controls(self, item: PlannedOutput, size: tuple[int, int]) -> dict[str, Any]:
        """Maps or extractors by control for a picture of `size` (height, width)."""
        return {name: self._source(name, item, size) for name in self.used}

    def regions(self, item: PlannedOutput, size: tuple[int, int]) -> list[Region]:
        """The regions of a picture of `size` (height, width)."""
        return self._regions(lambda region: self._mask(region, item, size))

    def clip_controls(self, item: PlannedOutput, video: VideoReader, first: int) -> dict[str, Any]:
        """As `controls` for a clip, whose maps may move and begin with the frame of index `first`."""
        return {name: self._clip_source(name, item, video, first) for name in self.used}

    def clip_regions(self, item: PlannedOutput, video: VideoReader, first: int) -> list[Region]:
        """As `regions` for a clip."""
        return self._regions(lambda region: self._clip_mask(region, item, video, first))

    def _regions(self, mask: Callable[[RegionSettings], Any]) -> list[Region]:
        if not self.settings.regions:
            return []
        from hicast.repainting.scene import Region

        return [Region(mask(region), region.style_scale, code) for region, code in zip(self.settings.regions, self.codes, strict=True)]

    def _source(self, name: str, item: PlannedOutput, size: tuple[int, int]) -> Any:
        place = self.settings.controls.get(name)
        if place is None:
            return self._opened(self.settings.extractors[name])
        return self._still(f"map of {name}", find_map(Path(place), item), size)

    def _mask(self, region: RegionSettings, item: PlannedOutput, size: tuple[int, int]) -> Any:
        if _mask_extractor(region.where) is not None:
            return self._opened(region.where)
        return self._still("mask", find_map(Path(region.where), item), size)

    def _clip_source(self, name: str, item: PlannedOutput, video: VideoReader, first: int) -> Any:
        place = self.settings.controls.get(name)
        if place is None:
            return self._for_clip(self.settings.extractors[name], video)
        return self._moving(f"map of {name}", find_map(Path(place), item, clips=True), video, first)

    def _clip_mask(self, region: RegionSettings, item: PlannedOutput, video: VideoReader, first: int) -> Any:
        if _mask_extractor(region.where) is not None:
            return self._for_clip(region.where, video)
        return self._moving("mask", find_map(Path(region.where), item, clips=True), video, first)

    def _still(self, kind: str, path: Path, size: tuple[int, int]) -> Tensor:
        """A map from a picture, for a picture of `size` (height, width)."""
        drawn = load_map(path)
        self._check(kind, path, tuple(drawn.shape[-2:]), size)
        return drawn

    def _moving(self, kind: str, path: Path, video: VideoReader, first: int) -> Any:
        """A map from a video, one for each frame from `first` on, or one picture for all frames."""
        size = (video.info.height, video.info.width)
        if not is_clip(path):
            return self._still(kind, path, size)
        reader = VideoReader(path, video.span)
        given, wanted = reader.expected_frames, video.expected_frames
        if given is not None and wanted is not None and given < SURELY * wanted:
            raise InputError(f"{path}: expected a {kind} for each of the clip's {wanted} frames, found {given}; give those of the whole clip")
        self._check(kind, path, (reader.info.height, reader.info.width), size)
        return (to_tensor(reader.pixels(frame)[..., :3]) / 2 + 0.5 for frame in reader.frames(first))

    def _check(self, kind: str, path: Path, size: tuple[int, int], wanted: tuple[int, int]) -> None:
        """Say once for each kind that maps are resized; raises InputError for another shape."""
        if check_shape(str(path), size, wanted) and kind not in self.noted:
            self.noted.add(kind)
            self.console.info(f"{path}: the {kind} has {size[1]} x {size[0]} pixels, the picture {wanted[1]} x {wanted[0]}; maps are resized")

    def _opened(self, which: str) -> Callable[[Tensor], Tensor]:
        """The extractor called `which` on the pipeline's device, opened once."""
        if which not in self.opened:
            device, dtype = self.pipeline.device, self.pipeline.dtype
            drawing = find_any_extractor(which)[1].open(self.settings.extractor_weights.get(which), device, dtype)
            self.opened[which] = drawing
        return _on(self.opened[which], self.pipeline.device)

    def _for_clip(self, which: str, video: VideoReader) -> Callable[[Tensor], Tensor]:
        """The extractor for all frames of one clip.

        One that has a method `for_clip` gives another for the clip, once it has seen frames (count, 3, height, width) spread over it:
        depth has one range for all of them.
        """
        draw = self._opened(which)
        for_clip = getattr(self.opened[which], "for_clip", None)
        return _on(for_clip(sampled_frames(video).to(self.pipeline.device)), self.pipeline.device) if for_clip else draw


def square_of(settings: StylizeSettings) -> dict[str, Any]:
    """How paintings are brought to size where they are squashed as the published scripts do it; nothing otherwise."""
    return {"square": True, "size": settings.size} if settings.square else {}


def sampled_frames(video: VideoReader, count: int = SAMPLED) -> Tensor:
    """About `count` frames (count, 3, height, width) in [-1, 1] spread evenly over a clip."""
    import torch

    every = max((video.expected_frames or 1) // count, 1)
    reader = replace(video)
    frames: Iterator[Any] = (frame for frame in reader.frames() if frame.index % every == 0)
    return torch.cat([to_tensor(reader.pixels(frame)[..., :3]) for frame in frames])


def _on(extractor: Any, device: Any) -> Callable[[Tensor], Tensor]:
    return lambda image: extractor(image.to(device))


def _extractor_of(name: str, settings: StylizeSettings, pipeline: HiCastPipeline) -> str:
    """Which extractor draws a control's map: the one asked for, that of the adapter's training, or the control's default.

    Raises UsageError where there is none.
    """
    trained = pipeline.about.get(name, {}).get("extractor")
    wanted = settings.extractors.get(name) or (trained if trained in CONTROLS[name].extractors else None)
    found = find_extractor(name, wanted)
    if found is None:
        named = " or ".join(f"--extractor {name}={which}" for which in CONTROLS[name].extractors)
        raise UsageError(f"control {name}: expected a map, found none; give --control {name}=MAP" + (f" or {named}" if named else ""))
    return found[0]

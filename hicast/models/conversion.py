"""A published folder becomes a model folder of ours: half the bits, nothing twice, and every tensor accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, T2IAdapter
from torch import Tensor, nn

from hicast.diffusion.sampling import make_scheduler
from hicast.encoders.style import STYLE_DIM, StyleEncoder
from hicast.encoders.text import empty_prompt
from hicast.errors import ModelError
from hicast.io.bases import ADAPTERS, FORMAT_VERSION, INDEX_FILE, OWN_CLASS, TEMPORAL
from hicast.io.model_places import CLIPS
from hicast.io.new_folder import new_model_folder
from hicast.io.published_folder import PublishedFolder
from hicast.io.stock_parts import State, load_stock, load_weights, weights_path
from hicast.io.weights import CONFIG_FILE, CONTEXT_FILE, WEIGHTS_FILE, building, cast_weights, check_shapes, load_json, save_json, save_safetensors
from hicast.models.adapters import AdapterSet, adapter_widths
from hicast.models.hicast_model import FLAGS_FILE
from hicast.models.published import PublishedParts, convert_unet
from hicast.models.published_video import convert_video_unet
from hicast.models.temporal import TemporalLayers
from hicast.models.unet import ContentProjection, build_unet

EXTRACTORS = {"edge": "hed", "depth": "dpt-hybrid-midas", "seg": "oneformer-coco"}
"""What drew the maps that the published adapters were trained with."""

INDEX = {"defaults": {"steps": 20}, "style_side": 384, "side_range": [384, 768], "tile": 1024}
"""Settings of the published nets: their steps and the size of their paintings, and sides near the 512 of their training."""

OnNote = Callable[[str], None]


@dataclass
class Tally:
    """What became of the tensors of one published file; `dropped` by the reason."""

    source: str
    read: int
    stored: int = 0
    shared: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ModelError where a tensor is not accounted for."""
        known = self.stored + self.shared + sum(self.dropped.values())
        if known != self.read:
            raise ModelError(f"{self.source}: expected to account for {self.read} tensors, found a place for {known}: report this")

    def __str__(self) -> str:
        dropped = ", ".join(f"{count} dropped ({reason})" for reason, count in self.dropped.items() if count)
        parts = [f"{self.stored} stored", f"{self.shared} shared with the image net" if self.shared else "", dropped]
        return f"{self.source}: {self.read} tensors, {', '.join(filter(None, parts))}"


def convert_published(source: PublishedFolder, target: Path, dtype: torch.dtype = torch.float16, on_note: OnNote | None = None) -> list[Tally]:
    """Write the model of a published folder to `target`, which must not be there yet, and say what became of every tensor.

    Weights are stored as `dtype`; those that style statistics depend on always as float16, which is finer than bfloat16. Layers for
    clips go into the folder `video` in it, with all else in which the video net differs. Raises ModelError for
    anything missing, damaged, unknown or too large for `dtype`, OutputError where nothing can be written; then nothing is left behind.
    """
    with new_model_folder(target) as draft:
        return _Converter(draft, dtype, on_note or (lambda text: None)).convert(source)


class _Converter:
    """One conversion into the folder `draft`."""

    def __init__(self, draft: Path, dtype: torch.dtype, on_note: OnNote) -> None:
        self.draft, self.dtype, self.on_note = draft, dtype, on_note
        self.tallies: list[Tally] = []

    def convert(self, source: PublishedFolder) -> list[Tally]:
        """Write all parts."""
        self._stock(source.stock)
        image = None
        if source.image:
            image = self._image_net(source.image)
            self._adapters(source, source.image, self.draft, image)
        if source.video:
            self._video_net(source, image)
        for tally in self.tallies:
            tally.check()
            self.on_note(str(tally))
        return self.tallies

    def _image_net(self, net: Path) -> PublishedParts:
        state, tally = self._read(net / "unet")
        with building(net / "unet" / CONFIG_FILE):
            parts = convert_unet(state, load_json(net / "unet" / CONFIG_FILE))
        _count_dropped(state, tally)
        tally.stored = self._net(parts, self.draft) + self._style(parts, self.draft)
        return parts

    def _video_net(self, source: PublishedFolder, image: PublishedParts | None) -> None:
        """Temporal layers, and of the rest what the image net does not hold."""
        state, tally = self._read(source.video / "unet")
        with building(source.video / "unet" / CONFIG_FILE):
            parts = convert_video_unet(state, load_json(source.video / "unet" / CONFIG_FILE))
        own, place = parts.image, self.draft / CLIPS
        _count_dropped(state, tally)
        idle = sum("temporal" in key and not key.startswith("conv_in.") for key in state) - len(parts.temporal)
        tally.dropped["layers that do nothing"] = idle
        for what, keys, write in (("net for pictures is", ("unet", "projection"), self._net), ("style encoder is", ("style",), self._style)):
            count = sum(len(getattr(own, key)) for key in keys)
            if image is None:
                tally.stored += write(own, self.draft)
            elif all(_equal(getattr(own, key), getattr(image, key)) for key in keys):
                tally.shared += count
            else:
                tally.stored += write(own, place)
                self.on_note(f"video net: its {what} not that of the image net, so both are stored")
        with torch.device("meta"):
            layers = TemporalLayers(**parts.temporal_config)
        tally.stored += self._write(layers, parts.temporal, place / TEMPORAL)
        save_json(_index() | {"base": ".."}, place / INDEX_FILE)
        self._adapters(source, source.video, place if image else self.draft, own)

    def _net(self, parts: PublishedParts, place: Path) -> int:
        with torch.device("meta"):
            unet, projection = build_unet(parts.unet_config), ContentProjection(**parts.projection_config)
        count = self._write(unet, parts.unet, place / "unet") + self._write(projection, parts.projection, place / "content_projection")
        save_json({"content_skip": False}, place / FLAGS_FILE)
        return count

    def _style(self, parts: PublishedParts, place: Path) -> int:
        """VGG-16 and the null style; the published net normalises no statistics."""
        with torch.device("meta"):
            encoder = StyleEncoder(**parts.style_config)
        fine = torch.float32 if self.dtype == torch.float32 else torch.float16
        neutral = {"mean": torch.zeros(STYLE_DIM), "std": torch.ones(STYLE_DIM)}
        return self._write(encoder, neutral | parts.style, place / "style_encoder", dtype=fine) - len(neutral)

    def _adapters(self, source: PublishedFolder, net: Path, place: Path, parts: PublishedParts) -> None:
        for control, folder in source.adapters(net).items():
            state, tally = self._read(folder)
            with building(folder / CONFIG_FILE), torch.device("meta"):
                adapter = T2IAdapter(**{key: value for key, value in load_json(folder / CONFIG_FILE).items() if not key.startswith("_")})
                AdapterSet({folder.name: adapter}, adapter_widths(build_unet(parts.unet_config)))
            check_shapes(weights_path(folder), state, {name: value.shape for name, value in adapter.state_dict().items()})
            earlier = source.adapters(source.image).get(control) if source.image and net != source.image else None
            if earlier and _equal(state, load_weights(weights_path(earlier))):
                tally.shared = len(state)
                continue
            about = {"control": control, "extractor": EXTRACTORS[control]}
            tally.stored = self._write(adapter, state, place / ADAPTERS / control, about)

    def _stock(self, folder: Path) -> None:
        """Stable Diffusion's autoencoder, noise schedule and answer to an empty prompt."""
        config = {key: value for key, value in load_json(folder / "vae" / CONFIG_FILE).items() if not key.startswith("_")}
        with building(folder / "vae" / CONFIG_FILE), torch.device("meta"):
            autoencoder = AutoencoderKL(**config)
        self._write(autoencoder, load_stock(folder / "vae", {name: value.shape for name, value in autoencoder.state_dict().items()}), self.draft / "vae")
        save_safetensors({"context": empty_prompt(folder)}, self.draft / CONTEXT_FILE, {"component": "context", "format_version": str(FORMAT_VERSION)})
        place = Path("scheduler") / "scheduler_config.json"
        schedule = {key: value for key, value in load_json(folder / place).items() if not key.startswith("_")}
        with building(folder / place):
            make_scheduler("ddim", schedule)
        (self.draft / "scheduler").mkdir()
        save_json(schedule, self.draft / place)
        save_json(_index(), self.draft / INDEX_FILE)

    def _read(self, folder: Path) -> tuple[State, Tally]:
        state = load_weights(weights_path(folder))
        self.tallies.append(Tally(f"{folder.parent.name}/{folder.name}", len(state)))
        return state, self.tallies[-1]

    def _write(self, module: nn.Module, state: Mapping[str, Tensor], place: Path, about: Mapping[str, str] | None = None,
               dtype: torch.dtype | None = None) -> int:
        """Write one part; the number of its tensors. Raises ModelError for values too large for the dtype."""
        module.save_config(str(place))
        stored = cast_weights(state, dtype or self.dtype)
        component = place.parent.name.removesuffix("s") if place.parent.name == ADAPTERS else place.name
        metadata = {"component": component, "stage": "published", "format_version": str(FORMAT_VERSION)}
        save_safetensors(stored, place / WEIGHTS_FILE, metadata | dict(about or {}))
        return len(stored)


def _index() -> dict[str, Any]:
    return {**INDEX, "_class_name": OWN_CLASS, "format": FORMAT_VERSION, "autoencoder": "AutoencoderKL"}


def _count_dropped(state: Mapping[str, Tensor], tally: Tally) -> None:
    """What every published net holds and no net needs: the input of stock Stable Diffusion, and two constants."""
    tally.dropped["input that is not used"] = sum(key.startswith("conv_in.") for key in state)
    tally.dropped["constants"] = sum(key.startswith("vgg_scaling_layer.") for key in state)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(value.shape == other[key].shape and torch.equal(value, other[key]) for key, value in one.items())

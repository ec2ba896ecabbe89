"""Where the parts of the published checkpoints lie in a folder, as the hub or the authors' own scripts lay them out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hicast.errors import ModelError
from hicast.io.stock_parts import weights_path
from hicast.io.weights import CONFIG_FILE, load_json

ADAPTER_CONTROLS = {"hed_adapter": "edge", "depth_adapter": "depth", "seg_adapter": "seg"}
"""Published folders of adapters, and the controls they are for."""

NETS = ("image_model", "video_model")
"""Folders of the nets where they are published."""

STOCK_PARTS = ("vae", "text_encoder", "tokenizer", "scheduler")
"""What is taken from Stable Diffusion 1.5."""

_DEPTH = 3
_OWN_KEY = "content_channels"


@dataclass(frozen=True)
class PublishedFolder:
    """The folders of the two nets, each with `unet` and adapters beside it, and that of Stable Diffusion's parts.

    One of `image` and `video` may be None: a video net holds an image net.
    """

    image: Path | None
    video: Path | None
    stock: Path

    def adapters(self, net: Path) -> dict[str, Path]:
        """Folders of the adapters beside a net, by control."""
        return {control: net / name for name, control in ADAPTER_CONTROLS.items() if (net / name).is_dir()}


def find_published(folder: Path, base: Path | None = None) -> PublishedFolder:
    """The nets in `folder`, at most three levels down, and Stable Diffusion in `base`, else in `folder` too.

    Raises ModelError where a net, its weights or a part is missing, and for checkpoints of another family.
    """
    if not folder.is_dir():
        raise ModelError(f"published folder: expected a folder, found none at '{folder}'; check the path")
    nets: dict[bool, list[Path]] = {False: [], True: []}
    foreign = []
    for place in _below(folder, _DEPTH):
        if not (place / "unet" / CONFIG_FILE).is_file():
            _check_not_begun(place)
            continue
        config = load_json(place / "unet" / CONFIG_FILE)
        if _OWN_KEY not in config:
            foreign.append(f"{place} ({config.get('_class_name', 'no class named')})")
            continue
        weights_path(place / "unet")
        nets["Pseudo3D" in str(config.get("mid_block_type"))].append(place)
    if not (nets[False] or nets[True]):
        found = f"only nets of another family: {', '.join(foreign)}" if foreign else "none"
        raise ModelError(f"published folder '{folder}': expected unet/{CONFIG_FILE} with {_OWN_KEY}, found {found}; take the folder with image_model or video_model")
    for name, places in (("image", nets[False]), ("video", nets[True])):
        if len(places) > 1:
            raise ModelError(f"published folder '{folder}': expected one {name} net, found {', '.join(map(str, places))}; name one of them")
    found = PublishedFolder(*(places[0] if places else None for places in nets.values()), _find_stock(folder, base))
    for net in filter(None, (found.image, found.video)):
        for adapter in found.adapters(net).values():
            load_json(adapter / CONFIG_FILE)
            weights_path(adapter)
    return found


def _check_not_begun(place: Path) -> None:
    """Raise ModelError where `place` is a published net of which the U-Net's configuration has not arrived."""
    begun = sorted(path.name for path in (place / "unet").glob("*") if path.is_file())
    if (place.name in NETS or any((place / name).is_dir() for name in ADAPTER_CONTROLS) or begun) and not (place / "vae").is_dir():
        raise ModelError(f"'{place}': expected unet/{CONFIG_FILE} and its weights, found {', '.join(begun) or 'no unet'}: half of it is here; fetch it again")


def _find_stock(folder: Path, base: Path | None) -> Path:
    """The folder of Stable Diffusion's parts."""
    for place in [base] if base else _below(folder, _DEPTH):
        if all((place / part).is_dir() for part in STOCK_PARTS):
            return place
    where = f"'{base}'" if base else f"'{folder}'"
    parts = ", ".join(STOCK_PARTS)
    raise ModelError(f"Stable Diffusion 1.5: expected its {parts} in {where}, found no such folder; name one in diffusers layout with --base")


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """`folder` and the folders in it, `depth` levels down, hidden ones left out."""
    yield folder
    if depth and not (folder / "unet").is_dir():
        for place in sorted(folder.iterdir()):
            if place.is_dir() and not place.name.startswith("."):
                yield from _below(place, depth - 1)

"""What a run stands on and no checkpoint holds: frozen nets, data, and what it began with, known again by digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor, nn

from hicast.config.train_run import TrainSettings
from hicast.encoders.style import StyleEncoder
from hicast.io.bases import ADAPTERS
from hicast.io.weights import resolve_model
from hicast.models.hicast_model import SHARES
from hicast.training.cache_keys import content_digest, weights_digest
from hicast.training.sources import Source, list_sources
from hicast.training.targets import PAIRS_FILE

SAMPLE = 2**20
"""Bytes of a weight file that are read to tell it from another of the same name and size."""


def frozen_digests(net: nn.Module | None, autoencoder: nn.Module | None, style_encoder: StyleEncoder, context: Tensor | None,
                   fresh: bool) -> dict[str, str]:
    """Digests of the nets that a stage leaves as they are, by what messages call them; None for one that it trains.

    Of a `fresh` model, whose parts are drawn at random and measured from the data, only what was loaded counts: the rest is made
    again from the settings, but not to the last bit on every machine.
    """
    if context is not None:
        context = nn.ParameterList([nn.Parameter(context, requires_grad=False)])
    found = {
        "weights of the net": None if fresh else net,
        "weights of the autoencoder": None if getattr(autoencoder, "fitted", False) else autoencoder,
        "weights of the style encoder": style_encoder.vgg if fresh else style_encoder,
        "text context": context,
    }
    digests = {name: weights_digest(module).hex() for name, module in found.items() if module is not None}
    shares = {name: getattr(net, name, 0.0) for name in SHARES}
    return digests | {f"{name} of the net": f"{share:g}" for name, share in shares.items() if share}


def files_digest(places: Sequence[Path], sources: Sequence[Source]) -> str:
    """Stands for the names of `sources` below their `places`, their sizes and their order; nothing is opened, and folders may move."""
    digest = hashlib.sha256()
    for source in sources:
        place = next((place for place in places if source.path == place or source.path.is_relative_to(place)), "")
        size = source.path.stat().st_size if source.size is None else source.size
        digest.update(f"{source.name.removeprefix(str(place))} {size}\n".encode())
    return digest.hexdigest()


def extra_digests(settings: TrainSettings) -> dict[str, str]:
    """Digests of what only some runs are given: another method's results, maps, weights of extractors."""
    found = {}
    for key in ("targets", "maps"):
        if folder := getattr(settings, key, None):
            found[f"files of {key}"] = files_digest([folder], list_sources([folder]))
    if targets := getattr(settings, "targets", None):
        found["pairs of targets"] = content_digest(Source(targets / PAIRS_FILE, PAIRS_FILE)).hex()
    if weights := getattr(settings, "extractor_weights", None):
        found["weights of the extractors"] = _places_digest([Path(weights[name]) for name in sorted(weights)])
    return found


def start_digests(settings: TrainSettings, trained: Iterable[str], output: Path) -> dict[str, str]:
    """Digests of the weights that the parts named `trained` began with, from an earlier result or a stock net.

    A run that is written into the very folder it began with is left out: there they change.
    """
    found = {}
    if settings.start and (folder := resolve_model(settings.start)).resolve() != output.resolve():
        parts = [*sorted(trained), f"{ADAPTERS}/{getattr(settings, 'control', None)}"]
        found["weights of --from"] = _places_digest([folder / part for part in parts])
    if base := getattr(settings, "base", None):
        place = Path(base) / "unet" if Path(base).is_dir() else Path(base)
        found["weights of --base"] = _places_digest([place]) if place.exists() else base
    return found


def _places_digest(places: Iterable[Path]) -> str:
    """Stands for the files in the folders `places`, or at these places themselves, by name, size and first bytes."""
    digest = hashlib.sha256()
    for place in places:
        files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place] * place.is_file()
        for file in files:
            with file.open("rb") as stream:
                digest.update(f"{file.relative_to(place)} {file.stat().st_size}\n".encode() + stream.read(SAMPLE))
        digest.update(b"\n")
    return digest.hexdigest()

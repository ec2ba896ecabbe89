"""Latents of a few fixed crops of every picture, encoded once and kept on disk, found again by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hicast.encoders.autoencoder import LatentCodec
from hicast.errors import InputError
from hicast.io.weights import save_safetensors
from hicast.training.cache_keys import weights_digest
from hicast.training.data import Window, crop_window, cut, to_batch

FORMAT = 1
DRAWS = 2**43
"""Where the randomness of fixed crops begins, away from that of samples."""


@dataclass(frozen=True)
class FixedCrops:
    """`windows` (pictures, crops, 4), top, left, extent and mirrored in pixels, and their `latents`
    (pictures, crops, channels, side / 8, side / 8) in the precision that they were encoded in."""

    windows: Tensor
    latents: Tensor

    def window(self, row: int, number: int) -> Window:
        """Crop `number` of picture `row`."""
        return _windows(self.windows[row, number, None])[0]


@dataclass(frozen=True)
class CropPlan:
    """Which crops of a picture are fixed: how many, their `side` in pixels, the share of the short side that they cover, the seed.

    `image_side` is the short side that pictures are reduced to before.
    """

    crops: int
    side: int
    zoom: tuple[float, float]
    seed: int
    image_side: int

    def windows(self, size: tuple[int, int], digest: bytes) -> list[Window]:
        """The windows in a picture of `size` (height, width) with this content."""
        random = np.random.Generator(np.random.Philox(key=[self.seed, DRAWS + int.from_bytes(digest[:5], "big")]))
        return [crop_window(size, self.side, self.zoom, random) for _ in range(self.crops)]


def load_or_encode(cache: Path, digests: Sequence[bytes], picture: Callable[[int], np.ndarray | None], plan: CropPlan, codec: LatentCodec,
                   windows: Tensor | None = None, on_progress: Callable[[int, int], None] | None = None) -> FixedCrops:
    """The fixed crops of pictures with these `digests`, from the file `cache` as far as it has them; the others are encoded and added.

    `picture(row)` is uint8 (height, width, 3), or None for one that cannot be used, whose place the next one takes. Crops are those
    of the `plan` unless `windows` (pictures, crops, 4) are given, for pictures that are to be cut like others. A file of another encoder
    or plan is written anew. Raises OutputError where it cannot be, InputError where no picture can be used.
    """
    key = hashlib.sha256(json.dumps([FORMAT, vars(plan)]).encode() + weights_digest(codec.autoencoder)).hexdigest()
    names = [_named(digest, None if windows is None else windows[row]) for row, digest in enumerate(digests)]
    stored = _read(cache, key)
    known = {name: stored[name] for name in names if name in stored}
    missing = [row for row, name in enumerate(names) if name not in known]
    for done, row in enumerate(missing, start=1):
        if (pixels := picture(row)) is not None:
            given = plan.windows(pixels.shape[:2], digests[row]) if windows is None else _windows(windows[row])
            known[names[row]] = _encoded(pixels, given, plan.side, codec)
        if on_progress:
            on_progress(done, len(missing))
    if not known:
        raise InputError("expected training pictures, found only files that cannot be used")
    if known.keys() != stored.keys():
        _write(cache, key, known)
    chosen = [known[names[row]] for row in _standing_in([name in known for name in names])]
    return FixedCrops(*(torch.stack(parts) for parts in zip(*chosen, strict=True)))


def _standing_in(usable: Sequence[bool]) -> list[int]:
    """For every row itself, or the next one that is `usable`, as `PicturePool` has it."""
    count = len(usable)
    return [next((row + offset) % count for offset in range(count) if usable[(row + offset) % count]) for row in range(count)]


def _windows(rows: Tensor) -> list[Window]:
    return [Window(top, left, extent, bool(mirrored)) for top, left, extent, mirrored in rows.tolist()]


@torch.no_grad()
def _encoded(pixels: np.ndarray, windows: Sequence[Window], side: int, codec: LatentCodec) -> tuple[Tensor, Tensor]:
    """Windows (crops, 4) of one picture, and their latents (crops, channels, side / 8, side / 8)."""
    images = to_batch([cut(pixels, window, side) for window in windows])
    device = next(codec.autoencoder.parameters()).device
    latents = codec.encode(images.to(device, memory_format=torch.channels_last)).cpu().contiguous()
    rows = [[window.top, window.left, window.extent, int(window.mirrored)] for window in windows]
    return torch.tensor(rows, dtype=torch.int32), latents


def _named(digest: bytes, windows: Tensor | None) -> bytes:
    """The digest of a picture, or of a picture and the windows that it is cut by."""
    return digest if windows is None else hashlib.sha256(digest + windows.contiguous().numpy().tobytes()).digest()


def _read(cache: Path, key: str) -> dict[bytes, tuple[Tensor, Tensor]]:
    """Windows and latents by digest in the file `cache`; nothing where it is of another `key`, damaged or not there."""
    try:
        with safe_open(cache, "pt") as stored:
            if (stored.metadata() or {}).get("key") != key:
                return {}
            digests, windows, latents = (stored.get_tensor(name) for name in ("digests", "windows", "latents"))
    except (OSError, SafetensorError):
        return {}
    return {digest.numpy().tobytes(): (windows[row], latents[row]) for row, digest in enumerate(digests)}


def _write(cache: Path, key: str, known: Mapping[bytes, tuple[Tensor, Tensor]]) -> None:
    digests = torch.from_numpy(np.frombuffer(b"".join(known), dtype=np.uint8).copy()).view(len(known), -1)
    windows, latents = (torch.stack(parts) for parts in zip(*known.values(), strict=True))
    save_safetensors({"digests": digests, "windows": windows, "latents": latents}, cache, {"key": key})

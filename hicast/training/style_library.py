"""What training must know of every painting, measured once and kept on disk: statistics, tokens, figures, Gram matrices, colours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hicast.encoders.autoencoder import LatentCodec
from hicast.encoders.figures import figures_in
from hicast.encoders.latent_moments import LatentMoments, painting_moments, stack_moments
from hicast.encoders.style import StyleEncoder, pooled_tokens, statistics
from hicast.encoders.vgg import STYLE_TAPS, Vgg16
from hicast.io.weights import save_safetensors
from hicast.losses.color import color_quantiles
from hicast.losses.perceptual import feature_quantiles, gram, layer_statistics
from hicast.training.cache_keys import content_digest, weights_digest
from hicast.training.data import PicturePool, to_batch

FORMAT = 4


class StyleLibrary:
    """Measurements of the paintings of a pool, one row each.

    `vectors` (count, 2944) and `tokens` (count, grid * grid, 768; None without a grid) are raw, not normalised; `colors` (count, 6, 64); `figures`
    (count, 16, 16) as `figures_in` tells;
    `grams[layer]` (count, channels, channels); `layers[layer]` (count, 2 * channels) standard deviation and mean;
    `quantiles[layer]` (count, directions, quantiles). `vector_scale`, `layer_scales[layer]` and `quantile_scales[layer]` are the mean
    variance of these over the paintings: the units of `style_distance` and `distribution_distance`.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        """Wrap measured `tensors`, as `measure` names them."""
        self.vectors, self.tokens, self.colors = tensors["vectors"], tensors.get("tokens"), tensors["colors"]
        self.figures = tensors["figures"]
        self.grams = {key[5:]: value for key, value in tensors.items() if key.startswith("gram.")}
        self.layers = {key[6:]: value for key, value in tensors.items() if key.startswith("layer.")}
        self.quantiles = {key[9:]: value for key, value in tensors.items() if key.startswith("quantile.")}
        self.vector_scale = float(_spread(self.vectors).mean())
        self.layer_scales = {name: float(_spread(value).mean()) for name, value in self.layers.items()}
        self.quantile_scales = {name: float(_spread(value).mean()) for name, value in self.quantiles.items()}

    def fit(self, encoder: StyleEncoder) -> None:
        """Set the encoder's normalisation to the mean and standard deviation over the paintings."""
        encoder.mean.copy_(self.vectors.mean(0))
        encoder.std.copy_(_spread(self.vectors).sqrt().clamp_min(1e-4))
        if not encoder.config.token_grid:
            return
        flat = self.tokens.float().flatten(0, 1)
        encoder.token_mean.copy_(flat.mean(0))
        encoder.token_std.copy_(flat.std(0).clamp_min(1e-4))


class MomentsLibrary:
    """Moments of the latents of the paintings of `pool`, which show so much of `figures` (count, 16, 16), encoded by `codec` at short side `side` when
    they are first asked for; blocks are kept in float16."""

    def __init__(self, pool: PicturePool, codec: LatentCodec, side: int, device: torch.device, figures: Tensor) -> None:
        """Nothing is read yet."""
        self._pool, self._codec, self._side, self._device, self._figures = pool, codec, side, device, figures
        self._known: dict[int, LatentMoments] = {}

    @torch.no_grad()
    def of(self, rows: Sequence[int]) -> LatentMoments:
        """Moments of the paintings with these indices, a row each."""
        for row in rows:
            if row not in self._known:
                painting, figures = to_batch([self._pool[row]]), self._figures[row : row + 1]
                moments = painting_moments(self._codec, painting.to(self._device), self._side, figures.to(self._device))
                self._known[row] = replace(moments, blocks=moments.blocks.half())
        stacked = stack_moments([self._known[row] for row in rows])
        return replace(stacked, blocks=stacked.blocks.float())


def _spread(values: Tensor) -> Tensor:
    """Variance over the rows of `values`; of a single row, which has none, its squares."""
    return values.var(0) if len(values) > 1 else values[0].square()


def style_picture(pixels: np.ndarray, side: int) -> Tensor:
    """A painting (1, 3, height, width) in [-1, 1] with its short side at `side`, aspect ratio kept."""
    scale = side / min(pixels.shape[:2])
    size = tuple(max(1, round(length * scale)) for length in pixels.shape[1::-1])
    return to_batch([np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))])


@torch.no_grad()
def measure(pool: PicturePool, vgg: Vgg16, side: int, grid: int, gram_layers: Sequence[str],
            style_layers: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> dict[str, Tensor]:
    """Measure every painting of `pool` at short side `side`; tensors by name, tokens and Gram matrices in bfloat16."""
    rows: dict[str, list[Tensor]] = {}
    taps = tuple(dict.fromkeys((*STYLE_TAPS, *gram_layers, *style_layers)))
    for index in range(len(pool)):
        image = style_picture(pool[index], side)
        features = vgg(image.to(vgg.device), taps)
        row = {
            "vectors": statistics(features),
            "colors": color_quantiles(image),
            "figures": figures_in(features),
        }
        if grid:
            row["tokens"] = pooled_tokens(features, grid).flatten(2).transpose(1, 2).bfloat16()
        row |= {f"gram.{name}": gram(features[name]).bfloat16() for name in gram_layers}
        row |= {f"layer.{name}": layer_statistics(features[name]) for name in style_layers}
        row |= {f"quantile.{name}": feature_quantiles(features[name]) for name in style_layers}
        for name, value in row.items():
            rows.setdefault(name, []).append(value.cpu())
        if on_progress:
            on_progress(index + 1, len(pool))
    return {name: torch.cat(values) for name, values in rows.items()}


def load_or_measure(cache: Path, pool: PicturePool, vgg: Vgg16, side: int, grid: int, gram_layers: Sequence[str],
                    style_layers: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> StyleLibrary:
    """The library of `pool` from the file `cache`, measured and written there if the paintings or the encoder differ.

    The key is made of the contents of the files and of the encoder, not of their names, so a moved folder keeps its cache.
    """
    key = _key(pool, vgg, [FORMAT, side, grid, sorted(gram_layers), sorted(style_layers)])
    try:
        with safe_open(cache, "pt") as stored:
            if (stored.metadata() or {}).get("key") == key:
                return StyleLibrary({name: stored.get_tensor(name) for name in stored.keys()})
    except (OSError, SafetensorError):
        pass
    tensors = measure(pool, vgg, side, grid, gram_layers, style_layers, on_progress)
    save_safetensors(tensors, cache, {"key": key})
    return StyleLibrary(tensors)


def _key(pool: PicturePool, vgg: Vgg16, settings: list) -> str:
    digest = hashlib.sha256(json.dumps([*settings, pool.short_side]).encode() + weights_digest(vgg))
    for file in pool.files:
        digest.update(content_digest(file))
    return digest.hexdigest()

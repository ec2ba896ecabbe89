"""What stylizing will take, known before a weight is read: memory part by part, and arithmetic; counted on the meta device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hicast.encoders.autoencoder import LatentCodec
from hicast.encoders.latent_moments import LatentMoments
from hicast.encoders.style import STYLE_DIM, TOKEN_DIM, StyleCode
from hicast.io.bases import TEMPORAL, find_adapters, load_index, with_bases
from hicast.models.conditions import Conditions
from hicast.models.fused_attention import FusedAttention
from hicast.models.hicast_model import HiCastModel
from hicast.models.subject import SUBJECT
from hicast.models.verification import WHOLE, meta_part

GIB = 2**30
NET = ("unet", "content_projection", SUBJECT, TEMPORAL)
"""Parts that compute together."""

LIBRARIES = GIB
"""What Python, torch and diffusers take."""

SLACK = 1.5
"""Over the tensors that live at the worst moment: scratch space and holes between blocks; measured 1.4 on a CPU at 512 pixels."""


_TEXT_TOKENS = 77


@dataclass(frozen=True)
class Work:
    """One evaluation: `frames` of `size` (height, width) together, in so many guidance `branches`, cut into tiles of `tile` pixels."""

    size: tuple[int, int]
    frames: int = 1
    branches: int = 1
    steps: int = 20
    tile: int = 1024
    dtype: torch.dtype = torch.float32
    offload: str = "none"


class Footprint:
    """The parts of the model in a folder, and those that `adapters` name, without their values."""

    def __init__(self, folder: Path, clips: bool = False) -> None:
        """`clips`: with temporal layers, where there are any. Raises ModelError for a folder without a whole model."""
        bases = with_bases(folder)
        kind = load_index(bases[-1]).get("autoencoder", "ResidualAutoencoder")
        self.parts: dict[str, nn.Module] = {}
        for name in (*WHOLE, SUBJECT, *([TEMPORAL] if clips else [])):
            place = next((base / name for base in bases if (base / name).is_dir()), bases[-1] / name if name in WHOLE else None)
            if place:
                self.parts[name] = meta_part(place, kind).eval()
        for name, place in find_adapters(folder).items():
            self.parts[f"adapter {name}"] = meta_part(place, kind).eval()

    @cached_property
    def weights(self) -> dict[str, int]:
        """Numbers in each part."""
        return {name: sum(tensor.numel() for tensor in part.state_dict().values()) for name, part in self.parts.items()}

    def memory(self, work: Work, on_gpu: bool) -> dict[str, int]:
        """Bytes by part at the worst moment, on the GPU or in the memory of the machine.

        On a CPU weights are read in float32 before they are cast, which may be the worst moment itself.
        """
        width = torch.empty((), dtype=work.dtype).element_size()
        weights = {name: count * width for name, count in self.weights.items()}
        activations = round(SLACK * max(peak for peak, _ in self._passes(work)) * width / 4)
        if on_gpu:
            return {**_resident(weights, self._largest_layer() * width, work.offload), "activations": activations}
        parts = {**weights, "activations": activations, "libraries": LIBRARIES}
        loading = 4 * sum(self.weights.values()) + 2 * max(self.weights.values()) + LIBRARIES - sum(parts.values())
        return {**parts, "loading": loading} if loading > 0 else parts

    def operations(self, work: Work) -> int:
        """Multiplications and additions of a whole run: every step of the net, the autoencoder both ways, and the painting."""
        style, encode, net, decode = (count for _, count in self._passes(work))
        return style + encode + work.steps * net + decode

    def _passes(self, work: Work) -> Iterator[tuple[int, int]]:
        """Peak bytes in float32, and operations, of: the painting, the autoencoder's way in, the net, and the way out."""
        key = replace(work, steps=1, dtype=torch.float32, offload="none")
        if getattr(self, "_counted", (None,))[0] != key:
            self._counted = (key, [_trace(run, list(self.parts.values())) for run in self._runs(work)])
        return iter(self._counted[1])

    def _runs(self, work: Work) -> list[Callable[[], Any]]:
        codec = LatentCodec(self.parts["vae"], work.tile // 8)
        height, width = (-(-side // 32) * 32 for side in work.size)
        channels, factor = self.parts["unet"].config.out_channels, codec.factor
        latents = (work.branches * work.frames, channels, height // factor, width // factor)
        image = _meta(work.frames, 3, height, width)
        encoder, model = self.parts["style_encoder"], HiCastModel(self.parts["unet"], self.parts["content_projection"])
        return [
            lambda: encoder.vgg(_meta(1, 3, 384, 384)),
            lambda: codec.encode(image),
            lambda: self._predict(model, _meta(*latents), work),
            lambda: codec.decode(_meta(work.frames, *latents[1:])),
        ]

    def _predict(self, model: HiCastModel, latents: Tensor, work: Work) -> Tensor:
        """The net on one tile of the latents; with temporal layers all its frames as one clip."""
        from hicast.models.tiling import predict_in_tiles

        grid, unet = self.parts["style_encoder"].config.token_grid, model.unet.config
        wide = unet.encoder_hid_dim or unet.cross_attention_dim
        tokens = _meta(1, grid**2, TOKEN_DIM) if grid else _meta(1, _TEXT_TOKENS, wide)
        conditions = Conditions.of(latents, StyleCode(_meta(1, STYLE_DIM), moments=LatentMoments.of(latents[:1])), tokens, style_scale=1.0)
        layers = self.parts.get(TEMPORAL)
        if layers:
            layers.inject(model.unet)
        try:
            with layers.clip(work.frames) if layers else nullcontext():
                return predict_in_tiles(model, latents, _meta(), conditions, work.tile // 8)
        finally:
            if layers:
                layers.eject()

    def _largest_layer(self) -> int:
        return max(tensor.numel() for part in self.parts.values() for tensor in part.parameters())


def _resident(weights: dict[str, int], layer: int, offload: str) -> dict[str, int]:
    """What of the weights is on the GPU at the worst moment."""
    if offload == "none":
        return weights
    net = {name: size for name, size in weights.items() if name in NET}
    if offload == "sequential":
        return {"largest layer": layer, **{name: size for name, size in weights.items() if name in (*NET[1:], "style_encoder")}}
    others = {name: size for name, size in weights.items() if name not in net}
    largest = max(others, key=others.__getitem__)
    return net if sum(net.values()) >= others[largest] else {largest: others[largest]}


def _trace(run: Callable[[], Any], modules: Sequence[nn.Module]) -> tuple[int, int]:
    """Bytes of the tensors that live at the worst moment of `run` on the meta device, weights not counted, and its operations."""
    live, attention = _Live(modules), FusedAttention()
    with torch.no_grad(), live, attention:
        run()
    return live.peak, live.operations + attention.operations


class _Live(TorchDispatchMode):
    """Bytes of the storages that operations make, for as long as something holds them, not those of the weights; and arithmetic."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.now = self.peak = self.operations = 0
        weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        self._known: dict[int, Any] = {tensor.untyped_storage()._cdata: tensor for tensor in weights}

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        if counted := flop_registry.get(function._overloadpacket):
            self.operations += counted(*arguments, **(named or {}), out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = weakref.ref(storage, lambda gone: self._forget(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.now -= size


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")

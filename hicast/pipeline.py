"""From a picture and a painting to the stylized picture: every step of the way in one class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, T2IAdapter
from torch import Tensor

from hicast.diffusion.guidance import FULL, NO_CONTENT, NO_STYLE, guide_stacked, plan_guidance
from hicast.diffusion.noise import content_noise, film_noise
from hicast.diffusion.sampling import draw_noise, make_scheduler, sample
from hicast.diffusion.windows import cut_windows
from hicast.encoders.autoencoder import AUTOENCODERS, LatentCodec, ResidualAutoencoder, latent_shape
from hicast.encoders.style import StyleCode, StyleEncoder, blend_styles
from hicast.errors import ModelError
from hicast.io.bases import ADAPTERS, FORMAT_VERSION, INDEX_FILE, TEMPORAL, adapter_folder, find_adapters, with_bases
from hicast.io.images import crop, pad_to_multiple, resize_image, working_size
from hicast.io.weights import (
    CONTEXT_FILE,
    WEIGHTS_FILE,
    load_context,
    load_json,
    load_module,
    place,
    read_metadata,
    resolve_model,
    save_json,
    save_module,
    save_safetensors,
)
from hicast.models.adapters import AdapterSet, adapter_widths, combine
from hicast.models.device import pick_device, pick_dtype
from hicast.models.compiling import compile_unet
from hicast.models.hicast_model import Conditions, HiCastModel, stack_conditions
from hicast.models.offload import Offload
from hicast.models.temporal import TemporalLayers
from hicast.models.tiling import predict_in_tiles

MULTIPLE = 32
AT_ONCE = 2**19
"""Pixels of frames that a CPU's nets get together; a GPU's get eight times as many."""

OnProgress = Callable[[int, int], None]


class HiCastPipeline:
    """A whole model: autoencoder, style encoder, denoising net, noise schedule and, where it has them, adapters and
    `temporal` layers (None: only pictures), which are kept beside the net, not in it.

    `index` holds what belongs to none of the parts: `defaults` (settings that stylizing falls back to), `style_side`
    (short side at which paintings are encoded), `side_range` (least and largest short side to work at unless told
    otherwise) and `tile` (side of the net's tiles in pixels).
    """

    def __init__(self, model: HiCastModel, autoencoder: ResidualAutoencoder | AutoencoderKL,
                 style_encoder: StyleEncoder, scheduler_config: Mapping[str, Any], *,
                 index: Mapping[str, Any] | None = None, context: Tensor | None = None,
                 adapters: Mapping[str, T2IAdapter] | None = None, temporal: TemporalLayers | None = None) -> None:
        """`context` (1, tokens, width) is the constant text context of nets without style tokens."""
        self.model, self.autoencoder, self.style_encoder = model, autoencoder, style_encoder
        self.scheduler_config = dict(scheduler_config)
        self.index = {"defaults": {}, "style_side": 256, "side_range": [256, 1024], "tile": 2048} | dict(index or {})
        self.context = context
        self.adapters = AdapterSet(adapters or {}, adapter_widths(model.unet) if adapters else ())
        self.about: dict[str, dict[str, str]] = {}
        """Metadata of each adapter's weights, such as the `extractor` of the maps that it was trained with."""
        self.temporal = temporal
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._schedulers: dict[str, SchedulerMixin] = {}
        self._offload = Offload("model", self.device, {})

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "auto", dtype: str = "auto", *,
                        adapters: Mapping[str, str | Path] | None = None, offload: str = "none") -> HiCastPipeline:
        """The model that ships under `name`, or the one in a folder, on `device` in `dtype` with `offload` (see `to`).

        A folder that holds only some parts, such as adapters or temporal layers, is joined with the base it names. `adapters` are further ones by name, each
        the folder of an adapter or of the run that trained it; they win over those of the model.

        Raises ModelError for missing, damaged or foreign parts.
        """
        own = resolve_model(name)
        bases = with_bases(own)
        for folder in bases:
            index = load_json(folder / INDEX_FILE)
            kind = index.get("autoencoder", "ResidualAutoencoder")
            if index.get("format") != FORMAT_VERSION or kind not in AUTOENCODERS:
                raise ModelError(
                    f"model '{folder}': expected a hicast model of format {FORMAT_VERSION}, found format "
                    f"{index.get('format')}: convert it or update hicast"
                )
        nearest = {part: next((place for place in bases if (place / part).is_dir()), folder) for part in ("unet", "style_encoder", "vae")}
        joined = find_adapters(own) | {key: adapter_folder(key, place) for key, place in (adapters or {}).items()}
        temporal = next((place / TEMPORAL for place in bases if (place / TEMPORAL).is_dir()), None)
        pipeline = cls(
            HiCastModel.from_pretrained(nearest["unet"]),
            load_module(lambda config: AUTOENCODERS[kind](**config), nearest["vae"] / "vae"),
            load_module(lambda config: StyleEncoder(**config), nearest["style_encoder"] / "style_encoder"),
            load_json(folder / "scheduler" / "scheduler_config.json"),
            index=index,
            context=load_context(folder),
            adapters={key: load_module(lambda config: T2IAdapter(**config), path) for key, path in joined.items()},
            temporal=load_module(lambda config: TemporalLayers(**config), temporal) if temporal else None,
        )
        pipeline.about = {key: read_metadata(path / WEIGHTS_FILE) for key, path in joined.items()}
        return pipeline.to(device, dtype, offload)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the whole model, adapters and temporal layers included, to `folder` in diffusers layout; raises OutputError.

        Weights are written as `dtype` if given. The folder needs no base and may travel.
        """
        folder = Path(folder)
        self.model.save_pretrained(folder, dtype)
        save_module(self.autoencoder, folder / "vae", dtype)
        save_module(self.style_encoder, folder / "style_encoder", dtype)
        for name, adapter in self.adapters.adapters.items():
            save_module(adapter, folder / ADAPTERS / name, dtype, self.about.get(name))
        if self.temporal is not None:
            save_module(self.temporal, folder / TEMPORAL, dtype)
        (folder / "scheduler").mkdir(exist_ok=True)
        save_json(self.scheduler_config, folder / "scheduler" / "scheduler_config.json")
        if self.context is not None:
            save_safetensors({"context": self.context}, folder / CONTEXT_FILE, {})
        fixed = {"_class_name": "HiCastPipeline", "format": FORMAT_VERSION, "autoencoder": type(self.autoencoder).__name__}
        save_json(self.index | fixed, folder / INDEX_FILE)

    @property
    def defaults(self) -> dict[str, Any]:
        """Settings of stylizing that this model falls back to."""
        return dict(self.index["defaults"])

    def to(self, device: str = "auto", dtype: str = "auto", offload: str = "none") -> HiCastPipeline:
        """Move all parts to `device` (`auto`, `cpu`, `cuda`, `mps`) and cast them to `dtype`; returns itself.

        `offload` says what is on a GPU: `none` for all parts, `model` for the part that computes, `sequential` for the layer that computes.

        `auto` takes a GPU where there is one, and bfloat16 where the machine computes in it, else float32. Style
        statistics overflow in float16, so VGG-16 then stays in float32. Raises UsageError for float16 on a CPU.
        """
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self._offload.release()
        parts = {"model": self.model, "autoencoder": self.autoencoder, "adapters": self.adapters, "style_encoder": self.style_encoder}
        parts |= {} if self.temporal is None else {TEMPORAL: self.temporal}
        for name, part in parts.items():
            part.requires_grad_(False).eval()
            place(part, "cpu" if offload != "none" else self.device, None if name == "style_encoder" else self.dtype)
        place(self.style_encoder.vgg, self.style_encoder.null_style.device, torch.float32 if self.dtype == torch.float16 else self.dtype)
        self._offload = Offload(offload, self.device, parts)
        return self

    def compile(self, **options: Any) -> HiCastPipeline:
        """Compile the U-Net at its first use (`options` are those of torch.compile); returns itself."""
        compile_unet(self.model.unet, **options)
        return self

    @torch.inference_mode()
    def encode_style(self, styles: Sequence[tuple[Tensor, float]]) -> StyleCode:
        """One code of several paintings (1, 3, height, width) in [-1, 1] with their weights (sum above 0)."""
        side = self.index["style_side"]
        self._offload.use("style_encoder")
        codes = []
        for image, weight in styles:
            size = working_size(image.shape[-2:], side, 1)
            codes.append((self.style_encoder(resize_image(image, size).to(self.device)), weight))
        return blend_styles(codes)

    @torch.inference_mode()
    def stylize_image(self, content: Tensor, styles: Sequence[tuple[Tensor, float]] | StyleCode, *,
                      style_scale: float = 1.0, content_scale: float = 1.0, steps: int | None = None,
                      scheduler: str | None = None, seed: int = 0, size: int | None = None, keep_size: bool = False,
                      tile: int | None = None, controls: Mapping[str, Tensor] | None = None,
                      adapters: Mapping[str, float] | None = None, content_latent: str = "mode", square: bool = False,
                      on_progress: OnProgress | None = None) -> Tensor:
        """Repaint `content` (1, 3, height, width) in [-1, 1] in the style of `styles`; a float32 image in [-1, 1].

        `style_scale` strengthens style, `content_scale` content (1 is neutral); `steps` evaluations of the `scheduler`
        start from noise of `seed`; `size` is the short side to work at, after which the result gets the content's size
        unless `keep_size`; `tile` is the side in pixels above which the work is cut. `controls` are maps (1, 3, height,
        width) in [0, 1] by name, used with the weights in `adapters`. `content_latent` is the `mode` of the autoencoder's
        posterior or a `sample` of it drawn with `seed`, and `square` squashes the content to a square to work at: both as published.
        """
        height, width = content.shape[-2:]
        small = self._working_size((height, width), size, square)
        code = styles if isinstance(styles, StyleCode) else self.encode_style(styles)
        residuals = self._residuals(controls or {}, adapters or {}, small)
        image = self._repaint(resize_image(content, small), code, lambda shape: draw_noise(shape, seed), seed, residuals,
                              style_scale, content_scale, steps, scheduler, tile, content_latent, on_progress)  # fmt: skip
        return image if keep_size else resize_image(image, (height, width))

    def _scheduler(self, name: str) -> SchedulerMixin:
        """The scheduler called `name`, made once: `sample` works on a copy."""
        if name not in self._schedulers:
            self._schedulers[name] = make_scheduler(name, self.scheduler_config)
        return self._schedulers[name]

    @property
    def looks_back(self) -> bool:
        """Whether a frame of a clip depends on those before it; never without temporal layers."""
        return self.temporal is not None

    @torch.inference_mode()
    def stylize_video(self, frames: Iterable[Tensor], styles: Sequence[tuple[Tensor, float]] | StyleCode, *,
                      style_scale: float = 1.0, content_scale: float = 1.0, steps: int | None = None,
                      scheduler: str | None = None, seed: int = 0, size: int | None = None, keep_size: bool = False,
                      tile: int | None = None, window: int = 16, overlap: int = 0, shared_noise: float = 1.0,
                      first: int = 0, lead: int = 0, pixel_aspect: float = 1.0, content_latent: str = "mode",
                      square: bool = False) -> Iterator[Tensor]:
        """Repaint `frames` (1, 3, height, width) in [-1, 1] of one size, one window at a time; yields them in their order.

        Temporal layers see a window with its context at once. Settings are those of `stylize_image`, and of `cut_windows` for
        `window`, `overlap`, `first` and `lead`; the `lead` frames are not given back. `shared_noise` in [0, 1] is the share of the noise that all frames have in
        common. `pixel_aspect` is the width of the frames' pixels over their height; it is evened out for the work.
        """
        code = styles if isinstance(styles, StyleCode) else self.encode_style(styles)
        whole: list[tuple[int, int]] = []

        def shrunk() -> Iterator[Tensor]:
            for frame in frames:
                whole[:] = [tuple(frame.shape[-2:])]
                height, width = whole[0]
                yield resize_image(frame, self._working_size((height, max(round(width * pixel_aspect), 1)), size, square))

        for part in cut_windows(shrunk(), window, overlap, first, lead):
            height, width = part.frames[0].shape[-2:]
            many = max((AT_ONCE if self.device.type == "cpu" else 8 * AT_ONCE) // (height * width), 1)
            begin, many = (0, len(part.frames)) if self.looks_back else (part.context, many)
            for start in range(begin, len(part.frames), many):
                content = torch.cat(part.frames[start : start + many])
                numbers = range(part.first + start, part.first + start + len(content))
                with self._as_clip(len(content)):
                    image = self._repaint(content, code, lambda shape: film_noise(shape[1:], seed, numbers, shared_noise), seed,
                                          None, style_scale, content_scale, steps, scheduler, tile, content_latent)  # fmt: skip
                for one in image[max(part.context - start, 0) :].split(1):
                    yield one if keep_size else resize_image(one, whole[0])

    @contextmanager
    def _as_clip(self, frames: int) -> Iterator[None]:
        """Inside, `frames` rows of a batch are one clip to the net, if there are temporal layers."""
        if self.temporal is None:
            yield
            return
        self.temporal.inject(self.model.unet)
        try:
            with self.temporal.clip(frames):
                yield
        finally:
            self.temporal.eject()

    def _repaint(self, content: Tensor, code: StyleCode, noise: Callable[[Sequence[int]], Tensor], seed: int,
                 residuals: tuple[Tensor, ...] | None, style_scale: float, content_scale: float, steps: int | None,
                 scheduler: str | None, tile: int | None, content_latent: str = "mode", on_progress: OnProgress | None = None) -> Tensor:
        """`content` (batch, 3, height, width) at its working size, repainted from the `noise` of the latents' shape."""
        padded, small = pad_to_multiple(content, MULTIPLE)
        codec = LatentCodec(self.autoencoder, **({"tile": tile // 8} if tile else {}))
        drawn = content_noise((1, *latent_shape(codec, padded)), seed).to(self.device) if content_latent == "sample" else None
        self._offload.use("autoencoder")
        latents = codec.encode(padded.to(self.device), drawn).float()
        denoise = self._denoiser(latents, code, style_scale, content_scale, residuals, tile or self.index["tile"])
        self._offload.use("model", TEMPORAL)
        result = sample(denoise, noise(latents.shape).to(self.device), self._scheduler(scheduler or "ddim"),
                        steps or self.defaults.get("steps", 20), torch.Generator().manual_seed(seed), on_progress)  # fmt: skip
        self._offload.use("autoencoder")
        return crop(codec.decode(result).float(), small).clamp(-1, 1).cpu()

    def _working_size(self, size: tuple[int, int], short_side: int | None, square: bool = False) -> tuple[int, int]:
        """Size (height, width) to work at: as told, else the picture's own within the model's range."""
        least, largest = self.index["side_range"]
        found = working_size(size, short_side or min(max(min(size), least), largest), 8)
        return (min(found), min(found)) if square else found

    def _residuals(self, controls: Mapping[str, Tensor], weights: Mapping[str, float],
                   size: tuple[int, int]) -> tuple[Tensor, ...] | None:
        maps = {}
        for name, control in controls.items():
            fitted = resize_image(control * 2 - 1, size) / 2 + 0.5
            maps[name] = pad_to_multiple(fitted, MULTIPLE)[0].to(self.device)
        self._offload.use("adapters")
        features = self.adapters.features({name: maps[name] for name in maps if weights.get(name)})
        return combine(features, weights)

    def _null_style(self) -> StyleCode:
        """The null style, on the device even where the style encoder is not."""
        null = self.style_encoder.null(1)
        return StyleCode(null.vector.to(self.device), None if null.tokens is None else null.tokens.to(self.device))

    def _denoiser(self, latents: Tensor, code: StyleCode, style_scale: float, content_scale: float,
                  residuals: tuple[Tensor, ...] | None, tile: int) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided net as a function of latents and timestep alone, cut into tiles above `tile` pixels."""
        plan = plan_guidance(style_scale, content_scale, embedded=self.model.has_embedded_scale)
        context = None if self.context is None else self.context.to(self.device)
        full = Conditions.of(latents, code, context, residuals, plan.embedded_scale)
        branches = {FULL: full, NO_STYLE: full.without_style(self._null_style()), NO_CONTENT: full.without_content()}
        chosen = [branches[name] for name in plan.coefficients]
        conditions = chosen[0] if len(chosen) == 1 else stack_conditions(chosen)

        def stacked(batch: Tensor, timestep: Tensor) -> Tensor:
            return predict_in_tiles(self.model, batch, timestep, conditions, tile // 8)

        return guide_stacked(stacked, plan)

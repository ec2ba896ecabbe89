"""From a picture and a painting to the stylized picture: every step of the way in one class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, T2IAdapter
from torch import Tensor

from hicast.config.adapters import AdapterUse, uses_by_name
from hicast.diffusion.sampling import draw_noise, make_scheduler
from hicast.encoders.autoencoder import LatentCodec, ResidualAutoencoder
from hicast.encoders.latent_moments import encoded_size, painting_moments
from hicast.encoders.style import StyleCode, StyleEncoder, blend_styles
from hicast.engines.running import Engine, OnNote
from hicast.errors import UsageError
from hicast.io.bases import TEMPORAL
from hicast.io.images import resize_image, working_size
from hicast.io.weights import place, resolve_model
from hicast.models.adapters import AdapterSet, adapter_widths
from hicast.models.compiling import compile_unet
from hicast.models.device import pick_device, pick_dtype
from hicast.models.hicast_model import HiCastModel
from hicast.models.offload import Offload
from hicast.models.parts import read_parts, write_parts
from hicast.models.temporal import TemporalLayers
from hicast.repainting.clip import ClipPainter, frames_at_once
from hicast.repainting.finish import finished
from hicast.repainting.maps import Source
from hicast.repainting.painter import OnProgress, Painter
from hicast.repainting.scene import Look, Region, Scene

Styles = Sequence[tuple[Tensor, float]] | StyleCode
"""Paintings (1, 3, height, width) in [-1, 1] with their weights, or what `encode_style` has made of them."""

Uses = Mapping[str, float | AdapterUse]
"""Adapters by name with their weights from 0 to 10, as numbers or with a share of the sampling steps."""


class HiCastPipeline:
    """A whole model: autoencoder, style encoder, denoising net, noise schedule and, where it has them, adapters and
    `temporal` layers (None: only pictures), which are kept beside the net, not in it.

    `index` holds what belongs to none of the parts: `defaults` (settings that stylizing falls back to), `style_side`
    (short side at which paintings are encoded), `side_range` (least and largest short side to work at unless told
    otherwise), `tile` (side of the net's tiles in pixels), `noise_scale` and `style_unit` (what a style scale of 1 is to the net).
    """

    def __init__(self, model: HiCastModel, autoencoder: ResidualAutoencoder | AutoencoderKL,
                 style_encoder: StyleEncoder, scheduler_config: Mapping[str, Any], *,
                 index: Mapping[str, Any] | None = None, context: Tensor | None = None,
                 adapters: Mapping[str, T2IAdapter] | None = None, temporal: TemporalLayers | None = None) -> None:
        """`context` (1, tokens, width) is the constant text context of nets without style tokens."""
        self.model, self.autoencoder, self.style_encoder = model, autoencoder, style_encoder
        self.scheduler_config = dict(scheduler_config)
        self.index = {"defaults": {}, "style_side": 256, "side_range": [256, 1024], "tile": 2048, "noise_scale": 1.0, "style_unit": 1.0} | dict(index or {})
        self.context = context
        self.adapters = AdapterSet(adapters or {}, adapter_widths(model.unet) if adapters else ())
        self.about: dict[str, dict[str, str]] = {}
        """Metadata of each adapter's weights, such as the `extractor` of the maps that it was trained with."""
        self.temporal = temporal
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._schedulers: dict[str, SchedulerMixin] = {}
        self._offload = Offload("model", self.device, {})
        self._engine = Engine(model.unet, temporal)

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "auto", dtype: str = "auto", *, adapters: Mapping[str, str | Path] | None = None,
                        offload: str = "none", engine: str = "torch", on_note: OnNote = lambda text: None) -> HiCastPipeline:  # fmt: skip
        """The model that ships under `name`, the one in a folder, or of a hub id, on `device` in `dtype` with `offload` and `engine` (see `to`).

        A folder that holds only some parts, such as adapters or temporal layers, is joined with the base it names. `adapters` are
        further ones by name, each the folder of an adapter or of the run that trained it; they win over those of the model.

        Raises ModelError for missing, damaged or foreign parts.
        """
        folder = resolve_model(name, on_note)
        parts, about = read_parts(folder, adapters or {})
        pipeline = cls(**parts)
        pipeline.about = about
        pipeline._engine = Engine(pipeline.model.unet, pipeline.temporal, folder)
        return pipeline.to(device, dtype, offload, engine, on_note)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the whole model, adapters and temporal layers included, to `folder` in diffusers layout; raises OutputError.

        Weights are written as `dtype` if given. The folder needs no base and may travel.
        """
        parts = {
            "model": self.model, "autoencoder": self.autoencoder, "style_encoder": self.style_encoder,
            "scheduler_config": self.scheduler_config, "index": self.index, "context": self.context,
            "adapters": self.adapters.adapters, "temporal": self.temporal,
        }  # fmt: skip
        write_parts(parts, self.about, Path(folder), dtype)

    @property
    def defaults(self) -> dict[str, Any]:
        """Settings of stylizing that this model falls back to."""
        return dict(self.index["defaults"])

    @property
    def noise_scale(self) -> float:
        """Share of the noise that sampling starts from: 1, or less for a net that was trained to start from little."""
        return self.index["noise_scale"]

    @property
    def style_unit(self) -> float:
        """What a style scale of 1 is to the net."""
        return self.index["style_unit"]

    @property
    def takes_lcm(self) -> bool:
        """Whether the net's own prediction is a finished picture at any step, which the scheduler `lcm` asks for.

        True of nets that predict the sample, and of those with the embedded guidance that distillation adds (arXiv 2310.04378).
        """
        return self.scheduler_config.get("prediction_type", "epsilon") == "sample" or self.model.has_embedded_scale

    @property
    def engine(self) -> str:
        """What runs the denoising net: `torch` or `openvino`."""
        return self._engine.name

    def to(self, device: str = "auto", dtype: str = "auto", offload: str = "none", engine: str = "torch",
           on_note: OnNote = lambda text: None) -> HiCastPipeline:  # fmt: skip
        """Move all parts to `device` (`auto`, `cpu`, `cuda`, `mps`) and cast them to `dtype`; returns itself.

        `offload` says what is on a GPU: `none` for all parts, `model` for the part that computes, `sequential` for the layer that computes.

        `auto` takes a GPU where there is one, and bfloat16 where the machine computes in it, else float32. Style
        statistics overflow in float16, so VGG-16 then stays in float32. Raises UsageError for float16 on a CPU.

        `engine` runs the denoising net: `torch`, or on a CPU `openvino`, for which it stays in float32 and is not trained (`auto`: the
        latter where it can be had). Where `openvino` cannot, `on_note` is told why in a line, and `torch` does.
        """
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self._offload.release()
        self._engine.stop()
        self._engine.choose(engine, self.device, on_note)
        parts = {"model": self.model, "autoencoder": self.autoencoder, "adapters": self.adapters, "style_encoder": self.style_encoder}
        parts |= {} if self.temporal is None else {TEMPORAL: self.temporal}
        for name, part in parts.items():
            part.requires_grad_(False).eval()
            kept = self._engine.weights_dtype(self.dtype) if name in ("model", TEMPORAL) else self.dtype
            place(part, "cpu" if offload != "none" else self.device, None if name == "style_encoder" else kept)
        place(self.style_encoder.vgg, self.style_encoder.null_style.device, torch.float32 if self.dtype == torch.float16 else self.dtype)
        self._offload = Offload(offload, self.device, parts)
        self._engine.start(self.dtype, on_note, lambda: self.to(str(self.device), str(self.dtype).removeprefix("torch."), offload))
        return self

    def compile(self, **options: Any) -> HiCastPipeline:
        """Compile the U-Net at its first use (`options` are those of torch.compile); returns itself.

        Raises UsageError where another engine than `torch` runs it.
        """
        if self.engine != "torch":
            raise UsageError(f"compile: expected the engine torch, found {self.engine}; load the model with engine='torch'")
        compile_unet(self.model.unet, **options)
        return self

    @torch.inference_mode()
    def encode_style(self, styles: Sequence[tuple[Tensor, float]], *, square: bool = False, size: int | None = None) -> StyleCode:
        """One code of several paintings (1, 3, height, width) in [-1, 1] with their weights (sum above 0).

        With `square` they are squashed to squares of the side `size`, as published; else proportions are kept.
        """
        side, codec = self.index["style_side"], LatentCodec(self.autoencoder)
        self._offload.use("style_encoder", *(["model"] if self.model.subject else []))
        codes, paintings = [], []
        for image, weight in styles:
            whole = encoded_size(image.shape[-2:], side, codec.factor) if self.model.has_colors else working_size(image.shape[-2:], side, 1)
            painting = resize_image(image, (size or side,) * 2 if square else whole).to(self.device)
            features = self.style_encoder.vgg(painting)
            codes.append((self.style_encoder.code(features), weight))
            paintings.append((painting, self.model.shown_in(features) if self.model.has_colors else None))
        if self.model.has_colors:
            self._offload.use("autoencoder")
            moments = [painting_moments(codec, painting, side, figures) for painting, figures in paintings]
            codes = [(replace(code, moments=own), weight) for (code, weight), own in zip(codes, moments, strict=True)]
        code = blend_styles(codes)
        return replace(code, aim=code.moments.aim()) if self.model.matching else code

    @torch.inference_mode()
    def stylize_image(self, content: Tensor, styles: Styles, *, style_scale: float = 1.0, content_scale: float = 1.0,
                      steps: int | None = None, scheduler: str | None = None, seed: int = 0, size: int | None = None,
                      keep_size: bool = False, tile: int | None = None, controls: Mapping[str, Source] | None = None,
                      adapters: Uses | None = None, regions: Sequence[Region] = (), keep_outside: bool = False,
                      preserve_color: bool = False, content_latent: str = "mode", square: bool = False, texture: float = 1.0,
                      on_progress: OnProgress | None = None) -> Tensor:
        """Repaint `content` (1, 3, height, width) in [-1, 1] in the style of `styles`; a float32 image in [-1, 1].

        `style_scale` strengthens style, `content_scale` content (1 is neutral); `steps` evaluations of the `scheduler`
        start from noise of `seed`; `size` is the short side to work at, after which the result gets the content's size
        unless `keep_size`; `tile` is the side in pixels above which the work is cut. `controls` are maps (1, 3, height,
        width) in [0, 1] by name, or extractors that draw them, used with the weights (0 to 10) in `adapters`. `regions` have a strength or a
        style of their own, later ones over earlier ones; with `keep_outside` the photo's pixels stay where none is, with
        `preserve_color` its colours everywhere. `content_latent` is the `mode` of the autoencoder's posterior or a `sample` of it drawn
        with `seed`, and `square` squashes content and paintings to squares to work at: both as published. `texture` in [0, 2] says how much of the
        painting's surface flat areas get, where the model lays any (1 is neutral). Raises UsageError for settings that
        are out of range or contradict each other.
        """
        given = uses_by_name(adapters)
        used = {name: source for name, source in (controls or {}).items() if name in given and given[name].weight}
        look = Look(style_scale, content_scale, steps, scheduler, tile, given, keep_outside, preserve_color, texture)
        scene = self.prepare(content, styles, size=size, tile=tile, controls=used, regions=regions, square=square,
                             content_latent=content_latent, seed=seed)  # fmt: skip
        return self.paint(scene, look, seed=seed, keep_size=keep_size, on_progress=on_progress)

    @torch.inference_mode()
    def prepare(self, content: Tensor, styles: Styles, *, size: int | None = None, tile: int | None = None,
                controls: Mapping[str, Source] | None = None, regions: Sequence[Region] = (), content_latent: str = "mode",
                square: bool = False, seed: int = 0) -> Scene:
        """What painting `content` in several looks has in common, for `paint`; arguments as those of `stylize_image`.

        `seed` counts only for a `content_latent` that is a `sample`.
        """
        code = styles if isinstance(styles, StyleCode) else self.encode_style(styles, square=square, size=size)
        small = resize_image(content, self._working_size(tuple(content.shape[-2:]), size, square))
        painter = self._painter
        return painter.prepare(small, code, painter.features(small, controls or {}), regions, tile=tile, photo=content,
                               content_seed=seed if content_latent == "sample" else None)  # fmt: skip

    @torch.inference_mode()
    def paint(self, scene: Scene, look: Look, *, seed: int = 0, keep_size: bool = False, on_progress: OnProgress | None = None) -> Tensor:
        """Paint what `prepare` made ready; the same as `stylize_image` with these settings."""
        image = self._painter.paint(scene, look, draw_noise(scene.latents.shape, seed), seed, on_progress)
        image = image if keep_size else resize_image(image, tuple(scene.photo.shape[-2:]))
        return finished(image, scene.photo, scene.masks, look)

    def _scheduler(self, name: str) -> SchedulerMixin:
        """The scheduler called `name`, made once: `sample` works on a copy."""
        if name not in self._schedulers:
            self._schedulers[name] = make_scheduler(name, self.scheduler_config)
        return self._schedulers[name]

    @property
    def _painter(self) -> Painter:
        """The parts as they are now, at work."""
        return Painter(self.model, self.autoencoder, self.style_encoder, self.adapters, self.context, self._scheduler, self.device,
                       self.defaults.get("steps", 20), self.index["tile"], self.noise_scale, self.style_unit, self._offload)  # fmt: skip

    @property
    def looks_back(self) -> bool:
        """Whether a frame of a clip depends on those before it; never without temporal layers."""
        return self.temporal is not None

    def frames_at_once(self, size: tuple[int, int]) -> int:
        """How many frames of `size` (height, width) the nets get together where frames do not depend on each other."""
        return frames_at_once(size, self.device)

    @torch.inference_mode()
    def stylize_video(self, frames: Iterable[Tensor], styles: Styles, *, style_scale: float = 1.0, content_scale: float = 1.0,
                      steps: int | None = None, scheduler: str | None = None, seed: int = 0, size: int | None = None,
                      keep_size: bool = False, tile: int | None = None, controls: Mapping[str, Source | Iterable[Tensor]] | None = None,
                      adapters: Uses | None = None, regions: Sequence[Region] = (), keep_outside: bool = False,
                      preserve_color: bool = False, window: int = 16, overlap: int = 0, shared_noise: float = 1.0,
                      residual_threshold: float = 0.0, first: int = 0, lead: int = 0, pixel_aspect: float = 1.0, content_latent: str = "mode",
                      square: bool = False) -> Iterator[Tensor]:
        """Repaint `frames` (1, 3, height, width) in [-1, 1] of one size, one window at a time; yields them in their order.

        Temporal layers see a window with its context at once, never two scenes (`is_cut`). Settings are those of `stylize_image`, and of `cut_windows` for
        `window`, `overlap`, `first` and `lead`; the `lead` frames are not given back. Maps of `controls` and masks of `regions` may
        also be one for each frame, beginning with that of index `first`. `shared_noise` in [0, 1] is the share of the noise that all
        frames have in common; with a `residual_threshold` above 0 pixels that change less, relative to the most in the window, keep that of
        the frame before, as published. `pixel_aspect` is the width of the frames' pixels over their height; it is evened out for the work.
        """
        code = styles if isinstance(styles, StyleCode) else self.encode_style(styles, square=square, size=size)
        given = uses_by_name(adapters)
        used = {name: source for name, source in (controls or {}).items() if name in given and given[name].weight}
        look = Look(style_scale, content_scale, steps, scheduler, tile, given, keep_outside, preserve_color)

        def working(whole: tuple[int, int]) -> tuple[int, int]:
            return self._working_size((whole[0], max(round(whole[1] * pixel_aspect), 1)), size, square)

        clip = ClipPainter(self._painter, look, code, tuple(regions), seed, shared_noise, keep_size, self.looks_back, self._as_clip, working,
                           content_seed=seed if content_latent == "sample" else None, residual_threshold=residual_threshold)  # fmt: skip
        yield from clip.paint(clip.shots(frames, used), window, overlap, first, lead)

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

    def _working_size(self, size: tuple[int, int], short_side: int | None, square: bool = False) -> tuple[int, int]:
        """Size (height, width) to work at: as told, else the picture's own within the model's range."""
        least, largest = self.index["side_range"]
        found = working_size(size, short_side or min(max(min(size), least), largest), 8)
        return (min(found), min(found)) if square else found

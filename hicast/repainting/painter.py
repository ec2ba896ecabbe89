"""From a scene to its painting: the net guided in every region, sampled, decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from hicast.diffusion.guidance import NO_CONTENT, NO_STYLE, Guidance, guide_stacked, plan_guidance
from hicast.diffusion.noise import content_noise
from hicast.diffusion.prediction import prediction_for
from hicast.diffusion.regions import guide_regions, shares_of
from hicast.diffusion.sampling import Denoise, sample, timesteps_of
from hicast.encoders.autoencoder import LatentCodec, latent_shape
from hicast.encoders.style import StyleCode, StyleEncoder
from hicast.errors import UsageError
from hicast.io.bases import TEMPORAL
from hicast.io.images import crop, pad_to_multiple
from hicast.models.adapters import AdapterSet, Residuals, combine, reach_of
from hicast.models.conditions import MOST_HELD, Conditions, stack_conditions
from hicast.models.hicast_model import HiCastModel
from hicast.models.offload import Offload
from hicast.models.tiling import predict_in_tiles
from hicast.repainting.maps import Source, draw_mask, fit_control, resize_mask
from hicast.repainting.scene import Look, Region, Scene

MULTIPLE = 32
CELL = 8
"""Pixels to a latent, along a side."""

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Layer:
    """One look of a picture: its style, how strongly, and its share (batch, 1, h, w) of the latents; adapters that are `idle` do not act in it."""

    code: StyleCode
    style_scale: float
    share: Tensor
    idle: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Painter:
    """The nets of a pipeline at work. `scheduler` makes one by its name; `steps` and `tile` hold unless a look says otherwise.

    `noise_scale` is the share of the noise that sampling starts from, `style_unit` what a style scale of 1 is to the net; `offload` brings each part to the device when it computes.
    """

    model: HiCastModel
    autoencoder: nn.Module
    style_encoder: StyleEncoder
    adapters: AdapterSet
    context: Tensor | None
    scheduler: Callable[[str], SchedulerMixin]
    device: torch.device
    steps: int
    tile: int
    noise_scale: float = 1.0
    style_unit: float = 1.0
    offload: Offload = field(default_factory=lambda: Offload("model", torch.device("cpu"), {}))

    def features(self, picture: Tensor, controls: Mapping[str, Source]) -> dict[str, Residuals]:
        """Features of the adapters called as in `controls` for one `picture` (1, 3, height, width) at its working size."""
        return self.features_of(self.maps(picture, controls))

    def maps(self, picture: Tensor, controls: Mapping[str, Source]) -> dict[str, Tensor]:
        """Maps (1, 3, height, width) in [0, 1] of the `controls` for one `picture` at its working size, grown to whole multiples."""
        return {name: fit_control(name, source, picture, MULTIPLE).to(self.device) for name, source in controls.items()}

    def features_of(self, maps: Mapping[str, Tensor]) -> dict[str, Residuals]:
        """Features of the adapters called as the `maps`."""
        if maps:
            self.offload.use("adapters")
        return self.adapters.features(maps)

    def prepare(self, picture: Tensor, code: StyleCode, features: Mapping[str, Residuals], regions: Sequence[Region] = (),
                masks: Sequence[Tensor] | None = None, tile: int | None = None, photo: Tensor | None = None,
                content_seed: int | None = None, texture: bool = True) -> Scene:
        """A scene of `picture` (batch, 3, height, width) at its working size; `masks` are made of the `regions` unless given.

        Latents are the mode of the autoencoder's posterior, or a sample of it drawn with `content_seed`. `texture` is that of the scene.
        """
        padded, size = pad_to_multiple(picture, MULTIPLE)
        subject = self._subject(padded) if texture else None
        codec = self._codec(tile)
        drawn = None if content_seed is None else content_noise((1, *latent_shape(codec, padded)), content_seed).to(self.device)
        self.offload.use("autoencoder")
        latents = codec.encode(padded.to(self.device), drawn).float()
        if masks is None:
            masks = [draw_mask(region.mask, picture) for region in regions]
        return Scene(latents, size, code, features, tuple(masks), tuple(regions), photo, texture=texture, subject=subject)

    def paint(self, scene: Scene, look: Look, noise: Tensor, seed: int, on_progress: OnProgress | None = None, context: int = 0) -> Tensor:
        """Pictures (batch - context, 3, height, width) in [-1, 1] of the working size from `noise` of the latents' shape, on the CPU.

        The first `context` of the batch are not wanted as pictures.
        """
        scheduler, steps = self.scheduler(look.scheduler or "ddim"), look.steps or self.steps
        layers = self._layers(scene, look)
        denoise = self._denoiser(scene, look, layers, scheduler, timesteps_of(scheduler, steps))
        self.offload.use("model", TEMPORAL)
        result = sample(denoise, self.noise_scale * noise.to(self.device), scheduler, steps, torch.Generator().manual_seed(seed), on_progress)
        if scene.masks:
            photo = sum((layer.share for layer in layers if layer.style_scale == 0), torch.zeros_like(layers[0].share))
            result = torch.where(photo >= 1, scene.latents, result)
        self.offload.use("autoencoder")
        return crop(self._codec(look.tile).decode(result[context:]).float(), scene.size).clamp(-1, 1).cpu()

    def _subject(self, picture: Tensor) -> Tensor | None:
        """What the `picture` shows, where the net has a use for it."""
        if self.model.subject is None:
            return None
        self.offload.use("style_encoder", "model")
        return self.model.subject_of(picture.to(self.device), self.style_encoder.vgg)

    def _codec(self, tile: int | None) -> LatentCodec:
        return LatentCodec(self.autoencoder, **({"tile": tile // CELL} if tile else {}))

    def _layers(self, scene: Scene, look: Look) -> list[Layer]:
        """The picture's own look, then that of each region; `keep_outside` leaves the former without style."""
        if look.keep_outside and not scene.masks:
            raise UsageError("keep_outside: expected a region, found none; give one, or leave it out")
        if not scene.masks:
            return [Layer(scene.code, look.style_scale, torch.ones(()))]
        fitted = [resize_mask(mask, scene.size) for mask in scene.masks]
        cells = [avg_pool2d(pad_to_multiple(mask, MULTIPLE)[0], CELL).to(self.device) for mask in fitted]
        ground, *shares = shares_of(cells)
        layers = [Layer(scene.code, 0.0 if look.keep_outside else look.style_scale, ground)]
        for region, share in zip(scene.regions, shares, strict=True):
            scale = look.style_scale if region.style_scale is None else region.style_scale
            layers.append(Layer(region.code or scene.code, scale, share))
        return layers

    def _parted(self, scene: Scene, look: Look, layers: Sequence[Layer]) -> list[Layer]:
        """`layers`, each in two where an adapter says nothing of a part of the picture: what it does elsewhere would act there, too.

        Group normalisation and attention carry it over. Several such adapters act together wherever one of them does.
        """
        reaches = {name: reach_of(scene.features[name]) for name, use in look.adapters.items() if use.weight and name in scene.features}
        idle = frozenset(name for name, reach in reaches.items() if reach is not None)
        if not idle:
            return list(layers)
        where = torch.stack([reaches[name] for name in idle]).amax(0)
        parted = []
        for layer in layers:
            if layer.style_scale == 0 and scene.masks:
                parted.append(layer)
            else:
                parted += [replace(layer, share=layer.share * where), replace(layer, share=layer.share * (1 - where), idle=idle)]
        return parted

    def _denoiser(self, scene: Scene, look: Look, layers: Sequence[Layer], scheduler: SchedulerMixin,
                  timesteps: Sequence[float]) -> Denoise:  # fmt: skip
        """The guided net as a function of latents and timestep alone; where a region has no style the photo's own latents stand."""
        layers = self._parted(scene, look, layers)
        painted = [layer for layer in layers if layer.style_scale > 0 or not scene.masks]
        plans = [plan_guidance(self.style_unit * layer.style_scale, look.content_scale, self.model.has_embedded_scale) for layer in painted]
        stacked = self._stacked(scene, look, painted, plans, timesteps)
        if len(layers) == 1 and not scene.masks:
            return guide_stacked(stacked, plans[0])

        def photo(latents: Tensor, timestep: Tensor) -> Tensor:
            return prediction_for(scheduler, scene.latents, latents, round(float(timestep)))

        return guide_regions(stacked, plans, [layer.share for layer in painted], photo if len(painted) < len(layers) else None)

    def _stacked(self, scene: Scene, look: Look, layers: Sequence[Layer], plans: Sequence[Guidance],
                 timesteps: Sequence[float]) -> Denoise:  # fmt: skip
        """The net on all branches of all layers as one batch, each timestep with the adapters that count in it."""
        weights = [{name: use.at(step, len(timesteps)) for name, use in look.adapters.items()} for step in range(len(timesteps))]
        sets = [tuple(sorted((name, weight) for name, weight in given.items() if weight)) for given in weights]
        made = {chosen: self._conditions(scene, look, layers, plans, dict(chosen)) for chosen in dict.fromkeys(sets)} if layers else {}
        by_timestep = {timestep: made.get(chosen) for timestep, chosen in zip(timesteps, sets, strict=True)}
        tile = (look.tile or self.tile) // CELL

        def stacked(batch: Tensor, timestep: Tensor) -> Tensor:
            return predict_in_tiles(self.model, batch, timestep, by_timestep[float(timestep)], tile)

        return stacked

    def _null_style(self) -> StyleCode:
        """The null style, on the device even where the style encoder is not."""
        null = self.style_encoder.null(1)
        return StyleCode(null.vector.to(self.device), None if null.tokens is None else null.tokens.to(self.device))

    def _conditions(self, scene: Scene, look: Look, layers: Sequence[Layer], plans: Sequence[Guidance], weights: Mapping[str, float]) -> Conditions:
        """Conditions of all branches of all layers, in the order of their plans' coefficients."""
        context = None if self.context is None else self.context.to(self.device)
        residuals = {idle: combine(scene.features, {name: weight for name, weight in weights.items() if name not in idle})
                     for idle in {layer.idle for layer in layers}}  # fmt: skip
        some = next((given for given in residuals.values() if given is not None), None)
        none = None if some is None else tuple(torch.zeros_like(level) for level in some)
        chosen, frames, texture = [], len(scene.latents) if scene.is_clip else 1, look.texture if scene.texture else 0.0
        for layer, plan in zip(layers, plans, strict=True):
            acting = none if residuals[layer.idle] is None else residuals[layer.idle]
            hold = min(sum(abs(weight) for name, weight in weights.items() if name not in layer.idle), MOST_HELD)
            full = Conditions.of(scene.latents, layer.code, context, acting, plan.embedded_scale, frames, hold, texture, scene.subject)
            chosen += [self._branch(name, full) for name in plan.coefficients]
        return chosen[0] if len(chosen) == 1 else stack_conditions(chosen)

    def _branch(self, name: str, full: Conditions) -> Conditions:
        """What the branch called `name` is told of all that the `full` one is."""
        if name == NO_STYLE:
            return full.without_style(self._null_style())
        return full.without_content() if name == NO_CONTENT else full

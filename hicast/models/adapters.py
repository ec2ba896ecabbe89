"""Named control adapters, their features and the weighted sum that enters the U-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffusers import T2IAdapter, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from hicast.errors import ModelError, UsageError

Residuals = tuple[Tensor, ...]
"""One tensor per down block of the U-Net, (batch, width, height, width), finest first."""


def adapter_widths(unet: UNet2DConditionModel) -> tuple[int, ...]:
    """Widths of the levels at which adapters reach `unet`: those of its down blocks.

    Raises ModelError where a plain down block is not the last: the stock U-Net adds a residual to it too late.
    """
    plain = [i for i, kind in enumerate(unet.config.down_block_types[:-1]) if "CrossAttn" not in kind]
    if plain:
        raise ModelError(
            f"adapters: expected cross-attention in every down block but the last, found none in block {plain[0]}: "
            "use CrossAttnDownBlock2D there"
        )
    return tuple(unet.config.block_out_channels)


class AdapterSet(nn.Module):
    """Stock T2I-Adapters by name, for a U-Net whose down blocks have the `widths` given.

    An adapter gives its features finest first, and the first `len(widths)` of them are used: a light adapter built with
    as many channels as the U-Net has down blocks returns one more, half as large, which is left out. Source: arXiv
    2302.08453.
    """

    def __init__(self, adapters: Mapping[str, T2IAdapter], widths: Sequence[int]) -> None:
        """Raises ModelError if an adapter has too few levels or another width at one of them."""
        super().__init__()
        self.widths = tuple(widths)
        for name, adapter in adapters.items():
            given = tuple(adapter.config.channels)
            if adapter.config.adapter_type == "light_adapter":
                given = (*given, given[-1])
            if given[: len(self.widths)] != self.widths:
                raise ModelError(f"adapter '{name}': expected levels of widths {self.widths}, found {given}; take one that was trained for this net")
        self.adapters = nn.ModuleDict(adapters)

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters' names, in the order given."""
        return tuple(self.adapters)

    def features(self, maps: Mapping[str, Tensor]) -> dict[str, Residuals]:
        """Features of each control map (batch, 3, height, width) in [0, 1]; compute them once and combine them often.

        Raises UsageError for a map without adapter or of a size that the adapter cannot divide.
        """
        return {name: self._features(name, control) for name, control in maps.items()}

    def _features(self, name: str, control: Tensor) -> Residuals:
        if name not in self.adapters:
            raise UsageError(f"adapter: expected one of {', '.join(self.names) or 'none'}, found '{name}'; leave its map out, or join it when the model is loaded")
        adapter = self.adapters[name]
        factor = adapter.config.downscale_factor
        height, width = control.shape[-2:]
        if height % factor or width % factor:
            raise UsageError(f"map '{name}': expected sides that are multiples of {factor}, found {height}x{width}")
        return tuple(adapter(control.to(adapter.dtype))[: len(self.widths)])


def combine(
    features: Mapping[str, Residuals], weights: Mapping[str, float], masks: Mapping[str, Tensor] | None = None
) -> Residuals | None:
    """Sum over adapters of weight times features, one residual per level; None when no weight is left.

    An adapter of weight 0, or without weight, is skipped, so that it changes no bit of the result; nor does their order, as they
    are added by name. `masks` (batch, 1,
    height, width) in [0, 1], of any size, say where in the picture an adapter acts. Raises UsageError for a weight
    whose adapter has no features.
    """
    active = {name: weight for name, weight in weights.items() if weight}
    missing = sorted(set(active) - set(features))
    if missing:
        known = ", ".join(features) or "none"
        raise UsageError(f"adapter weights: expected some of {known}, found {', '.join(missing)}; give their maps as controls, or leave them out")
    total = None
    for name, weight in sorted(active.items()):
        mask = None if masks is None else masks.get(name)
        scaled = [weight * _masked(feature, mask) for feature in features[name]]
        total = scaled if total is None else [a + b for a, b in zip(total, scaled, strict=True)]
    return None if total is None else tuple(total)


SOFT_BORDER = 2
"""Latent pixels to each side over which an adapter begins to act."""


def reach_of(features: Residuals) -> Tensor | None:
    """Where (batch, 1, height, width), in [0, 1], an adapter adds anything at the finest level; None where that is everywhere.

    One without biases adds nothing where its map is black, but for some 30 pixels around what is not.
    """
    found = (features[0] != 0).any(1, keepdim=True)
    if found.all():
        return None
    return functional.avg_pool2d(found.float(), 2 * SOFT_BORDER + 1, 1, SOFT_BORDER, count_include_pad=False)


def _masked(feature: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return feature
    return feature * functional.interpolate(mask.to(feature), size=feature.shape[-2:], mode="area")


def check_residuals(residuals: Residuals, widths: Sequence[int], latent_size: tuple[int, int]) -> None:
    """Raise ModelError unless `residuals` fit down blocks of `widths` over latents of `latent_size` (height, width)."""
    if len(residuals) != len(widths):
        raise ModelError(f"residuals: expected {len(widths)}, one per down block, found {len(residuals)}")
    height, width = latent_size
    for level, (residual, channels) in enumerate(zip(residuals, widths, strict=True)):
        expected = (channels, -(-height // 2**level), -(-width // 2**level))
        if tuple(residual.shape[1:]) != expected:
            raise ModelError(
                f"residual of level {level}: expected (channels, height, width) {expected}, "
                f"found {tuple(residual.shape[1:])}: use a map of the size of the picture"
            )

"""A U-Net as a function of tensors alone, which is what can be converted: pictures or clips, with or without residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from hicast.models.temporal import TemporalLayers

FRAMES = "frames"
RESIDUAL = "residual"

FREE_SIDES = {"sample": (0, 2, 3), "encoder_hidden_states": (0, 1), "class_labels": (0,), "timestep_cond": (0,)}
"""Inputs and those of their dimensions that differ from call to call."""


@dataclass(frozen=True)
class Inputs:
    """The tensors that one kind of call has, by name; a graph is made for each kind. `frames` per clip make it a call for clips."""

    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, sample: Tensor, timestep: Tensor | float, context: Tensor, style: Tensor, scale: Tensor | None,
           residuals: Sequence[Tensor] | None, frames: int | None) -> Inputs:  # fmt: skip
        """What a U-Net is called with, as float32; `timestep` is one number for all rows."""
        found = {"sample": sample, "timestep": torch.as_tensor(timestep).reshape(()), "encoder_hidden_states": context, "class_labels": style}
        found |= {} if scale is None else {"timestep_cond": scale}
        found |= {f"{RESIDUAL}{level}": residual for level, residual in enumerate(residuals or ())}
        found = {name: value.detach().float() for name, value in found.items()}
        return cls(found | ({} if frames is None else {FRAMES: torch.tensor(frames)}))

    @property
    def kind(self) -> str:
        """A word that calls of one kind have in common."""
        return "-".join(["clips" if FRAMES in self.tensors else "pictures", *(["adapters"] if f"{RESIDUAL}0" in self.tensors else [])])

    def shapes(self) -> list[list[int]]:
        """Shapes of the tensors with -1 for all dimensions that differ from call to call."""
        return [[-1 if side in _free_sides(name) else length for side, length in enumerate(value.shape)] for name, value in self.tensors.items()]

    def small(self, levels: int) -> tuple[Tensor, ...]:
        """Inputs of this kind for two rows of little size, to trace a U-Net of so many `levels` with."""
        unit, made = 2 ** (levels - 1), []
        for name, value in self.tensors.items():
            shape = list(value.shape)
            if name.startswith(RESIDUAL):
                scale = 2 ** int(name.removeprefix(RESIDUAL))
                shape = [2, shape[1], 4 * unit // scale, 6 * unit // scale]
            elif name == "sample":
                shape = [2, shape[1], 4 * unit, 6 * unit]
            elif name == "encoder_hidden_states":
                shape = [2, 3, shape[2]]
            elif name in FREE_SIDES:
                shape = [2, *shape[1:]]
            made.append(torch.tensor(2) if name == FRAMES else torch.ones(shape))
        return tuple(made)


class FlatUnet(nn.Module):
    """`unet` called with the tensors of one kind of `Inputs` in their order."""

    def __init__(self, unet: UNet2DConditionModel, temporal: TemporalLayers | None, names: Sequence[str]) -> None:
        """For clips, `temporal` must be in the `unet` when this is called."""
        super().__init__()
        self.unet, self.temporal, self.names = unet, temporal, tuple(names)

    def forward(self, *tensors: Tensor) -> Tensor:
        """The prediction; the number of frames is a tensor as well, so that a graph holds for any."""
        given = dict(zip(self.names, tensors, strict=True))
        frames = given.pop(FRAMES, None)
        residuals = [given.pop(name) for name in self.names if name.startswith(RESIDUAL)]
        with nullcontext() if frames is None else self.temporal.clip(frames):
            return type(self.unet).forward(self.unet, **given, down_intrablock_additional_residuals=residuals or None, return_dict=False)[0]


def _free_sides(name: str) -> Sequence[int]:
    return (0, 2, 3) if name.startswith(RESIDUAL) else FREE_SIDES.get(name, ())

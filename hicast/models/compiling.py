"""torch.compile for a U-Net that may have temporal layers in it at one time and not at another."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel


def compile_unet(unet: UNet2DConditionModel, **options: Any) -> None:
    """Compile `unet` in place at its first use; names and weights stay. `options` are those of torch.compile.

    Layers for clips act through hooks, which compiled code is usually free to take for unchanging: it is told to look.
    """
    import torch._dynamo.config as dynamo

    dynamo.skip_nnmodule_hook_guards = False
    unet.compile(**options)

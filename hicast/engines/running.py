"""The engine of a pipeline: chosen, put in place of the U-Net's forward, and taken out again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from hicast.engines.choice import meant_engine, why_not_openvino
from hicast.models.temporal import TemporalLayers

OnNote = Callable[[str], None]


class Engine:
    """What runs a U-Net; its `name` is `torch` or `openvino`. `choose`, then bring the weights to `weights_dtype`, then `start`."""

    def __init__(self, unet: UNet2DConditionModel, temporal: TemporalLayers | None, folder: Path | None = None) -> None:
        """`folder` is that of the model, beside whose weights converted nets are kept."""
        self._unet, self._temporal, self._folder = unet, temporal, folder
        self.name = "torch"

    def choose(self, engine: str, device: torch.device, on_note: OnNote) -> None:
        """Resolve `engine` for `device`; where `openvino` is asked for and cannot be had, `on_note` is told why.

        Raises UsageError for an unknown name.
        """
        wanted = meant_engine(engine)
        refused = why_not_openvino(self._unet, device) if wanted != "torch" else None
        if refused and wanted == "openvino":
            on_note(f"engine openvino: {refused}; goes on with torch")
        self.name = "torch" if wanted == "torch" or refused else "openvino"

    def weights_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What the weights of the U-Net must be in for work in `dtype`: graphs are made of the exact ones."""
        return dtype if self.name == "torch" else torch.float32

    def start(self, dtype: torch.dtype, on_note: OnNote, on_failure: Callable[[], object]) -> None:
        """Let the chosen engine run the U-Net in `dtype`; `on_failure` is called where it turns out that it cannot."""
        if self.name == "torch":
            return
        from hicast.engines.openvino_unet import OpenVinoUnet
        from hicast.engines.store import Store

        self._unet.forward = OpenVinoUnet(self._unet, self._temporal, dtype, torch.get_num_threads(), Store(self._folder), on_note, on_failure)

    def stop(self) -> None:
        """Leave the U-Net to PyTorch."""
        self._unet.__dict__.pop("forward", None)
        self.name = "torch"

"""The denoising net on OpenVINO: a stand-in for the U-Net's own forward, converted at its first use and kept on disk."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor

from hicast import __version__
from hicast.engines.flat_unet import FRAMES, FlatUnet, Inputs
from hicast.engines.store import Store
from hicast.models.temporal import TemporalLayers

FORM = 1
"""Raised whenever this module makes other graphs of the same weights."""

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}

OnNote = Callable[[str], None]


class OpenVinoUnet:
    """Called as a U-Net is; runs graphs with free sizes, one for each kind of call, in `dtype` on so many `threads`.

    The weights of `unet` and `temporal` must be float32. What no graph is made for (sizes that do not halve evenly at every level,
    a timestep per row) is left to PyTorch, and so is everything after a conversion that failed, which calls `on_failure` first.
    `on_note` is told in a line what the user should know.
    """

    def __init__(self, unet: UNet2DConditionModel, temporal: TemporalLayers | None, dtype: torch.dtype, threads: int, store: Store,
                 on_note: OnNote = lambda text: None, on_failure: Callable[[], None] = lambda: None) -> None:  # fmt: skip
        """Nothing is loaded or converted yet."""
        self._unet, self._temporal, self._store = unet, temporal, store
        self._on_note, self._on_failure = on_note, on_failure
        self._options = {"INFERENCE_PRECISION_HINT": PRECISIONS[dtype], "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self._levels = len(unet.config.block_out_channels)
        self._requests: dict[str, Any] = {}
        self._core: Any = None

    def __call__(self, sample: Tensor, timestep: Tensor | float, encoder_hidden_states: Tensor, class_labels: Tensor | None = None,
                 timestep_cond: Tensor | None = None, down_intrablock_additional_residuals: Sequence[Tensor] | None = None) -> UNet2DConditionOutput:  # fmt: skip
        """The prediction for `sample` (batch, channels, height, width), float32; arguments as those of the U-Net."""
        even = all(side % 2 ** (self._levels - 1) == 0 for side in sample.shape[-2:])
        if even and torch.as_tensor(timestep).numel() == 1:
            frames = None if self._temporal is None else self._temporal.frames
            inputs = Inputs.of(sample, timestep, encoder_hidden_states, class_labels, timestep_cond, down_intrablock_additional_residuals, frames)
            request = self._request(inputs)
            if request is not None:
                found = request.infer([value.contiguous().numpy() for value in inputs.tensors.values()], share_inputs=True)
                return UNet2DConditionOutput(sample=torch.from_numpy(found[0]).to(sample.dtype))
        return self._with_torch(sample, timestep, encoder_hidden_states, class_labels, timestep_cond, down_intrablock_additional_residuals)

    def _with_torch(self, sample: Tensor, timestep: Tensor | float, *others: Any) -> UNet2DConditionOutput:
        def cast(value: Any) -> Any:
            return [cast(each) for each in value] if isinstance(value, list | tuple) else value if value is None else value.to(self._unet.dtype)

        names = ("encoder_hidden_states", "class_labels", "timestep_cond", "down_intrablock_additional_residuals")
        given = {name: cast(value) for name, value in zip(names, others, strict=True)}
        found = type(self._unet).forward(self._unet, cast(sample), timestep, **given).sample
        return UNet2DConditionOutput(sample=found.to(sample.dtype))

    def _request(self, inputs: Inputs) -> Any:
        """What infers calls of this kind; None where it cannot be had."""
        if inputs.kind not in self._requests:
            try:
                self._requests[inputs.kind] = self._opened(inputs).create_infer_request()
            except Exception as error:
                self._requests[inputs.kind] = None
                reason = " ".join(str(error).split())[:200]
                self._on_note(f"engine openvino: expected a net that it can run, found: {reason}; goes on with torch")
                self._on_failure()
        return self._requests[inputs.kind]

    def _opened(self, inputs: Inputs) -> Any:
        """The compiled graph for calls of this kind: from disk, else converted and kept there."""
        import openvino

        if self._core is None:
            self._core = openvino.Core()
        group = f"unet-{inputs.kind}-{self._options['INFERENCE_PRECISION_HINT']}"
        name = f"{group}-{self._key(inputs, openvino.__version__)}"
        payload, path = self._store.load(name)
        if payload is not None:
            try:
                return self._core.import_model(openvino.Tensor(payload), "CPU", self._options)
            except RuntimeError:
                payload = None
        if path:
            self._on_note(f"{path}: expected a converted net, found it damaged; converts it anew")
        compiled = self._converted(inputs)
        stream = io.BytesIO()
        compiled.export_model(stream)
        if self._store.save(name, stream.getvalue(), group) is None:
            self._on_note(f"{self._store.folders[-1]}: expected a folder to keep the converted net in, found none; converts it anew each time")
        return compiled

    def _converted(self, inputs: Inputs) -> Any:
        """The compiled graph, with the clip's layers in it where the call is for clips; they must be in the U-Net now.

        By the frontend itself: `openvino.convert_model` takes twice as long and sends a report over the network.
        """
        from openvino import PartialShape
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        flat = FlatUnet(self._unet, self._temporal if FRAMES in inputs.tensors else None, tuple(inputs.tensors)).eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(flat, inputs.small(self._levels), check_trace=False)
        decoder = TorchScriptPythonDecoder(traced)  # its memory must outlive the graph's making
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.load(decoder)
        graph = frontend.convert(model)
        graph.reshape(dict(zip(graph.inputs, map(PartialShape, inputs.shapes()), strict=True)))
        return self._core.compile_model(graph, "CPU", self._options)

    def _key(self, inputs: Inputs, version: str) -> str:
        """Stands for all that the compiled graph depends on: weights, code, libraries, shapes, precision, and the processor."""
        digest = hashlib.sha256()
        modules = [self._unet] + ([self._temporal] if FRAMES in inputs.tensors else [])
        processor = [str(self._core.get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
        words = [FORM, __version__, version, torch.__version__, diffusers.__version__, processor, self._options["INFERENCE_PRECISION_HINT"]]
        words += [list(inputs.tensors), inputs.shapes(), *(dict(module.config) for module in modules)]
        digest.update(json.dumps(words, sort_keys=True, default=str).encode())
        for module in modules:
            for name, value in sorted(module.state_dict().items()):
                digest.update(f"{name} {tuple(value.shape)}".encode())
                digest.update(value.detach().contiguous().float().numpy())
        return digest.hexdigest()[:20]

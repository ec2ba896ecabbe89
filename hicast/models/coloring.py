"""Whitening and coloring of latents: their mean and covariance move towards those of a painting's latents."""

from __future__ import annotations

import torch
from torch import Tensor

from hicast.encoders.latent_moments import LatentMoments, mean_and_covariance

FLOOR = 0.2
"""Variance that is added to both covariances, over the painting's mean variance: nothing is multiplied without limit where a picture is flat."""


def colored(latents: Tensor, style: LatentMoments, strength: Tensor, frames: int = 1) -> Tensor:
    """`latents` (batch, channels, height, width) moved by `strength` (batch,) in [0, 1] of the way to the moments of `style`.

    Every row goes by the map that moves its own mean and covariance, of every `frames` rows those of a clip (`over_time`), to the painting's with
    the least change, the closed-form optimal transport between Gaussians (for style transfer: Lu et al., arXiv 1906.00668; whitening and coloring:
    Li et al., arXiv 1705.08086). Computed in float32, whatever the surroundings; differentiable in `latents`.
    """
    surroundings = "cpu" if latents.is_meta else latents.device.type  # autocast knows no meta tensors
    with torch.autocast(surroundings, enabled=False):
        flat = latents.float().flatten(2)
        mean, covariance = mean_and_covariance(latents, frames)
        floor = FLOOR * style.covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(flat.shape[1], device=flat.device)
        root = _power(style.covariance + floor, 0.5)
        map_ = root @ InverseRoot.apply(root @ (covariance + floor) @ root) @ root
        moved = map_ @ (flat - mean[..., None]) + style.mean[..., None]
        return torch.lerp(flat, moved, strength.float()[:, None, None]).view_as(latents).to(latents.dtype)


class InverseRoot(torch.autograd.Function):
    """Inverse square roots of symmetric positive matrices (batch, n, n).

    The gradient is that of a function of the eigenvalues (Daleckii and Krein): exact, and finite where eigenvalues meet,
    as the gradients of the eigenvectors themselves are not.
    """

    @staticmethod
    def forward(context, matrices: Tensor) -> Tensor:
        """The roots; matrices are taken to be symmetric."""
        values, vectors = _eigen(matrices)
        roots = values.clamp_min(SMALLEST).sqrt()
        context.save_for_backward(roots, vectors)
        return vectors / roots[:, None, :] @ vectors.transpose(1, 2)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        """The gradient by the matrices."""
        roots, vectors = context.saved_tensors
        rows, columns = roots[:, :, None], roots[:, None, :]
        inner = vectors.transpose(1, 2) @ gradient @ vectors / -(rows * columns * (rows + columns))
        return vectors @ inner @ vectors.transpose(1, 2)


SMALLEST = 1e-12
"""Least eigenvalue that a root is taken of."""


def _power(matrices: Tensor, exponent: float) -> Tensor:
    """Powers of symmetric positive matrices (batch, n, n)."""
    values, vectors = _eigen(matrices)
    return vectors * values.clamp_min(SMALLEST).pow(exponent)[:, None, :] @ vectors.transpose(1, 2)


def _eigen(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of symmetric `matrices`, found on the CPU where the device is an Apple GPU, for which torch has no way to."""
    if matrices.device.type != "mps":
        return torch.linalg.eigh(matrices)
    values, vectors = torch.linalg.eigh(matrices.cpu())
    return values.to(matrices.device), vectors.to(matrices.device)

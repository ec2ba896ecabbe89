"""FID and ArtFID: how near a set of results is to the set of paintings; the user brings the Inception weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hicast.errors import ModelError, UsageError

DIMENSIONS = 2048
LEAST = DIMENSIONS
"""Fewest pictures of a set: with fewer its covariance has no full rank, and the figure says more of their number than of them."""

SIDE = 299
WEIGHTS = "Inception-v3 as pytorch-fid or art-fid ship it, in torchvision's names"


def check_number(count: int, name: str = "fid") -> None:
    """Raise UsageError where a set of `count` pictures is too small for the distance called `name`."""
    if count < LEAST:
        raise UsageError(f"{name}: expected {LEAST} pairs or more, found {count}, with which it means nothing; leave {name} out of --metrics")


def frechet_distance(ours: np.ndarray, target: np.ndarray) -> float:
    """Distance of the Gaussians of two sets of features (count, dimensions); 0 for equal sets.

    |mean difference|^2 + trace(A + B - 2 (A B)^(1/2)), A and B unbiased covariances. Source: arXiv 1706.08500.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (ours, target))
    spread_x, spread_y = (np.atleast_2d(np.cov(values, rowvar=False)) for values in (x, y))
    values, vectors = np.linalg.eigh(spread_x)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ spread_y @ root).clip(0)).sum()
    gap = np.square(x.mean(0) - y.mean(0)).sum()
    return float(max(gap + np.trace(spread_x) + np.trace(spread_y) - 2 * cross, 0.0))


def art_fid(fid: float, lpips: float) -> float:
    """ArtFID: (1 + FID to the paintings) (1 + mean LPIPS to the photos); 1 is best. Source: arXiv 2207.12280."""
    return (1 + fid) * (1 + lpips)


class Inception:
    """The 2048 pooled features of Inception-v3, pooled as the original of FID pools."""

    def __init__(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        """`state` in torchvision's names; its classifier is not used. Raises ModelError where torchvision or a weight lacks."""
        try:
            from torchvision.models import Inception3
        except (ImportError, RuntimeError) as error:
            raise ModelError(f"fid: expected torchvision, found: {error}; install it") from error
        net = Inception3(num_classes=1, aux_logits=False, transform_input=False, init_weights=False)
        kept = {key: tensor for key, tensor in state.items() if not key.startswith(("fc.", "AuxLogits."))}
        missing, surplus = net.load_state_dict(kept, strict=False)
        missing = [key for key in missing if not key.startswith("fc.") and not key.endswith("num_batches_tracked")]
        if missing or surplus:
            raise ModelError(f"fid: expected {WEIGHTS}, found {'no ' if missing else ''}'{[*missing, *surplus][0]}'; give another file")
        net.fc = nn.Identity()
        _pool_as_published(net)
        self._net, self._device = net.eval().requires_grad_(False).to(device), torch.device(device)

    @torch.inference_mode()
    def __call__(self, images: Iterable[Tensor]) -> np.ndarray:
        """Features (count, 2048) of images (1, 3, height, width) in [-1, 1], one at a time."""
        rows = [self._net(functional.interpolate(image.to(self._device), (SIDE, SIDE), mode="bilinear"))[0] for image in images]
        return torch.stack(rows).cpu().numpy()


def _pool_as_published(net: nn.Module) -> None:
    """The original's means leave out the padding, and its last block takes a maximum instead."""
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b"):
        getattr(net, name).branch_pool.register_forward_pre_hook(_without_padding)
    seen: dict[str, Tensor] = {}
    net.Mixed_7c.register_forward_pre_hook(lambda module, inputs: seen.update(whole=inputs[0]))
    net.Mixed_7c.branch_pool.register_forward_pre_hook(lambda module, inputs: (functional.max_pool2d(seen.pop("whole"), 3, 1, 1),))


def _without_padding(module: nn.Module, inputs: Sequence[Any]) -> tuple[Tensor]:
    ones = inputs[0].new_ones(1, 1, *inputs[0].shape[-2:])
    return (inputs[0] / functional.avg_pool2d(ones, 3, 1, 1),)

"""What is done to the pixels of a result on the user's demand: the photo's colours kept, and the photo kept outside of regions."""

from __future__ import annotations

import torch
from torch import Tensor

from hicast.io.images import resize_image
from hicast.repainting.maps import resize_mask
from hicast.repainting.scene import Look

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""


def finished(image: Tensor, photo: Tensor | None, masks: tuple[Tensor, ...], look: Look) -> Tensor:
    """`image` (1, 3, height, width) with what the look wants of the `photo`'s own pixels; `masks` may have any size."""
    if not (look.preserve_color or look.keep_outside):
        return image
    photo = resize_image(photo, tuple(image.shape[-2:]))
    if look.preserve_color:
        image = keep_color(image, photo)
    if look.keep_outside:
        image = keep_outside(image, photo, union(tuple(resize_mask(mask, tuple(image.shape[-2:])) for mask in masks)))
    return image


def keep_color(image: Tensor, photo: Tensor) -> Tensor:
    """The lightness of `image` with the colours of `photo`, both (batch, 3, height, width) in [-1, 1].

    Luma is that of `image` everywhere; the differences of the channels from it are those of `photo`, drawn towards grey
    where they would leave the range.
    """
    weights = image.new_tensor(LUMA).view(1, 3, 1, 1)
    luma = (image * weights).sum(1, keepdim=True)
    chroma = photo - (photo * weights).sum(1, keepdim=True)
    room = torch.where(chroma > 0, 1 - luma, 1 + luma)
    share = (room / chroma.abs().clamp_min(1e-6)).amin(1, keepdim=True).clamp(0, 1)
    return (luma + share * chroma).clamp(-1, 1)


def keep_outside(image: Tensor, photo: Tensor, inside: Tensor) -> Tensor:
    """`image` where the mask `inside` (batch, 1, height, width) is 1, and `photo`, bit by bit, where it is 0."""
    return torch.lerp(photo, image, inside)


def union(masks: tuple[Tensor, ...]) -> Tensor:
    """How much of the picture is covered by any of the masks (batch, 1, height, width) in [0, 1]."""
    left = torch.ones_like(masks[0])
    for mask in masks:
        left = left * (1 - mask)
    return 1 - left

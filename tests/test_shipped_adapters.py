"""The adapters that ship: they act where their map is, as strongly as it is bright, and nowhere else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hicast.config.adapters import AdapterUse
from hicast.controls import find_extractor
from hicast.io.images import load_picture, resize_image, to_tensor
from hicast.pipeline import HiCastPipeline
from hicast.repainting.finish import LUMA
from hicast.repainting.scene import Look

EXAMPLES = Path(__file__).parents[1] / "examples"
SIZE = (256, 384)
LEFT, RIGHT = slice(0, 160), slice(224, 384)
"""What lies well within the left and the right half."""


@pytest.fixture(scope="module")
def pipeline() -> HiCastPipeline:
    return HiCastPipeline.from_pretrained("compact", "cpu", "float32")


def picture(name: str) -> Tensor:
    return resize_image(to_tensor(load_picture(EXAMPLES / name).pixels), SIZE)


def fine(image: Tensor) -> Tensor:
    """Fine light and shade: the luma less its mean in boxes of 13 pixels."""
    luma = (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return luma - functional.avg_pool2d(functional.pad(luma, (6,) * 4, mode="reflect"), 13, 1)


def held(image: Tensor, photo: Tensor, part: slice) -> float:
    """Correlation of the fine light and shade of both in a `part` of the columns."""
    return functional.cosine_similarity(*(fine(one)[..., part].flatten() for one in (image, photo)), dim=0).item()


@pytest.mark.parametrize("control", ["edge", "depth", "seg"])
def test_a_map_on_half_of_a_picture_acts_on_that_half(pipeline, control):
    photo, style = picture("coffee.jpg"), pipeline.encode_style([(picture("woodcut.jpg"), 1.0)])
    whole = find_extractor(control, None)[1].open(None, pipeline.device, torch.float32)(photo)
    half = whole.clone()
    half[..., SIZE[1] // 2 :] = 0
    plain, full, part, black = (
        pipeline.stylize_image(photo, style, controls={control: given}, adapters={control: weight})
        for given, weight in ((whole, 0.0), (whole, 1.0), (half, 1.0), (0 * whole, 1.0))
    )
    gains = [[held(image, photo, side) - held(plain, photo, side) for image in (full, part)] for side in (LEFT, RIGHT)]
    assert (black - plain).abs().mean() < 2e-3  # a batch of two rounds otherwise, and steep curves of a woodcut's levels show it
    assert gains[0][0] > 0.02 and gains[1][0] > 0.02
    assert gains[0][1] > 0.7 * gains[0][0]
    assert abs(gains[1][1]) < 0.15 * gains[1][0]


@pytest.mark.parametrize("control", ["edge", "depth", "seg"])
def test_more_weight_holds_more_of_the_photo_also_beyond_one(pipeline, control):
    photo, style = picture("coffee.jpg"), pipeline.encode_style([(picture("woodcut.jpg"), 1.0)])
    given = find_extractor(control, None)[1].open(None, pipeline.device, torch.float32)(photo)
    scene = pipeline.prepare(photo, style, controls={control: given})
    kept = [held(pipeline.paint(scene, Look(adapters={control: AdapterUse.of(weight)})), photo, slice(None)) for weight in (0.0, 0.5, 1.0, 1.5)]
    assert all(more > less + 0.01 for less, more in pairwise(kept))

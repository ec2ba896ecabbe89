"""Segmentation by OneFormer, drawn in the palette of COCO's panoptic classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hicast.controls import Weights, missing_weights
from hicast.errors import ModelError

HUB = "shi-labs/oneformer_coco_swin_large"
TASK = "the task is semantic"
SHORTEST, LONGEST = 800, 1333
"""Sides in pixels that the net sees where its folder does not say."""

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PALETTE = bytes.fromhex(
    "dc143c 770b20 00008e 0000e6 6a00e4 003c64 005064 000046 0000c0 faaa1e 64aa1e dcdc00 af74af fa001e a52a2a ff4dff 00e2fc b6b6ff "
    "005200 78a69d 6e4c00 ae39ff c76400 480076 ffb3f0 007d5c d10097 bcd0b6 00dcb0 ff63a4 5c0049 8581ff 4eb4ff 00e400 aefff3 2d59ff "
    "868667 9194ae ffd0ba c5e2ff ab8601 6d3f36 cf8aff 97005f 09503d 546933 4a4169 a6c466 d0c3d2 ff6d41 008f95 b300c2 d1636a 057900 "
    "e3ffcd 93bad0 994501 035fa1 a3ff00 7700aa 00b6c7 00a578 b7825a 5f2000 827287 6e8185 a64a76 db8eb9 4fd272 b25a3e 41460f 7fa773 "
    "3b696a 8e6c2d c4ac00 5f3650 804cff c93901 f6007a bfa2d0 ffff80 93d3cb 966464 a8abac 9270c6 d2aa64 5c8859 da58b8 f18100 d911ff "
    "7c4ab5 464646 ffe4ff 9ad000 c1005c 4c5b71 ffb4c3 6a9ab0 e6968c 3c8fff 804080 5c5237 fed47c 494dae ffa062 ffffff 68546d a9a483 "
    "e1c7ff 89364a 879edf 07f6e7 6bffc8 3a2995 b7798e ff4961 6b8e23 be9999 928d8b 4682b4 86c79c d1e28c 60246c 606060 40aa40 98fb98 "
    "d0e5e4 cebaab 98a140 747400 00728f 66669c fa8dff"
)
"""Colours of the 133 panoptic classes of COCO in the order of its labels (panopticapi, which detectron2 follows)."""


class OneFormerSegmentation(nn.Module):
    """Semantic segmentation by a OneFormer net of transformers (arXiv 2211.06220), without gradient."""

    def __init__(self, net: nn.Module, task: Tensor, seen: dict[str, Any] | None = None) -> None:
        """Wrap a `OneFormerForUniversalSegmentation` with the tokens (1, length) of its `task` and its preprocessing.

        Raises ModelError where the net has more classes than the palette has colours.
        """
        super().__init__()
        palette = torch.tensor(list(PALETTE)).view(-1, 3).float() / 255
        if net.config.num_labels > len(palette):
            raise ModelError(
                f"extractor oneformer-coco: expected at most {len(palette)} classes, found {net.config.num_labels}; give a net of COCO"
            )
        self.net = net
        seen = seen or {}
        size = seen.get("size") if isinstance(seen.get("size"), dict) else {}
        self.shortest, self.longest = size.get("shortest_edge", SHORTEST), size.get("longest_edge", LONGEST)
        self.register_buffer("task", task)
        self.register_buffer("palette", palette)
        self.register_buffer("mean", torch.tensor(seen.get("image_mean", MEAN)).view(1, 3, 1, 1))
        self.register_buffer("spread", torch.tensor(seen.get("image_std", SPREAD)).view(1, 3, 1, 1))

    @torch.no_grad()
    def labels(self, image: Tensor) -> Tensor:
        """Class of COCO (batch, height, width) at each pixel of `image` (batch, 3, height, width) in [-1, 1]."""
        height, width = image.shape[-2:]
        scale = min(self.shortest / min(height, width), self.longest / max(height, width))
        size = (round(height * scale), round(width * scale))
        seen = functional.interpolate(image.float() / 2 + 0.5, size=size, mode="bilinear", antialias=True)
        seen = (seen - self.mean.float()) / self.spread.float()
        found = self.net(pixel_values=seen.to(self.net.dtype), task_inputs=self.task.expand(len(image), -1))
        classes, masks = found.class_queries_logits.float().softmax(-1)[..., :-1], found.masks_queries_logits.float().sigmoid()
        scores = torch.einsum("bqc,bqhw->bchw", classes, masks)
        return functional.interpolate(scores, size=(height, width), mode="bilinear").argmax(1)

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, 3, height, width) of COCO's colours in [0, 1] of `image` (batch, 3, height, width) in [-1, 1].

        Differs from the published map in that no borders are drawn over it (reference, section 5).
        """
        return self.palette.float()[self.labels(image)].permute(0, 3, 1, 2)


def load_oneformer(weights: Weights) -> OneFormerSegmentation:
    """The net from a folder, or from the hub's cache; frozen, in float32. Raises ModelError where it is not there."""
    from transformers import CLIPTokenizer, OneFormerForUniversalSegmentation
    from transformers.utils import cached_file, logging

    drawn, place = logging.is_progress_bar_enabled(), str(weights or HUB)
    logging.disable_progress_bar()
    try:
        tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
        net = OneFormerForUniversalSegmentation.from_pretrained(place, local_files_only=True, dtype=torch.float32)
        file = cached_file(place, "preprocessor_config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
        seen = json.loads(Path(file).read_text(encoding="utf-8")) if file else None
    except (OSError, ValueError, TypeError) as error:
        raise missing_weights("oneformer-coco", weights) from error
    finally:
        if drawn:
            logging.enable_progress_bar()
    tokens = tokenizer([TASK], padding="max_length", max_length=net.config.task_seq_len, truncation=True, return_tensors="pt")
    return OneFormerSegmentation(net, tokens["input_ids"] * tokens["attention_mask"], seen).requires_grad_(False).eval()

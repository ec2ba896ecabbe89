"""Teaches the small net that tells from VGG-16's features of a photo where it shows things and faces.

    python benchmarks/teach_subject.py views PHOTOS PAINTINGS --faces faces.json --count 8000 --output views.safetensors
    python benchmarks/teach_subject.py teach views.safetensors --minutes 15 --output MODEL/subject

Things are what VGG-16 shows of them (`hicast/encoders/figures.py`); faces are the boxes in faces.json, from each picture's path to a
list of [left, top, right, bottom, how sure], as `benchmarks/find_faces.py` writes them. Every 20th picture is kept out and judged by.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from copy import deepcopy
from pathlib import Path
from time import process_time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import torch
from hicast.io.files import find_images
from hicast.io.weights import save_module
from hicast.models.subject import TAPS, SubjectNet
from hicast.pipeline import HiCastPipeline
from subject_views import SubjectViews, collect_views
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

BATCH = 32
KEPT_OUT = 20
"""Every so many-th picture is not learned from."""

DROPPED = 0.2
"""Share of the channels of the features that are left out of a view, so that the net learns from all of them."""

LEVEL = 0.3
"""Added to figures before their logarithms are compared: what is below hardly counts."""


def main() -> None:
    """Collect views, or teach by them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    views = commands.add_parser("views")
    views.add_argument("folders", type=Path, nargs="+")
    views.add_argument("--faces", type=Path, required=True)
    views.add_argument("--sure", type=float, default=0.95)
    views.add_argument("--count", type=int, default=8000)
    views.add_argument("--faced", action="store_true", help="of pictures with faces only")
    views.add_argument("--first", type=int, default=0, help="number of the first view, so that several processes share the work")
    teach = commands.add_parser("teach")
    teach.add_argument("views", type=Path, nargs="+")
    teach.add_argument("--minutes", type=float, default=15, help="of computing")
    teach.add_argument("--rate", type=float, default=3e-3)
    for command in (views, teach):
        command.add_argument("--output", type=Path, required=True)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    if given.command == "views":
        boxes = json.loads(given.faces.read_text())
        files = [file for folder in given.folders for file in find_images(folder)]
        chosen = [number for number, file in enumerate(files) if not given.faced or any(box[4] >= given.sure for box in boxes.get(str(file), ()))]
        numbers = [chosen[number % len(chosen)] + number // len(chosen) * len(files) for number in range(given.first, given.first + given.count)]
        vgg = HiCastPipeline.from_pretrained("compact", engine="torch").style_encoder.vgg
        collect_views(files, boxes, given.sure, vgg, numbers, given.seed).save(given.output)
        return
    seen = SubjectViews.load(given.views)
    net = taught(seen, given.minutes * 60, given.rate)
    save_module(net, given.output, torch.float16, {"component": "subject"})
    print(f"{given.output}: {sum(part.numel() for part in net.parameters())} weights; {judged(net, seen)}")


def taught(views: SubjectViews, seconds: float, rate: float) -> SubjectNet:
    """A net that has learned from the pictures that are not kept out for `seconds` of computing, its weights averaged."""
    net = SubjectNet()
    net.scale.copy_(torch.stack([getattr(views, tap)[::16].float().square().mean().sqrt() for tap in TAPS]))
    net = net.to(memory_format=torch.channels_last).train()
    average = AveragedModel(net, avg_fn=lambda mean, value, count: torch.lerp(mean, value, max(0.003, 5 / (5 + float(count)))))
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.02)
    rows = torch.nonzero(views.picture % KEPT_OUT != 0)[:, 0]
    faced = rows[views.faces[rows].float().mean((1, 2)) > 0.01]
    generator, begun, step, losses = torch.Generator().manual_seed(0), process_time(), 0, []
    while (share := (process_time() - begun) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * share))
        chosen = torch.cat([pool[torch.randint(len(pool), (BATCH // 2,), generator=generator)] for pool in (rows, faced)])
        figures, faces = views.figures[chosen].float(), views.faces[chosen].float()
        features = {tap: functional.dropout2d(getattr(views, tap)[chosen].float(), DROPPED) for tap in TAPS}
        with torch.autocast("cpu", torch.bfloat16):
            told = net.raw(features)
        loss = figure_loss(told[:, 0], figures) + face_loss(told[:, 1], faces)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(net)
        losses, step = [*losses[-199:], loss.item()], step + 1
        if step % 200 == 0:
            told = judged(deepcopy(average.module).eval(), views) if step % 1000 == 0 else ""
            print(f"step {step}, {process_time() - begun:.0f} s, loss {sum(losses) / len(losses):.4f} {told}", flush=True)
    return average.module.eval()


def figure_loss(told: Tensor, figures: Tensor) -> Tensor:
    """Difference of the logarithms of figures (batch, side, side)."""
    return ((functional.softplus(told) + LEVEL).log() - (figures + LEVEL).log()).abs().mean()


def face_loss(told: Tensor, faces: Tensor) -> Tensor:
    """Cross entropy with the mask of faces (batch, side, side), and the overlap of both."""
    mask = told.sigmoid()
    both, either = (mask * faces).sum((1, 2)), (mask + faces).sum((1, 2))
    overlap = 1 - (2 * both + 2) / (either + 2)
    return functional.binary_cross_entropy_with_logits(told, faces) + 0.2 * overlap.mean()


@torch.no_grad()
def judged(net: SubjectNet, views: SubjectViews) -> str:
    """On the pictures that were kept out: correlation of the logarithms of figures, share of the places of faces that are found, and of those found that are faces."""
    out = torch.nonzero(views.picture % KEPT_OUT == 0)[:, 0]
    told = torch.cat([net({tap: getattr(views, tap)[part].float() for tap in TAPS}) for part in out.split(64)])
    figures, faces = views.figures[out].float(), views.faces[out].float()
    logs = torch.stack([(told[:, 0] + LEVEL).log().flatten(), (figures + LEVEL).log().flatten()])
    found, true = told[:, 1] > 0.5, faces > 0.5
    hit = (found & true).sum()
    return f"figures {torch.corrcoef(logs)[0, 1]:.3f}, faces found {hit / true.sum():.3f}, of those faces {hit / found.sum():.3f} ({len(out)} views)"


if __name__ == "__main__":
    main()

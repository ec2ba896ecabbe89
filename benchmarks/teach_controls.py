"""Teaches a small net of control maps what a large one says of photos, of paintings and of strongly recoloured photos.

    python benchmarks/teach_controls.py soft PHOTOS... --teacher hed.safetensors --output soft.safetensors
    python benchmarks/teach_controls.py depth PHOTOS... --clips CLIPS --teacher depth.onnx --output depth.safetensors
    python benchmarks/teach_controls.py person PHOTOS... --clips CLIPS --teacher person.onnx --output person.safetensors

What the teacher says is kept in --cache. Each view is shown mirrored, recoloured, blurred and noisy at random, always with what
the teacher says of the view itself. The ONNX teachers need `pip install onnxruntime`.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from time import process_time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
import torch
from control_teachers import KINDS, Views, collect, open_teacher
from hicast.controls.map_net import MapNet, load_map_net, save_map_net
from hicast.training.data import sample_generator
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

WIDTHS = {"soft": (16, 32, 48, 64, 88), "depth": (16, 32, 64, 96, 144), "person": (12, 24, 32, 48, 64)}
BATCH = {"soft": 8, "depth": 12, "person": 12}
PAIRS = 2
"""Pairs of neighbouring frames in a batch of a kind that learns from clips."""

SAVE_EVERY = 100
"""Steps between two lines of the log and two savings."""

STILLNESS = 0.1
"""Weight of the change between neighbouring frames, beside that of the distance to the teacher."""


def main() -> None:
    """Teach one net and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("photos", type=Path, nargs="+", help="folders of pictures, paintings too")
    parser.add_argument("--clips", type=Path, nargs="*", default=[])
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("controls-cache"))
    parser.add_argument("--views", type=int, default=4000)
    parser.add_argument("--minutes", type=float, default=10, help="of computing")
    parser.add_argument("--from", dest="start", type=Path, help="a net of this kind to go on with")
    parser.add_argument("--keep", type=float, default=0.0, help="share of the weights of --from in what is written: a mean of both is steadier in clips")
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate at the beginning")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not 0 <= given.keep <= (1 if given.start else 0):
        parser.error(f"--keep: expected a share from 0 to 1 of the weights of --from, found {given.keep}")
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    teacher = open_teacher(given.kind, given.teacher)
    views = collect(given.kind, given.photos, given.clips, teacher, given.cache, given.views, given.seed)
    start = load_map_net(given.start) if given.start else None
    for net in teach(given.kind, views, given.minutes * 60, given.rate, given.seed, start):
        if start is not None:
            net.load_state_dict({name: torch.lerp(value, start.state_dict()[name], given.keep) for name, value in net.state_dict().items()})
        save_map_net(net, given.output, {"kind": given.kind, "teacher": given.teacher.name})
    print(f"{given.output}: {sum(part.numel() for part in net.parameters())} weights, {given.output.stat().st_size} bytes")


def teach(kind: str, views: Views, seconds: float, rate: float, seed: int, start: MapNet | None) -> Iterator[MapNet]:
    """A net that has learned for `seconds` of computing, its weights averaged over some hundreds of steps, and what it was on the way."""
    net = MapNet(WIDTHS[kind], norm=True) if start is None else unfolded(start, draw(kind, views, sample_generator(seed, 0))[0])
    net = net.to(memory_format=torch.channels_last).train()
    average = AveragedModel(net, avg_fn=_averaged, use_buffers=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-4)
    begun, step, seen = process_time(), 0, []
    while (share := (process_time() - begun) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * share))
        image, target, pairs = draw(kind, views, sample_generator(seed, step))
        with torch.autocast("cpu", torch.bfloat16):
            found = net(image)
        loss = LOSSES[kind](found.float(), target, pairs)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(net)
        seen, step = [*seen[1 - SAVE_EVERY :], loss.item()], step + 1
        if step % SAVE_EVERY == 0:
            print(f"{kind}: step {step}, {process_time() - begun:.0f} s, loss {np.mean(seen):.4f}", flush=True)
            yield deepcopy(average.module).eval().folded()
    yield average.module.eval().folded()


def _averaged(mean: Tensor, value: Tensor, count: Tensor) -> Tensor:
    """The running mean of a weight, which forgets quickly at first and then over some hundreds of steps."""
    return torch.lerp(mean, value, max(0.005, 5 / (5 + float(count))))


@torch.no_grad()
def unfolded(plain: MapNet, image: Tensor) -> MapNet:
    """`plain` with batch norms that change nothing on `image`, so that it can go on learning."""
    net = MapNet(plain.widths, norm=True).train()
    net.load_state_dict(plain.state_dict(), strict=False)
    hooks = []

    def measure(part: nn.Module, given: tuple[Tensor]) -> None:
        raw = functional.conv2d(given[0], part.weight, None, part.stride, part.weight.shape[-1] // 2)
        variance, mean = torch.var_mean(raw, (0, 2, 3))
        part.mean.copy_(mean)
        part.variance.copy_(variance)
        part.gain.copy_((variance + 1e-5).sqrt())
        part.bias.add_(mean)

    for part in net.modules():
        if hasattr(part, "gain"):
            hooks.append(part.register_forward_pre_hook(measure))
    net(image)
    for hook in hooks:
        hook.remove()
    return net


def draw(kind: str, views: Views, random: np.random.Generator) -> tuple[Tensor, Tensor, int]:
    """Images (batch, 3, h, w) in [-1, 1], values (batch, 1, h, w), and how many rows at the end are pairs of frames."""
    pairs = PAIRS if len(views.pairs) and kind == "depth" else 0
    rows = list(random.integers(0, len(views.pictures), BATCH[kind] - 2 * pairs))
    if kind == "person":
        rows[::2] = random.choice(views.filled, len(rows[::2]))
    looks = [look(random) for _ in rows]
    for start in random.choice(views.pairs, pairs) if pairs else ():
        rows += [start, start + 1]
        looks += [look(random)] * 2
    image = torch.from_numpy(views.pictures[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
    target = torch.from_numpy(views.values[rows]).float()[:, None]
    flips = random.random(len(rows)) < 0.5
    for last in range(len(rows) - 2 * pairs, len(rows), 2):
        flips[last + 1] = flips[last]
    image[flips], target[flips] = image[flips].flip(-1), target[flips].flip(-1)
    generator = torch.Generator().manual_seed(int(random.integers(2**62)))
    return torch.stack([change(one, generator) for change, one in zip(looks, image, strict=True)]), target, pairs


def look(random: np.random.Generator) -> Callable[[Tensor, torch.Generator], Tensor]:
    """A change of colours, sharpness and noise, to be done alike to each frame of a pair (but for its noise)."""
    strength = random.choice([0.0, 0.15, 0.5], p=[0.4, 0.4, 0.2])
    mixing = torch.from_numpy(np.eye(3) + strength * random.normal(size=(3, 3))).float()
    shift = torch.from_numpy(0.3 * strength * random.normal(size=(3, 1, 1))).float()
    gamma = float(np.exp(1.2 * strength * random.normal()))
    blur, noise = max(0.0, random.uniform(-2, 1)), max(0.0, random.uniform(-0.12, 0.06))
    grey = random.random() < 0.08

    def change(image: Tensor, generator: torch.Generator) -> Tensor:
        image = image.mean(0, keepdim=True).expand(3, -1, -1) if grey else image
        if strength:
            image = (torch.einsum("ij,jhw->ihw", mixing, image) + shift).clamp(-1, 1)
            image = ((image + 1) / 2).pow(gamma) * 2 - 1
        if blur:
            smooth = functional.avg_pool2d(functional.pad(image[None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]
            image = torch.lerp(image, smooth, blur)
        return (image + noise * torch.randn(image.shape, generator=generator)).clamp(-1, 1) if noise else image

    return change


def edge_loss(found: Tensor, target: Tensor, pairs: int) -> Tensor:
    """Cross entropy with the teacher's probabilities, that of edges counting more, as they are few."""
    weight = 1 + 2 * target
    return functional.binary_cross_entropy_with_logits(found, target, weight)


def person_loss(found: Tensor, target: Tensor, pairs: int) -> Tensor:
    """Cross entropy with the teacher's probabilities and the overlap of both masks."""
    target = target.clamp(0, 1)
    mask = found.sigmoid()
    both, either = (mask * target).sum((1, 2, 3)), (mask + target).sum((1, 2, 3))
    overlap = 1 - (2 * both + 500) / (either + 500)
    return functional.binary_cross_entropy_with_logits(found, target) + 0.3 * overlap.mean()


def depth_loss(found: Tensor, target: Tensor, pairs: int) -> Tensor:
    """Distance to the teacher's values and to their slopes at three scales, and the change between frames of a pair.

    Half of the distance is that of the values with the mean and the spread of each picture taken off, which decide its map.
    """
    difference = found - target
    loss = 0.5 * difference.abs().mean() + 0.1 * (standardized(found) - standardized(target)).abs().mean()
    for scale in (1, 2, 4):
        small = functional.avg_pool2d(difference, scale)
        loss = loss + 0.5 * (small.diff(dim=-1).abs().mean() + small.diff(dim=-2).abs().mean())
    if pairs:
        frames = found[-2 * pairs :]
        loss = loss + STILLNESS * (frames[1::2] - frames[::2]).abs().mean() * 2 * pairs / len(found)
    return loss


def standardized(values: Tensor) -> Tensor:
    """Values of mean 0 and standard deviation 1 in each picture; flat pictures have less."""
    return (values - values.mean((1, 2, 3), keepdim=True)) / (values.std((1, 2, 3), keepdim=True) + 0.02)


LOSSES = {"soft": edge_loss, "depth": depth_loss, "person": person_loss}

if __name__ == "__main__":
    main()

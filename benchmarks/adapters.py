"""What control adapters keep of the photo at weights 0, 0.5, 1 and 1.5, what that costs in style, and how long they take.

    python benchmarks/adapters.py --pairs PAIRS.csv --hed hed.safetensors --depth depth.onnx --photos PHOTOS --json figures.json
    python benchmarks/adapters.py --time 8

A control is judged, if its judge is given, by a net that no loss has used: edges by HED (F-score within one pixel, and correlation),
depth by the ONNX teacher (`pip install onnxruntime`; rank correlation), regions by clusters of VGG-16 features with centroids of their
own, found in some of PHOTOS (share of pixels with the same label). A control without adapter is judged at weight 0 alone.
PAIRS.csv is as for stylize_pairs.py; pictures are squashed to 256 pixels a side. `closed` is the share of the gap between weight 0 and
the photo's way through the autoencoder (style scale 0); changes of GE and LP are against weight 0. CF, GE and LP are those of
`hicast eval images`. `--time` takes all adapters of the model on a picture of 512 pixels; run it where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
import torch
from adapter_cost import adapter_cost
from adapter_judges import LIKENESS, Judge, open_judges, sight_of
from hicast.config.adapters import AdapterUse
from hicast.controls import Extractor, find_extractor
from hicast.evaluation.eye import Eye, open_eye
from hicast.evaluation.metrics import PARTS_OF_QS3, Metric, open_metrics
from hicast.evaluation.pairing import Pair, read_pairs
from hicast.evaluation.sight import Sight
from hicast.io.images import to_pixels
from hicast.pipeline import HiCastPipeline
from hicast.repainting.scene import Look
from tqdm import tqdm

WEIGHTS = (0.5, 1.0, 1.5)
PLAIN, TOGETHER, ROUND_TRIP = "weight 0", "all at 1", "autoencoder"

Figures = dict[str, dict[str, float | None]]
"""Figures by the name of the look and their own."""


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is asked for, print it as text, and write it as JSON where a file is named."""
    given = parse(words)
    torch.set_num_threads(given.threads)
    pipeline = HiCastPipeline.from_pretrained(given.model)
    report: dict[str, Any] = {"model": given.model}
    if given.pairs:
        eye = open_eye()
        judges = open_judges(eye, given.size, hed=given.hed, depth=given.depth, photos=given.photos, limit=given.photos_limit)
        report |= kept_by_adapters(pipeline, eye, judges, read_pairs(given.pairs)[: given.limit], given.size)
        print("\n".join([*table(report), "", *verdicts(report)]))
    if given.time:
        report["time"] = adapter_cost(pipeline, given.time)
        print(cost_line(report["time"]))
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options; without anything to measure, usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, help="what to paint")
    parser.add_argument("--hed", type=Path, help="judges edges: weights of HED")
    parser.add_argument("--depth", type=Path, help="judges depth: the ONNX file of the depth teacher")
    parser.add_argument("--photos", type=Path, help="judges regions: the folder that their centroids are found in")
    parser.add_argument("--photos-limit", type=int, default=200, help="photos that are read for that")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--size", type=int, default=256, help="side that pictures are squashed to")
    parser.add_argument("--limit", type=int, help="pairs that are painted")
    parser.add_argument("--time", type=int, metavar="ROUNDS", help="measure seconds in so many rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for all figures")
    given = parser.parse_args(words)
    if not given.time and not (given.pairs and (given.hed or given.depth or given.photos)):
        parser.error("expected --pairs with one of --hed, --depth and --photos, or --time; found neither")
    return given


def kept_by_adapters(pipeline: HiCastPipeline, eye: Eye, judges: Mapping[str, Judge], pairs: Sequence[Pair], size: int) -> dict[str, Any]:
    """Figures of every look of `pairs`, and a summary for each control; pictures are made and judged one by one."""
    names = [name for name in judges if name in pipeline.adapters.names]
    metrics, looks, drawers = open_metrics(eye, PARTS_OF_QS3), looks_of(names), open_drawers(pipeline, names)
    totals: dict[str, dict[str, Any]] = {}
    for pair in tqdm(pairs, desc="pairs"):
        photo, painting = (sight_of(file, eye, size) for file in (pair.content, pair.style))
        for name, result in painted(pipeline, photo, painting, drawers, looks):
            # one adapter is judged by its own judge alone, all else by every judge
            chosen = looks[name].adapters if len(looks[name].adapters) == 1 else judges
            scores: dict[str, Any] = {metric.name: metric.score(result, photo, painting) for metric in metrics}
            scores |= {control: judges[control].score(result, photo) for control in chosen}
            before = totals.setdefault(name, dict.fromkeys(scores, 0))
            totals[name] = {key: before[key] + value for key, value in scores.items()}
    figures = {name: means(total, metrics, judges, len(pairs)) for name, total in totals.items()}
    compare(figures, judges)
    return {"pairs": len(pairs), "size": size, "looks": figures, "controls": {name: summary(figures, name) for name in names}}


def looks_of(names: Sequence[str]) -> dict[str, Look]:
    """The looks by name: no adapter, each at every weight, all together, and no style."""
    looks = {PLAIN: Look()}
    for name in names:
        looks |= {f"{name} {weight:g}": Look(adapters={name: AdapterUse.of(weight)}) for weight in WEIGHTS}
    if len(names) > 1:
        looks[TOGETHER] = Look(adapters=dict.fromkeys(names, AdapterUse.of(1.0)))
    return looks | {ROUND_TRIP: Look(style_scale=0.0)}


def open_drawers(pipeline: HiCastPipeline, names: Sequence[str]) -> dict[str, Extractor]:
    """The extractor that each adapter was trained with."""
    kinds = {name: find_extractor(name, pipeline.about.get(name, {}).get("extractor"))[1] for name in names}
    return {name: kind.open(None, pipeline.device, torch.float32) for name, kind in kinds.items()}


def painted(pipeline: HiCastPipeline, photo: Sight, painting: Sight, drawers: Mapping[str, Extractor],
            looks: Mapping[str, Look]) -> Iterator[tuple[str, Sight]]:
    """Name and picture of one look after another; what they share is computed once."""
    with torch.inference_mode():
        maps = {name: draw(photo.image.to(pipeline.device)) for name, draw in drawers.items()}
    scene = pipeline.prepare(photo.image, pipeline.encode_style([(painting.image, 1.0)]), size=photo.pixels.shape[0], controls=maps)
    for name, look in looks.items():
        yield name, Sight(to_pixels(pipeline.paint(scene, look)), photo.eye)


def means(total: Mapping[str, Any], metrics: Sequence[Metric], judges: Mapping[str, Judge], pairs: int) -> dict[str, float | None]:
    """Figures of one look from the sums over `pairs` pairs."""
    found: dict[str, float | None] = {metric.name: total[metric.name] / pairs for metric in metrics}
    for control in judges:
        found |= judges[control].figures(total[control], pairs) if control in total else {}
    return found


def compare(figures: Figures, judges: Mapping[str, Judge]) -> None:
    """Add to each look the changes of GE and LP since weight 0, and the share of each gap that is closed (None: there is none)."""
    low, high = figures[PLAIN], figures[ROUND_TRIP]
    gaps = {key: high[key] - low[key] for control in judges for key in LIKENESS[control]}
    for own in figures.values():
        own |= {f"{key}_change": own[key] / low[key] - 1 for key in ("ge", "lp")}
        own |= {f"{key}_closed": (own[key] - low[key]) / gap if gap > 0 else None for key, gap in gaps.items() if key in own}


def summary(figures: Figures, control: str) -> dict[str, Any]:
    """What the goals of an adapter ask: whether the fidelity rises with every step, and figures at weight 1."""
    key = next(iter(LIKENESS[control]))
    steps = [figures[name][key] for name in (PLAIN, *(f"{control} {weight:g}" for weight in WEIGHTS))]
    at = figures[f"{control} 1"]
    found = {"fidelity": key, "rises": all(np.diff(steps) > 0), "closed": at[f"{key}_closed"]}
    found |= {name: at[name] for name in ("ge_change", "lp_change", "cf")}
    return found | {"cf_together": figures[TOGETHER]["cf"] if TOGETHER in figures else None}


def table(report: Mapping[str, Any]) -> list[str]:
    """A line for each look, the columns as wide as their headings need."""
    looks: Figures = report["looks"]
    columns = {"cf": "CF", "ge": "GE", "ge_change": "change", "lp": "LP", "lp_change": "change"}
    for headings in LIKENESS.values():
        for key, heading in headings.items():
            columns |= {key: heading, f"{key}_closed": "closed"} if key in looks[PLAIN] else {}
    lines = [f"{report['pairs']} pairs at {report['size']} pixels, {report['model']}", ""]
    lines.append(f"{'':<12}" + "".join(f"{heading:>9}" for heading in columns.values()))
    for name, own in looks.items():
        lines.append(f"{name:<12}" + "".join(f"{shown(key, own.get(key)):>9}" for key in columns))
    return lines


def shown(key: str, value: float | None) -> str:
    """A figure as text; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:+.1%}" if key.endswith("change") else f"{value:.1%}" if key.endswith("closed") else f"{value:.4f}"


def verdicts(report: Mapping[str, Any]) -> list[str]:
    """A line for each control; in brackets what the goals want."""
    lines = ["Fidelity of each control, with the goals in brackets:"] if report["controls"] else []
    for name, own in report["controls"].items():
        rise = "rises with every step" if own["rises"] else "does not rise with every step"
        together = "" if own["cf_together"] is None else f" (below {own['cf_together']:.4f}, that of all together)"
        lines.append(f"{name}: {own['fidelity']} {rise}; at weight 1 closed {shown('closed', own['closed'])} (25% or more), "
                     f"GE {own['ge_change']:+.1%}, LP {own['lp_change']:+.1%} (-10% or above), CF {own['cf']:.4f}{together}")  # fmt: skip
    return lines


def cost_line(cost: Mapping[str, Any]) -> str:
    """The cost in words."""
    return (f"{', '.join(cost['adapters'])} add {cost['added']:.1%} to {cost['seconds']['without']:.3f} s of a picture of {cost['side']} pixels "
            f"(three: a third or less): their features {cost['features']:.1%}, the net {cost['net']:.1%}; "
            f"{cost['added_to_painted']:.1%} where the painting is encoded already")  # fmt: skip


if __name__ == "__main__":
    main()

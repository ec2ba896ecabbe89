"""What a sweep found: a page with heat maps and the front, a table, and a preset of the chosen point."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from html import escape
from io import StringIO
from itertools import combinations
from pathlib import Path

import numpy as np
import yaml

from hicast.config.stylize import PresetSettings, StylizeSettings
from hicast.evaluation import plots
from hicast.evaluation.page import page, table
from hicast.evaluation.sweep import Point, front, style_of
from hicast.evaluation.tables import number
from hicast.io.files import atomic_path

FILES = ("sweep.html", "sweep.json", "sweep.csv", "preset.yaml")


def write_sweep(points: Sequence[Point], chosen: int, labels: dict[str, str], folder: Path, look: StylizeSettings, overwrite: bool) -> list[Path]:
    """Write page, JSON, CSV and the preset of the point at `chosen`, whose settings are `look`; gives their paths."""
    texts = {
        "sweep.html": sweep_page(points, chosen, labels),
        "sweep.json": json.dumps({"chosen": chosen, "front": front(points), "points": [
            {"values": p.values, "means": p.means, "failed": list(p.failed)} for p in points]}, indent=1) + "\n",
        "sweep.csv": _csv(points, labels),
        "preset.yaml": preset_text(points[chosen], look),
    }  # fmt: skip
    for name, text in texts.items():
        with atomic_path(folder / name, overwrite) as draft:
            draft.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def preset_text(point: Point, look: StylizeSettings) -> str:
    """A preset of the settings `look` that a point was measured with, as YAML: what differs from the built-in values, the scales,
    and what was swept.

    It has no base, so that the look stays when presets change.
    """
    always = {"style_scale", "content_scale", *(key.partition(".")[0] for key in point.values)}
    values = look.model_dump(mode="json", include=set(PresetSettings.model_fields))
    built_in = PresetSettings().model_dump(mode="json")
    kept = {key: value for key, value in values.items() if key in always or value != built_in[key]}
    figures = ", ".join(f"{name.upper()} {number(point.means[name])}" for name in ("cf", "ge", "lp"))
    return yaml.safe_dump({"description": f"Chosen by a sweep ({figures}).", **kept}, sort_keys=False, allow_unicode=True)


def sweep_page(points: Sequence[Point], chosen: int, labels: dict[str, str]) -> str:
    """The HTML of the page."""
    best = front(points)
    keys = list(points[0].values)
    named = {("chosen" if at == chosen else str(at)): (p.means["cf"], style_of(p.means)) for at, p in enumerate(points)}
    drawn = [plots.scatter(named, "CF", "mean of GE and LP", "Content against style")]
    if len(keys) > 1:
        drawn += [heat(points, x, y, name, label) for x, y in combinations(keys, 2) for name, label in labels.items()]
    else:
        ranked = sorted(points, key=lambda p: p.values[keys[0]])
        places = [p.values[keys[0]] for p in ranked]
        drawn += [plots.lines({label: [p.means[name] for p in ranked]}, keys[0], label, label, places) for name, label in labels.items()]
    rows = [
        ("", [f"<td>{'<b>' if at == chosen else ''}{at}{' (chosen)</b>' if at == chosen else ''}{' front' if at in best else ''}</td>",
              *(f"<td>{p.values[key]:g}</td>" for key in keys), *(f"<td>{number(p.means[name])}</td>" for name in labels)])
        for at, p in enumerate(points)
    ]  # fmt: skip
    failed = sorted({reason for point in points for reason in point.failed})
    notes = f"<ul>{''.join(f'<li>{escape(reason)}</li>' for reason in failed)}</ul>" if failed else ""
    sections = [("Plots", f'<div class="plots">{"".join(drawn)}</div>'), ("Points", table(["point", *keys, *labels.values()], rows)), ("Notes", notes)]
    return page("Sweep", sections)


def heat(points: Sequence[Point], x: str, y: str, metric: str, label: str) -> str:
    """Heat map of a metric over two settings, a mean over all others; random values are gathered in five ranges."""
    columns, rows = _steps([p.values[x] for p in points]), _steps([p.values[y] for p in points])
    cells: list[list[list[float]]] = [[[] for _ in columns] for _ in rows]
    for point in points:
        cells[_nearest(rows, point.values[y])][_nearest(columns, point.values[x])].append(point.means[metric])
    means = [[float(np.mean(cell)) if cell else float("nan") for cell in row] for row in cells]
    return plots.heat_map(means, [f"{v:g}" for v in rows], [f"{v:g}" for v in columns], (y, x), label)


def _steps(values: Sequence[float]) -> list[float]:
    different = sorted(set(values))
    return different if len(different) <= 8 else [round(float(v), 3) for v in np.linspace(different[0], different[-1], 5)]


def _nearest(steps: Sequence[float], value: float) -> int:
    return int(np.argmin([abs(step - value) for step in steps]))


def _csv(points: Sequence[Point], labels: dict[str, str]) -> str:
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["point", *points[0].values, *labels.values(), "front"])
    best = front(points)
    for at, p in enumerate(points):
        writer.writerow([at, *p.values.values(), *(p.means[name] for name in labels), int(at in best)])
    return stream.getvalue()

"""The report of an evaluation: one page with tables, plots and pictures, and the same figures as CSV, JSON and Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from hicast.evaluation import plots
from hicast.evaluation.anchors import ANCHORS
from hicast.evaluation.page import page, sheet, slider, table
from hicast.evaluation.pairing import Pair
from hicast.evaluation.runner import Evaluation
from hicast.evaluation.tables import document, markdown, number, pairs_csv, setting, summary_csv, worst_lines
from hicast.io.files import atomic_path, check_target

FILES = ("report.html", "report.json", "report.md", "summary.csv", "pairs.csv")
MARKS = " The best method is in bold, anchors are grey."
SHOWN = 3
"""Best and worst pairs of the first method that the page shows."""

Pictures = Callable[[str, Pair], np.ndarray | None]
"""The picture, uint8 (height, width, 3), of a method for a pair, anchors included; None where there is none."""

Series = Mapping[str, Mapping[str, Sequence[float]]]
"""Values over time by the label of a pair and by method."""


def check_report(folder: Path, overwrite: bool) -> None:
    """Raise OutputError where a file of the report could not be written to `folder`: call it before long work."""
    for name in FILES:
        check_target(folder / name, overwrite)


def write_report(
    done: Evaluation, folder: Path, title: str, pictures: Pictures, *, content_metric: str | None = "cf",
    style_metrics: Sequence[str] = ("ge", "lp"), series: Series | None = None, overwrite: bool = False,
) -> list[Path]:
    """Write all files of a report to `folder` and give their paths.

    The Pareto plot has `content_metric` across and the mean of `style_metrics` up, where all of them were measured;
    best and worst pairs are chosen by the leading metric; `series` are warping errors over time.
    """
    texts = {
        "report.html": report_page(done, title, pictures, content_metric, style_metrics, series or {}),
        "report.json": json.dumps(document(done) | ({"series": dict(series)} if series else {}), indent=1, ensure_ascii=False) + "\n",
        "report.md": markdown(done, title),
        "summary.csv": summary_csv(done),
        "pairs.csv": pairs_csv(done),
    }
    for name, text in texts.items():
        with atomic_path(folder / name, overwrite) as draft:
            draft.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def report_page(done: Evaluation, title: str, pictures: Pictures, content_metric: str | None,
                style_metrics: Sequence[str], series: Series) -> str:
    """The HTML of the page."""
    sections = [("Means", f"<p>{escape(setting(done) + MARKS)}</p>{means_table(done)}")]
    names = {column.name for column in done.columns}
    drawn = []
    if content_metric in names and set(style_metrics) <= names:
        points = {m: (done.estimate(m, content_metric).mean, float(np.mean([done.estimate(m, s).mean for s in style_metrics]))) for m in done.methods}
        up = " and ".join(name.upper() for name in style_metrics)
        drawn.append(plots.scatter(points, content_metric.upper(), f"mean of {up}" if len(style_metrics) > 1 else up, "Content against style", ANCHORS if done.files else ()))
    drawn += [plots.lines(by_method, "frame", "RMS difference", f"Warping error over time: {clip}") for clip, by_method in series.items()]
    drawn += [plots.bars({m: done.estimate(m, c.name) for m in done.methods}, f"{c.label} {'↑' if c.higher else '↓'}") for c in done.columns]
    sections.append(("Plots", f'<div class="plots">{"".join(drawn)}</div>'))
    sections += [(f"{kind} ({len(at)} pairs)", means_table(done, at)) for kind, at in done.kinds().items()]
    script = ""
    if done.files:
        first, by = next(iter(done.files)), done.leading
        label = next(column.label for column in done.columns if column.name == by)
        best, worst = done.extremes(first, by, SHOWN)
        columns = ["content", "style", *done.files]
        for word, chosen in (("Worst", worst), ("Best", best)):
            rows = [_row(done, at, columns, pictures, first, by) for at in chosen]
            sections.append((f"{word} pairs of {first} by {label}", sheet(rows, columns)))
        shown = {done.pairs[at].key: done.pairs[at].label for at in [*worst, *best]}
        if shown:
            inner, script = slider(shown, list(done.files))
            sections.append(("Content and result", inner))
        named = "".join(f"<li>{escape(line)}</li>" for line in worst_lines(done))
        sections.append((f"Worst pairs of every method by {label}", f"<ul>{named}</ul>"))
    remarks = [*done.notes, *(entry["error"] for entry in done.failed)]
    sections.append(("Notes", f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in remarks)}</ul>" if remarks else ""))
    return page(title, sections, script)


def means_table(done: Evaluation, among: Sequence[int] | None = None) -> str:
    """HTML table of means with intervals, the best method of each column (anchors apart) in bold."""
    sets = list(next(iter(done.whole.values()), {}))
    head = ["method", "pairs", *(f"{c.label} {'↑' if c.higher else '↓'}" for c in done.columns), *(f"{name} ↓" for name in sets)]
    found = {m: {c.name: done.estimate(m, c.name, among) for c in done.columns} for m in done.methods}
    rivals = [method for method in done.methods if method not in ANCHORS]
    best = {}
    for column in done.columns:
        rated = [(e.mean, m) for m in rivals if math.isfinite((e := found[m][column.name]).mean)]
        best[column.name] = (max if column.higher else min)(rated)[1] if len(rated) > 1 else None
    rows = []
    for method, row in found.items():
        cells = [f"<td>{escape(method)}</td>", f"<td>{max((e.count for e in row.values()), default=0)}</td>"]
        for name, e in row.items():
            bounds = f" <small>{number(e.low)} to {number(e.high)}</small>" if e.count > 1 else ""
            cells.append(f'<td class="{"best" if best[name] == method else ""}">{number(e.mean)}{bounds}</td>')
        cells += [f"<td>{number(done.whole.get(method, {}).get(name, math.nan))}</td>" for name in sets]
        rows.append(("anchor" if method in ANCHORS else "", cells))
    return table(head, rows)


def _row(done: Evaluation, at: int, columns: Sequence[str], pictures: Pictures, first: str, by: str) -> tuple[str, str, dict[str, np.ndarray | None]]:
    pair = done.pairs[at]
    return pair.key, f"{pair.label} ({number(done.scores[first][by][at])})", {name: pictures(name, pair) for name in columns}

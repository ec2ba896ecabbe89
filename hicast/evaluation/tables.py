"""Figures as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from hicast.evaluation.runner import Evaluation

WORST = 5
"""Worst pairs that are named."""


def number(value: float) -> str:
    """A figure for people, four digits; a dash where there is none."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def summary_rows(done: Evaluation, among: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """A row for each method: its mean and interval by metric, and on how many pairs."""
    rows = []
    for method in done.methods:
        found = {column.name: done.estimate(method, column.name, among) for column in done.columns}
        row: dict[str, Any] = {"method": method, "pairs": max((e.count for e in found.values()), default=0)}
        for name, e in found.items():
            row |= {name: e.mean, f"{name} low": e.low, f"{name} high": e.high}
        rows.append(row | done.whole.get(method, {}))
    return rows


def summary_csv(done: Evaluation) -> str:
    """Means and intervals, a line for each method; columns carry the labels of the metrics."""
    labels = {column.name: column.label for column in done.columns}
    return _csv([{_relabelled(key, labels): value for key, value in row.items()} for row in summary_rows(done)])


def pairs_csv(done: Evaluation) -> str:
    """Every figure, a line for each method and pair."""
    rows = [
        {"pair": pair.key, "content": pair.content.name, "style": pair.style.name, "kind": pair.kind, "method": method}
        | {column.label: done.scores[method][column.name][at] for column in done.columns}
        for at, pair in enumerate(done.pairs) for method in done.methods
    ]  # fmt: skip
    return _csv(rows)


def document(done: Evaluation) -> dict[str, Any]:
    """Everything as one JSON document; figures that do not exist are null."""
    return {
        "size": done.size,
        "net": done.net,
        "columns": [{"name": c.name, "label": c.label, "higher_is_better": c.higher, "aspect": c.aspect} for c in done.columns],
        "methods": {row.pop("method"): _finite(row) for row in summary_rows(done)},
        "kinds": {kind: {row.pop("method"): _finite(row) for row in summary_rows(done, at)} for kind, at in done.kinds().items()},
        "pairs": [
            {"pair": pair.key, "content": str(pair.content), "style": str(pair.style), "kind": pair.kind}
            | {"scores": {m: _finite({c.name: done.scores[m][c.name][at] for c in done.columns}) for m in done.methods}}
            for at, pair in enumerate(done.pairs)
        ],
        "worst": {"by": done.leading, "pairs": {method: [done.pairs[at].key for at in places] for method, places in worst(done).items()}},
        "failed": done.failed,
        "notes": done.notes,
    }


def worst(done: Evaluation) -> dict[str, list[int]]:
    """Places of the worst pairs of every method that is no anchor, by the leading metric, the worst first."""
    return {method: done.extremes(method, done.leading, WORST)[1] for method in done.files}


def worst_lines(done: Evaluation) -> list[str]:
    """A line for each method that names its worst pairs, with their figures."""
    lines = []
    for method, places in worst(done).items():
        named = ", ".join(f"{done.pairs[at].label} ({number(done.scores[method][done.leading][at])})" for at in places)
        lines.append(f"{method}, by {done.leading}: {named or 'none'}")
    return lines


def markdown(done: Evaluation, title: str) -> str:
    """The tables for people: means with their intervals, the worst pairs of each method, and notes."""
    lines = [f"# {title}", "", setting(done), "", *markdown_table(done), ""]
    for kind, at in done.kinds().items():
        lines += [f"## {kind} ({len(at)} pairs)", "", *markdown_table(done, at), ""]
    if done.files:
        lines += ["## Worst pairs", "", *(f"- {line}" for line in worst_lines(done)), ""]
    remarks = [*done.notes, *(entry["error"] for entry in done.failed)]
    lines += ["## Notes", "", *(f"- {note}" for note in remarks), ""] if remarks else []
    return "\n".join(lines)


def markdown_table(done: Evaluation, among: Sequence[int] | None = None) -> list[str]:
    """Lines of one Markdown table."""
    sets = list(next(iter(done.whole.values()), {}))
    head = ["method", "pairs", *(f"{c.label} {'↑' if c.higher else '↓'}" for c in done.columns), *(f"{name} ↓" for name in sets)]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for method in done.methods:
        found = [done.estimate(method, column.name, among) for column in done.columns]
        cells = [f"{number(e.mean)} ({number(e.low)} to {number(e.high)})" if e.count > 1 else number(e.mean) for e in found]
        more = [number(done.whole.get(method, {}).get(name, math.nan)) for name in sets]
        lines.append("| " + " | ".join([method, str(max((e.count for e in found), default=0)), *cells, *more]) + " |")
    return lines


def setting(done: Evaluation) -> str:
    """Under what conditions the figures were taken, and how to read them."""
    return (
        f"{len(done.pairs)} pairs at {done.size} pixels, net {done.net}. Means with 95 % bootstrap intervals; "
        "↑ higher is better, ↓ lower is better. QS3 is CF + GE + LP and is no published score."
    )


def _relabelled(key: str, labels: dict[str, str]) -> str:
    name, _, bound = key.rpartition(" ")
    return f"{labels[name]} {bound}" if name in labels else labels.get(key, key)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    stream = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()})
    return stream.getvalue()

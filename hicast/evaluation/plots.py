"""Plots as inline SVG, made of nothing but text: points with a front, bars with intervals, lines over time, heat maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from hicast.evaluation.summary import Estimate, pareto

COLORS = ("#1f6f8b", "#c8553d", "#588157", "#7b5ea7", "#b8860b", "#3d5a80", "#a44a3f", "#6b705c")
WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 30, 44
GREY, LETTER, LINE = "#999", 6.2, 12
"""Of points that are no rivals, and about the width of a letter and the height of a line in pixels."""


def color_of(index: int) -> str:
    """The colour of the method at a place of the table."""
    return COLORS[index % len(COLORS)]


def scatter(points: Mapping[str, tuple[float, float]], x_label: str, y_label: str, title: str, apart: Sequence[str] = ()) -> str:
    """Named points, more being better on both axes, and the front of those that no other one beats.

    Those called in `apart` are grey and no part of the front: what is no rival may lie beyond it.
    """
    kept = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    if not kept:
        return ""
    frame = _Frame([p[0] for p in kept.values()], [p[1] for p in kept.values()], x_label, y_label, title)
    rivals = [point for name, point in kept.items() if name not in apart]
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in (rivals[at] for at in pareto(rivals)))
    parts = [f'<polyline points="{path}" fill="none" stroke="#999" stroke-dasharray="4 3"/>']
    taken: list[tuple[float, float, float]] = []
    for index, (name, (x, y)) in enumerate(points.items()):
        if name in kept:
            color = GREY if name in apart else color_of(index)
            parts.append(f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="5" fill="{color}"><title>{escape(name)}: {x:.4g}, {y:.4g}</title></circle>')
            parts.append(_label(name, frame.x(x), frame.y(y), taken))
    return frame.wrapped("".join(parts))


def _label(name: str, x: float, y: float, taken: list[tuple[float, float, float]]) -> str:
    """The name of a point at (`x`, `y`) where no other name stands; its place (left, right, height) joins `taken`."""
    width = LETTER * len(name)
    left = x + 8 if x < WIDTH * 0.7 else x - 8 - width
    height = next(at for at in (y + 4 + LINE * step for step in (0, -1, 1, -2, 2, -3, 3, *range(4, 99)))
                  if not any(left < right and begin < left + width and abs(at - other) < LINE for begin, right, other in taken))  # fmt: skip
    taken.append((left, left + width, height))
    return _text(left, height, name)


def bars(values: Mapping[str, Estimate], title: str) -> str:
    """A bar for each method, from zero on either side, with the interval of its mean."""
    kept = {name: value for name, value in values.items() if math.isfinite(value.mean)}
    if not kept:
        return ""
    row, left = 20, 110
    height = TOP + row * len(kept) + 8
    least, most = min(0.0, *(value.low for value in kept.values())), max(0.0, *(value.high for value in kept.values()))
    scale = (WIDTH - left - 74) / max(most - least, 1e-12)
    zero = left - least * scale
    parts = [_text(8, 18, title, "title")] + ([f'<path d="M{zero:.1f} {TOP - 4}V{height - 6}" stroke="#888"/>'] if least < 0 else [])
    for place, (index, (name, value)) in enumerate((i, item) for i, item in enumerate(values.items()) if item[0] in kept):
        y, (low, high, mean) = TOP + place * row, (zero + scale * number for number in (value.low, value.high, value.mean))
        parts.append(
            f'<rect x="{min(zero, mean):.1f}" y="{y}" width="{abs(mean - zero):.1f}" height="13" fill="{color_of(index)}"/>'
            f'<path d="M{low:.1f} {y + 6.5}H{high:.1f}M{low:.1f} {y + 3}v7M{high:.1f} {y + 3}v7" stroke="#222" fill="none"/>'
            + _text(left - 6, y + 11, name, anchor="end") + _text(max(high, zero) + 6, y + 11, f"{value.mean:.4g}")
        )  # fmt: skip
    return _svg(WIDTH, height, "".join(parts))


def lines(series: Mapping[str, Sequence[float]], x_label: str, y_label: str, title: str, places: Sequence[float] | None = None) -> str:
    """A line for each method over `places` along the x axis (None: 0, 1, ..., such as numbers of frames)."""
    kept = {name: values for name, values in series.items() if len(values)}
    if not kept:
        return ""
    places = range(max(2, *(len(values) for values in kept.values()))) if places is None else places
    heights = [0, *(value for values in kept.values() for value in values)]
    room = 1 + 0.06 * (1 + len(kept) // 3)
    frame = _Frame([places[0], places[-1]], [*heights, max(heights) * room], x_label, y_label, title)
    parts = []
    for index, (name, values) in enumerate(kept.items()):
        path = " ".join(f"{frame.x(at):.1f},{frame.y(value):.1f}" for at, value in zip(places, values, strict=False))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color_of(index)}" stroke-width="1.6"><title>{escape(name)}</title></polyline>')
        parts.append(f'<text x="{LEFT + 8 + 130 * (index % 3)}" y="{TOP + 12 + 14 * (index // 3)}" fill="{color_of(index)}">{escape(name)}</text>')
    return frame.wrapped("".join(parts))


def heat_map(values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], labels: tuple[str, str], title: str) -> str:
    """A field of `values[row][column]` from light (least) to dark (most); `labels` name what rows and columns are."""
    finite = [value for row in values for value in row if math.isfinite(value)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    cell, left, top = 58, max(78, round(LETTER * len(labels[0])) + 28), 58
    parts = [_text(8, 18, title, "title"), _text(left, top - 22, labels[1]), _text(8, top - 6, labels[0])]
    parts += [_text(left + cell * (at + 0.5), top - 6, name, anchor="middle") for at, name in enumerate(columns)]
    for at, name in enumerate(rows):
        parts.append(_text(left - 6, top + cell * 0.5 * at + 18, name, anchor="end"))
        for column, value in enumerate(values[at]):
            share = (value - low) / (high - low) if math.isfinite(value) and high > low else 0.0
            shade, ink = f"hsl(200 45% {94 - 60 * share:.0f}%)", "#fff" if share > 0.55 else "#222"
            shown = f"{value:.4g}" if math.isfinite(value) else "-"
            parts.append(
                f'<rect x="{left + cell * column}" y="{top + cell * 0.5 * at}" width="{cell - 2}" height="{cell * 0.5 - 2}" fill="{shade}"/>'
                f'<text x="{left + cell * (column + 0.5)}" y="{top + cell * 0.5 * at + 18}" text-anchor="middle" fill="{ink}">{shown}</text>'
            )
    return _svg(left + cell * len(columns) + 12, round(top + cell * 0.5 * len(rows) + 12), "".join(parts))


class _Frame:
    """Axes with ticks around the values given."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], x_label: str, y_label: str, title: str) -> None:
        self._x, self._y = _span(xs), _span(ys)
        self._labels = x_label, y_label, title

    def x(self, value: float) -> float:
        """Place of a value from the left, in pixels."""
        return LEFT + (value - self._x[0]) / (self._x[1] - self._x[0]) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Place of a value from the top, in pixels."""
        return HEIGHT - BOTTOM - (value - self._y[0]) / (self._y[1] - self._y[0]) * (HEIGHT - TOP - BOTTOM)

    def wrapped(self, inner: str) -> str:
        """The whole plot around what was drawn."""
        x_label, y_label, title = self._labels
        parts = [f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#888"/>', _text(8, 18, title, "title")]
        for share in (0, 0.25, 0.5, 0.75, 1):
            x, y = (low + share * (high - low) for low, high in (self._x, self._y))
            parts += [_text(self.x(x), HEIGHT - BOTTOM + 15, f"{x:.3g}", anchor="middle"), _text(LEFT - 6, self.y(y) + 4, f"{y:.3g}", anchor="end")]
        parts.append(_text((LEFT + WIDTH) / 2, HEIGHT - 8, x_label, anchor="middle"))
        parts.append(f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
        return _svg(WIDTH, HEIGHT, "".join(parts) + inner)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or max(abs(high) * 0.1, 0.1)
    return low - margin, high + margin


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    extra = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'


def _svg(width: float, height: float, inner: str) -> str:
    return f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img">{inner}</svg>'

"""Plots as text: what is drawn where, so that no figure is lost or lies over another."""

import re

import pytest

from hicast.evaluation import plots
from hicast.evaluation.summary import Estimate


def bars_of(svg: str) -> list[tuple[float, float]]:
    """Left end and width of each bar."""
    return [(float(x), float(width)) for x, width in re.findall(r'<rect x="([\d.-]+)" y="\d+" width="([\d.-]+)"', svg)]


def test_bars_grow_from_zero_to_either_side():
    svg = plots.bars({"a": Estimate(2.0, 1.0, 3.0, 4), "b": Estimate(-1.0, -1.5, -0.5, 4), "absent": Estimate(float("nan"), 0, 0, 0)}, "excess")
    (right, up), (left, down) = bars_of(svg)
    assert up == pytest.approx(2 * down, abs=0.2) and left + down == pytest.approx(right, abs=0.2)
    assert "absent" not in svg and ">-1</text>" in svg and plots.bars({}, "excess") == ""
    assert len(bars_of(plots.bars({"zero": Estimate(0.0, 0.0, 0.0, 1)}, "nothing"))) == 1


def test_the_front_is_that_of_rivals():
    points = {"content": (1.0, 0.1), "style": (0.1, 1.0), "ours": (0.8, 0.5), "theirs": (0.5, 0.8), "worse": (0.4, 0.4)}
    front = re.compile(r'<polyline points="([^"]*)"')
    whole, rivals = (front.search(plots.scatter(points, "x", "y", "t", apart))[1].split() for apart in ((), ("content", "style")))
    assert len(whole) == 4 and len(rivals) == 2 and set(rivals) < set(whole)
    assert plots.scatter(points, "x", "y", "t", ("content", "style")).count(f'fill="{plots.GREY}"') == 2


def test_names_of_near_points_do_not_lie_over_each_other():
    svg = plots.scatter({name: (0.5, 0.5 + at / 1000) for at, name in enumerate("abcdef")} | {"far": (0.1, 0.1)}, "x", "y", "t")
    heights = sorted(float(y) for y, name in re.findall(r'<text x="[\d.]+" y="([\d.]+)" text-anchor="start">(\w)</text>', svg))
    assert len(heights) == 6 and min(b - a for a, b in zip(heights, heights[1:])) >= plots.LINE - 0.1


def test_lines_stand_at_their_places():
    svg = plots.lines({"a": [1, 1, 1]}, "scale", "y", "t", [0.0, 1.0, 4.0])
    xs = [float(point.split(",")[0]) for point in re.search(r'<polyline points="([^"]*)"', svg)[1].split()]
    assert (xs[2] - xs[1]) == pytest.approx(3 * (xs[1] - xs[0]), abs=0.3)
    assert plots.lines({"a": [0.5]}, "frame", "y", "t").count("<polyline") == 1 and plots.lines({"a": []}, "x", "y", "t") == ""

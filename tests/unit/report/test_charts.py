"""Line charts: valid SVG, true positions, log scale, hover titles."""

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest

from unipart.report.charts import HEIGHT, WIDTH, group_metrics, line_chart, stacked_bar, suits_log_scale


def points_of(svg, line=0):
    polylines = [node for node in ET.fromstring(svg).iter() if node.tag == "polyline"]
    return [tuple(map(float, pair.split(","))) for pair in polylines[line].get("points").split()]


def test_positions_follow_the_values():
    points = points_of(line_chart("loss", {"train": [(0, 0.0), (50, 1.0), (100, 2.0)]}))
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert y0 > y2
    assert 0 < x0 < x2 < WIDTH
    assert 0 < y2 < y0 < HEIGHT


def test_log_scale_makes_decades_equal():
    svg = line_chart("loss", {"train": [(0, 1.0), (1, 0.1), (2, 0.01)]}, log_scale=True)
    (_, y0), (_, y1), (_, y2) = points_of(svg)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.11)
    labels = [node.text for node in ET.fromstring(svg).iter() if node.get("class") == "tick"]
    assert {"1", "0.1", "0.01"} <= set(labels)


@pytest.mark.parametrize("log_scale", [False, True])
@pytest.mark.parametrize(
    "points",
    [
        [(12, 1.0)],
        [(1, 1.0), (2, 1.0003)],
        [(1, 1.0), (3, 1.0000001)],
        [(1000, 112.4), (1010, 117.6)],
        [(0, 123456.0), (10**6, 123460.0)],
        [(0, 0.011), (7, 0.09)],
    ],
)
def test_every_tick_has_a_text_of_its_own(points, log_scale):
    """No longer than its margin, and clear of the next."""
    ticks = [node for node in ET.fromstring(line_chart("x", {"a": points}, log_scale)).iter() if node.get("class") == "tick"]
    below = [node.text for node in ticks if node.get("text-anchor") == "middle"]
    beside = [node.text for node in ticks if node.get("text-anchor") == "end"]
    assert 1 <= len(below) == len(set(below)) <= 6
    assert 2 <= len(beside) == len(set(beside)) <= 6
    assert max(map(len, beside)) <= 8
    heights = sorted(float(node.get("y")) for node in ticks if node.get("text-anchor") == "end")
    assert min(after - before for before, after in itertools.pairwise(heights)) > 12


def test_many_points_are_averaged_not_dropped():
    history = [(i, float(i % 2)) for i in range(10_000)]
    points = points_of(line_chart("x", {"a": history}))
    assert len(points) <= 240
    assert len({y for _, y in points}) <= 2  # every run of neighbours averages to a half, give or take


def test_hover_titles_name_series_step_and_value():
    svg = line_chart("x", {"a<b": [(10, 0.25), (20, 0.5)]})
    titles = [node.text for node in ET.fromstring(svg).iter() if node.tag == "title"]
    assert titles == ["a<b · step 10 · 0.25", "a<b · step 20 · 0.5"]


@pytest.mark.parametrize("values", [[(0, math.nan)], [], [(0, -1.0)]])
def test_nothing_to_draw_says_so(values):
    assert "no data" in line_chart("x", {"a": values}, log_scale=True)


@pytest.mark.parametrize("values", [[(0, 3.0)], [(0, 0.0), (1, 0.0)], [(0, 1e-9), (1, 1e9)], [(5, -3.0), (6, math.inf), (7, 2.0)]])
@pytest.mark.parametrize("log_scale", [False, True])
def test_awkward_ranges_stay_finite(values, log_scale):
    svg = line_chart("x", {"a": values}, log_scale)
    ET.fromstring(svg)
    assert not re.search(r'"(nan|inf|-inf)"', svg)
    assert all(
        math.isfinite(number)
        for polyline in re.findall(r'points="([^"]*)"', svg)
        for number in map(float, re.split("[ ,]", polyline))
    )


def test_grouping_and_log_preference():
    names = ("loss", "loss/recon", "lr", "val/loss", "val/recon", "val/iou64", "part/iou")
    groups = group_metrics({name: [(0, float(number))] for number, name in enumerate(names)})
    assert {name: {line: points[0][1] for line, points in lines.items()} for name, lines in groups.items()} == {
        "loss": {"train": 0.0, "val": 3.0},
        "loss/recon": {"train": 1.0, "val": 4.0},
        "lr": {"lr": 2.0},
        "val/iou64": {"val/iou64": 5.0},
        "part/iou": {"part/iou": 6.0},
    }
    assert suits_log_scale({"a": [(0, 1.0), (1, 0.01)]})
    assert not suits_log_scale({"a": [(0, 1.0), (1, 0.5)]})
    assert not suits_log_scale({"a": [(0, 1.0), (1, 0.0)]})


def test_stacked_bar_shares():
    bar = ET.fromstring(stacked_bar([("kept", 3, "kept"), ("rejected", 1, "rejected"), ("failed", 0, "failed")]))
    assert [(node.get("x"), node.get("width")) for node in bar.iter("rect")] == [("0.00%", "75.00%"), ("75.00%", "25.00%")]


def test_a_line_of_one_point_is_seen_and_an_empty_line_keeps_the_colours_of_others():
    chart = line_chart("loss", {"first": [], "second": [(3.0, 1.0)], "third": [(1.0, 2.0), (2.0, 3.0)]})
    assert chart.count('class="point series-1"') == 1
    assert 'class="line series-2"' in chart
    assert "series-0" not in chart


def test_more_runs_than_colours_are_dashed():
    chart = line_chart("loss", {str(number): [(0.0, number), (1.0, number)] for number in range(8)})
    assert chart.count('class="line series-1"') == 1
    assert chart.count('class="line series-1 again"') == 1

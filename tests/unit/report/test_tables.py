"""Tables and the writing of numbers."""

import pytest

from unipart.metrics.table import score_rows, summarise
from unipart.report.tables import better_direction, definition_list, format_seconds, format_value, pivot, table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123456, "0.01235"),
        (1234567, "1\u202f234\u202f567"),
        (1.5e-7, "1.50e-7"),
        (0, "0"),
        (0.0, "0"),
        (None, "–"),
        (float("nan"), "–"),
        (float("-inf"), "−∞"),
        (True, "True"),
        ("text", "text"),
        ((1, 2.5), "1, 2.5"),
        (-0.5, "-0.5"),
        (250000.0, "250\u202f000"),
    ],
)
def test_values(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.85, "850 ms"), (12.34, "12.3 s"), (245, "4 min 05 s"), (12000, "3 h 20 min"), (3599.7, "1 h 00 min")]
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("chamfer_l1", -1),
        ("f_score@0.05", 1),
        ("miou_hungarian", 1),
        ("part:chamfer", -1),
        ("cd", -1),
        ("num_parts", 0),
        ("method", 0),
    ],
)
def test_directions(metric, direction):
    assert better_direction(metric) == direction


def test_table_marks_the_best_and_escapes():
    rows = [{"method": "<ours>", "chamfer": 0.01, "iou": 0.5}, {"method": "b", "chamfer": 0.02, "iou": None, "parts": 3}]
    text = table(rows, mark_best=True)
    assert "&lt;ours&gt;" in text
    assert "<ours>" not in text
    assert "<strong>0.01</strong>" in text
    assert "<strong>0.02</strong>" not in text
    assert "<strong>0.5</strong>" in text
    assert text.count("<td") == 8
    assert "<strong>" not in table(rows[:1], mark_best=True)


def test_definition_list_escapes():
    assert "<dt>a&amp;b</dt><dd>1</dd>" in definition_list({"a&b": 1})


def test_pivot_turns_summaries_into_columns():
    rows = [
        *score_rows("a", "x", {"iou": 0.5, "cd": 1.0}),
        *score_rows("a", "y", {"iou": 1.0, "cd": 3.0}),
        *score_rows("b", "x", {"iou": 0.25}),
    ]
    assert pivot(summarise(rows)) == [
        {"method": "a", "objects": 2, "iou": 0.75, "cd": 2.0},
        {"method": "b", "objects": 1, "iou": 0.25},
    ]
    assert [list(row) for row in pivot(summarise(rows), ["cd", "iou"])] == [
        ["method", "objects", "cd", "iou"],
        ["method", "objects", "iou"],
    ]

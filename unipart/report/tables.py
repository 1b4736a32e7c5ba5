"""HTML tables with aligned numbers, and how a number is written."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from unipart.metrics.table import Summary

LOWER_IS_BETTER = ("chamfer", "cd", "distance", "loss", "hausdorff", "seconds", "error")
HIGHER_IS_BETTER = ("f_score", "f@", "fscore", "iou", "miou", "accuracy", "normal_consistency")


def format_value(value: Any) -> str:
    """Writes a value for people: four significant digits, thousands apart, an en dash for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ", ".join(format_value(item) for item in value) if isinstance(value, list | tuple) else str(value)
    if isinstance(value, int) or (value.is_integer() and 10 <= abs(value) < 1e15):
        return f"{int(value):,}".replace(",", "\u202f")
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.4g}"


def format_seconds(seconds: float) -> str:
    """Writes a duration: 850 ms, 12.3 s, 4 min 05 s, 3 h 20 min."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def better_direction(metric: str) -> int:
    """Returns 1 where more of a metric is better, -1 where less is, 0 where its name does not tell."""
    name = metric.lower()
    if any(word in name for word in HIGHER_IS_BETTER):
        return 1
    return -1 if any(word in name.replace(":", "_").split("_") or name.startswith(word) for word in LOWER_IS_BETTER) else 0


def pivot(summaries: Sequence[Summary], metrics: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Returns a row per method with a column per metric (its mean over the objects), for `ReportData.scores`.

    Args:
        summaries: what `unipart.metrics.table.summarise` returns.
        metrics: which columns and in which order; by default all.
    """
    rows: dict[str, dict[str, Any]] = {}
    for entry in summaries:
        row = rows.setdefault(entry.method, {"method": entry.method, "objects": entry.count})
        if metrics is None or entry.metric in metrics:
            row[entry.metric] = entry.mean
    order = ["method", "objects", *(metrics or [])]
    return [
        {name: row[name] for name in [*order, *(key for key in row if key not in order)] if name in row} for row in rows.values()
    ]


def table(rows: Sequence[Mapping[str, Any]], mark_best: bool = False, verbatim: bool = False) -> str:
    """Returns a table: a column per key in the order of first appearance, numbers to the right.

    Args:
        rows: one mapping a row; missing keys read as nothing.
        mark_best: set the best value of a column in bold, where the metric's name tells what is better.
        verbatim: keys are names (of runs) to be written as they are, and not figures.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numeric = {column for column in columns if all(_is_number(row.get(column)) or row.get(column) is None for row in rows)}
    best = {column: _best(column, rows) for column in numeric} if mark_best and len(rows) > 1 else {}
    head = "".join(
        f"<th{_number_class(column in numeric)}>{html.escape(column)}</th>"
        if verbatim
        else f"<th{_number_class(column in numeric)}>{_label(column)}{_arrow(column, column in numeric)}</th>"
        for column in columns
    )
    body = []
    for row in rows:
        cells = []
        for column in columns:
            text = html.escape(format_value(row.get(column)))
            if best.get(column) is not None and row.get(column) == best[column]:
                text = f"<strong>{text}</strong>"
            cells.append(f"<td{_number_class(column in numeric)}>{text}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def definition_list(facts: Mapping[str, Any], css_class: str = "facts") -> str:
    """Returns name and value pairs as a <dl>."""
    items = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(format_value(value))}</dd></div>" for name, value in facts.items()
    )
    return f'<dl class="{css_class}">{items}</dl>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _best(column: str, rows: Sequence[Mapping[str, Any]]) -> float | None:
    values = [row[column] for row in rows if _is_number(row.get(column)) and not math.isnan(row[column])]
    direction = better_direction(column)
    if not values or direction == 0:
        return None
    return max(values) if direction > 0 else min(values)


def _arrow(column: str, numeric: bool) -> str:
    direction = better_direction(column) if numeric else 0
    if direction == 0:
        return ""
    return ' <span class="arrow" title="{} is better">{}</span>'.format(*(("more", "↑") if direction > 0 else ("less", "↓")))


def _label(column: str) -> str:
    return html.escape(column.replace("_", " "))


def _number_class(numeric: bool) -> str:
    return ' class="number"' if numeric else ""

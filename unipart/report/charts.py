"""Line charts as inline SVG: no script, no font, no request; colours come from the page's style sheet."""

import html
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from unipart.report.tables import format_value

Series = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 360, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 10, 24
_MAX_POINTS = 240
_HOVER_POINTS = 60


def line_chart(title: str, series: Mapping[str, Series], log_scale: bool = False) -> str:
    """Returns an SVG figure of one or more lines over the step; hovering a point shows its value.

    Args:
        title: what is drawn, for screen readers.
        series: name -> (step, value) pairs; values that are not finite are left out, as are those <= 0 on a log scale. A line's
            colour is that of its place, also where others are empty.
        log_scale: the vertical axis in powers of ten.
    """
    lines = {name: _bin(_drawable(points, log_scale)) for name, points in series.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        text = f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no data</text>'
        return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}">{text}</svg>'
    steps = [step for points in lines.values() for step, _ in points]
    values = [value for points in lines.values() for _, value in points]
    first, last = min(steps), max(max(steps), min(steps) + 1e-9)
    low, high, ticks = _axis(min(values), max(values), log_scale)

    def x(step: float) -> float:
        return round(_LEFT + (step - first) / (last - first) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        place = (math.log10(value) if log_scale else value) - low
        return round(HEIGHT - _BOTTOM - place / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)

    parts = [f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>' for tick in ticks]
    for tick, label in zip(ticks, _tick_labels(ticks), strict=True):
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y(tick) + 3.5}" text-anchor="end">{label}</text>')
    every = math.ceil(_round_up(max((last - first) / 4, 1)))
    for step in range(math.ceil(first / every) * every, math.floor(last) + 1, every):
        parts.append(f'<text class="tick" x="{x(step)}" y="{HEIGHT - 7}" text-anchor="middle">{_step(step)}</text>')
    for index, name in enumerate(series):
        points = lines.get(name, [])
        if not points:
            continue
        path = " ".join(f"{x(step)},{y(value)}" for step, value in points)
        parts.append(f'<polyline class="line {series_class(index)}" points="{path}"/>')
        if len(points) == 1:
            parts.append(f'<circle class="point {series_class(index)}" cx="{x(points[0][0])}" cy="{y(points[0][1])}" r="3"/>')
        for step, value in points[:: max(1, math.ceil(len(points) / _HOVER_POINTS))]:
            label = html.escape(f"{name} · step {_step(step)} · {format_value(float(value))}")
            parts.append(
                f'<circle class="dot {series_class(index)}" cx="{x(step)}" cy="{y(value)}" r="5"><title>{label}</title></circle>'
            )
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'


def series_class(index: int) -> str:
    """Returns the CSS class of the line at a place: six colours, and dashed the same again."""
    return f"series-{index % 6}{' again' if index >= 6 else ''}"


def suits_log_scale(series: Mapping[str, Series]) -> bool:
    """Returns whether the values are positive and span more than a factor of 30."""
    values = [value for points in series.values() for _, value in points if math.isfinite(value)]
    return bool(values) and min(values) > 0 and max(values) / min(values) > 30


def group_metrics(history: Mapping[str, Series]) -> dict[str, dict[str, Series]]:
    """Puts ``val/loss`` into the chart of ``loss`` and ``val/recon`` into that of ``loss/recon``; the rest is a chart each."""
    charts = {name: {name: points} for name, points in history.items() if not name.startswith("val/")}
    for name, points in history.items():
        if name.startswith("val/"):
            rest = name.removeprefix("val/")
            trained = next((chart for chart in (rest, f"loss/{rest}") if chart in history), None)
            charts[trained or name] = {"train": history[trained], "val": points} if trained else {name: points}
    return charts


def stacked_bar(shares: Sequence[tuple[str, float, str]]) -> str:
    """Returns a horizontal bar of (label, amount, CSS class) pieces with a hover title each."""
    total = sum(amount for _, amount, _ in shares) or 1.0
    pieces, left = [], 0.0
    for label, amount, css_class in shares:
        width = 100 * amount / total
        if width > 0:
            text = html.escape(f"{label}: {format_value(amount)} ({width:.0f} %)")
            pieces.append(
                f'<rect class="{css_class}" x="{left:.2f}%" width="{width:.2f}%" height="100%"><title>{text}</title></rect>'
            )
            left += width
    return f'<svg class="bar" role="img" aria-label="shares">{"".join(pieces)}</svg>'


def _drawable(points: Series, log_scale: bool) -> list[tuple[float, float]]:
    return [(float(s), float(v)) for s, v in points if math.isfinite(v) and (v > 0 or not log_scale)]


def _bin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Averages runs of neighbouring points until the chart can show them."""
    size = math.ceil(len(points) / _MAX_POINTS)
    if size <= 1:
        return points
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(s for s, _ in run) / len(run), sum(v for _, v in run) / len(run)) for run in runs]


def _axis(low: float, high: float, log_scale: bool) -> tuple[float, float, list[float]]:
    """Returns the axis range (exponents on a log scale) and the tick values."""
    if log_scale:
        bottom, top = math.log10(low), math.log10(high)
        margin = max(0.04 * (top - bottom), 0.05)
        lowest, highest = 10 ** (bottom - margin), 10 ** (top + margin)
        decades = [10.0**power for power in range(math.floor(bottom - margin), math.ceil(top + margin) + 1)]
        halves = [factor * decade for decade in decades for factor in (1, 2, 5)]
        choices = ([tick for tick in ticks if lowest <= tick <= highest] for ticks in (decades, halves))
        ticks = next((ticks for ticks in choices if len(ticks) >= 2), None) or _axis(lowest, highest, log_scale=False)[2][1:-1]
        return bottom - margin, top + margin, ticks[:: math.ceil(len(ticks) / 6)]
    # Values that agree in three digits are drawn as the flat line that they are: their differences would fit no label.
    span = max((high - low) or abs(high) or 1.0, max(abs(low), abs(high)) / 1000)
    step = _round_up(span / 4)
    bottom, top = math.floor(low / step), math.ceil(high / step)
    top += bottom == top
    return bottom * step, top * step, [index * step for index in range(bottom, top + 1)]


def _round_up(raw: float) -> float:
    """Returns the least round number of at least the given one."""
    magnitude = 10.0 ** math.floor(math.log10(raw))
    return next((factor * magnitude for factor in (1, 2, 2.5, 5) if factor * magnitude >= raw), 10 * magnitude)


def _tick_labels(ticks: Sequence[float]) -> list[str]:
    """Returns the ticks' texts, with as many digits as their distance needs."""
    distance = min((after - before for before, after in pairwise(ticks)), default=math.inf)

    def tell(digits: int) -> bool:
        return all(abs(float(_tick(tick, digits)) - tick) < distance / 20 for tick in ticks)

    digits = next(filter(tell, range(3, 12)), 12)
    return [_tick(tick, digits) for tick in ticks]


def _tick(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.{max(digits, 6) if abs(value) >= 1000 else digits}g}"
    mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _step(value: float) -> str:
    return format_value(round(value))

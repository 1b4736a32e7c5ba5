"""The report (artefact A6): one HTML file that needs nothing else, for people who judge a run by looking at it."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unipart.report.charts import Series, group_metrics, line_chart, series_class, stacked_bar, suits_log_scale
from unipart.report.tables import definition_list, format_seconds, format_value, table

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class RunEntry:
    """One training run.

    Attributes:
        name: the run's name.
        model: the registry name of the model.
        run_id: the tracker's id, or an empty string.
        parameters: number of trained values.
        seconds: wall time.
        config_diff: what differs from the recipe: flat key -> value or (recipe value, value).
        history: metric name -> (step, value) pairs.
    """

    name: str
    model: str
    run_id: str = ""
    parameters: int = 0
    seconds: float = 0.0
    config_diff: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Series] = field(default_factory=dict)


@dataclass(frozen=True)
class CurationEntry:
    """What became of the assets: found = kept + rejected + failed.

    Attributes:
        found: assets in.
        kept: samples out.
        rejected: reason code -> assets.
        failed: assets that stopped with an unexpected error.
        stage_seconds: stage -> CPU seconds.
    """

    found: int
    kept: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    failed: int = 0
    stage_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectEntry:
    """One generated object.

    Attributes:
        object_id: its name.
        condition: the image it was generated from [H W 3 or 4] uint8, or None.
        figures: caption -> image [H W 3 or 4] uint8, left to right.
        facts: short figures under the name (parts, seconds, seed ...).
        scores: metric -> value.
        fall_backs: what the generation could not do as planned, in words.
        viewer: link to the interactive viewer, relative to the report, or None.
    """

    object_id: str
    condition: NDArray[np.uint8] | None = None
    figures: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    fall_backs: Sequence[str] = ()
    viewer: str | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows; an empty section is left out.

    Attributes:
        title: heading of the page.
        subtitle: one sentence under it.
        summary: name -> value, shown large.
        warnings: what a reader must know before trusting the figures.
        objects: generated objects.
        scores: rows of the score table: {"method": ..., metric: value}.
        runs: training runs.
        curation: what the data steps kept, or None.
        environment: versions and hardware.
        commands: the command lines that made the report, in order.
    """

    title: str
    subtitle: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    objects: Sequence[ObjectEntry] = ()
    scores: Sequence[Mapping[str, Any]] = ()
    runs: Sequence[RunEntry] = ()
    curation: CurationEntry | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()


def write_report(path: str | Path, data: ReportData) -> Path:
    """Writes the report as one file with images inside, and returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(data), encoding="utf-8")
    return path


def render_report(data: ReportData) -> str:
    """Returns the report's HTML; the same data give the same text."""
    sections = {
        "Objects": _objects(data.objects),
        "Scores": table(data.scores, mark_best=True) if data.scores else "",
        "Training": "".join(_run(index, run) for index, run in enumerate(data.runs)),
        "Curation": _curation(data.curation) if data.curation else "",
        "Environment": definition_list(data.environment, "plain") if data.environment else "",
        "Commands": _commands(data.commands),
    }
    return render_page(data.title, sections, data.subtitle, data.summary, data.warnings)


def render_page(
    title: str,
    sections: Mapping[str, str],
    subtitle: str = "",
    summary: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> str:
    """Returns a page in the style of all pages.

    Args:
        title: heading.
        sections: name -> HTML; empty ones are left out.
        subtitle: one sentence under the heading.
        summary: name -> value, shown large.
        warnings: what a reader must know first.
    """
    present = {name: body for name, body in sections.items() if body}
    template = Template((TEMPLATES / "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title),
        subtitle=f'<p class="lead">{html.escape(subtitle)}</p>' if subtitle else "",
        navigation="".join(f'<a href="#{name.lower()}">{name}</a>' for name in present),
        summary=definition_list(summary, "summary") if summary else "",
        warnings=_warnings(warnings),
        sections="".join(f'<section id="{name.lower()}"><h2>{name}</h2>{body}</section>' for name, body in present.items()),
    )


def image_uri(image: NDArray[np.uint8]) -> str:
    """Returns a PNG data URI of an image [H W 3 or 4]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=9)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def figure(caption: str, image: NDArray[np.uint8], of: str) -> str:
    """Returns an image [H W 3 or 4] that a click enlarges, with its caption.

    Args:
        caption: below it.
        image: the pixels.
        of: what it shows, for screen readers.
    """
    return (
        f'<figure><button type="button" class="zoom" aria-label="enlarge: {html.escape(caption)}">'
        f'<img src="{image_uri(image)}" alt="{html.escape(f"{of}: {caption}")}" width="{image.shape[1]}" height="{image.shape[0]}">'
        f"</button><figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in warnings)
    return f'<aside class="warnings" role="note"><h2>Read this first</h2><ul>{items}</ul></aside>'


def _objects(objects: Sequence[ObjectEntry]) -> str:
    return "".join(_object(entry) for entry in objects)


def _object(entry: ObjectEntry) -> str:
    pictures = {"condition": entry.condition} if entry.condition is not None else {}
    pictures |= dict(entry.figures)
    figures = "".join(figure(caption, image, entry.object_id) for caption, image in pictures.items())
    facts = " · ".join(f"{html.escape(name)} <b>{html.escape(_fact(name, value))}</b>" for name, value in entry.facts.items())
    link = f'<a class="button" href="{html.escape(entry.viewer)}">open viewer</a>' if entry.viewer else ""
    falls = "".join(f"<li>{html.escape(text)}</li>" for text in entry.fall_backs)
    return (
        f'<article class="object"><header><h3>{html.escape(entry.object_id)}</h3><p>{facts}</p>{link}</header>'
        f'<div class="figures">{figures}</div>'
        + (definition_list(entry.scores, "scores") if entry.scores else "")
        + (f'<ul class="falls">{falls}</ul>' if falls else "")
        + "</article>"
    )


def _fact(name: str, value: Any) -> str:
    return format_seconds(value) if name.endswith(("seconds", "time")) else format_value(value)


def _run(index: int, run: RunEntry) -> str:
    facts = {"model": run.model, "parameters": run.parameters, "time": format_seconds(run.seconds), "run": run.run_id or "–"}
    settings = ""
    if run.config_diff:
        rows = [{"setting": key, **_change(value)} for key, value in run.config_diff.items()]
        settings = f"<details><summary>Settings that differ from the recipe: {len(rows)}</summary>{table(rows)}</details>"
    charts = chart_cards(group_metrics(run.history), f"log-{index}")
    return f'<article class="run"><h3>{html.escape(run.name)}</h3>{definition_list(facts)}{charts}{settings}</article>'


def chart_cards(charts: Mapping[str, Mapping[str, Series]], switch: str) -> str:
    """Returns charts with legends, and a switch between linear and log scale if there are any.

    Args:
        charts: name -> lines of one chart.
        switch: id of the switch, unique on the page.
    """
    if not charts:
        return ""
    pictures = []
    for name, series in charts.items():
        can_log = all(value > 0 for points in series.values() for _, value in points)
        linear, log = line_chart(name, series), line_chart(name, series, log_scale=can_log)
        both = f'<div class="linear">{linear}</div><div class="log">{log}</div>'
        pictures.append(f'<figure class="card"><figcaption>{html.escape(name)} {_legend(series)}</figcaption>{both}</figure>')
    checked = " checked" if any(suits_log_scale(series) for name, series in charts.items() if "loss" in name) else ""
    return (
        f'<input type="checkbox" class="log-switch" id="{switch}"{checked}><label for="{switch}">log scale</label>'
        f'<div class="charts">{"".join(pictures)}</div>'
    )


def _legend(series: Mapping[str, Series]) -> str:
    """Names each line with its last value."""
    items = []
    for index, (name, points) in enumerate(series.items()):
        last = format_value(float(points[-1][1])) if points else "–"
        label = f"{html.escape(name)} " if len(series) > 1 else ""
        items.append(f'<span class="legend {series_class(index)}">{label}<b>{last}</b></span>')
    return "".join(items)


def _change(value: Any) -> dict[str, Any]:
    if isinstance(value, list | tuple) and len(value) == 2:
        return {"recipe": value[0], "this run": value[1]}
    return {"this run": value}


def _curation(entry: CurationEntry) -> str:
    num_rejected = sum(entry.rejected.values())
    shares = [("kept", entry.kept, "kept"), ("rejected", num_rejected, "rejected"), ("failed", entry.failed, "failed")]
    sums_up = entry.kept + num_rejected + entry.failed == entry.found
    equation = f"{entry.found} in = {entry.kept} kept + {num_rejected} rejected + {entry.failed} failed"
    note = "" if sums_up else '<p class="wrong">The counts do not add up: assets are missing from the ledger.</p>'
    reasons = [
        {"reason": reason, "assets": count}
        for reason, count in sorted(entry.rejected.items(), key=lambda item: (-item[1], item[0]))
    ]
    total = sum(entry.stage_seconds.values()) or 1.0
    stages = [
        {"stage": name, "CPU time": format_seconds(seconds), "share": f"{100 * seconds / total:.0f} %"}
        for name, seconds in entry.stage_seconds.items()
    ]
    columns = (table(reasons) if reasons else "") + (table(stages) if stages else "")
    return f'<p class="equation">{equation}</p>{stacked_bar(shares)}{note}<div class="columns">{columns}</div>'


def _commands(commands: Sequence[str]) -> str:
    return f"<pre><code>{html.escape(chr(10).join(commands))}</code></pre>" if commands else ""

"""The page of ``unipart compare``: what differs between runs, their curves overlaid, the same objects side by side."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.report.charts import Series, series_class
from unipart.report.html import chart_cards, figure, render_page
from unipart.report.tables import table

TRUTH = "truth"
MACHINE = ("time/", "seconds", "samples_per_second", "memory", "mfu")
"""Beginnings of the names of figures that tell of the machine, and not of the model."""


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    Attributes:
        name: as shown; unique among the runs.
        facts: short figures: state, step, scores.
        settings: flat setting -> value: config, data, parents.
        history: metric -> (step, value) pairs.
        step: of the pictures.
        pictures: (object, panel) -> image [H W 3 or 4] uint8.
        scores: object -> {metric: value} at that step.
        link: its page in MLflow, or the command that shows it; may be empty.
    """

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Series] = field(default_factory=dict)
    step: int = 0
    pictures: Mapping[tuple[str, str], NDArray[np.uint8]] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    link: str = ""


def write_comparison(path: str | Path, runs: Sequence[ComparedRun], title: str = "Runs compared") -> Path:
    """Writes the page as one file with images inside, and returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_comparison(runs, title), encoding="utf-8")
    return path


def render_comparison(runs: Sequence[ComparedRun], title: str = "Runs compared") -> str:
    """Returns the page's HTML; the same runs give the same text."""
    names = _names(runs)
    model = {name: lines for name, lines in _curves(runs).items() if not name.startswith(MACHINE)}
    machine = {name: lines for name, lines in _curves(runs).items() if name.startswith(MACHINE)}
    folded = f"<details><summary>The machine: {len(machine)} charts</summary>{chart_cards(machine, 'log-machine')}</details>"
    sections = {
        "Runs": table([{"run": run.name, **run.facts} for run in runs]) + _links(runs),
        "Differences": _differences(runs),
        "Curves": names + chart_cards(model, "log-model") + (folded if machine else "") if model or machine else "",
        "Objects": _objects(runs),
    }
    return render_page(title, sections, "What was set differently, and what came of it.")


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the settings whose values are not the same everywhere, in the order of first appearance."""
    names = dict.fromkeys(name for each in settings for name in each)
    return [name for name in names if len({json.dumps(each.get(name)) for each in settings}) > 1]


def _names(runs: Sequence[ComparedRun]) -> str:
    items = "".join(f'<span class="legend {series_class(index)}">{html.escape(run.name)}</span>' for index, run in enumerate(runs))
    return f'<p class="runs-named">{items}</p>'


def _links(runs: Sequence[ComparedRun]) -> str:
    items = []
    for run in runs:
        if run.link.startswith("http"):
            address = html.escape(run.link)
            items.append(f'<li>{html.escape(run.name)}: <a href="{address}" rel="noreferrer">{address}</a></li>')
        elif run.link:
            items.append(f"<li>{html.escape(run.name)}: <code>{html.escape(run.link)}</code></li>")
    return f'<ul class="links">{"".join(items)}</ul>' if items else ""


def _differences(runs: Sequence[ComparedRun]) -> str:
    names = differing([run.settings for run in runs])
    if not names:
        return "<p>Config, data and parents are the same.</p>"
    return table([{"setting": name, **{run.name: _text(run.settings.get(name)) for run in runs}} for name in names], verbatim=True)


def _text(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _curves(runs: Sequence[ComparedRun]) -> dict[str, dict[str, Series]]:
    """Returns a chart a metric, in it a line a run: an empty one keeps the others' colours."""
    metrics = dict.fromkeys(name for run in runs for name in run.history)
    return {metric: {run.name: run.history.get(metric, ()) for run in runs} for metric in metrics}


def _objects(runs: Sequence[ComparedRun]) -> str:
    """Shows each object that several runs drew, panel by panel; the truth, which is the same for all, once before them."""
    drawn = dict.fromkeys(key for run in runs for key in run.pictures)
    shared = [key for key in drawn if len(runs) == 1 or sum(key in run.pictures for run in runs) > 1]
    articles = []
    for name in dict.fromkeys(name for name, _ in shared):
        truth = next((run.pictures[name, TRUTH] for run in runs if (name, TRUTH) in run.pictures), None)
        first = figure("ground truth", truth, name) if truth is not None else ""
        rows = [_panel(runs, name, panel, first) for owner, panel in shared if owner == name and panel != TRUTH]
        scores = [{"run": run.name, "step": run.step, **run.scores[name]} for run in runs if name in run.scores]
        body = "".join(rows) + (table(scores, mark_best=True) if scores else "")
        articles.append(f'<article class="object"><header><h3>{html.escape(name)}</h3></header>{body}</article>')
    return "".join(articles)


def _panel(runs: Sequence[ComparedRun], name: str, panel: str, first: str) -> str:
    figures = [first]
    for run in runs:
        caption = f"{run.name} · {panel} · step {run.step}"
        picture = run.pictures.get((name, panel))
        absent = f'<figure><div class="absent">none</div><figcaption>{html.escape(caption)}</figcaption></figure>'
        figures.append(absent if picture is None else figure(caption, picture, name))
    return f'<div class="side">{"".join(figures)}</div>'

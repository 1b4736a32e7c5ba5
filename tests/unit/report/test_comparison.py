import re

import numpy as np

from unipart.report.comparison import ComparedRun, differing, render_comparison


def _picture(value: int) -> np.ndarray:
    return np.full((4, 4, 3), value, np.uint8)


def _runs() -> list[ComparedRun]:
    first = ComparedRun(
        "wide_a",
        {"state": "finished"},
        {"model.width": 64, "seed": 0},
        {"loss": [(1, 2.0), (2, 1.0)], "time/data": [(1, 0.5)]},
        step=2,
        pictures={("chair", "exploded"): _picture(1), ("chair", "truth"): _picture(9), ("alone", "exploded"): _picture(3)},
        scores={"chair": {"iou64": 0.5}},
        link="http://mlflow:5000/#/experiments/1/runs/abc",
    )
    second = ComparedRun(
        "wide_b",
        {"state": "failed"},
        {"model.width": 128, "seed": 0, "kl <weight>": 1},
        {"val/loss": [(4, 3.0)]},
        step=4,
        pictures={("chair", "exploded"): _picture(2), ("chair", "truth"): _picture(9)},
        link="mlflow ui --backend-store-uri sqlite:///mlflow.db",
    )
    return [first, second]


def test_only_differing_settings_are_in_the_page_and_texts_are_escaped():
    page = render_comparison(_runs())
    differences = page[page.index('id="differences"') : page.index('id="curves"')]
    assert "<td>model.width</td><td>64</td><td>128</td>" in differences
    assert "<td>kl &lt;weight&gt;</td><td>–</td><td>1</td>" in differences
    assert "seed" not in differences
    assert "<th>wide_a</th>" in differences
    assert differing([{"a": 1, "b": None}, {"a": 1}]) == []


def test_a_run_keeps_its_colour_in_every_chart():
    page = render_comparison(_runs())
    drawn = {(name, colour) for colour, name in re.findall(r'<circle class="dot series-(\d)"[^>]*><title>(wide_\w)', page)}
    assert drawn == {("wide_a", "0"), ("wide_b", "1")}


def test_objects_that_several_runs_drew_stand_side_by_side():
    page = render_comparison(_runs())
    objects = page[page.index('id="objects"') :]
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", objects)
    assert captions == ["ground truth", "wide_a · exploded · step 2", "wide_b · exploded · step 4"]
    assert "alone" not in objects
    assert len(set(re.findall(r'src="(data:image/png[^"]*)"', objects))) == 3


def test_the_page_links_into_mlflow_and_loads_nothing():
    page = render_comparison(_runs())
    assert '<a href="http://mlflow:5000/#/experiments/1/runs/abc"' in page
    assert "<code>mlflow ui --backend-store-uri sqlite:///mlflow.db</code>" in page
    assert not re.findall(r'(?:src|<link[^>]*href)="https?:', page)


def test_the_machine_s_figures_are_folded_away():
    page = render_comparison(_runs())
    curves, folded = page.split("<details>", 1)
    assert "time/data" in folded
    assert "time/data" not in curves
    assert "val/loss" in curves

import os
import shlex
from pathlib import Path

import pytest

from jobs import data
from jobs.demo import Demo, Plan, plan_demo
from jobs.options import apply_fields, split_config_flags
from jobs.overfit import plan_overfit
from jobs.recipes import find_recipe
from jobs.runs import KINDS
from pipelines import runner


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    return Demo(tmp_path, Plan(("procedural:count=1",), "ci", 1, objects=1))


def test_a_step_is_done_once_for_the_same_inputs(demo: Demo):
    calls: list[str] = []
    for key in ("one", "one", "two", "two"):
        demo._stamped("a step", "probe", key, lambda key=key: calls.append(key))
    assert calls == ["one", "two"]


def test_a_step_that_failed_is_done_again_in_the_same_folder(demo: Demo, tmp_path: Path):
    folder = tmp_path / "model"

    def half() -> None:
        folder.mkdir()
        (folder / "checkpoint").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        demo._stamped("a step", "probe", "one", half, folder)
    seen: list[bool] = []
    demo._stamped("a step", "probe", "one", lambda: seen.append((folder / "checkpoint").exists()), folder)
    assert seen == [True], "an interrupted step continues from what is there"


def test_results_of_other_inputs_are_removed(demo: Demo, tmp_path: Path):
    folder = tmp_path / "model"
    demo._stamped("a step", "probe", "one", lambda: folder.mkdir(), folder)
    seen: list[bool] = []
    demo._stamped("a step", "probe", "two", lambda: seen.append(folder.exists()), folder)
    assert seen == [False]


def test_a_step_whose_file_is_gone_is_done_again(demo: Demo, tmp_path: Path):
    page, folder = tmp_path / "page.html", tmp_path / "pages"

    def work() -> None:
        folder.mkdir(exist_ok=True)
        page.write_text("new")
        (folder / "one.html").write_text("new")

    for lost in (page, folder / "one.html"):
        demo._stamped("a step", "probe", "one", work, page, folder)
        page.write_text("kept")
        demo._stamped("a step", "probe", "one", work, page, folder)
        assert page.read_text() == "kept"
        lost.unlink()
        demo._stamped("a step", "probe", "one", work, page, folder)
        assert page.read_text() == "new"
        assert lost.exists()


def test_a_stamp_is_whole_even_when_the_disk_fills_while_it_is_written(demo: Demo, tmp_path: Path, monkeypatch):
    demo._stamped("a step", "probe", "one", lambda: None)
    stamp = tmp_path / "stamps" / "probe.json"
    before = stamp.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OSError, match="no space"):
        demo._stamped("a step", "probe", "two", lambda: None)
    assert stamp.read_bytes() == before
    assert list(stamp.parent.iterdir()) == [stamp]


def test_a_step_reports_itself_and_its_time(demo: Demo, capsys: pytest.CaptureFixture):
    demo.check_machine()
    assert capsys.readouterr().err.startswith("[1/9] check this machine")
    assert "check this machine" in demo.summary()
    assert "in all" in demo.summary()


def test_own_meshes_take_the_place_of_the_built_in_ones():
    assert plan_demo("meshes", fast=False).sources == ("meshes",)
    assert plan_demo(None, fast=False).sources[0].startswith("procedural:")
    assert plan_demo(None, fast=True).size == "ci"


class Seen(Exception):
    """Ends a curation where it would begin."""


def test_the_printed_curation_is_the_one_of_the_demo(tmp_path: Path, monkeypatch):
    calls: list[tuple] = []

    def look(sources, out, config, options, progress):
        calls.append((list(sources), str(out), config, options))
        raise Seen

    monkeypatch.setattr(runner, "run", look)
    for plan in (plan_demo(None, fast=False), plan_demo("my meshes", fast=False), plan_demo(None, fast=True)):
        demo = Demo(tmp_path / "a demo", plan)
        with pytest.raises(Seen):
            demo.curate()
        with pytest.raises(Seen):
            data.main(shlex.split(demo.commands[0])[2:])
        ours, printed = calls[-2:]
        assert ours == printed


@pytest.mark.parametrize("plan", [plan_demo(None, fast=False), plan_demo(None, fast=True), plan_overfit(None, fast=False)])
def test_the_printed_trainings_are_those_of_the_demo(tmp_path: Path, monkeypatch, plan: Plan):
    from jobs import train

    demo = Demo(tmp_path, plan)
    monkeypatch.setattr(demo, "_stamped", lambda *step: "key")
    for kind in KINDS:
        demo.train(kind, "key")
        words = shlex.split(demo.commands[-1])
        assert words[:2] == ["unipart", "train"]
        parser = train._parser()
        own, fields = split_config_flags(words[2:], parser)
        options = parser.parse_args(own)
        recipe = find_recipe(kind, plan.size)
        assert apply_fields(find_recipe(options.kind, options.recipe), fields) == recipe.replace(**plan.changes.get(kind, {}))
        assert (options.workers, options.tracking, options.out) == (plan.workers, demo._tracking, str(tmp_path / "models" / kind))


def test_the_other_printed_commands_name_every_setting(tmp_path: Path, monkeypatch):
    demo = Demo(tmp_path, plan_demo(None, fast=True))
    monkeypatch.setattr(demo, "_stamped", lambda *step: "key")
    for step in (demo.generate, demo.evaluate, demo.write_report):
        step("key")
    generate, evaluate, report = demo.commands
    assert "--split test --limit 2 --size ci" in generate
    assert f"--num_points 2000 --tracking {demo._tracking}" in evaluate
    assert f"--title 'UniPart demo' --tracking {demo._tracking}" in report

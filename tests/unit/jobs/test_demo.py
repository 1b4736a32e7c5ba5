from pathlib import Path

import pytest

from jobs.demo import Demo, Plan, plan_demo


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    return Demo(tmp_path, Plan(("procedural:count=1",), "ci", 1, objects=1))


def test_a_step_is_done_once_for_the_same_inputs(demo: Demo):
    calls: list[str] = []
    for key in ("one", "one", "two", "two"):
        demo._stamped("a step", "probe", key, None, lambda key=key: calls.append(key))
    assert calls == ["one", "two"]


def test_a_step_that_failed_is_done_again_in_the_same_folder(demo: Demo, tmp_path: Path):
    folder = tmp_path / "model"

    def half() -> None:
        folder.mkdir()
        (folder / "checkpoint").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        demo._stamped("a step", "probe", "one", folder, half)
    seen: list[bool] = []
    demo._stamped("a step", "probe", "one", folder, lambda: seen.append((folder / "checkpoint").exists()))
    assert seen == [True], "an interrupted step continues from what is there"


def test_results_of_other_inputs_are_removed(demo: Demo, tmp_path: Path):
    folder = tmp_path / "model"
    demo._stamped("a step", "probe", "one", folder, lambda: folder.mkdir())
    seen: list[bool] = []
    demo._stamped("a step", "probe", "two", folder, lambda: seen.append(folder.exists()))
    assert seen == [False]


def test_a_step_reports_itself_and_its_time(demo: Demo, capsys: pytest.CaptureFixture):
    demo.check_machine()
    assert capsys.readouterr().err.startswith("[1/9] check this machine")
    assert "check this machine" in demo.summary()
    assert "in all" in demo.summary()


def test_own_meshes_take_the_place_of_the_built_in_ones():
    assert plan_demo("meshes", fast=False).sources == ("meshes",)
    assert plan_demo(None, fast=False).sources[0].startswith("procedural:")
    assert plan_demo(None, fast=True).size == "ci"

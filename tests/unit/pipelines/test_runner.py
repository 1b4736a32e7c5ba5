import json

import pytest

from jobs import data
from pipelines import runner
from pipelines.plan import build_plan
from pipelines.runner import Progress, RunOptions
from unipart.errors import EnvironmentProblem


def node(cpus: float, memory_mb: int, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": cpus, "memory": memory_mb << 20}}


def test_a_layout_that_fits_somewhere_is_accepted(small_config):
    plan = build_plan(small_config.replace(limits__memory_mb=1024))
    runner._check_layout(plan, [node(0, 90000), node(1, 1024)], local=False)
    runner._check_layout(plan, [node(0, 500)], local=False)  # workers come with the work


@pytest.mark.parametrize(
    ("nodes", "told", "fix"),
    [
        ([node(8, 700)], "up to 1024 MB", "set --limits.memory_mb to 700 or less"),
        ([node(0.5, 9000)], "takes 1 CPU", "nodes with more CPUs"),
        ([node(8, 9000, alive=False), node(4, 900)], "the largest has 4 CPUs and 900 MB", "or use larger nodes"),
    ],
)
def test_one_that_fits_nowhere_is_refused_with_the_fix(small_config, nodes, told, fix):
    plan = build_plan(small_config.replace(limits__memory_mb=1024))
    with pytest.raises(EnvironmentProblem) as problem:
        runner._check_layout(plan, nodes, local=True)
    assert told in problem.value.message
    assert fix in problem.value.fix


def test_a_plan_is_refused_here_without_ray(small_config):
    runner.check_here(build_plan(small_config), 1)
    with pytest.raises(EnvironmentProblem, match="up to 100000000 MB"):
        runner.check_here(build_plan(small_config.replace(limits__memory_mb=100_000_000)), 1)


def test_the_catalog_tells_how_far_it_is(tmp_path, small_config, monkeypatch):
    for number in range(5):
        (tmp_path / f"{number}.stl").write_bytes(b"solid")
    told: list[Progress] = []
    runner.list_assets([str(tmp_path)], small_config, progress=told.append)
    assert told == [], "not when it takes no time"
    monkeypatch.setattr(runner, "_TELL_SECONDS", 0.0)
    runner.list_assets([str(tmp_path)], small_config, progress=told.append)
    assert [(one.done, one.total, one.what) for one in told] == [(n, 5, "assets read for the catalog") for n in range(1, 6)]


def test_an_error_of_ray_is_told_by_its_first_cause():
    text = (
        "ray::process_block() (pid=1)\n  File ...\n"
        "unipart.errors.EnvironmentProblem: no disk\n  fix: free some\n\nThe above exception was the direct cause\n"
        "ray.exceptions.UserCodeException: UDF failed\n"
    )
    message = runner._explained(RuntimeError(text)).message
    assert "no disk" in message
    assert "free some" in message
    assert "UDF" not in message
    assert "A worker died" in runner._explained(RuntimeError("\nA worker died\nmore")).message


def test_progress_tells_the_time_left_from_this_run_alone():
    assert Progress(done=2, total=10, counts={}, seconds=4.0).seconds_left == 16.0
    assert Progress(done=0, total=10, counts={}, seconds=4.0).seconds_left == float("inf")


def test_a_sample_is_picked_by_a_hash_and_counts_for_later_runs(tmp_path, small_config, monkeypatch):
    plan = build_plan(small_config)
    catalog = runner.list_assets(["procedural:count=8,seed=3"], small_config)
    asked = []

    def pretend(claim, plan, pending, options):
        asked.append([asset["asset_id"] for asset in pending])
        runner.ledger.commit(claim.out, plan.digest, claim.attempt, [{**asset, "state": "failed"} for asset in pending])

    monkeypatch.setattr(runner, "process", pretend)
    out = str(tmp_path)
    rows = runner.try_sample(out, plan, catalog, 3, RunOptions())
    assert [row["asset_id"] for row in rows] == sorted(asked[0], key=[row["asset_id"] for row in rows].index)
    assert len(rows) == 3
    more = runner.try_sample(out, plan, list(reversed(catalog)), 5, RunOptions())
    assert [row["asset_id"] for row in more[:3]] == [row["asset_id"] for row in rows]
    assert len(asked[1]) == 2, "what was sampled is not done again"
    assert len(runner.find_pending(out, plan, catalog)) == 3


def test_the_status_of_a_run_under_way_counts_what_is_pending(tmp_path, small_config, monkeypatch, capsys):
    """In = kept + rejected + failed + pending at any moment, told without disturbing the run, and after it died too."""

    def die_half_way(claim, plan, pending, options, progress):
        states = ("kept", "rejected", "failed")
        rows = [
            {**asset, "state": state, "stage": "parts", "reason": "" if state == "kept" else "made_up"}
            for asset, state in zip(pending, states, strict=False)
        ]
        runner.ledger.commit(claim.out, plan.digest, claim.attempt, rows)
        assert data.main(["status", str(tmp_path), "--json"]) == 0
        raise EnvironmentProblem("the machine is gone", "start it again")

    monkeypatch.setattr(runner, "process", die_half_way)
    with pytest.raises(EnvironmentProblem, match="the machine is gone"):
        runner.run(["procedural:count=8,seed=3"], tmp_path, small_config)
    during = json.loads(capsys.readouterr().out)
    assert [during[name] for name in ("in", "kept", "rejected", "failed", "pending")] == [8, 1, 1, 1, 5]
    assert sorted(asset["state"] for asset in during["assets"]) == ["failed", "kept", *["pending"] * 5, "rejected"]
    assert data.main(["status", str(tmp_path)]) == 0
    assert "in 8 = kept 1 + rejected 1 + failed 1 + 5 pending" in capsys.readouterr().out


def test_rejected_assets_are_retried_only_when_asked(tmp_path, small_config, monkeypatch):
    """The catalog's own verdicts, such as that of a licence, stay: there is nothing to do again."""
    sources = ["procedural:count=4,seed=3"]
    worked_on = []

    def turn_down(claim, plan, pending, options, progress):
        worked_on.append(len(pending))
        states = ("rejected", "rejected", "failed", "rejected")
        rows = [
            {**asset, "state": state, "stage": "parts", "reason": "made_up"} for asset, state in zip(pending, states, strict=False)
        ]
        runner.ledger.commit(claim.out, plan.digest, claim.attempt, rows)

    monkeypatch.setattr(runner, "process", turn_down)
    first = runner.run(sources, tmp_path, small_config)
    assert first.counts == {"in": 4, "kept": 0, "rejected": 3, "failed": 1}
    assert runner.run(sources, tmp_path, small_config).num_processed == 0
    assert runner.run(sources, tmp_path, small_config, RunOptions(retry="rejected")).num_processed == 3
    assert worked_on == [4, 3]
    other_licence = small_config.replace(licences=("MIT",))
    turned_away = runner.run(sources, tmp_path / "other", other_licence, RunOptions(retry="rejected"))
    assert {(row["stage"], row["reason"]) for row in turned_away.rows} == {("catalog", "licence_not_allowed")}
    assert worked_on == [4, 3]

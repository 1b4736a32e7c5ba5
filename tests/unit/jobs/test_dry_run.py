"""``unipart train --dry-run`` and ``--list``, through the command line."""

import json

import pytest

from jobs.cli import main
from jobs.dry_run import describe
from jobs.recipes import ablations
from jobs.recipes.generation import SWITCHES
from unipart.inference.pipeline import GenerateConfig


def told(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    assert main(["train", *arguments]) == 0
    return capsys.readouterr().out


def test_dry_run_tells_config_changes_costs_and_the_smoke_test(capsys: pytest.CaptureFixture):
    out = told(["part", "ci", "--dry-run", "--model.kv", "fused", "--steps", "7", "--workers", "2"], capsys)
    config = json.loads(out[: out.index("\n}") + 2])
    assert config["model"]["kv"] == "fused"
    assert "changed: model.kv concat -> fused" in out
    assert "changed: steps 20 -> 7" in out
    assert "1,954,416" in out
    for line in ("active per token", "forward: part model", "training step", "AdamW states", "sharded"):
        assert line in out
    assert "smoke test: one step of part ci with model.kv fused" in out


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        (["--workers", "2"], "replicated"),
        (["--workers", "2", "--parallel", "fsdp"], "sharded"),
        (["--workers", "2", "--parallel", "fsdp", "--recompute", "true"], "sharded, recomputed"),
        (["--parallel", "fsdp", "--recompute", "true"], "replicated, recomputed"),
    ],
)
def test_the_memory_told_is_that_of_the_chosen_parallelism(monkeypatch, capsys: pytest.CaptureFixture, flags, chosen: str):
    monkeypatch.setattr("jobs.dry_run._smoke", lambda *_: {"told": ""})
    document = json.loads(told(["part", "ci", "--dry-run", "--json", *flags], capsys))
    assert document["budget"]["chosen"] == chosen
    total = document["budget"]["memory"][chosen]["lines"]["total"] / 2**30
    assert f"this training is: {chosen}, {total:.2f} GiB" in describe(document)


def test_a_dry_run_of_the_paper_tier_runs_its_small_sister(capsys: pytest.CaptureFixture):
    document = json.loads(told(["whole", "paper", "--dry-run", "--json"], capsys))
    assert document["budget"]["parameters"]["trained"] == 3_050_758_720
    assert document["smoke"]["recipe"] == "whole ci"
    assert document["smoke"]["row"]["loss"] > 0
    assert document["changed"] == {}


def test_a_dry_run_of_an_ablation_smokes_the_ablation(capsys: pytest.CaptureFixture):
    address = "jobs.recipes.ablations:point_conditions"
    document = json.loads(told(["part", address, "--size", "base", "--dry-run", "--json"], capsys))
    assert document["config"]["model"]["point_width"] == 768
    assert document["smoke"]["recipe"] == "part ci point_conditions"


def test_the_list_names_every_ablation_and_what_it_changes(capsys: pytest.CaptureFixture):
    out = told(["--list", "--size", "base"], capsys)
    for ablation in (*ablations.OF_THE_PAPER, *ablations.OUR_OWN):
        assert f"jobs.recipes.ablations:{ablation.__name__}\n" in out
    assert 'model.spaces ["gcs", "ncs"] -> ["gcs"]' in out
    assert 'model.seg "..." -> null' in out
    rows = json.loads(told(["--list", "--json"], capsys))
    assert {row["kind"] for row in rows} == {"vae", "anchor", "whole", "part", "generate"}
    assert all(row["changes"] for row in rows if row["group"] != "sizes")


def test_the_list_ends_with_what_needs_no_training_and_what_is_left_out(capsys: pytest.CaptureFixture):
    out = told(["--list"], capsys)
    assert "--segment.nms 0.7, or 0.8, 0.9\n" in out
    assert "--placement.method icp, or bbox, robust\n" in out
    assert out.rstrip().endswith(ablations.LEFT_OUT)


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, (values, _) in SWITCHES.items() for value in values])
def test_every_switch_of_generation_can_be_set(field: str, value: object):
    changed = GenerateConfig().replace(**{field.replace(".", "__"): value})
    assert changed.diff(GenerateConfig()).keys() == {field}


def test_without_a_model_the_fix_is_told(capsys: pytest.CaptureFixture):
    assert main(["train"]) == 2
    assert "--list" in capsys.readouterr().err

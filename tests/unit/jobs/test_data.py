import json

import pytest

from jobs import data
from pipelines import ledger
from pipelines.plan import build_plan
from pipelines.presets import preset
from pipelines.sources.catalog import build_catalog
from unipart.data.codec import pack_json
from unipart.data.schema import CATALOG_COLUMNS
from unipart.errors import EnvironmentProblem, UserError


@pytest.fixture
def curated(tmp_path):
    """A folder as a run leaves it: three assets, of which one was kept, one rejected, one failed."""
    config = preset("tiny")
    catalog = [{**row, "split": "train"} for row in build_catalog(["procedural:count=3,kinds=table"])]
    states = [("kept", ""), ("rejected", "no_faces"), ("failed", "timeout")]
    rows = [{**row, "state": state, "reason": reason} for row, (state, reason) in zip(catalog, states, strict=True)]
    ledger.write_table(str(tmp_path / "catalog.parquet"), catalog, CATALOG_COLUMNS)
    (tmp_path / "config.json").write_bytes(pack_json(config.model_dump(mode="json")))
    ledger.commit(str(tmp_path), build_plan(config).digest, 1, rows)
    return tmp_path


def test_status_counts_and_names_every_asset(curated, capsys):
    assert data.main(["status", str(curated), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [result[name] for name in ("in", "kept", "rejected", "failed")] == [3, 1, 1, 1]
    assert [(asset["state"], asset["reason"]) for asset in result["assets"]] == [
        ("kept", ""),
        ("rejected", "no_faces"),
        ("failed", "timeout"),
    ]
    assert data.main(["status", str(curated)]) == 0
    assert "in 3 = kept 1 + rejected 1 + failed 1" in capsys.readouterr().out


def test_too_little_kept_is_exit_code_1(curated):
    assert data.main(["status", str(curated), "--min-kept", "0.3"]) == 0
    assert data.main(["status", str(curated), "--min-kept", "0.5"]) == 1


def test_plan_prints_stages_and_work(capsys):
    assert data.main(["plan", "procedural:count=2", "--size", "tiny", "--json", "--render.size", "64"]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert (result["assets"], result["to_do"], len(result["stages"])) == (2, 2, 6)
    assert "render.size = 64 (was 160)" in output.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "/no/such/folder", "--out", "x"], "does not exist"),
        (["plan", "procedural:", "--rendr.size", "3"], "Did you mean '--render.size'"),
        (["plan", "procedural:", "--render.size", "three"], "render.size"),
        (["plan", "procedural:", "--render.size"], "--render.size needs a value"),
        (["plan", "procedural:", "--limt", "3"], "Did you mean '--limit'"),
        (["run", "procedural:", "--out", "x", "--alow-licence", "MIT"], "Did you mean '--allow-licence'"),
        (["run", "procedural:", "--jsn", "--out", "x"], "only --help, --json take none"),
        (["run", "procedural:", "--out", "x", "--cpus", "two"], "'two' is no whole number of at least 1"),
        (["status", "x", "--min-kept", "2"], "'2' is no number between 0 and 1"),
        (["plan", "procedural:", "--size", "huge"], "no size 'huge'"),
        (["status", "/no/such/folder"], "holds no curation run"),
        (["inspect", "/no/such/folder"], "holds no manifest"),
    ],
)
def test_usage_errors_are_named(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told) as mistake:
        data.main(arguments)
    assert mistake.value.fix
    assert list(tmp_path.iterdir()) == []


def test_config_flags_may_stand_before_the_sources(capsys):
    assert (
        data.main(["plan", "--seed", "1", "--size", "tiny", "--render.maps=false", "procedural:count=1", "procedural:seed=3"]) == 0
    )
    told = capsys.readouterr().err
    assert "seed = 1 (was 0)" in told
    assert "render.maps = False (was True)" in told


def test_plan_refuses_what_this_machine_can_never_run_and_believes_a_cluster(capsys):
    source = ["procedural:count=1", "--size", "tiny", "--limits.memory_mb", "100000000"]
    with pytest.raises(EnvironmentProblem, match="up to 100000000 MB") as problem:
        data.main(["plan", *source])
    assert "set --limits.memory_mb to" in problem.value.fix
    assert data.main(["plan", *source, "--address", "auto"]) == 0


@pytest.mark.parametrize("command", ["run", "plan"])
def test_help_lists_the_config_fields_with_their_values_and_docstrings(command, capsys):
    with pytest.raises(SystemExit) as done:
        data.main([command, "--help"])
    assert done.value.code == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "--limits.memory_mb 1024 Private memory of the process that works on it." in lines
    assert "--render.cameras.elevation_degrees [-5.0,40.0] orbit: range of the elevation." in lines
    assert any(line.startswith("remesh.part.* like remesh.whole.*: Each part") for line in lines)
    assert lines.index("examples:") > lines.index("--pack.shard_max_samples 1000 Most samples in a shard.")


@pytest.mark.parametrize("command", ["plan", "run", "status", "inspect", "encode", "clean"])
def test_help_of_a_command_has_its_own_examples(command, capsys):
    with pytest.raises(SystemExit):
        data.main([command, "--help"])
    examples = capsys.readouterr().out.partition("examples:\n")[2].splitlines()
    assert examples
    assert all(line.startswith(f"  unipart data {command} ") for line in examples)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["status", "x", "--jsn"], "--json"),
        (["inspect", "x", "--verfy"], "--verify"),
        (["clean", "x", "--artfacts"], "--artefacts"),
        (["encode", "x", "--vae", "y", "--out", "z", "--drws", "3"], "--draws"),
        (["runn"], "run"),
    ],
)
def test_a_mistake_names_what_is_meant(arguments, meant):
    with pytest.raises(UserError, match=f"Did you mean '{meant}'"):
        data.main(arguments)


def test_commands_without_a_config_take_no_config_flags():
    with pytest.raises(UserError, match=r"unipart data status: unrecognized arguments: --render\.size"):
        data.main(["status", "x", "--render.size", "3"])

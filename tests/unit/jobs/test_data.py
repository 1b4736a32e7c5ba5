import json

import pytest

from jobs import data
from pipelines import ledger
from pipelines.plan import build_plan
from pipelines.presets import preset
from pipelines.sources.catalog import build_catalog
from unipart.data.codec import pack_json
from unipart.data.schema import CATALOG_COLUMNS
from unipart.errors import UserError


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
        (["plan", "procedural:", "--rendr.size", "3"], "Did you mean 'render'"),
        (["plan", "procedural:", "--render.size", "three"], "render.size"),
        (["plan", "procedural:", "--render.size"], "no option with a value"),
        (["plan", "procedural:", "--size", "huge"], "no size 'huge'"),
        (["status", "/no/such/folder"], "holds no curation run"),
        (["inspect", "/no/such/folder"], "holds no manifest"),
    ],
)
def test_usage_errors_are_named(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told):
        data.main(arguments)
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_heavy_imports(capsys):
    with pytest.raises(SystemExit) as done:
        data.main(["run", "--help"])
    assert done.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_a_mistake_names_what_is_meant():
    with pytest.raises(UserError, match=r"unrecognised arguments: --render\.size"):
        data.main(["status", "x", "--render.size", "3"])
    with pytest.raises(UserError, match="Did you mean 'run'"):
        data.main(["runn"])

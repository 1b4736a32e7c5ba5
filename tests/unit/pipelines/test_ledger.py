import pytest

from pipelines import ledger
from pipelines.plan import CurationConfig


def asset(number: int, sha: str | None = None, licence: str = "MIT", size: int = 10) -> dict:
    sha = sha or f"{number:064x}"
    return {
        "asset_id": sha[-20:],
        "source": "s",
        "uri": f"{number}.glb",
        "location": f"/x/{number}.glb",
        "sha256": sha,
        "licence": licence,
        "bytes": size,
        "split": "train",
    }


def row(item: dict, state: str, reason: str = "") -> dict:
    return {"asset_id": item["asset_id"], "state": state, "reason": reason, "seconds": 1.0}


def test_every_asset_is_settled_once(tmp_path):
    same = "f" * 64
    catalog = [asset(1), asset(2, same), asset(3, same), asset(4, licence="GPL"), asset(5, size=0), asset(6), asset(7)]
    ledger.commit(str(tmp_path), "plan", 1, [row(catalog[0], "kept"), row(catalog[1], "rejected", "no_faces")])
    ledger.commit(str(tmp_path), "plan", 1, [row(catalog[5], "failed", "timeout")])
    config = CurationConfig(licences=("MIT",))
    rows = ledger.settle(catalog, config, ledger.read_ledger(str(tmp_path), "plan"))
    assert [(item["state"], item["reason"]) for item in rows] == [
        ("kept", ""),
        ("rejected", "no_faces"),
        ("rejected", "duplicate_content"),
        ("rejected", "licence_not_allowed"),
        ("rejected", "empty_file"),
        ("failed", "timeout"),
        ("pending", None),
    ]
    assert "2.glb" in rows[2]["message"]
    assert [item["uri"] for item in rows] == [item["uri"] for item in catalog]
    assert ledger.count_states(rows) == {"in": 7, "kept": 1, "rejected": 4, "failed": 1, "pending": 1}


def test_a_refused_licence_does_not_make_its_twin_a_duplicate():
    same = "f" * 64
    rows = ledger.settle([asset(1, same, "GPL"), asset(2, same, "MIT")], CurationConfig(licences=("MIT",)), {})
    assert [item["state"] for item in rows] == ["rejected", "pending"]


def test_later_attempts_supersede_and_repeated_blocks_do_not_double(tmp_path):
    out, item = str(tmp_path), asset(1)
    assert ledger.next_attempt(out, "plan") == 1
    for _ in range(2):
        ledger.commit(out, "plan", 1, [row(item, "failed", "timeout")])
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    assert ledger.next_attempt(out, "plan") == 2
    ledger.commit(out, "plan", 2, [row(item, "kept")])
    assert ledger.read_ledger(out, "plan")[item["asset_id"]]["state"] == "kept"
    assert ledger.read_ledger(out, "other plan") == {}


def test_a_message_with_half_a_surrogate_pair_is_written_as_an_escape(tmp_path):
    broken = {**row(asset(1), "failed", "exception"), "message": "no \ud800.bin", "traceback": "Error: \udcff ä"}
    ledger.commit(str(tmp_path), "plan", 1, [broken, row(asset(2), "kept")])
    rows = ledger.read_ledger(str(tmp_path), "plan")
    assert rows[asset(1)["asset_id"]]["message"] == r"no \ud800.bin"
    assert rows[asset(1)["asset_id"]]["traceback"] == r"Error: \udcff ä"
    assert rows[asset(2)["asset_id"]]["message"] is None


def test_an_unknown_state_is_our_bug():
    with pytest.raises(AssertionError):
        ledger.count_states([{"state": "vanished"}])


def test_merging_changes_the_files_and_nothing_else(tmp_path):
    out, items = str(tmp_path), [asset(number) for number in range(4)]
    for item in items:
        ledger.commit(out, "plan", 1, [row(item, "failed", "timeout")])
    ledger.commit(out, "plan", 2, [row(items[0], "kept")])
    before = ledger.read_ledger(out, "plan")
    assert ledger.merge(out, "plan", 3) == before == ledger.read_ledger(out, "plan")
    assert [path.name for path in tmp_path.rglob("*.parquet")] == ["000003-all.parquet"]
    ledger.commit(out, "plan", 3, [row(items[1], "kept")])  # the blocks of the run that merged come after
    assert ledger.merge(out, "plan", 3)[items[1]["asset_id"]]["state"] == "kept"
    assert [path.name for path in tmp_path.rglob("*.parquet")] == ["000003-all.parquet"]


def test_a_task_that_outlived_its_killed_run_overrules_nothing(tmp_path):
    out, item = str(tmp_path), asset(1)
    ledger.commit(out, "plan", 2, [row(item, "kept")])
    ledger.merge(out, "plan", 2)
    ledger.commit(out, "plan", 1, [row(item, "failed", "zygote_lost")])
    assert ledger.read_ledger(out, "plan")[item["asset_id"]]["state"] == "kept"


def test_a_merge_during_a_read_is_no_error(tmp_path, monkeypatch):
    out, items = str(tmp_path), [asset(number) for number in range(4)]
    for item in items:
        ledger.commit(out, "plan", 1, [row(item, "kept")])
    read = ledger.read_table

    def merge_first(address):
        monkeypatch.setattr(ledger, "read_table", read)
        ledger.merge(out, "plan", 2)
        return read(address)

    monkeypatch.setattr(ledger, "read_table", merge_first)
    assert len(ledger.read_ledger(out, "plan")) == 4

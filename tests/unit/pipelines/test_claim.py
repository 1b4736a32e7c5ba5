import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipelines import ledger
from pipelines.claim import CLAIM, claim_dataset, locked
from unipart.errors import UserError


def test_a_second_run_in_a_folder_is_refused_and_says_whose_it_is(tmp_path):
    out = str(tmp_path / "dataset")
    with claim_dataset(out, "plan"):
        told = json.loads((Path(out) / CLAIM).read_text())
        with pytest.raises(UserError, match=f"process {told['pid']} on {told['host']}"), claim_dataset(out, "plan"):
            pytest.fail("two runs hold one dataset")
    with claim_dataset(out, "plan") as later:
        later.check()


def test_the_claim_of_a_killed_run_is_not_in_the_way(tmp_path):
    code = (
        "import os, sys; from pipelines.claim import claim_dataset\n"
        f"with claim_dataset({str(tmp_path)!r}, 'plan') as mine:\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == -9
    (tmp_path / "shards").mkdir()
    left = tmp_path / "shards" / ".writing-abc"
    left.write_bytes(b"half a shard")
    with claim_dataset(str(tmp_path), "plan") as mine:
        assert mine.attempt == 2
        assert not left.exists()


def test_the_lock_of_a_killed_process_is_not_kept_by_its_children(tmp_path):
    code = (
        "import os, time; from pipelines.claim import locked\n"
        f"with locked({str(tmp_path)!r}):\n"
        "    if os.fork() == 0:\n"
        "        os.close(1)\n"
        "        time.sleep(20)\n"
        "    print('held', flush=True)\n"
        "    time.sleep(20)\n"
    )
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (child,) = psutil.Process(process.pid).children()
        with pytest.raises(UserError, match=f"process {process.pid} on"), locked(str(tmp_path)):
            pytest.fail("two processes hold one folder")
        process.kill()
        process.wait()
        with locked(str(tmp_path)):
            assert child.is_running()
        child.kill()


def test_every_run_has_a_larger_number_than_all_before_it(tmp_path):
    out = str(tmp_path)
    ledger.commit(out, "plan", 7, [{"asset_id": "a", "state": "kept"}])
    with claim_dataset(out, "plan") as first:
        assert first.attempt == 8
    with claim_dataset(out, "plan") as second:  # though the first one wrote nothing
        assert second.attempt == 9
    with claim_dataset(out, "other plan") as third:
        assert third.attempt == 10


def test_in_object_storage_the_newest_run_wins(bucket):
    with claim_dataset(f"{bucket}/dataset", "plan") as older:
        older.check()
        with claim_dataset(f"{bucket}/dataset", "plan") as newer:
            newer.check()
            assert newer.attempt > older.attempt
            with pytest.raises(UserError, match="another run took over"):
                older.check()

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from jobs import doctor


def test_this_machine_can_run_the_project(capsys: pytest.CaptureFixture):
    assert doctor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("OK    python") for line in lines)
    assert any("torch" in line for line in lines)


def test_a_missing_package_fails_when_needed_and_warns_when_not():
    assert doctor.check_package("no-such-package", needed=True).state == "FAIL"
    check = doctor.check_package("no-such-package", needed=False)
    assert check.state == "WARN"
    assert "pip install" in check.fix


def test_a_storage_that_can_be_written_is_ok_and_another_fails(tmp_path: Path):
    assert doctor.check_storage(str(tmp_path)).state == "OK"
    blocked = tmp_path / "file"
    blocked.write_text("")
    check = doctor.check_storage(str(blocked / "below"))
    assert (check.state, check.fix) == ("FAIL", "give a folder that you may write to")


@pytest.mark.parametrize("check", [doctor.check_tracking, doctor.check_cluster])
def test_an_address_where_nobody_listens_fails(check):
    assert check("http://127.0.0.1:9").state == "FAIL"


@pytest.fixture
def server():
    """A server that wants a token, as a Ray dashboard with authentication does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_cluster_that_wants_a_token_says_so(server: str):
    check = doctor.check_cluster(server)
    assert check.state == "FAIL"
    assert "RAY_AUTH_TOKEN" in check.fix


def test_a_full_disk_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(doctor, "DISK_FAIL_GB", 10**9)
    assert doctor.check_disk(tmp_path).state == "FAIL"

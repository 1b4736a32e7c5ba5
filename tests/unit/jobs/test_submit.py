import pytest

from jobs.submit import job_request, main
from unipart.errors import EnvironmentProblem, UserError


def test_the_same_words_run_on_the_cluster():
    request = job_request(["train", "part", "base", "--out", "a folder"], cpus=2)
    assert request["entrypoint"] == "python -m jobs.cli train part base --out 'a folder'"
    assert request["entrypoint_num_cpus"] == 2


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "needs a command"),
        (["trian"], "'train'"),
        (["submit"], "cannot run 'submit'"),
        (["train", "vea", "ci"], "cannot run 'train vea'. Did you mean 'vae'"),
        (["data", "rnu", "meshes"], "Did you mean 'run'"),
    ],
)
def test_what_is_no_command_is_refused(command, message):
    with pytest.raises(UserError, match=message):
        job_request(command)


def test_flags_may_come_before_the_kind():
    assert job_request(["train", "--list"])["entrypoint"].endswith("train --list")


def test_dry_run_prints_the_entry_point(capsys: pytest.CaptureFixture):
    assert main(["--dry-run", "--", "data", "status", "shards"]) == 0
    assert capsys.readouterr().out.strip() == "python -m jobs.cli data status shards"


def test_no_cluster_is_a_problem_of_the_environment():
    with pytest.raises(EnvironmentProblem, match="no Ray cluster"):
        main(["--address", "http://127.0.0.1:9", "--", "doctor"])

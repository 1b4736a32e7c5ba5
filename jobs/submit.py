"""``unipart submit -- COMMAND``: the same command, run on a Ray cluster."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from jobs.cli import COMMANDS, EXIT_ENVIRONMENT
from jobs.data import SUBCOMMANDS
from jobs.options import Parser
from jobs.runs import KINDS
from unipart.errors import EnvironmentProblem, UserError, did_you_mean

POLL_SECONDS = 2.0
SECOND_WORDS = {"train": KINDS, "data": tuple(SUBCOMMANDS)}
"""What follows a command's name, of those where a typo would surface late: after the cluster found room for the job."""


def job_request(command: Sequence[str], cpus: float = 1.0) -> dict[str, Any]:
    """Returns what Ray Jobs needs to run ``unipart COMMAND``.

    Args:
        command: words after the ``--``.
        cpus: CPUs of the entry point itself; the work it starts asks for its own.

    Raises:
        UserError: no command, an unknown one, or one that makes no sense remotely.
    """
    if not command:
        raise UserError(
            "submit needs a command", "unipart submit --address http://head:8265 -- data run s3://bucket/meshes --out s3://..."
        )
    _check(command[0], [name for name in COMMANDS if name != "submit"])
    if command[0] in SECOND_WORDS and command[1:] and not command[1].startswith("-"):
        _check(command[1], SECOND_WORDS[command[0]], command[0])
    # `python -m` rather than the console script: it needs no PATH on the cluster.
    words = ["python", "-m", "jobs.cli", *command]
    return {
        "entrypoint": " ".join(_quote(word) for word in words),
        "entrypoint_num_cpus": cpus,
        "metadata": {"unipart.command": command[0]},
    }


def submit(address: str, request: dict[str, Any], wait: bool = True) -> int:
    """Submits a job and, if asked, follows its log to stdout until it ends; returns its exit code.

    Raises:
        EnvironmentProblem: no cluster answers at the address.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
        job_id = client.submit_job(**request)
    except (ConnectionError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"no Ray cluster takes jobs at {address}: {str(error).splitlines()[0]}",
            "unipart doctor --cluster ADDR; a cluster with token authentication needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN",
        ) from error
    print(job_id)
    if not wait:
        return 0
    shown = 0
    while True:
        status = client.get_job_status(job_id)
        text = client.get_job_logs(job_id)
        sys.stderr.write(text[shown:])
        shown = len(text)
        if status.is_terminal():
            break
        time.sleep(POLL_SECONDS)
    # Ray folds every failure into exit code 1; the command's own code is kept in the job's record.
    code = client.get_job_info(job_id).driver_exit_code
    if status == JobStatus.SUCCEEDED:
        return 0
    return code if code else EXIT_ENVIRONMENT


def main(arguments: Sequence[str]) -> int:
    """Entry point of ``unipart submit``."""
    parser = Parser(
        "submit",
        "Run a unipart command on a Ray cluster. Everything after -- is that command.",
        [
            "unipart submit --address http://head:8265 -- train part base --data s3://bucket/shards --out /shared/models/part",
            "unipart submit --no-wait -- data run s3://bucket/meshes --out s3://bucket/shards",
        ],
    )
    parser.add_argument("--address", default="http://127.0.0.1:8265", help="the cluster's dashboard (default: %(default)s)")
    parser.add_argument("--cpus", type=float, default=1.0, help="CPUs of the entry point (default: %(default)s)")
    parser.add_argument("--no-wait", action="store_true", help="return at once; the job id is on stdout")
    parser.add_argument("--dry-run", action="store_true", help="print the request and stop")
    before, _, command = _split(list(arguments))
    options = parser.parse_args(before)
    request = job_request(command, options.cpus)
    if options.dry_run:
        print(request["entrypoint"])
        return 0
    return submit(options.address, request, wait=not options.no_wait)


def _split(arguments: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in arguments:
        return arguments, False, []
    cut = arguments.index("--")
    return arguments[:cut], True, arguments[cut + 1 :]


def _check(word: str, known: Sequence[str], *before: str) -> None:
    if word not in known:
        shown = " ".join([*before, word])
        raise UserError(f"submit cannot run {shown!r}.{did_you_mean(word, list(known))}", f"one of: {', '.join(known)}")


def _quote(word: str) -> str:
    import shlex

    return shlex.quote(word)

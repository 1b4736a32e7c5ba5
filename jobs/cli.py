"""The command line: a table of commands, of which only the chosen one is imported.

Results go to stdout, progress to stderr. Exit codes: 0 done, 1 too much bad data, 2 usage, 3 environment.
"""

import errno
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import unipart
from unipart.errors import Reject, UserError, did_you_mean

EXIT_BAD_DATA = 1
EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
EXIT_INTERRUPTED = 130
_IN_THE_WAY = "a file lies where a folder is needed, or a folder where a file is: give another path"
_NOT_ALLOWED = "make it accessible to you, or give another path"
_FULL = "free some space or give another path, and run the same command again: it resumes"
_PLACES = {
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EROFS: _NOT_ALLOWED,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EISDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}
"""What the operating system says of a place that the user chose, and the fix; any other `OSError` is a bug of ours."""


@dataclass(frozen=True)
class Command:
    """A line of the table: the module whose ``main(arguments) -> exit code`` runs, and what help says of it."""

    module: str
    summary: str


COMMANDS = {
    "demo": Command("jobs.demo", "the whole road on this machine, offline: meshes -> shards -> four models -> objects -> report"),
    "doctor": Command("jobs.doctor", "check this machine, a cluster, a storage and a tracking server; each line OK, WARN or FAIL"),
    "data": Command("jobs.data", "curate meshes into training shards: plan, run, status, inspect, encode, clean"),
    "train": Command("jobs.train", "train one of the four models: vae, anchor, whole, part"),
    "weights": Command("jobs.weights", "import Hunyuan3D-2.1's weights, export checkpoints in its form, inspect weights files"),
    "generate": Command("jobs.generate", "images -> objects made of parts (bundles)"),
    "evaluate": Command("jobs.evaluate", "score bundles, or another method's GLBs, against the ground truth in shards"),
    "runs": Command("jobs.list_runs", "list training runs: state, step, figures, checkpoint, link into MLflow"),
    "compare": Command("jobs.compare", "put training runs or score tables side by side, as a table or as a page"),
    "report": Command("jobs.report", "one offline HTML file about runs, bundles and scores"),
    "view": Command("jobs.view", "an interactive page for one bundle or one sample of a shard"),
    "submit": Command("jobs.submit", "run any of these commands on a Ray cluster"),
}


def usage() -> str:
    """Returns the text of ``unipart --help``."""
    lines = [f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: unipart COMMAND ...",
            "",
            "Part-level 3D generation, from raw meshes to a report.",
            "",
            *lines,
            "",
            "unipart COMMAND --help shows a command's flags and examples. Start with: unipart demo",
        ]
    )


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; user mistakes surface as `UserError`."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, *rest = arguments
    if name in ("-V", "--version"):
        print(f"unipart {unipart.__version__}")
        return 0
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}.{did_you_mean(name, list(COMMANDS))}", "see `unipart --help`")
    return importlib.import_module(COMMANDS[name].module).main(rest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script: errors become a line and an exit code, never a traceback of our own making."""
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        return _fail(error.message, error.fix, error.exit_code)
    except Reject as error:
        return _fail(str(error), "", EXIT_BAD_DATA)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "unipart", "pipelines", "jobs"):
            raise
        return _fail(
            f"the package {package!r} is not installed here", "pip install unipart (see constraints.txt)", EXIT_ENVIRONMENT
        )
    except KeyboardInterrupt:
        return _fail("interrupted", "run the same command again: it resumes", EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in _PLACES or (error.filename is None and _PLACES[error.errno] != _FULL):
            raise  # the system names no path when a write finds the disk full
        place = "" if error.filename is None else f"cannot use {error.filename}: "
        return _fail(f"{place}{error.strerror}", _PLACES[error.errno], EXIT_ENVIRONMENT)


def _fail(message: str, fix: str, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    if fix:
        print(f"  fix: {fix}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

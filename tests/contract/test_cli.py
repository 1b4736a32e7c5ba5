"""The command line keeps its promises: quick help, no torch before it is needed, suggestions, exit codes."""

import errno
import subprocess
import sys
import time
import types

import pytest

from jobs.cli import COMMANDS, Command, main
from jobs.recipes.generation import SIZES
from pipelines.presets import PRESETS

HEAVY = ("torch", "ray", "mlflow", "transformers", "webdataset", "igl", "numba", "scipy")


def _loaded_after(arguments: list[str]) -> set[str]:
    code = f"import sys, jobs.cli; jobs.cli.main({arguments!r}); print('MODULES', *sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in answer.stdout.rpartition("MODULES")[2].split()}


def test_help_answers_at_once_and_loads_nothing_heavy():
    assert not _loaded_after(["--help"]) & {*HEAVY, "numpy", "pydantic"}
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "jobs.cli", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    bare = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare.append(time.perf_counter() - start)
    assert min(seconds) - min(bare) < 0.25, "unipart --help must feel instant"


@pytest.mark.parametrize("command", ["doctor", "report", "data", "compare", "view", "submit", "demo"])
def test_commands_that_train_nothing_never_load_torch(command: str):
    call = f"import sys, jobs.cli\ntry: jobs.cli.main([{command!r}, '--help'])\nexcept SystemExit: pass\n"
    code = call + "print('MODULES', *sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in answer.stdout.rpartition("MODULES")[2].split()}
    assert "jobs" in loaded
    assert not loaded & {"torch", "ray", "mlflow", "webdataset"}


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"unipart {command}" in out
    assert "examples:" in out


def test_an_unusable_image_is_told_before_the_models_are_looked_for(capsys: pytest.CaptureFixture, tmp_path):
    from PIL import Image

    for name, alpha in (("chair", 255), ("table", 0)):
        image = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
        image.paste((200, 0, 0, alpha), (8, 8, 24, 24))
        image.save(tmp_path / f"{name}.png")
    arguments = ["generate", f"{tmp_path}/chair.png", f"{tmp_path}/table.png", "--models", "nowhere", "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "table.png is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "sizes"), [(["generate"], ["auto", *SIZES]), (["data", "run"], PRESETS), (["data", "plan"], PRESETS)]
)
def test_help_lists_every_size(command: list[str], sizes, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    assert f"{', '.join(sizes)} (default: " in " ".join(capsys.readouterr().out.split())


def test_help_lists_every_command(capsys: pytest.CaptureFixture):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["trian"], 2, "Did you mean 'train'?"),
        (["train", "vea"], 2, "Did you mean 'vae'?"),
        (["train", "vae", "tniy"], 2, "Did you mean 'tiny'?"),
        (["train", "vae", "ci", "--stepz", "3", "--dry-run"], 2, "Did you mean '--steps'?"),
        (["train", "vae", "ci", "--model.widht", "3", "--dry-run"], 2, "Did you mean '--model.width'?"),
        (["train", "vae", "ci", "--model.width", "wide", "--dry-run"], 2, "model.width"),
        (["train", "vae", "ci"], 2, "--data is missing"),
        (["train", "vae", "ci", "--data", "nowhere"], 2, "nowhere"),
        (["train", "vae", "no.such:recipe"], 2, "no.such"),
        (["train", "vae", "jobs.recipes.ablations:without_ncs"], 2, "recipe for part"),
        (["train", "part", "ci", "--config", "missing.json"], 2, "missing.json"),
        (["generate", "--out", "x"], 2, "give images"),
        (["generate", "missing.png", "--out", "x"], 2, "missing.png"),
        (["generate", "a.png", "--from-shards", "x", "--out", "x"], 2, "both images and --from-shards"),
        (["evaluate", "nowhere", "--against", "shards"], 2, "nowhere"),
        (["report"], 2, "nothing to report"),
        (["view", "nowhere"], 2, "nowhere"),
        (["compare", "nowhere"], 2, "nowhere"),
        (["demo", "--data", "nowhere"], 2, "nowhere"),
        (["submit", "--address", "http://127.0.0.1:9", "--", "doctor"], 3, "no Ray cluster"),
        (["doctor", "--cluster", "127.0.0.1:9"], 3, None),
    ],
)
def test_mistakes_end_with_a_line_a_fix_and_an_exit_code(
    arguments, code, hint, capsys: pytest.CaptureFixture, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    printed = capsys.readouterr()
    if hint is not None:
        assert printed.err.startswith("error: ")
        assert hint in printed.err
        assert "fix: " in printed.err
        assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "run", "procedural:count=1", "--out", "file/below"],
        ["demo", "--out", "file/below"],
        ["demo", "--out", "file"],
    ],
)
def test_a_place_that_cannot_be_used_is_a_line_a_fix_and_exit_code_3(
    arguments, capsys: pytest.CaptureFixture, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(arguments) == 3
    last, fix = capsys.readouterr().err.splitlines()[-2:]
    assert last.startswith("error: cannot use ")
    assert "file" in last
    assert fix == "  fix: a file lies where a folder is needed, or a folder where a file is: give another path"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/mine"), "cannot use /mine: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "/full/x"), "cannot use /full/x: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device"),  # as a write says it
    ],
)
def test_what_the_system_refuses_is_told_by_every_command(error, told, capsys: pytest.CaptureFixture, failing):
    failing(error)
    assert main(["doctor"]) == 3
    printed = capsys.readouterr().err
    assert told in printed
    assert "fix: " in printed


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(errno.ENOENT, "No such file or directory", "a"), PermissionError(errno.EACCES, "denied"), OSError("odd")],
)
def test_an_error_that_names_no_place_of_the_user_stays_a_traceback(error, failing):
    failing(error)
    with pytest.raises(type(error)):
        main(["doctor"])


@pytest.fixture
def failing(monkeypatch):
    """Makes a command whose work ends with an error."""

    def install(error: Exception) -> None:
        def work(_: list[str]) -> int:
            raise error

        module = types.ModuleType("a_failing_command")
        vars(module)["main"] = work
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(COMMANDS, "doctor", Command(module.__name__, ""))

    return install


def test_dry_run_prints_the_whole_config(capsys: pytest.CaptureFixture):
    import json

    changes = ["--steps", "7", "--model.kv", "fused", "--optimizer.lr", "0.5"]
    assert main(["train", "part", "ci", *changes, "--dry-run", "--json"]) == 0
    config = json.loads(capsys.readouterr().out)["config"]
    assert config["steps"] == 7
    assert config["model"]["kv"] == "fused"
    assert config["optimizer"]["lr"] == 0.5


def test_a_config_file_goes_over_the_recipe_and_flags_over_the_file(capsys: pytest.CaptureFixture, tmp_path):
    import json

    (tmp_path / "f.json").write_text(json.dumps({"steps": 7, "batch_size": 2, "model": {"kind": "tf"}, "optimizer.lr": 0.25}))
    assert main(["train", "anchor", "ci", "--config", str(tmp_path / "f.json"), "--steps", "9", "--dry-run", "--json"]) == 0
    config = json.loads(capsys.readouterr().out)["config"]
    assert (config["steps"], config["batch_size"], config["model"]["kind"], config["optimizer"]["lr"]) == (9, 2, "tf", 0.25)

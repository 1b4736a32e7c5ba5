"""``unipart doctor``: is this machine, cluster, storage and tracking server ready? One line a check, with the fix."""

import importlib.metadata
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from jobs.cli import EXIT_ENVIRONMENT
from jobs.options import Parser
from unipart.errors import UserError

PYTHON = (3, 11)
NEEDED = ("numpy", "scipy", "numba", "scikit-image", "pillow", "pydantic", "safetensors", "torch")
CURATION = ("ray", "pyarrow", "libigl", "trimesh", "boto3", "webdataset", "mlflow")
DISK_WARN_GB = 20
DISK_FAIL_GB = 2
MEMORY_WARN_GB = 8


@dataclass(frozen=True)
class Check:
    """One line of the answer."""

    name: str
    state: Literal["OK", "WARN", "FAIL"]
    found: str
    fix: str = ""


def check_python() -> Check:
    """The interpreter is new enough."""
    found = f"{platform.python_version()} at {sys.executable}"
    fine = sys.version_info[:2] >= PYTHON
    return Check("python", "OK" if fine else "FAIL", found, "" if fine else "install Python 3.11 or newer")


def check_package(name: str, needed: bool) -> Check:
    """A distribution is installed."""
    try:
        return Check(name, "OK", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        what = "everything" if needed else "curation and clusters; training and generation run without it"
        return Check(name, "FAIL" if needed else "WARN", f"not installed; needed for {what}", f"pip install {name}")


def check_ray_casting() -> Check:
    """Embreex renders condition views; it exists for x86-64 only."""
    if importlib.util.find_spec("embreex"):
        return Check("embreex", "OK", importlib.metadata.version("embreex"))
    return Check(
        "embreex", "WARN", f"not installed on {platform.machine()}; a slower rasteriser renders the views", "pip install embreex"
    )


def check_disk(folder: Path) -> Check:
    """There is room for shards and checkpoints."""
    free = shutil.disk_usage(folder).free / 1e9
    state = "FAIL" if free < DISK_FAIL_GB else "WARN" if free < DISK_WARN_GB else "OK"
    return Check(
        "disk", state, f"{free:.0f} GB free in {folder.resolve()}", "" if state == "OK" else "free some space or work elsewhere"
    )


def check_memory() -> Check:
    """There is memory for a few curation workers."""
    import psutil

    memory = psutil.virtual_memory()
    fine = memory.available / 1e9 >= MEMORY_WARN_GB
    found = f"{memory.available / 1e9:.0f} of {memory.total / 1e9:.0f} GB free, {psutil.cpu_count()} CPUs"
    return Check("memory", "OK" if fine else "WARN", found, "" if fine else "close other programs; curate with fewer workers")


def check_gpu() -> Check:
    """Which GPUs there are. None is fine for curation and for the demo."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Check(
            "gpu", "WARN", "none found: tiny models only", "train larger ones on a GPU machine or a cluster (unipart submit)"
        )
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    if answer.returncode:
        return Check("gpu", "FAIL", f"nvidia-smi says: {answer.stdout.strip() or answer.stderr.strip()}", "repair the driver")
    usable = _cuda_usable()
    found = "; ".join(answer.stdout.strip().splitlines())
    if not usable:
        return Check("gpu", "FAIL", f"{found}, but torch cannot use it", "install the CUDA build of torch")
    return Check("gpu", "OK", found)


def check_storage(uri: str) -> Check:
    """A folder or bucket can be written, read and listed."""
    from unipart import storage

    probe = f"{uri.rstrip('/')}/.unipart_doctor"
    try:
        storage.write_bytes(probe, b"unipart")
        same = storage.read_bytes(probe) == b"unipart"
    except (OSError, UserError) as error:
        remote = "check the address, the credentials and AWS_ENDPOINT_URL"
        return Check("storage", "FAIL", f"{uri}: {error}", remote if storage.is_s3(uri) else "give a folder that you may write to")
    return Check("storage", "OK" if same else "FAIL", f"{uri} written and read back")


def check_tracking(uri: str) -> Check:
    """The tracking server answers, or the SQLite store can be made."""
    if uri.startswith("http"):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5) as answer:  # noqa: S310 (http only, checked above)
                return Check("tracking", "OK", f"{uri} answers {answer.status}")
        except (urllib.error.URLError, OSError) as error:
            return Check("tracking", "FAIL", f"{uri}: {error}", "start it (infra/compose.yaml) or correct the address")
    from jobs.tracking import Tracker

    with tempfile.TemporaryDirectory() as folder:
        tracker = Tracker(Path(folder) / "doctor", uri, "doctor", experiment="doctor")
        active = tracker.active
        tracker.finish()
    return Check(
        "tracking", "OK" if active else "FAIL", uri, "" if active else "give --tracking sqlite:///FILE or http://HOST:PORT"
    )


def check_cluster(address: str) -> Check:
    """The Ray dashboard answers."""
    url = address if address.startswith("http") else f"http://{address}"
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/api/version", timeout=5) as answer:  # noqa: S310 (http only)
            version = json.loads(answer.read())["ray_version"]
    except urllib.error.HTTPError as error:
        fix = "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if error.code in (401, 403) else "check the address"
        return Check("cluster", "FAIL", f"{url} answers {error.code}", fix)
    except (urllib.error.URLError, OSError, ValueError, KeyError) as error:
        return Check("cluster", "FAIL", f"{url}: {error}", "give the dashboard's address, e.g. http://head:8265")
    mine = importlib.metadata.version("ray")
    same = version == mine
    fix = "" if same else f"install ray=={version} here"
    return Check("cluster", "OK" if same else "WARN", f"{url} runs ray {version}; here {mine}", fix)


def run_checks(cluster: str | None = None, storage: str | None = None, tracking: str | None = None) -> list[Check]:
    """Runs the machine's checks, and those of the addresses given."""
    checks = [check_python()]
    checks += [check_package(name, needed=True) for name in NEEDED]
    checks += [check_package(name, needed=False) for name in CURATION]
    checks += [check_ray_casting(), check_disk(Path.cwd()), check_memory(), check_gpu()]
    if cluster:
        checks.append(check_cluster(cluster))
    if storage:
        checks.append(check_storage(storage))
    if tracking:
        checks.append(check_tracking(tracking))
    return checks


def main(arguments: Sequence[str]) -> int:
    """Entry point of ``unipart doctor``: exit code 3 if any check fails."""
    parser = Parser(
        "doctor",
        "Check this machine, and a cluster, a storage and a tracking server if named.",
        [
            "unipart doctor",
            "unipart doctor --storage s3://bucket/shards --tracking http://mlflow:5000 --cluster http://head:8265",
        ],
    )
    parser.add_argument("--cluster", metavar="ADDR", help="address of a Ray dashboard")
    parser.add_argument("--storage", metavar="URI", help="folder or s3:// prefix to write a probe file to")
    parser.add_argument("--tracking", metavar="URI", help="MLflow server or sqlite:/// store")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    options = parser.parse_args(arguments)
    checks = run_checks(options.cluster, options.storage, options.tracking)
    if options.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            print(f"{check.state:<5} {check.name:<13} {check.found}")
            if check.fix:
                print(f"{'':<5} {'':<13} fix: {check.fix}")
    return EXIT_ENVIRONMENT if any(check.state == "FAIL" for check in checks) else 0


def _cuda_usable() -> bool:
    """Asks a child process, so that this one never loads torch."""
    probe = [sys.executable, "-c", "import torch, sys; sys.exit(not torch.cuda.is_available())"]
    return subprocess.run(probe, capture_output=True, timeout=120, check=False).returncode == 0

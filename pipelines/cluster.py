"""The Ray that a command works on: one of its own on this machine, or a cluster that runs already."""

import logging
from typing import Any

from unipart.config import keep_ray_apart
from unipart.errors import EnvironmentProblem

MAX_RETRIES = 4
"""How often a block is begun again because its worker or node died; Ray Data's own choice is to try for ever."""
_LOCAL_SETTINGS = {"worker_niceness": 0, "task_oom_retries": MAX_RETRIES}
"""Of a Ray that is started here. Its workers run at nice 15 otherwise, and starve beside any other work; and a task that Ray kills
because the machine is short of memory begins again for ever."""


def start_ray(address: str = "local", num_cpus: int | None = None) -> None:
    """Starts a quiet Ray here, or joins the cluster at an address, unless this process has one already.

    Args:
        address: ``local`` to start Ray here; left to itself Ray would join whatever cluster was last started on this machine.
        num_cpus: CPUs of a Ray that is started here; None for all.

    Raises:
        EnvironmentProblem: there is no cluster at the address.
    """
    import ray

    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address == "local":
        keep_ray_apart()
        ray.init("local", num_cpus=num_cpus, include_dashboard=False, _system_config=_LOCAL_SETTINGS, **quiet)
        return
    try:
        ray.init(address, **quiet)
    except ConnectionError as error:
        raise EnvironmentProblem(
            f"no Ray cluster at {address}: {error}", "check the address, or leave it out to run here"
        ) from None


def start_ray_data(address: str = "local", num_cpus: int | None = None) -> None:
    """`start_ray`, with a Ray Data that prints neither bars nor plans: the commands say themselves how far they are."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    start_ray(address, num_cpus)

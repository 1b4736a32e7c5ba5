"""Experiment tracking with MLflow; the only package that imports mlflow, and never before it is needed.

Training never waits for a store: the loop writes files beside the run, and `Shipper` brings them there from the driver.
"""

from jobs.tracking.follower import RunFollower
from jobs.tracking.once import Tracker
from jobs.tracking.origin import code_tags, parent_run
from jobs.tracking.registry import Finished
from jobs.tracking.remote import fetch_run, remote_runs
from jobs.tracking.shipper import RunFacts, Shipper, is_complete
from jobs.tracking.store import OFF, default_uri

__all__ = [
    "OFF",
    "Finished",
    "RunFacts",
    "RunFollower",
    "Shipper",
    "Tracker",
    "code_tags",
    "default_uri",
    "fetch_run",
    "is_complete",
    "parent_run",
    "remote_runs",
]

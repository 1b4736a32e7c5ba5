"""What Ray and the isolation cost: assets through the whole pipeline by Ray against plain multiprocessing, interleaved in one run.

Run `python -m benchmarks.ray_overhead [--assets N] [--repeats K] [--size tiny]`. Three ways, two processes each, one thread each:

- plain: a multiprocessing pool calls `process_asset`; a crash would take the pool along
- isolated: the pool's processes give each asset to a forked child of their zygote
- ray: what `unipart data run` does, ledger included

Starting is timed apart. CPU seconds are those of all processes of each way.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from pipelines import ledger, process
from pipelines.claim import claim_dataset
from pipelines.isolate import shared
from pipelines.plan import build_plan
from pipelines.presets import preset
from pipelines.runner import RunOptions, list_assets
from pipelines.runner import process as process_on_ray

WORKERS = 2
WAYS = ("plain", "isolated", "ray")

Request = dict[str, Any]


def work_plain(request: Request) -> None:
    process.process_asset(request, lambda _: None)


def work_isolated(request: Request) -> None:
    limits = request["config"]["limits"]
    outcome = shared("pipelines.process:process_asset", limits["seconds"], limits["memory_mb"]).run(request)
    assert outcome.state == "done", outcome


def cpu_seconds() -> float:
    """CPU time so far of this process and all below it, the ended ones included."""
    total = 0.0
    here = psutil.Process()
    for one in [here, *here.children(recursive=True)]:
        try:
            total += sum(one.cpu_times()[:4])
        except psutil.Error:
            continue
    return total


def timed(action: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = cpu_seconds(), time.perf_counter()
    action()
    return time.perf_counter() - wall, cpu_seconds() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", default="tiny")
    arguments = parser.parse_args()
    config = preset(arguments.size)
    plan = build_plan(config)
    document = config.model_dump(mode="json")
    context = multiprocessing.get_context("spawn")
    pools = {way: context.Pool(WORKERS, initializer=process.warm_up) for way in ("plain", "isolated")}

    def run(way: str, assets: list[dict[str, Any]]) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            if way == "ray":
                with claim_dataset(folder, plan.digest) as mine:
                    seconds = timed(lambda: process_on_ray(mine, plan, assets, RunOptions(num_cpus=WORKERS)))
                    assert len(ledger.read_ledger(folder, plan.digest)) == len(assets)
            else:
                requests = [{"row": asset, "config": document, "out": folder} for asset in assets]
                work = work_plain if way == "plain" else work_isolated
                seconds = timed(lambda: deque(pools[way].imap_unordered(work, requests), maxlen=0))
            assert len(list(Path(folder).rglob("*.tar"))) == len(assets)
            return seconds

    assets = list_assets([f"procedural:count={arguments.assets},seed=7"], config)
    for way in WAYS:
        wall, _ = run(way, assets[: 4 * WORKERS])
        print(f"{way:<9} first {4 * WORKERS} assets, start included: {wall:6.2f} s", flush=True)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for number in range(arguments.repeats):
        for way in WAYS[number % 3 :] + WAYS[: number % 3]:
            found[way].append(run(way, assets))
    result: dict[str, Any] = {"assets": len(assets), "repeats": arguments.repeats, "size": arguments.size}
    for way in WAYS:
        wall, cpu = (statistics.median(values) for values in zip(*found[way], strict=True))
        result[way] = {"assets_per_s": len(assets) / wall, "cpu_ms_per_asset": cpu / len(assets) * 1000}
        print(f"{way:<9} {len(assets) / wall:6.2f} assets/s  {cpu / len(assets) * 1000:7.1f} CPU ms per asset", flush=True)
    for slow, fast in (("ray", "isolated"), ("ray", "plain"), ("isolated", "plain")):
        wall, cpu = (
            statistics.median(b[index] / a[index] for a, b in zip(found[slow], found[fast], strict=True)) for index in (0, 1)
        )
        result[f"{slow}/{fast}"] = {"rate": wall, "per_cpu": cpu}
        print(f"{slow} / {fast}: {wall:.3f} x the rate, {cpu:.3f} x per CPU second (median of the pairs)")
    print(json.dumps(result))
    for pool in pools.values():
        pool.terminate()


if __name__ == "__main__":
    main()

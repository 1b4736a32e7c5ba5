"""Runs every benchmark in turn: ``python -m benchmarks``. Each has flags of its own: ``python -m benchmarks.field --help``."""

import runpy
import sys

BENCHMARKS = ("remesh", "field", "objects", "labels", "fps", "moe", "hot_paths", "models", "training")

if __name__ == "__main__":
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        sys.argv = [f"benchmarks.{name}"]
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")

"""A whole object: remesh with labels, 2 x 124,928 surface points, 624,640 queries and their signed distances.

python -m benchmarks.objects [mesh files, or folders of them] [--resolution 256]

CPU seconds of one core per stage: median, 90th percentile and maximum over the objects. Without files: two made-up objects. Loading
and part finding are not counted. Set OMP_NUM_THREADS=1 and IGL_NUM_THREADS=1.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from benchmarks.remesh import load_all
from unipart.errors import Reject
from unipart.geometry import field, watertight
from unipart.geometry.components import PartedMesh
from unipart.geometry.field import QueryConfig, SignedDistance, draw_queries
from unipart.geometry.surface import sample_edges, sample_surface
from unipart.geometry.watertight import RemeshConfig, remesh
from unipart.rng import derive

NUM_POINTS = 124_928
"""On the surface, and as many on sharp edges."""
QUERIES = QueryConfig(volume=2 * NUM_POINTS, near=2 * NUM_POINTS, sharp=NUM_POINTS)
"""The amounts of the published preprocessing: 624,640."""


def warm_up() -> None:
    """Compiles every kernel, or loads it."""
    watertight.warm_up()
    field.warm_up()


def prepare_object(parted: PartedMesh, resolution: int) -> dict[str, float]:
    """Returns the CPU seconds of every stage."""
    seconds = {}
    start = time.process_time()

    def lap(stage: str) -> None:
        nonlocal start
        now = time.process_time()
        seconds[stage] = now - start
        start = now

    surface = remesh(parted.mesh, parted.component_of_face, parted.open_component, RemeshConfig(resolution=resolution))
    lap("remesh, labels")
    draw = sample_surface(surface.mesh, NUM_POINTS, derive(0, "surface"))
    edges = sample_edges(surface.mesh, surface.sharp_edges, NUM_POINTS, derive(0, "sharp"))
    lap("surface points")
    queries, _ = draw_queries(draw.points, edges.points, QUERIES, derive(0, "queries"))
    lap("queries")
    distance = SignedDistance(surface.mesh)
    lap("distance: tree")
    distance(queries)
    lap("distance: search")
    return seconds


def read_arguments(description: str | None) -> tuple[dict[str, PartedMesh], int]:
    """Returns the objects of the command line (the examples if it names none) and the resolution, with every kernel compiled."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", nargs="*", type=Path)
    parser.add_argument("--resolution", type=int, default=256)
    arguments = parser.parse_args()
    warm_up()
    return load_all(arguments.meshes), arguments.resolution


def main() -> None:
    objects, resolution = read_arguments(__doc__)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = {}
    for name, parted in objects.items():
        try:
            rows[name] = prepare_object(parted, resolution)
        except Reject as rejected:
            print(f"{name:40.40s} {rejected}")
            continue
        print(f"{name:40.40s} {len(parted.mesh.faces):8d} faces {sum(rows[name].values()):8.2f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stages = next(iter(rows.values()))
    table = {stage: np.array([row[stage] for row in rows.values()]) for stage in stages}
    table["total"] = np.array([sum(row.values()) for row in rows.values()])
    print(f"{len(rows)} objects at {resolution}, CPU seconds     median      p90      max")
    for stage, values in table.items():
        print(f"{stage:40s} {np.median(values):8.3f} {np.percentile(values, 90):8.3f} {values.max():8.3f}")
    print(f"peak memory {peak / 1024:.0f} MB, {(peak - base) / 1024:.0f} MB above what was taken with the objects loaded")


if __name__ == "__main__":
    main()

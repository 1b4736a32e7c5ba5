"""Labels of the remeshed surface against the nearest original face found by brute force.

python -m benchmarks.labels [mesh files, or folders of them] [--resolution 256]

Truth: for points drawn by area (centroids of the remeshed faces), the exact distance to every part (libigl). A point is unambiguous
where the second nearest part is farther than the nearest by more than 1e-3 of a voxel; the share of those with the nearest part's
label is what counts. Speed: our labels against libigl's nearest face of every centroid, CPU seconds in one process, tree included.
Flush: two boxes with coplanar faces, the share of the shared plane's area with the other box's label.
"""

import time
from unittest import mock

import igl
import numpy as np
import trimesh
from numpy.typing import NDArray

from benchmarks.objects import read_arguments
from benchmarks.remesh import label
from unipart.errors import Reject
from unipart.geometry import watertight
from unipart.geometry.components import PartedMesh
from unipart.geometry.mesh import Mesh
from unipart.geometry.watertight import RemeshConfig, Remeshed, remesh
from unipart.rng import derive

NUM_POINTS = 50_000
MARGIN_VOXELS = 1e-3


def timed_remesh(parted: PartedMesh, resolution: int) -> tuple[Remeshed, float]:
    """Returns the surface and the CPU seconds that its labels took."""
    spent = 0.0

    def timed(function):
        def call(*arguments):
            nonlocal spent
            start = time.process_time()
            result = function(*arguments)
            spent += time.process_time() - start
            return result

        return call

    with (
        mock.patch.object(watertight, "label_faces", timed(watertight.label_faces)),
        mock.patch.object(watertight, "mend_isolated", timed(watertight.mend_isolated)),
    ):
        surface = remesh(parted.mesh, parted.component_of_face, parted.open_component, RemeshConfig(resolution=resolution))
    return surface, spent


def part_distances(original: Mesh, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the distance of points [Q 3] to every part [Q N]."""
    columns = []
    for part_id in range(original.num_parts):
        part = original.part(part_id)
        vertices, faces = np.asarray(part.vertices, dtype=np.float64), np.asarray(part.faces, dtype=np.int64)
        columns.append(np.sqrt(igl.point_mesh_squared_distance(points, vertices, faces)[0]))
    return np.stack(columns, axis=1)


def compare(name: str, parted: PartedMesh, resolution: int) -> tuple[float, float]:
    """Prints and returns the share of right labels and the speed-up."""
    surface, ours = min((timed_remesh(parted, resolution) for _ in range(3)), key=lambda result: result[1])
    original, labels = parted.mesh, surface.mesh.part_of_face
    assert labels is not None
    voxel = float(np.ptp(original.vertices, axis=0).max()) / (resolution - 6)
    centroids = surface.mesh.vertices[surface.mesh.faces].mean(axis=1).astype(np.float64)
    vertices, faces = np.asarray(original.vertices, dtype=np.float64), np.asarray(original.faces, dtype=np.int64)
    start = time.process_time()
    tree = igl.AABB()
    tree.init(vertices, faces)
    tree.squared_distance(vertices, faces, centroids)
    theirs = time.process_time() - start
    area = surface.mesh.face_areas()
    drawn = derive(0, "labels").choice(len(area), NUM_POINTS, p=area / area.sum())
    distances = part_distances(original, centroids[drawn])
    ordered = np.sort(distances, axis=1)
    clear = ordered[:, 1] - ordered[:, 0] > MARGIN_VOXELS * voxel if distances.shape[1] > 1 else np.ones(NUM_POINTS, np.bool_)
    right = float((labels[drawn] == distances.argmin(axis=1))[clear].mean())
    print(
        f"{name:40.40s} {original.num_parts:3d} parts  right {100 * right:8.4f} % of the {100 * clear.mean():6.2f} % clear"
        f"   {ours:7.4f} s, igl {theirs:7.4f} s, {theirs / ours:6.1f}x",
        flush=True,
    )
    return right, theirs / ours


def flush_boxes(resolution: int, angle: float) -> float:
    """Returns the share of speckle where a small box is let into a large one, one pair of faces coplanar."""
    turn = trimesh.transformations.rotation_matrix(angle, (1, 2, 3))
    boxes = [trimesh.creation.box((2, 1, 1)), trimesh.creation.box((0.8, 0.8, 0.6)).apply_translation((0, 0, 0.2))]
    corners = np.concatenate([np.asarray(part.vertices) for part in boxes]) @ turn[:3, :3].T
    parted = label(corners, np.concatenate([np.asarray(boxes[0].faces), np.asarray(boxes[1].faces) + len(boxes[0].vertices)]))
    surface, _ = timed_remesh(parted, resolution)
    labels = surface.mesh.part_of_face
    assert labels is not None
    centroids = (
        parted.to_gcs.invert().apply(surface.mesh.vertices[surface.mesh.faces].mean(axis=1).astype(np.float64)) @ turn[:3, :3]
    )
    voxel = 2.5 / resolution
    inside = (np.abs(centroids[:, :2]) < 0.4 - voxel).all(axis=1)
    outside = (np.abs(centroids[:, :2]) > 0.4 + voxel).any(axis=1)
    top = np.abs(centroids[:, 2] - 0.5) < voxel
    area = surface.mesh.face_areas() * top
    small = np.bincount(labels[inside & top], minlength=2).argmax()
    wrong = area[inside & (labels != small)].sum() + area[outside & (labels == small)].sum()
    return float(wrong / area[inside | outside].sum())


def main() -> None:
    objects, resolution = read_arguments(__doc__)
    results = []
    for name, parted in objects.items():
        try:
            results.append(compare(name, parted, resolution))
        except Reject as rejected:
            print(f"{name:40.40s} {rejected}")
    right, speed = np.array(results).T
    print(f"{len(results)} objects: right least {100 * right.min():.3f} %, mean {100 * right.mean():.4f} %")
    print(f"speed-up median {np.median(speed):.1f}x, least {speed.min():.1f}x")
    for name, angle in (("axis-aligned", 0.0), ("rotated", 0.6)):
        print(f"flush boxes, {name}: {100 * flush_boxes(resolution, angle):.3f} % speckle")


if __name__ == "__main__":
    main()

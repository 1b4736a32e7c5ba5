"""Which components touch, on a voxel grid, and the merging of small ones into their neighbours."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._scan import Grid, find_crossings
from unipart.geometry.mesh import Mesh

Contacts = list[Counter[int]]
"""Per component: how many of its voxels lie in or next to a voxel of each other component."""


def count_contacts(mesh: Mesh, component: NDArray[np.int32], small: NDArray[np.bool_], resolution: int) -> Contacts:
    """Counts the contacts of small components with all others (recorded for both).

    Args:
        mesh: in GCS.
        component: per face [F].
        small: per component [C].
        resolution: voxels along the longest side.
    """
    from scipy.sparse import csr_array

    voxel, owner = _surface_voxels(mesh, component, resolution)
    size = resolution + 6
    voxel, place = np.unique(voxel, return_inverse=True)
    owns = csr_array((np.ones(len(owner), np.int32), (place, owner)), shape=(len(voxel), len(small)))
    probes = np.unique(place[small[owner]])
    dx, dy, dz = np.indices((3, 3, 3)).reshape(3, -1) - 1
    neighbour = voxel[probes, None] + (dz * size + dy) * size + dx
    found = np.minimum(np.searchsorted(voxel, neighbour), len(voxel) - 1)
    row, shift = np.nonzero(voxel[found] == neighbour)
    beside = csr_array((np.ones(len(row), np.int32), (row, found[row, shift])), shape=(len(probes), len(voxel)))
    near = (beside @ owns).astype(np.bool_)
    meetings = (owns[probes].T @ near).tocoo()
    contacts: Contacts = [Counter() for _ in small]
    for a, b, number in zip(meetings.row.tolist(), meetings.col.tolist(), meetings.data.tolist(), strict=True):
        if small[a] and a != b:
            contacts[a][b] += number
            if not small[b]:
                contacts[b][a] += number
    return contacts


def merge_small_groups(
    area: NDArray[np.float64], node: NDArray[np.int32], contacts: Contacts, least_area: float
) -> NDArray[np.int64]:
    """Merges components below `least_area`, smallest first, into the neighbour that they touch most (in the same node first).

    Args:
        area: per component [C].
        node: per component [C].
        contacts: see `count_contacts`; consumed.
        least_area: groups of this area stay.

    Returns:
        A group number per component [C]; a component that touches nothing stays on its own.
    """
    area = area.copy()
    group = np.arange(len(area))
    pending = set(np.flatnonzero(area < least_area).tolist())
    while pending:
        smallest = min(pending, key=lambda member: (area[member], member))
        pending.remove(smallest)
        if not contacts[smallest]:
            continue
        target = max(
            contacts[smallest], key=lambda other: (node[other] == node[smallest], contacts[smallest][other], area[other], -other)
        )
        group[group == smallest] = target
        area[target] += area[smallest]
        for other, number in contacts[smallest].items():
            del contacts[other][smallest]
            if other != target:
                contacts[target][other] += number
                contacts[other][target] += number
        if area[target] >= least_area:
            pending.discard(target)
    return group


def _surface_voxels(mesh: Mesh, component: NDArray[np.int32], resolution: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the voxels that components pass through, ascending, and the component of each (a voxel repeats for several)."""
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    cell = float((high - low).max()) / resolution
    grid = Grid(resolution + 5, cell, low - 2.586 * cell)
    size = grid.num_cells + 1
    points, owners = [grid.to_voxels(mesh.vertices[mesh.faces]).reshape(-1, 3)], [np.repeat(component, 3)]
    for axis, lines in enumerate(find_crossings(mesh.vertices, mesh.faces, grid)):
        line = np.repeat(np.arange(len(lines.start) - 1), np.diff(lines.start))
        coordinates = np.zeros((len(line), 3))
        coordinates[:, axis] = lines.position
        coordinates[:, (axis + 1) % 3], coordinates[:, (axis + 2) % 3] = line % size, line // size
        points.append(coordinates)
        owners.append(component[lines.code >> 1])
    x, y, z = np.rint(np.concatenate(points)).astype(np.int64).T
    key = np.unique(((z * size + y) * size + x) * (int(component.max()) + 1) + np.concatenate(owners))
    return key // (int(component.max()) + 1), key % (int(component.max()) + 1)

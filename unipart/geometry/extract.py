"""From a field on a grid to a mesh."""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.geometry.mesh import Mesh

_BEYOND = 1e-4
"""How far outside the nodes on the box are at least, as a share of the largest value: little, so that the mesh ends on them."""


def extract_surface(values: NDArray[Any], box: float = 1.01, level: float = 0.0) -> Mesh:
    """Runs marching cubes (Lewiner) on a field sampled at the nodes of a cube.

    The nodes of R cells are 2 * box / R apart and the first and last lie on the box: the mesh is where the field is, to the last
    cell (dividing by R + 1, or recentring the result, moves parts away from their place; model.md §1.7). A frame ends at its box,
    and a learnt field may be positive there: the mesh is closed on the box, so it has no hole.

    Args:
        values: field [R+1 R+1 R+1] in (x, y, z) order, positive inside, finite.
        box: half size of the cube.
        level: iso level.

    Returns:
        Vertices [V 3] float32 and faces [F 3] int32, counter-clockwise seen from outside; no faces where nothing crosses the level.

    Raises:
        ValueError: the grid is not a cube of at least 2 nodes a side, or a value is not finite.
    """
    from skimage.measure import marching_cubes

    if values.ndim != 3 or len(set(values.shape)) != 1 or values.shape[0] < 2:
        raise ValueError(f"the field must be a cube of nodes [R+1 R+1 R+1], got shape {values.shape}")
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("the field holds values that are not finite: fill the nodes that were not evaluated")
    closed = np.array(values, np.float32)
    for axis, end in itertools.product(range(3), (0, -1)):
        side = np.moveaxis(closed, axis, 0)[end]
        np.minimum(side, level - _BEYOND * abs(high - level), out=side)
    if not low < level < closed.max():
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    spacing = 2 * box / (values.shape[0] - 1)
    vertices, faces, _, _ = marching_cubes(closed, level, gradient_direction="ascent", allow_degenerate=False)
    return Mesh((vertices * spacing - box).astype(np.float32), faces.astype(np.int32))


def vertex_components(mesh: Mesh) -> NDArray[np.int32]:
    """Returns the connected component of every face [F]; faces that share a vertex index are connected."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    start, stop = mesh.faces[:, [0, 1]].ravel(), mesh.faces[:, [1, 2]].ravel()
    size = len(mesh.vertices)
    links = coo_matrix((np.ones(len(start), np.int8), (start, stop)), shape=(size, size))
    of_vertex = connected_components(links, directed=False)[1]
    return np.unique(of_vertex[mesh.faces[:, 0]], return_inverse=True)[1].astype(np.int32)


def drop_small_components(mesh: Mesh, min_fraction: float) -> Mesh:
    """Drops connected components with less than a fraction of the mesh's area; the largest always stays."""
    if len(mesh.faces) == 0:
        return mesh
    component = vertex_components(mesh)
    area = np.bincount(component, mesh.face_areas())
    keep = area >= min_fraction * area.sum()
    keep[area.argmax()] = True
    return mesh if keep.all() else mesh.select(keep[component])

"""Filled voxels of a mesh by counting signed crossings along the grid's own lines.

The generalised winding number of a point is the average, over all directions, of the signed number of times a ray crosses the
surface. Here six rays are taken, both ways along each axis. For a closed mesh every ray gives the same integer, so the result
is exact, overlapping parts included; for an open one the six-ray average is the estimate, and the rays disagree.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from unipart.geometry.mesh import Mesh

_NUDGE = (1.2e-4, 2.7e-4)
"""Shift of the scan lines off the voxel centres, in voxels: symmetric meshes have edges and vertices right on the centres."""


@dataclass(frozen=True)
class Voxels:
    """A mesh on a grid of R voxels a side over [-1, 1].

    Attributes:
        solid: voxels whose centre has a winding number above 1/2 in magnitude [R R R], (x, y, z).
        filled: the solid and the voxels in which the surface crosses a line through voxel centres: thin sheets count too,
            as in the peers' surface-and-fill voxelisation.
        leaky: the rays disagreed somewhere: the mesh is not closed.
    """

    solid: NDArray[np.bool_]
    filled: NDArray[np.bool_]
    leaky: bool

    def turned(self, quarter_turns: int) -> "Voxels":
        """Returns the voxels of the mesh turned about y (`align.turn`): the grid is symmetric, so nothing is computed again."""
        return Voxels(_turn(self.solid, quarter_turns), _turn(self.filled, quarter_turns), self.leaky)


def voxelise(mesh: Mesh, resolution: int) -> Voxels:
    """Fills the voxels of a mesh given in [-1, 1]; what lies outside the box is cut off."""
    shape = (resolution, resolution, resolution)
    winding = np.zeros(shape, np.float32)
    crossed = np.zeros(shape, np.bool_)
    leaky = False
    corners = (mesh.vertices[mesh.faces].astype(np.float64) + 1) * (resolution / 2)
    for axis in range(3):
        # A cyclic permutation that puts the scanned axis last and keeps the orientation.
        axes = [(axis + 1) % 3, (axis + 2) % 3, axis]
        jumps = np.zeros((resolution, resolution, resolution + 1), np.int32)
        hits = np.zeros(shape, np.bool_)
        _scan(np.ascontiguousarray(corners[:, :, axes]), _NUDGE[0], _NUDGE[1], jumps, hits)
        from_below = np.cumsum(jumps, axis=2)
        missing = from_below[:, :, -1:]
        leaky = leaky or bool(missing.any())
        # Seen from above, the count starts at zero at the other end of the line.
        winding += np.moveaxis(from_below[:, :, :-1] - missing / 2, (0, 1, 2), axes)
        crossed |= np.moveaxis(hits, (0, 1, 2), axes)
    solid = np.abs(winding / 3) > 0.5
    return Voxels(solid, solid | crossed, leaky)


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Returns the intersection over union of two grids; 0 when both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 0.0


def pairwise_iou(ones: NDArray[np.bool_], others: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Returns the intersection over union [N M] of every grid of ones [N ...] with every grid of others [M ...]."""
    flat_ones, flat_others = (grids.reshape(len(grids), -1).astype(np.float32) for grids in (ones, others))
    shared = (flat_ones @ flat_others.T).astype(np.float64)
    union = flat_ones.sum(axis=1)[:, None] + flat_others.sum(axis=1)[None] - shared
    return shared / np.maximum(union, 1)


def _turn(grid: NDArray[np.bool_], quarter_turns: int) -> NDArray[np.bool_]:
    return np.rot90(grid, quarter_turns, axes=(2, 0))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _scan(corners: NDArray[Any], nudge_u: float, nudge_v: float, jumps: NDArray[Any], hits: NDArray[Any]) -> None:
    """Records where the lines along the last axis cross triangles [F 3 3] given in voxels.

    jumps [R R R+1]: change of the winding number between the centres k-1 and k. hits [R R R]: voxels with a crossing.
    """
    size = len(hits)
    sides = np.zeros(3)
    for t in range(len(corners)):
        a, b, c = corners[t, 0], corners[t, 1], corners[t, 2]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if not abs(area) > 0:
            continue
        first_u = max(int(np.ceil(min(a[0], b[0], c[0]) - 0.5 - nudge_u)), 0)
        last_u = min(int(np.floor(max(a[0], b[0], c[0]) - 0.5 - nudge_u)), size - 1)
        first_v = max(int(np.ceil(min(a[1], b[1], c[1]) - 0.5 - nudge_v)), 0)
        last_v = min(int(np.floor(max(a[1], b[1], c[1]) - 0.5 - nudge_v)), size - 1)
        for i in range(first_u, last_u + 1):
            u = i + 0.5 + nudge_u
            for j in range(first_v, last_v + 1):
                v = j + 0.5 + nudge_v
                sides[0], sides[1], sides[2] = _side(b, c, u, v), _side(c, a, u, v), _side(a, b, u, v)
                if area < 0:
                    sides *= -1
                if not (sides[0] > 0 and sides[1] > 0 and sides[2] > 0):
                    continue
                depth = (sides[0] * a[2] + sides[1] * b[2] + sides[2] * c[2]) / (sides[0] + sides[1] + sides[2])
                above = min(max(int(np.ceil(depth - 0.5)), 0), size)
                jumps[i, j, above] += -1 if area > 0 else 1
                hits[i, j, min(max(int(np.floor(depth)), 0), size - 1)] = True


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _side(start, stop, u, v):
    """Twice the area of (start, stop, (u, v)), exactly opposite for the reversed edge and never zero.

    Computed from the lexicographically smaller end, so that two faces at an edge agree on which of them a line passes.
    """
    swap = (start[0], start[1]) > (stop[0], stop[1])
    if swap:
        start, stop = stop, start
    area = (stop[0] - start[0]) * (v - start[1]) - (stop[1] - start[1]) * (u - start[0])
    if area == 0:
        area = 1e-300
    return -area if swap else area

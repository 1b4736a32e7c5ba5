"""Signed distance of many queries to a `Tree`: packets of neighbouring queries walk the tree together (geometry.md F).

The queries of a packet lie in the lanes of vector instructions: one box or one triangle is tested against all of them at once, in
single precision. What could be nearest then is measured again in double precision: in single, the two faces at a thin edge no
longer agree on their distance, which costs the sign.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bvh import FANOUT, Tree

LANES = 16
"""Queries in a packet: two vectors with AVX2, one with AVX-512."""

X, Y, Z, BOUND, SQUARED = 0, LANES, 2 * LANES, 3 * LANES, 4 * LANES
"""Where in `Packet.lanes` lie: the coordinates, the squared distance beyond which nothing matters, the last squared distance."""

FACE, EDGE, VERTEX = 0, 1, 2
"""Where on the triangle the closest point lies; VERTEX + i is corner i."""

_RELATIVE, _ABSOLUTE = np.float32(1.00002), 1e-7
"""Single precision may misjudge a distance d to a triangle with edges up to e by 1e-6 (d + e); both squared, with room to spare."""

_TINY = 1e-30
"""Keeps bounds above what they bound where everything is zero."""

_STACK = 128
"""More than 7 open children on each of the 11 levels that 2**31 triangles have."""

_FAST: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz", "arcp", "nnan", "ninf"},
}
_INLINE: dict[str, Any] = {**_FAST, "inline": "always"}


class Packet(NamedTuple):
    """What is known of the queries that are under way.

    Attributes:
        lanes: [5 * LANES] float32, see `X`; one array, so that the compiler sees that its rows do not overlap.
        tested: triangles measured in single precision [F] int64; only the first so many are in use.
        squared: their squared distances per lane [F LANES] float32. NumPy's zeros, not
            numba's: memory is taken only for the rows in use.
        best: least squared distance per lane [LANES].
        height: distance along the normal of the chosen triangle [LANES].
        gap: query - closest point of the chosen triangle [LANES 3].
        chosen, feature: the nearest triangle, and where on it [LANES].
    """

    lanes: NDArray[np.float32]
    tested: NDArray[np.int64]
    squared: NDArray[np.float32]
    best: NDArray[np.float64]
    height: NDArray[np.float64]
    gap: NDArray[np.float64]
    chosen: NDArray[np.int64]
    feature: NDArray[np.int64]


def find_nearest(
    tree: Tree, queries: NDArray[np.float32], visit: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Returns the signed distance [Q] (positive inside) and the nearest face [Q] of queries [Q 3], at least one.

    Queries are taken in the order `visit`, LANES at a time. The sign is that of the angle-weighted pseudonormal; on an edge that is
    the sign of the face seen least edge-on.
    """
    distance, face = np.zeros(len(queries), np.float32), np.zeros(len(queries), np.int32)
    packet = Packet(
        lanes=np.zeros(5 * LANES, np.float32),
        tested=np.zeros(len(tree.faces), np.int64),
        squared=np.zeros((len(tree.faces), LANES), np.float32),
        best=np.zeros(LANES),
        height=np.zeros(LANES),
        gap=np.zeros((LANES, 3)),
        chosen=np.zeros(LANES, np.int64),
        feature=np.zeros(LANES, np.int64),
    )
    _search(tree, packet, queries, visit, distance, face)
    return distance, face


@numba.njit(**_FAST)
def _search(tree, packet, queries, visit, distance, face):
    """Fills the distance and the face of every query."""
    lanes, best, height, gap = packet.lanes, packet.best, packet.height, packet.gap
    stack_node, stack_level = np.zeros(_STACK, np.int64), np.zeros(_STACK, np.int64)
    while not tree.normals[packet.chosen[LANES - 1]].any():
        packet.chosen[LANES - 1] += 1
    for first in range(0, len(visit), LANES):
        for k in range(LANES):
            i = visit[min(first + k, len(visit) - 1)]
            lanes[X + k], lanes[Y + k], lanes[Z + k] = queries[i, 0], queries[i, 1], queries[i, 2]
            lanes[BOUND + k] = np.float32(3e38)
        # A face near the last packet bounds the search for this one.
        _test_triangle(tree, packet.chosen[LANES - 1], lanes)
        count = _descend(tree, packet, stack_node, stack_level)
        _choose(tree, packet, count)
        for k in range(min(LANES, len(visit) - first)):
            i, last, side = visit[first + k], packet.chosen[k], height[k]
            if packet.feature[k] >= VERTEX:
                normal = tree.vertex_normals[tree.faces[last, packet.feature[k] - VERTEX]]
                side = normal[0] * gap[k, 0] + normal[1] * gap[k, 1] + normal[2] * gap[k, 2]
            distance[i] = -np.sqrt(best[k]) if side >= 0 else np.sqrt(best[k])
            face[i] = tree.source[last]


@numba.njit(**_INLINE)
def _descend(tree, packet, stack_node, stack_level):
    """Measures every triangle that may be the nearest of some lane; returns how many."""
    top, count, size = len(tree.level_starts) - 2, 0, 1
    stack_node[0], stack_level[0] = tree.level_starts[top], top
    gain = np.zeros(FANOUT, np.float32)
    while size > 0:
        size -= 1
        node, level = stack_node[size], stack_level[size]
        index = node - tree.level_starts[level]
        # The bounds may have shrunk since the node was put on the stack.
        if (
            level < top
            and not _box_gain(tree.boxes, tree.level_starts[level + 1] + index // FANOUT, index % FANOUT, packet.lanes) > 0
        ):
            continue
        for slot in range(FANOUT):
            gain[slot] = _box_gain(tree.boxes, node, slot, packet.lanes)
        if level == 0:
            for slot in range(FANOUT):
                if gain[slot] > 0:
                    packet.tested[count] = index * FANOUT + slot
                    _test_triangle(tree, index * FANOUT + slot, packet.lanes)
                    for k in range(LANES):
                        packet.squared[count, k] = packet.lanes[SQUARED + k]
                    count += 1
            continue
        child, most, place = tree.level_starts[level - 1] + index * FANOUT, np.float32(0), size
        for slot in range(FANOUT):
            if gain[slot] > 0:
                if gain[slot] > most:
                    most, place = gain[slot], size
                stack_node[size], stack_level[size] = child + slot, level - 1
                size += 1
        if most > 0:
            stack_node[place], stack_node[size - 1] = stack_node[size - 1], stack_node[place]
    return count


@numba.njit(**_INLINE)
def _box_gain(boxes, node, slot, lanes):
    """Returns by how much a box undercuts the bounds, summed over the lanes; 0 if it cannot hold the nearest triangle of any."""
    low_x, low_y, low_z = boxes[node, 0, slot], boxes[node, 1, slot], boxes[node, 2, slot]
    high_x, high_y, high_z = boxes[node, 3, slot], boxes[node, 4, slot], boxes[node, 5, slot]
    zero = np.float32(0)
    gain = zero
    for k in range(LANES):
        x, y, z = lanes[X + k], lanes[Y + k], lanes[Z + k]
        dx, dy, dz = (
            max(max(low_x - x, x - high_x), zero),
            max(max(low_y - y, y - high_y), zero),
            max(max(low_z - z, z - high_z), zero),
        )
        gain += max(lanes[BOUND + k] - (dx * dx + dy * dy + dz * dz), zero)
    return gain


@numba.njit(**_INLINE)
def _test_triangle(tree, triangle, lanes):
    """Measures a triangle in single precision for every lane, in the triangle's own plane, and lowers the bounds."""
    frame = tree.frames[triangle]
    ax, ay, az, ux, uy, uz, vx, vy, vz = frame[0], frame[1], frame[2], frame[3], frame[4], frame[5], frame[6], frame[7], frame[8]
    length, cx, cy, over_ac, over_bc = frame[9], frame[10], frame[11], frame[12], frame[13]
    nx, ny, nz, bx = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx, cx - length
    zero, one = np.float32(0), np.float32(1)
    slack = np.float32(_ABSOLUTE * tree.longest * tree.longest + _TINY)
    for k in range(LANES):
        px, py, pz = lanes[X + k] - ax, lanes[Y + k] - ay, lanes[Z + k] - az
        x, y, z = px * ux + py * uy + pz * uz, px * vx + py * vy + pz * vz, px * nx + py * ny + pz * nz
        from_b = x - length
        beyond = x - min(max(x, zero), length)
        flat = beyond * beyond + y * y
        t = min(max((x * cx + y * cy) * over_ac, zero), one)
        flat = min(flat, (x - t * cx) * (x - t * cx) + (y - t * cy) * (y - t * cy))
        t = min(max((from_b * bx + y * cy) * over_bc, zero), one)
        flat = min(flat, (from_b - t * bx) * (from_b - t * bx) + (y - t * cy) * (y - t * cy))
        # Strictly: a degenerate triangle has no inside.
        inside = min(y, min(x * cy - y * cx, y * bx - from_b * cy)) > zero
        squared = z * z + (zero if inside else flat)
        lanes[SQUARED + k] = squared
        lanes[BOUND + k] = min(lanes[BOUND + k], squared * _RELATIVE + slack)


@numba.njit(**_INLINE)
def _choose(tree, packet, count):
    """Measures again in double precision what lies within the bounds, and chooses the nearest triangle of every lane.

    Distances that agree in single precision count as equal (the same edge or vertex, seen from two faces): then the face seen least
    edge-on wins, then the smaller index. That is a total order: the choice does not depend on the order of the triangles tested.
    """
    lanes, chosen, height, gap = packet.lanes, packet.chosen, packet.height, packet.gap
    for k in range(LANES):
        packet.best[k], chosen[k] = 1e300, -1
    for j in range(count):
        within = np.float32(0)
        for k in range(LANES):
            within += max(lanes[BOUND + k] - packet.squared[j, k], np.float32(0))
        if not within > 0:
            continue
        triangle = packet.tested[j]
        for k in range(LANES):
            if packet.squared[j, k] > lanes[BOUND + k]:
                continue
            squared, dx, dy, dz, feature = _closest_point(tree.corners, triangle, lanes[X + k], lanes[Y + k], lanes[Z + k])
            rounded, known = np.float32(squared), np.float32(packet.best[k])
            packet.best[k] = min(packet.best[k], squared)
            if rounded > known:
                continue
            lift = tree.normals[triangle, 0] * dx + tree.normals[triangle, 1] * dy + tree.normals[triangle, 2] * dz
            steeper, same = abs(lift) > abs(height[k]), abs(lift) == abs(height[k])
            if rounded == known and not (steeper or (same and triangle < chosen[k])):
                continue
            chosen[k], height[k], packet.feature[k] = triangle, lift, feature
            gap[k, 0], gap[k, 1], gap[k, 2] = dx, dy, dz


@numba.njit(**_INLINE)
def _closest_point(corners, triangle, x, y, z):
    """Returns (squared distance, query - closest point xyz, feature) by Voronoi regions (Ericson 2005, 5.1.5).

    The denominators are guarded, so a degenerate triangle gives a point on it and never NaN.
    """
    ax, ay, az = np.float64(corners[triangle, 0, 0]), np.float64(corners[triangle, 0, 1]), np.float64(corners[triangle, 0, 2])
    bx, by, bz = np.float64(corners[triangle, 1, 0]), np.float64(corners[triangle, 1, 1]), np.float64(corners[triangle, 1, 2])
    cx, cy, cz = np.float64(corners[triangle, 2, 0]), np.float64(corners[triangle, 2, 1]), np.float64(corners[triangle, 2, 2])
    abx, aby, abz, acx, acy, acz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
    apx, apy, apz = x - ax, y - ay, z - az
    bpx, bpy, bpz = x - bx, y - by, z - bz
    cpx, cpy, cpz = x - cx, y - cy, z - cz
    ab_a, ac_a = abx * apx + aby * apy + abz * apz, acx * apx + acy * apy + acz * apz
    ab_b, ac_b = abx * bpx + aby * bpy + abz * bpz, acx * bpx + acy * bpy + acz * bpz
    ab_c, ac_c = abx * cpx + aby * cpy + abz * cpz, acx * cpx + acy * cpy + acz * cpz
    tiny, feature = 1e-300, EDGE
    if ab_a <= 0 and ac_a <= 0:
        rx, ry, rz, feature = apx, apy, apz, VERTEX
    elif ab_b >= 0 and ac_b <= ab_b:
        rx, ry, rz, feature = bpx, bpy, bpz, VERTEX + 1
    elif ac_c >= 0 and ab_c <= ac_c:
        rx, ry, rz, feature = cpx, cpy, cpz, VERTEX + 2
    else:
        a, b, c = ab_b * ac_c - ab_c * ac_b, ab_c * ac_a - ab_a * ac_c, ab_a * ac_b - ab_b * ac_a
        if c <= 0 and ab_a >= 0 and ab_b <= 0:
            t = ab_a / max(ab_a - ab_b, tiny)
            rx, ry, rz = apx - t * abx, apy - t * aby, apz - t * abz
        elif b <= 0 and ac_a >= 0 and ac_c <= 0:
            t = ac_a / max(ac_a - ac_c, tiny)
            rx, ry, rz = apx - t * acx, apy - t * acy, apz - t * acz
        elif a <= 0 and ac_b >= ab_b and ab_c >= ac_c:
            t = (ac_b - ab_b) / max((ac_b - ab_b) + (ab_c - ac_c), tiny)
            rx, ry, rz = bpx - t * (cx - bx), bpy - t * (cy - by), bpz - t * (cz - bz)
        else:
            scale = 1 / max(a + b + c, tiny)
            s, t, feature = b * scale, c * scale, FACE
            rx, ry, rz = apx - s * abx - t * acx, apy - s * aby - t * acy, apz - s * abz - t * acz
    return rx * rx + ry * ry + rz * rz, rx, ry, rz, feature

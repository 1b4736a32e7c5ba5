"""Closest point on a triangle mesh: an implicit 8-ary tree of boxes over kd-ordered triangles (geometry.md F).

The triangles are sorted so that every run of 8**k of them is compact in space; node i of a level then covers the runs
8i..8i+7 of the level below and the tree needs no pointers. The boxes of the 8 children lie side by side in memory,
so one node visit is a handful of vector instructions.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from unipart.geometry.mesh import Mesh

FANOUT = 8
FAR = np.float32(1e18)
"""Bound of an empty child slot; its square still fits float32."""

TIE = 1 + 1e-9
"""Squared distances within this ratio count as equal: then it is the same edge or vertex, seen from two faces."""

SLACK = 1.00001
"""Boxes are compared in single precision: one this much (squared) beyond the best distance may still hold the nearest triangle."""

FACE, EDGE, VERTEX = 0, 1, 2
"""Where on the triangle the closest point lies; VERTEX + i is corner i."""

_KERNEL: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
_FAST: dict[str, Any] = {**_KERNEL, "fastmath": {"contract", "reassoc", "nsz", "arcp", "nnan", "ninf"}}
_INLINE: dict[str, Any] = {**_FAST, "inline": "always"}  # LLVM alone leaves a fifth of the speed


class Tree(NamedTuple):
    """A mesh prepared for `find_nearest`; triangles are in kd order.

    Attributes:
        corners: [F 3 3] float32.
        normals: unit face normals [F 3] float32.
        faces: vertex indices [F 3] int32.
        vertex_normals: angle-weighted sums of face normals [V 3] float32, not normalised (only their sign is used).
        source: index of each triangle in the mesh's own order [F] int32.
        boxes: per node, the bounds of its 8 children: low xyz, high xyz [G 6 8] float32; level 0 (children = triangles) first.
        level_starts: first node of every level, and the total [levels + 1] int64.
    """

    corners: NDArray[np.float32]
    normals: NDArray[np.float32]
    faces: NDArray[np.int32]
    vertex_normals: NDArray[np.float32]
    source: NDArray[np.int32]
    boxes: NDArray[np.float32]
    level_starts: NDArray[np.int64]


def build_tree(mesh: Mesh) -> Tree:
    """Sorts the triangles and stacks the levels of boxes."""
    centroids = mesh.vertices[mesh.faces].mean(axis=1)
    source = kd_order(np.ascontiguousarray(centroids, dtype=np.float32))
    faces = np.ascontiguousarray(mesh.faces[source], dtype=np.int32)
    normals = mesh.face_normals()
    corners = np.ascontiguousarray(mesh.vertices[faces], dtype=np.float32)
    boxes, level_starts = _stack_boxes(corners)
    return Tree(
        corners=corners,
        normals=np.ascontiguousarray(normals[source], dtype=np.float32),
        faces=faces,
        vertex_normals=vertex_pseudonormals(mesh, normals).astype(np.float32),
        source=source,
        boxes=boxes,
        level_starts=level_starts,
    )


def vertex_pseudonormals(mesh: Mesh, face_normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the sum of face normals weighted by the angle at the vertex [V 3] (Baerentzen and Aanaes 2005)."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    total = np.zeros((len(mesh.vertices), 3))
    for i in range(3):
        to_next, to_last = (corners[:, (i + step) % 3] - corners[:, i] for step in (1, 2))
        sine = np.linalg.norm(np.cross(to_next, to_last), axis=1)
        angle = np.arctan2(sine, np.einsum("ij,ij->i", to_next, to_last))
        for axis in range(3):
            total[:, axis] += np.bincount(mesh.faces[:, i], angle * face_normals[:, axis], minlength=len(total))
    return total


def _stack_boxes(corners: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    low, high = corners.min(axis=1), corners.max(axis=1)
    levels = []
    while not levels or len(levels[-1]) > 1:
        # An empty slot has low > high: far from every point, and neutral in the bounds of its parent.
        padding = ((0, -len(low) % FANOUT), (0, 0))
        low = np.pad(low, padding, constant_values=FAR).reshape(-1, FANOUT, 3)
        high = np.pad(high, padding, constant_values=-FAR).reshape(-1, FANOUT, 3)
        levels.append(np.concatenate([low, high], axis=2).transpose(0, 2, 1))
        low, high = low.min(axis=1), high.max(axis=1)
    level_starts = np.cumsum([0, *(len(level) for level in levels)], dtype=np.int64)
    return np.ascontiguousarray(np.concatenate(levels)), level_starts


@numba.njit(**_KERNEL)
def kd_order(centroids: NDArray[np.float32]) -> NDArray[np.int32]:
    """Returns a permutation [F] in which every aligned run of 8**k triangles is compact.

    Splits at the median of the longest axis, moved to a multiple of the run length of the level, so that the leaves fill up.
    """
    count = len(centroids)
    order = np.arange(count).astype(np.int32)
    run = FANOUT
    while run * FANOUT < count:
        run *= FANOUT
    stack = [(0, count, run)]
    while len(stack) > 0:
        start, stop, run = stack.pop()
        while stop - start <= run and run > FANOUT:
            run //= FANOUT
        if stop - start <= run:
            continue
        low, high = centroids[order[start]].copy(), centroids[order[start]].copy()
        for i in range(start + 1, stop):
            for axis in range(3):
                value = centroids[order[i], axis]
                low[axis] = min(low[axis], value)
                high[axis] = max(high[axis], value)
        runs = (stop - start + run - 1) // run
        middle = start + runs // 2 * run
        _partition(order, centroids[:, np.argmax(high - low)], start, stop, middle)
        stack.append((start, middle, run))
        stack.append((middle, stop, run))
    return order


@numba.njit(**_KERNEL)
def _partition(order, keys, start, stop, position):
    """Quickselect: reorders order[start:stop] so that keys before `position` are not above those after it."""
    first, last = start, stop - 1
    while first < last:
        one, two, three = keys[order[first]], keys[order[(first + last) // 2]], keys[order[last]]
        pivot = max(min(one, two), min(max(one, two), three))
        left, right = first, last
        while left <= right:
            while keys[order[left]] < pivot:
                left += 1
            while keys[order[right]] > pivot:
                right -= 1
            if left <= right:
                order[left], order[right] = order[right], order[left]
                left += 1
                right -= 1
        if position <= right:
            last = right
        elif position >= left:
            first = left
        else:
            return


@numba.njit(**_FAST)
def find_nearest(
    tree: Tree, queries: NDArray[np.float32], visit: NDArray[np.int64], distance: NDArray[np.float32], face: NDArray[np.int32]
) -> None:
    """Fills the signed distance [Q] (positive inside) and the nearest face [Q] of every query [Q 3].

    Queries are taken in the order `visit`; the face nearest to the last one bounds the search for the next.
    The sign is that of the angle-weighted pseudonormal; on an edge that is the sign of the face seen least edge-on.
    """
    top = len(tree.level_starts) - 2
    stack_node, stack_level = np.zeros(128, np.int64), np.zeros(128, np.int64)
    stack_near, near = np.zeros(128, np.float32), np.zeros(FANOUT, np.float32)
    last = 0
    for i in visit:
        x, y, z = queries[i, 0], queries[i, 1], queries[i, 2]
        bound = np.float32(_closest_point(tree.corners, last, x, y, z)[0] * SLACK)
        best, height, feature = float(FAR) ** 2, 0.0, FACE
        rx, ry, rz = 0.0, 0.0, 0.0
        stack_node[0], stack_level[0], stack_near[0], size = tree.level_starts[top], top, np.float32(0), 1
        while size > 0:
            size -= 1
            if stack_near[size] > bound:
                continue
            node, level = stack_node[size], stack_level[size]
            _box_distances(tree.boxes, node, x, y, z, near)
            if level > 0:
                child = tree.level_starts[level - 1] + (node - tree.level_starts[level]) * FANOUT
                size = _push_nearest_last(near, bound, child, level - 1, size, stack_near, stack_node, stack_level)
                continue
            for slot in range(FANOUT):
                if near[slot] > bound:
                    continue
                triangle = node * FANOUT + slot
                squared, dx, dy, dz, where = _closest_point(tree.corners, triangle, x, y, z)
                if squared > best * TIE:
                    continue
                lift = tree.normals[triangle, 0] * dx + tree.normals[triangle, 1] * dy + tree.normals[triangle, 2] * dz
                if squared * TIE < best or abs(lift) > abs(height):
                    last, height, feature, rx, ry, rz = triangle, lift, where, dx, dy, dz
                best = min(best, squared)
                bound = np.float32(best * SLACK)
        if feature >= VERTEX:
            vertex = tree.faces[last, feature - VERTEX]
            height = tree.vertex_normals[vertex, 0] * rx + tree.vertex_normals[vertex, 1] * ry + tree.vertex_normals[vertex, 2] * rz
        distance[i] = -np.sqrt(best) if height >= 0 else np.sqrt(best)
        face[i] = tree.source[last]


@numba.njit(**_INLINE)
def _box_distances(boxes, node, x, y, z, near):
    """Fills the squared distance from a point to each child box [8]."""
    zero = np.float32(0)
    for slot in range(FANOUT):
        dx = max(max(boxes[node, 0, slot] - x, x - boxes[node, 3, slot]), zero)
        dy = max(max(boxes[node, 1, slot] - y, y - boxes[node, 4, slot]), zero)
        dz = max(max(boxes[node, 2, slot] - z, z - boxes[node, 5, slot]), zero)
        near[slot] = dx * dx + dy * dy + dz * dz


@numba.njit(**_INLINE)
def _push_nearest_last(near, bound, child, level, size, stack_near, stack_node, stack_level):
    """Pushes the children within the bound, the nearest on top; returns the new stack size."""
    base = size
    for slot in range(FANOUT):
        if near[slot] > bound:
            continue
        place = size
        while place > base and stack_near[place - 1] < near[slot]:
            stack_near[place], stack_node[place] = stack_near[place - 1], stack_node[place - 1]
            place -= 1
        stack_near[place], stack_node[place], stack_level[size] = near[slot], child + slot, level
        size += 1
    return size


@numba.njit(**_INLINE)
def _closest_point(corners, triangle, x, y, z):
    """Returns (squared distance, query - closest point xyz, feature) by Voronoi regions (Ericson 2005, 5.1.5).

    In double precision: in single, the two faces at a thin edge no longer agree on their distance, which costs the sign.
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

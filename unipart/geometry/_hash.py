"""Hash tables over mesh elements: welding, edges, twin faces, and connected components by union-find."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import compiled


class EdgeTable(NamedTuple):
    """The undirected edges of a mesh.

    Attributes:
        of_half_edge: edge number per face and side (vertex s -> s + 1) [F 3], numbered in order of first appearance.
        num_faces: faces at every edge [E].
        net: faces that run from its lower to its higher vertex number minus those that run back [E]; all 0 on a closed surface.
    """

    of_half_edge: NDArray[np.int32]
    num_faces: NDArray[np.int32]
    net: NDArray[np.int32]


class TwinTable(NamedTuple):
    """Faces on the same three vertices.

    Attributes:
        first: the first face on the same vertices, per face [F].
        parity: 1 where the vertices run as an even permutation of the ascending order, else 0 [F].
        num: faces with parity 0 and with parity 1 on these vertices [F 2], filled in at the first face only.
    """

    first: NDArray[np.int32]
    parity: NDArray[np.int8]
    num: NDArray[np.int32]


@compiled
def _mix(a, b, c):
    """Returns a well-spread hash of three integers."""
    h = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15)
    h ^= (np.uint64(b) + (h >> np.uint64(29))) * np.uint64(0xC2B2AE3D27D4EB4F)
    h ^= (np.uint64(c) + (h >> np.uint64(31))) * np.uint64(0x165667B19E3779F9)
    return h ^ (h >> np.uint64(32))


@compiled
def _table(least):
    """Returns an empty open-addressing table at most half full with `least` entries."""
    size = 16
    while size < 2 * least:
        size *= 2
    return np.full(size, -1, dtype=np.int32)


@compiled
def weld(points, group, tolerance):
    """Joins points of the same group within `tolerance` of each other.

    Points are taken in order; each joins the first earlier representative in reach, or becomes one. Cells are two tolerances
    wide and the 8 nearest ones are searched, so a pair on both sides of a cell border is found.

    Returns:
        The representative points' indices, and per point the position of its representative among them.
    """
    table = _table(len(points))
    mask = np.uint64(len(table) - 1)
    representatives = np.zeros(len(points), dtype=np.int64)
    joined = np.zeros(len(points), dtype=np.int64)
    count = 0
    for v in range(len(points)):
        x, y, z = points[v] / (2 * tolerance)
        i, j, k = int(np.floor(x - 0.5)), int(np.floor(y - 0.5)), int(np.floor(z - 0.5))
        nearest = -1
        for neighbour in range(8):
            slot = _mix(i + (neighbour & 1), j + (neighbour >> 1 & 1), k + (neighbour >> 2)) & mask
            while table[slot] >= 0:
                candidate = table[slot]
                other = representatives[candidate]
                if group[other] == group[v] and (nearest < 0 or candidate < nearest):
                    gap = points[other] - points[v]
                    if gap[0] * gap[0] + gap[1] * gap[1] + gap[2] * gap[2] <= tolerance * tolerance:
                        nearest = candidate
                slot = (slot + np.uint64(1)) & mask
        if nearest < 0:
            nearest = count
            representatives[count] = v
            slot = _mix(int(np.floor(x)), int(np.floor(y)), int(np.floor(z))) & mask
            while table[slot] >= 0:
                slot = (slot + np.uint64(1)) & mask
            table[slot] = count
            count += 1
        joined[v] = nearest
    return representatives[:count], joined


@compiled
def label_components(keys, num_keys):
    """Connects the rows of `keys` [F 3] that share a key.

    Returns:
        A component number per row [F], in order of first appearance, and the number of components.
    """
    parent = np.arange(num_keys)
    for row in range(len(keys)):
        for side in range(2):
            a, b = _root(parent, keys[row, side]), _root(parent, keys[row, side + 1])
            parent[max(a, b)] = min(a, b)
    number = np.full(num_keys, -1, dtype=np.int32)
    label = np.zeros(len(keys), dtype=np.int32)
    count = 0
    for row in range(len(keys)):
        root = _root(parent, keys[row, 0])
        if number[root] < 0:
            number[root] = count
            count += 1
        label[row] = number[root]
    return label, count


@compiled
def _root(parent, node):
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@compiled
def _edges(faces):
    table = _table(3 * len(faces))
    mask = np.uint64(len(table) - 1)
    ends = np.zeros((3 * len(faces), 2), dtype=np.int64)
    of_half_edge = np.zeros((len(faces), 3), dtype=np.int32)
    number, net = np.zeros(3 * len(faces), dtype=np.int32), np.zeros(3 * len(faces), dtype=np.int32)
    count = 0
    for face in range(len(faces)):
        for side in range(3):
            a, b = faces[face, side], faces[face, (side + 1) % 3]
            low, high = min(a, b), max(a, b)
            slot = _mix(low, high, 0) & mask
            while table[slot] >= 0 and (ends[table[slot], 0] != low or ends[table[slot], 1] != high):
                slot = (slot + np.uint64(1)) & mask
            if table[slot] < 0:
                table[slot] = count
                ends[count] = low, high
                count += 1
            edge = table[slot]
            of_half_edge[face, side] = edge
            number[edge] += 1
            net[edge] += 1 if a < b else -1
    return of_half_edge, number[:count], net[:count]


def edge_table(faces: NDArray[np.int64]) -> EdgeTable:
    """Returns the edges of faces [F 3]."""
    return EdgeTable(*_edges(faces))


@compiled
def _twins(faces):
    table = _table(len(faces))
    mask = np.uint64(len(table) - 1)
    ascending = np.zeros((len(faces), 3), dtype=np.int64)
    first, parity = np.zeros(len(faces), dtype=np.int32), np.zeros(len(faces), dtype=np.int8)
    num = np.zeros((len(faces), 2), dtype=np.int32)
    for face in range(len(faces)):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        low, high = min(a, b, c), max(a, b, c)
        middle = a + b + c - low - high
        parity[face] = (a == low and b == middle) or (b == low and c == middle) or (c == low and a == middle)
        ascending[face] = low, middle, high
        slot = _mix(low, middle, high) & mask
        while table[slot] >= 0:
            other = ascending[table[slot]]
            if other[0] == low and other[1] == middle and other[2] == high:
                break
            slot = (slot + np.uint64(1)) & mask
        if table[slot] < 0:
            table[slot] = face
        first[face] = table[slot]
        num[first[face], parity[face]] += 1
    return first, parity, num


def twin_table(faces: NDArray[np.int64]) -> TwinTable:
    """Finds the faces [F 3] that repeat the vertices of an earlier one."""
    return TwinTable(*_twins(faces))

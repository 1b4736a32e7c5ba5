"""Marching cubes straight from the bit rows: closed and manifold for every pattern of bits. `_placing` finds the positions."""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import ONE, Bits, compiled, count_bits, get_bit, lowest_bit

ALONE, ONE_OF_SEVERAL = 1, 2
"""What a loop is in its cell: see `Topology.loop`."""


class Topology(NamedTuple):
    """The faces, with one vertex on every grid edge that has one end inside.

    Attributes:
        corner: number of the lower end of a vertex's grid edge, int64 [V].
        axis: direction of the edge, int8 [V].
        entering: the upper end is the inside one, bool [V].
        faces: int32 [F 3], counter-clockwise from outside.
        loop: the faces of a cell fill one or more loops of its edges: `ALONE` or `ONE_OF_SEVERAL` at the first face of a loop, else
            0, int8 [F].
    """

    corner: NDArray[np.int64]
    axis: NDArray[np.int8]
    entering: NDArray[np.bool_]
    faces: NDArray[np.int32]
    loop: NDArray[np.int8]


class _Cases(NamedTuple):
    """The table of marching cubes. Bit c of a case: corner (c & 1, c >> 1 & 1, c >> 2) of the cell is inside.

    Attributes:
        triangles: per case as edge numbers, -1 after the last, int8 [256 T 3].
        edges: corner and axis of every edge, int8 [12 2].
        loop: of `Topology`, per triangle, int8 [256 T].
    """

    triangles: NDArray[np.int8]
    edges: NDArray[np.int8]
    loop: NDArray[np.int8]


def march(bits: Bits, num_cells: int) -> Topology:
    """Returns the surface between the set and the clear corners; the border corners must be clear."""
    return Topology(*_march(bits, num_cells, _make_cases()))


@functools.cache
def _make_cases() -> _Cases:
    """Generates the table.

    On every cell face the inside corners form runs, each cut off by
    one segment; both cells at the face see the same runs, so the segments meet and the surface closes.
    """
    edges = [(corner, axis) for axis in range(3) for corner in range(8) if not corner >> axis & 1]
    number = {frozenset((corner, corner | 1 << axis)): e for e, (corner, axis) in enumerate(edges)}
    cell_faces = []
    for axis in range(3):
        p, q = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        cell_faces.append([0, q, q | p, p])
        cell_faces.append([c | 1 << axis for c in (0, p, p | q, q)])
    faces_of_edge = [{f for f, ring in enumerate(cell_faces) if {c, c | 1 << axis} <= set(ring)} for c, axis in edges]

    cases, starts = [], []
    for case in range(256):
        following = {}
        for ring in cell_faces:
            inside = [case >> corner & 1 for corner in ring]
            for start in range(4):
                if inside[start] and not inside[start - 1]:
                    stop = start
                    while inside[(stop + 1) % 4]:
                        stop += 1
                    enters = number[frozenset((ring[start - 1], ring[start]))]
                    following[enters] = number[frozenset((ring[stop % 4], ring[(stop + 1) % 4]))]
        triangles, first = [], []
        while following:
            edge, onward = following.popitem()
            loop = [edge]
            while onward != loop[0]:
                loop.append(onward)
                onward = following.pop(onward)
            first.append(len(triangles))
            triangles += _triangulate(tuple(loop), faces_of_edge)
        cases.append(triangles)
        starts.append(first)
    table = np.full((256, max(len(triangles) for triangles in cases) + 1, 3), -1, dtype=np.int8)
    loops = np.zeros(table.shape[:2], dtype=np.int8)
    for case, triangles in enumerate(cases):
        loops[case, starts[case]] = ALONE if len(starts[case]) == 1 else ONE_OF_SEVERAL
        table[case, : len(triangles)] = np.array(triangles, dtype=np.int8).reshape(-1, 3)
    return _Cases(table, np.array(edges, dtype=np.int8), loops)


def _triangulate(loop: tuple[int, ...], faces_of_edge: list[set[int]]) -> list[tuple[int, int, int]]:
    """Cuts a loop of cell edges into triangles without a diagonal inside a cell face (the next cell could use the same one)."""

    @functools.cache
    def best(i: int, j: int) -> tuple[int, list[tuple[int, int, int]]]:
        if j - i < 2:
            return 0, []
        in_face = 0 < j - i < len(loop) - 1 and bool(faces_of_edge[loop[i]] & faces_of_edge[loop[j]])
        options = []
        for k in range(i + 1, j):
            (cost_a, a), (cost_b, b) = best(i, k), best(k, j)
            options.append((cost_a + cost_b + in_face, [*a, *b, (loop[i], loop[k], loop[j])]))
        return min(options)

    return best(0, len(loop) - 1)[1]


@compiled
def _march(bits, num_cells, cases):
    n = num_cells + 1
    num_vertices = _count_cut_edges(bits, num_cells)
    corner, axis_of = np.zeros(num_vertices, dtype=np.int64), np.zeros(num_vertices, dtype=np.int8)
    entering = np.zeros(num_vertices, dtype=np.bool_)
    faces = np.zeros((2 * num_vertices + 64, 3), dtype=np.int32)
    loop = np.zeros(len(faces), dtype=np.int8)
    # Vertex of every grid edge that starts in the current or the previous plane: [axis, plane & 1, corner in plane].
    vertex_of_edge = np.zeros((3, 2, n * n), dtype=np.int32)
    vertex, made = 0, np.int64(0)
    for k in range(n):
        for j in range(n):
            for axis in range(3):
                # Edges along z start in the plane below.
                plane = k - 1 if axis == 2 else k
                if plane < 0 or (axis == 1 and j == num_cells):
                    continue
                row = plane * n + j
                for word in range(bits.shape[1]):
                    cut = _cut_edges(bits, num_cells, axis, row, word)
                    while cut:
                        i = word * 64 + lowest_bit(cut)
                        cut &= cut - ONE
                        corner[vertex], axis_of[vertex], entering[vertex] = row * n + i, axis, get_bit(bits, row, i) == 0
                        vertex_of_edge[axis, plane & 1, j * n + i] = vertex
                        vertex += 1
        if k > 0:
            made, faces, loop = _triangulate_slab(bits, num_cells, k - 1, cases, vertex_of_edge, faces, loop, made)
    return corner, axis_of, entering, faces[:made].copy(), loop[:made].copy()


@compiled
def _cut_edges(bits, num_cells, axis, row, word):
    """Returns a bit for each of 64 corners: does the edge from it along `axis` have one end inside?"""
    here = bits[row, word]
    if axis == 1:
        return here ^ bits[row + 1, word]
    if axis == 2:
        return here ^ bits[row + num_cells + 1, word]
    return here ^ _next_along_x(bits, row, word)


@compiled
def _next_along_x(bits, row, word):
    """Returns the bits of the 64 corners one to the right (0 beyond the row: border corners are outside)."""
    shifted = bits[row, word] >> ONE
    if word + 1 < bits.shape[1]:
        shifted |= bits[row, word + 1] << np.uint64(63)
    return shifted


@compiled
def _count_cut_edges(bits, num_cells):
    n = num_cells + 1
    count = 0
    for row in range(n * n):
        for axis in range(3):
            if (axis == 1 and row % n == num_cells) or (axis == 2 and row // n == num_cells):
                continue
            for word in range(bits.shape[1]):
                count += count_bits(_cut_edges(bits, num_cells, axis, row, word))
    return count


@compiled
def _triangulate_slab(bits, num_cells, k, cases, vertex_of_edge, faces, loop, made):
    """Appends the triangles of the cells between planes k and k + 1; returns their number so far and the (maybe larger) arrays."""
    n = num_cells + 1
    for j in range(num_cells):
        row = k * n + j
        for word in range(bits.shape[1]):
            r0, r1, r2, r3 = bits[row, word], bits[row + 1, word], bits[row + n, word], bits[row + n + 1, word]
            s0, s1 = _next_along_x(bits, row, word), _next_along_x(bits, row + 1, word)
            s2, s3 = _next_along_x(bits, row + n, word), _next_along_x(bits, row + n + 1, word)
            mixed = (r0 | r1 | r2 | r3 | s0 | s1 | s2 | s3) & ~(r0 & r1 & r2 & r3 & s0 & s1 & s2 & s3)
            while mixed:
                bit = lowest_bit(mixed)
                mixed &= mixed - ONE
                u = np.uint64(bit)
                case = 0
                for corner, bits_there in enumerate((r0, s0, r1, s1, r2, s2, r3, s3)):
                    case |= int((bits_there >> u) & ONE) << corner
                if made + cases.triangles.shape[1] > len(faces):
                    faces = np.concatenate((faces, np.zeros_like(faces)))
                    loop = np.concatenate((loop, np.zeros_like(loop)))
                t = 0
                while cases.triangles[case, t, 0] >= 0:
                    loop[made] = cases.loop[case, t]
                    for side in range(3):
                        corner, axis = cases.edges[cases.triangles[case, t, side]]
                        plane = (k + (corner >> 2)) & 1
                        at = (j + (corner >> 1 & 1)) * n + word * 64 + bit + (corner & 1)
                        faces[made, side] = vertex_of_edge[axis, plane, at]
                    t += 1
                    made += 1
    return made, faces, loop

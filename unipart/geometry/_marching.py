"""Marching cubes straight from the bit rows: watertight and manifold for every pattern of bits, with exact vertices.

A vertex sits where the surface really crosses its grid edge and remembers the face that crossed it (its provenance).
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import ONE, Bits, compiled, get_bit, lowest_bit
from unipart.geometry._scan import Lines
from unipart.geometry._shell import Shell
from unipart.geometry._winding import Membrane

_MARGIN = np.float32(1e-3)
"""Vertices keep this share of an edge from its corners, so that no two of them coincide."""
_COINCIDENT = np.float32(0.02)
"""Crossings this close (voxels) are one place: the face with the better rank gets it."""


class Evidence(NamedTuple):
    """What is known about the position of the surface on a grid edge.

    Attributes:
        lines: crossings along x, y and z.
        rank: per face [F]; of coincident faces the lowest rank names the vertex.
        shell: distances near thin sheets.
        shell_width: half thickness of the shell in voxels.
        membrane: winding numbers near the membranes.
    """

    lines: tuple[Lines, Lines, Lines]
    rank: NDArray[np.int32]
    shell: Shell
    shell_width: np.float32
    membrane: Membrane


class _Draft(NamedTuple):
    """The vertices made so far.

    `vertex_of_edge` [axis, plane & 1, corner in plane] holds those on grid edges that start in the current or the previous plane.
    """

    vertices: NDArray[np.float32]
    source: NDArray[np.int32]
    vertex_of_edge: NDArray[np.int32]
    num_vertices: NDArray[np.int64]


class Surface(NamedTuple):
    """An extracted surface.

    Attributes:
        vertices: positions in voxels, float32 [V 3].
        source: face that a vertex lies on, or -1 (membrane), int32 [V].
        faces: int32 [F 3], counter-clockwise from outside.
    """

    vertices: NDArray[np.float32]
    source: NDArray[np.int32]
    faces: NDArray[np.int32]


def extract(bits: Bits, evidence: Evidence, num_cells: int) -> Surface:
    """Returns the surface between the set and the clear corners; the border corners must be clear."""
    return Surface(*_march(bits, evidence, num_cells, *_triangles_of_case()))


@functools.cache
def _triangles_of_case() -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Generates the table: triangles per case as edge numbers [256 T 3] (-1: none), and (corner, axis) per edge [12 2].

    Bit c of a case: corner (c & 1, c >> 1 & 1, c >> 2) is inside. On every cell face the inside corners form runs, each cut off by
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

    cases = []
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
        triangles = []
        while following:
            edge, onward = following.popitem()
            loop = [edge]
            while onward != loop[0]:
                loop.append(onward)
                onward = following.pop(onward)
            triangles += _triangulate(tuple(loop), faces_of_edge)
        cases.append(triangles)
    table = np.full((256, max(len(triangles) for triangles in cases) + 1, 3), -1, dtype=np.int8)
    for case, triangles in enumerate(cases):
        table[case, : len(triangles)] = np.array(triangles, dtype=np.int8).reshape(-1, 3)
    return table, np.array(edges, dtype=np.int8)


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
def _march(bits, evidence, num_cells, table, edges):
    n = num_cells + 1
    num_vertices = _count_cut_edges(bits, num_cells)
    draft = _Draft(
        np.zeros((num_vertices, 3), np.float32),
        np.zeros(num_vertices, np.int32),
        np.zeros((3, 2, n * n), np.int32),
        np.zeros(1, np.int64),
    )
    faces = np.zeros((2 * num_vertices + 64, 3), dtype=np.int32)
    made = np.int64(0)
    for k in range(n):
        for j in range(n):
            for axis in range(3):
                # Edges along z start in the plane below.
                plane = k - 1 if axis == 2 else k
                if plane >= 0 and (axis != 1 or j < num_cells):
                    _place_row(bits, evidence, num_cells, axis, j, plane, draft)
        if k > 0:
            made, faces = _triangulate_slab(bits, num_cells, k - 1, table, edges, draft.vertex_of_edge, faces, made)
    return draft.vertices, draft.source, faces[:made].copy()


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
                cut = _cut_edges(bits, num_cells, axis, row, word)
                while cut:
                    cut &= cut - ONE
                    count += 1
    return count


@compiled
def _place_row(bits, evidence, num_cells, axis, j, k, draft):
    """Places a vertex on every cut edge along `axis` from the corners of row (j, k)."""
    n = num_cells + 1
    row = k * n + j
    for word in range(bits.shape[1]):
        cut = _cut_edges(bits, num_cells, axis, row, word)
        while cut:
            i = word * 64 + lowest_bit(cut)
            cut &= cut - ONE
            entering = get_bit(bits, row, i) == 0
            share, face = _locate(evidence, num_cells, axis, (i, j, k), entering)
            placed = draft.num_vertices[0]
            draft.vertices[placed] = i, j, k
            draft.vertices[placed, axis] += min(max(share, _MARGIN), np.float32(1) - _MARGIN)
            draft.source[placed] = face
            draft.vertex_of_edge[axis, k & 1, j * n + i] = placed
            draft.num_vertices[0] += 1


@compiled
def _locate(evidence, num_cells, axis, position, entering):
    """Returns where the surface cuts the edge from corner `position` along `axis` (0..1), and the face it lies on or -1."""
    n = num_cells + 1
    low = (position[2] * n + position[1]) * n + position[0]
    high = low + (n**axis)
    shell = evidence.shell
    if len(shell.corner):
        inner = _search(shell.corner, high if entering else low)
        outer = _search(shell.corner, low if entering else high)
        if inner >= 0 and outer >= 0 and not shell.solid[inner]:
            rise = shell.distance[outer] - shell.distance[inner]
            share = (evidence.shell_width - shell.distance[inner]) / max(rise, np.float32(1e-12))
            share = min(max(share, np.float32(0)), np.float32(1))
            return np.float32(1) - share if entering else share, shell.face[inner]
    at = np.float32(position[axis])
    line = position[(axis + 2) % 3] * n + position[(axis + 1) % 3]
    crossing = _outermost(evidence.lines[axis], line, at, entering)
    if crossing >= 0:
        share = evidence.lines[axis].position[crossing] - at
        return share, _best_ranked(evidence, axis, line, crossing)
    a, b = _search(evidence.membrane.corner, low), _search(evidence.membrane.corner, high)
    if a >= 0 and b >= 0:
        winding_a, winding_b = evidence.membrane.winding[a], evidence.membrane.winding[b]
        for level in (np.float32(0.5), np.float32(-0.5)):
            if (winding_a < level) != (winding_b < level):
                return (level - winding_a) / (winding_b - winding_a), np.int32(-1)
    return np.float32(0.5), np.int32(-1)


@compiled
def _search(ascending, value):
    """Returns the index of a value, or -1."""
    found = np.searchsorted(ascending, value)
    return found if found < len(ascending) and ascending[found] == value else -1


@compiled
def _outermost(lines, line, at, entering):
    """Returns the crossing between `at` and `at + 1` that is outermost: the first inward or the last outward one; -1 if none."""
    right, other = -1, -1
    for c in range(lines.start[line], lines.start[line + 1]):
        if at <= lines.position[c] <= at + 1:
            leaving = lines.code[c] & 1 == 1
            if leaving != entering and (right < 0 or not entering):
                right = c
            if other < 0 or not entering:
                other = c
    return right if right >= 0 else other


@compiled
def _best_ranked(evidence, axis, line, crossing):
    """Returns the face of a crossing, or of the best-ranked crossing in the same place and direction."""
    lines = evidence.lines[axis]
    face = lines.code[crossing] >> 1
    for c in range(lines.start[line], lines.start[line + 1]):
        other = lines.code[c] >> 1
        together = abs(lines.position[c] - lines.position[crossing]) <= _COINCIDENT
        if together and (lines.code[c] & 1) == (lines.code[crossing] & 1) and evidence.rank[other] < evidence.rank[face]:
            face = other
    return face


@compiled
def _triangulate_slab(bits, num_cells, k, table, edges, vertex_of_edge, faces, made):
    """Appends the triangles of the cells between planes k and k + 1; returns their number so far and the (maybe larger) array."""
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
                if made + table.shape[1] > len(faces):
                    faces = np.concatenate((faces, np.zeros_like(faces)))
                t = 0
                while table[case, t, 0] >= 0:
                    for side in range(3):
                        corner, axis = edges[table[case, t, side]]
                        plane = (k + (corner >> 2)) & 1
                        at = (j + (corner >> 1 & 1)) * n + word * 64 + bit + (corner & 1)
                        faces[made, side] = vertex_of_edge[axis, plane, at]
                    t += 1
                    made += 1
    return made, faces

"""Where the vertices of the marching cubes sit: at the exact crossings, each with the face that crossed (its provenance)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import compiled
from unipart.geometry._marching import Topology
from unipart.geometry._scan import Lines
from unipart.geometry._shell import Shell
from unipart.geometry._winding import Membrane

_MARGIN = np.float32(1e-3)
"""Vertices keep this share of an edge from its corners, so that no two of them coincide."""
_COINCIDENT = np.float32(0.02)
"""Crossings this close (voxels) are one place: the face with the lower rank gets it."""


class Evidence(NamedTuple):
    """What is known about the position of the surface on a grid edge.

    Attributes:
        lines: crossings along x, y and z.
        rank: per face [F]; of coincident faces the lowest rank names the vertex, else the labels of flush parts would be noise.
        shell: distances near thin sheets.
        shell_width: half thickness of the shell in voxels.
        membrane: winding numbers near the membranes.
    """

    lines: tuple[Lines, Lines, Lines]
    rank: NDArray[np.int32]
    shell: Shell
    shell_width: np.float32
    membrane: Membrane


class Surface(NamedTuple):
    """An extracted surface.

    Attributes:
        vertices: positions in voxels, float32 [V 3].
        source: face that a vertex lies on, or -1 (membrane), int32 [V].
        outside: which way a vertex's grid edge leaves the solid: 1, 2, 3 up and -1, -2, -3 down along x, y, z, int8 [G]. The
            vertices from G on lie on no grid edge (`_ridges`).
        faces: int32 [F 3], counter-clockwise from outside.
        loop: of `Topology` [F]; empty once `_ridges` has filled the loops anew.
    """

    vertices: NDArray[np.float32]
    source: NDArray[np.int32]
    outside: NDArray[np.int8]
    faces: NDArray[np.int32]
    loop: NDArray[np.int8]


def place_vertices(topology: Topology, evidence: Evidence, num_cells: int) -> Surface:
    """Puts every vertex where the surface crosses its grid edge."""
    vertices = np.zeros((len(topology.corner), 3), dtype=np.float32)
    source = np.zeros(len(topology.corner), dtype=np.int32)
    for axis, lines in enumerate(evidence.lines):
        _place_on_axis(axis, lines, topology, evidence, num_cells, vertices, source)
    outside = np.where(topology.entering, ~topology.axis, topology.axis + np.int8(1))
    return Surface(vertices, source, outside, topology.faces, topology.loop)


def select_faces(surface: Surface, chosen: NDArray[np.bool_]) -> Surface:
    """Returns the chosen faces [F] with the vertices that they use, in the same order."""
    used, faces = _renumber(surface.faces, chosen, len(surface.vertices))
    return Surface(surface.vertices[used], surface.source[used], surface.outside[used], faces, surface.loop[chosen])


@compiled
def _renumber(faces, chosen, num_vertices):
    """Returns which vertices [V] the chosen faces use, and these faces in the numbers of the used ones."""
    used = np.zeros(num_vertices, dtype=np.bool_)
    count = 0
    for face in range(len(faces)):
        if chosen[face]:
            used[faces[face, 0]] = used[faces[face, 1]] = used[faces[face, 2]] = True
            count += 1
    number = np.cumsum(used) - 1
    result = np.zeros((count, 3), dtype=np.int32)
    made = 0
    for face in range(len(faces)):
        if chosen[face]:
            for side in range(3):
                result[made, side] = number[faces[face, side]]
            made += 1
    return used, result


@compiled
def _place_on_axis(axis, lines, topology, evidence, num_cells, vertices, source):
    """Places the vertices on the edges along one axis."""
    n = num_cells + 1
    shell, membrane = evidence.shell, evidence.membrane
    for v in range(len(topology.corner)):
        if topology.axis[v] != axis:
            continue
        low, entering = topology.corner[v], topology.entering[v]
        high = low + (1 if axis == 0 else (n if axis == 1 else n * n))
        position = (low % n, low // n % n, low // (n * n))
        line = position[(axis + 2) % 3] * n + position[(axis + 1) % 3]
        at = np.float32(position[axis])
        share, face = np.float32(-1), -1
        if len(shell.corner):
            share, face = _on_shell(shell, evidence.shell_width, high if entering else low, low if entering else high)
            share = np.float32(1) - share if entering and share >= 0 else share
        if share < 0:
            crossing = _outermost(lines.position, lines.code, lines.start[line], lines.start[line + 1], at, entering)
            if crossing >= 0:
                share = lines.position[crossing] - at
                face = _lowest_rank(lines.position, lines.code, lines.start[line], lines.start[line + 1], crossing, evidence.rank)
            else:
                share = _on_membrane(membrane.corner, membrane.winding, low, high)
        vertices[v] = position
        vertices[v, axis] += min(max(share, _MARGIN), np.float32(1) - _MARGIN)
        source[v] = face


@compiled
def _on_shell(shell, width, inner, outer):
    """Returns the share of the way from the inner corner at which the shell ends, and its face; -1, -1 where the solid decides."""
    a, b = _search(shell.corner, inner), _search(shell.corner, outer)
    if a < 0 or b < 0 or shell.solid[a]:
        return np.float32(-1), -1
    share = (width - shell.distance[a]) / max(shell.distance[b] - shell.distance[a], np.float32(1e-12))
    return min(max(share, np.float32(0)), np.float32(1)), int(shell.face[a])


@compiled
def _on_membrane(corners, winding, low, high):
    """Returns the share of the way from `low` to `high` at which the winding number is a half; the middle where it is unknown."""
    a, b = _search(corners, low), _search(corners, high)
    if a >= 0 and b >= 0:
        for level in (np.float32(0.5), np.float32(-0.5)):
            if (winding[a] < level) != (winding[b] < level):
                return (level - winding[a]) / (winding[b] - winding[a])
    return np.float32(0.5)


@compiled
def _search(ascending, value):
    """Returns the index of a value, or -1."""
    found = np.searchsorted(ascending, value)
    return found if found < len(ascending) and ascending[found] == value else -1


@compiled
def _outermost(position, code, start, end, at, entering):
    """Returns the crossing between `at` and `at + 1` that is outermost: the first inward or the last outward one; -1 if none."""
    right, other = -1, -1
    for c in range(start, end):
        if position[c] > at + 1:
            break
        if position[c] >= at:
            leaving = code[c] & 1 == 1
            if leaving != entering and (right < 0 or not entering):
                right = c
            if other < 0 or not entering:
                other = c
    return right if right >= 0 else other


@compiled
def _lowest_rank(position, code, start, end, crossing, rank):
    """Returns the face of a crossing, or of the lowest-ranked crossing in the same place and direction."""
    face = code[crossing] >> 1
    for c in range(start, end):
        if position[c] > position[crossing] + _COINCIDENT:
            break
        if position[c] >= position[crossing] - _COINCIDENT and (code[c] & 1) == (code[crossing] & 1):
            other = code[c] >> 1
            if rank[other] < rank[face]:
                face = other
    return face

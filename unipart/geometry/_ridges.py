"""Sharp edges and corners, which marching cubes cut off: a vertex of its own in every cell that one of them runs through.

The triangles of a cell fill a loop of grid-edge vertices, and such a vertex knows the plane of the original face that it lies on.
Where the planes of a loop meet away from its flat filling, their common point becomes a new vertex and a fan round it the filling
(Kobbelt et al. 2001, "Feature Sensitive Surface Extraction from Volume Data": the point of least quadric error). Then an edge
between two fans is turned, so that it joins the new vertices along the sharp edge.

The surface stays a closed manifold whatever the positions: a fan fills a loop as a disc, like the triangles before it. An edge is
turned only where the new vertices are not joined yet, and a vertex of a grid edge keeps at least four of the edges round it.

No two triangles without a common vertex come to cross: a new vertex stays in its cell and is made only where nothing else of the
surface passes through that cell, so its triangles, turned ones included, lie in cells that hold just the fans that they belong to.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unipart.geometry._bits import compiled
from unipart.geometry._marching import ALONE
from unipart.geometry._placing import Surface

_BENT = np.cos(np.radians(10.0))
"""Where planes bend less, the flat filling is within about a twentieth of a voxel."""
_BLADE = np.cos(np.radians(120.0))
"""Planes that bend more meet in an edge so thin that it runs in and out of cells: kept in some of them it would be ragged."""
_GAIN = 0.05
"""Voxels that a new vertex has to lie off the flat filling."""
_TRUST = 0.2
"""Voxels that it may lie off the nearest original face of its loop: further off, the faces end before their planes meet."""
_DAMPING = 0.02
"""Keeps the point of planes that meet in a line close to the middle of the loop. Every plane has the weight 1."""
_SWEEPS = 12
"""Far more than planes that meet need: their error falls by a factor with each."""
_MARGIN = 1e-3
"""Voxels that a new vertex keeps from the sides of its cell."""
_FLATTER = 0.5
"""An edge is turned where that takes its middle this much closer to the planes."""


class _Tips(NamedTuple):
    """The new vertices.

    Attributes:
        position: [K 3], voxels.
        source: an original face through it [K].
        loop: first triangle of the loop that it fills, and one past the last [K 2].
        start: tip k owns the entries start[k] to start[k+1] of `ring` [K+1].
        ring: vertices of the loops, in the direction of their triangles.
    """

    position: NDArray[np.float64]
    source: NDArray[np.int32]
    loop: NDArray[np.int64]
    start: NDArray[np.int64]
    ring: NDArray[np.int32]


def sharpen(
    surface: Surface, corners: NDArray[np.float64], faces: NDArray[np.int64], normals: NDArray[np.float64]
) -> tuple[Surface, NDArray[np.int32]]:
    """Puts vertices on the sharp edges and corners of the original.

    Args:
        surface: of marching cubes.
        corners: vertices of the original in voxels [V 3].
        faces: of the original [F 3].
        normals: of its faces, unit [F 3].

    Returns:
        The surface with the new vertices at the end, and its turned edges [E 4]: the two new vertices that an edge joins, then the
        vertex of a grid edge on each side of it.
    """
    outward = _outward_normals(surface, normals)
    tips = _Tips(*_find_tips(surface, outward, corners, faces))
    following = tips.ring[_following(tips.start)].astype(np.int64)
    low, high = np.minimum(tips.ring, following), np.maximum(tips.ring, following)
    key = low * len(surface.vertices) + high
    order = np.argsort(key, kind="stable")
    sharp_faces, edges = _fill_loops(surface, outward, tips, key, order)
    vertices = np.concatenate([surface.vertices, tips.position.astype(np.float32)])
    source = np.concatenate([surface.source, tips.source])
    return surface._replace(vertices=vertices, source=source, faces=sharp_faces, loop=np.zeros(0, np.int8)), edges


@compiled
def _following(start):
    """Returns the index of the next entry of the ring per entry."""
    following = np.arange(1, start[-1] + 1)
    for k in range(len(start) - 1):
        following[start[k + 1] - 1] = start[k]
    return following


@compiled
def _outward_normals(surface, normals):
    """Returns the normal of every vertex's source face, away from the solid; 0 where the face is unknown [G 3]."""
    outward = np.zeros((len(surface.outside), 3), dtype=np.float32)
    for vertex in range(len(outward)):
        face, outside = surface.source[vertex], surface.outside[vertex]
        if face >= 0:
            sign = 1.0 if normals[face, abs(outside) - 1] * outside > 0 else -1.0
            for axis in range(3):
                outward[vertex, axis] = sign * normals[face, axis]
    return outward


@compiled
def _find_tips(surface, outward, corners, faces):
    """Returns the fields of `_Tips`."""
    position, source = np.zeros((1024, 3)), np.zeros(1024, np.int32)
    loop, start = np.zeros((1024, 2), np.int64), np.zeros(1025, np.int64)
    ring = np.zeros(16 * 1024, np.int32)
    count, last = 0, 0
    while last < len(surface.faces):
        first, last = last, last + 1
        while last < len(surface.faces) and surface.loop[last] == 0:
            last += 1
        if surface.loop[first] != ALONE or not _is_bent(surface, outward, first, last):
            continue
        if count == len(source):
            position, source = np.concatenate((position, np.zeros_like(position))), np.concatenate((source, source))
            loop, start = np.concatenate((loop, loop)), np.concatenate((start, start[1:]))
            ring = np.concatenate((ring, ring))
        size = _trace(surface.faces, first, last, ring, start[count])
        own = ring[start[count] : start[count] + size]
        point = _meeting_point(surface, outward, own)
        squared, face = _nearest_source(surface, corners, faces, own, point)
        if squared > _TRUST**2 or not _is_gain(surface, outward, own, first, last, point):
            continue
        position[count] = point
        source[count] = face
        loop[count] = first, last
        start[count + 1] = start[count] + size
        count += 1
    return (
        position[:count].copy(),
        source[:count].copy(),
        loop[:count].copy(),
        start[: count + 1].copy(),
        ring[: start[count]].copy(),
    )


@compiled
def _is_bent(surface, outward, first, last):
    """Tells whether the planes of a loop meet in an edge; never where one is unknown."""
    n = outward[surface.faces[first, 0]]
    bent = False
    for triangle in range(first, last):
        for side in range(3):
            vertex = surface.faces[triangle, side]
            if surface.source[vertex] < 0:
                return False
            m = outward[vertex]
            cosine = n[0] * m[0] + n[1] * m[1] + n[2] * m[2]
            if cosine < _BLADE:
                return False
            bent |= cosine < _BENT
    return bent


@compiled
def _trace(faces, first, last, ring, start):
    """Writes the vertices round the triangles first..last - 1, which form a disc, to the ring; returns how many."""
    size = last - first + 2
    at = faces[first, 0]  # every vertex is on the ring
    for i in range(size):
        ring[start + i] = at
        onward = at
        for triangle in range(first, last):
            for side in range(3):
                if faces[triangle, side] == at and not _has_edge(faces, first, last, faces[triangle, (side + 1) % 3], at):
                    onward = faces[triangle, (side + 1) % 3]
        at = onward
    return size


@compiled
def _has_edge(faces, first, last, a, b):
    for triangle in range(first, last):
        for side in range(3):
            if faces[triangle, side] == a and faces[triangle, (side + 1) % 3] == b:
                return True
    return False


@compiled
def _meeting_point(surface, outward, ring):
    """Returns the point of the loop's cell that is nearest to all planes."""
    middle, low = np.zeros(3), np.full(3, np.inf)
    for vertex in ring:
        for axis in range(3):
            middle[axis] += surface.vertices[vertex, axis] / len(ring)
            low[axis] = min(low[axis], np.floor(surface.vertices[vertex, axis]))
    xx, xy, xz, yy, yz, zz = _DAMPING, 0.0, 0.0, _DAMPING, 0.0, _DAMPING
    bx, by, bz = 0.0, 0.0, 0.0
    for vertex in ring:
        x, y, z = np.float64(outward[vertex, 0]), np.float64(outward[vertex, 1]), np.float64(outward[vertex, 2])
        p = surface.vertices[vertex]
        height = x * (p[0] - middle[0]) + y * (p[1] - middle[1]) + z * (p[2] - middle[2])
        xx, xy, xz, yy, yz, zz = xx + x * x, xy + x * y, xz + x * z, yy + y * y, yz + y * z, zz + z * z
        bx, by, bz = bx + x * height, by + y * height, bz + z * height
    # Cramer's rule; the determinant is positive.
    cx, cy, cz = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    determinant = xx * cx + xy * cy + xz * cz
    point = np.zeros(3)
    point[0] = (bx * cx + by * cy + bz * cz) / determinant
    point[1] = (bx * cy + by * (xx * zz - xz * xz) + bz * (xy * xz - xx * yz)) / determinant
    point[2] = (bx * cz + by * (xy * xz - xx * yz) + bz * (xx * yy - xy * xy)) / determinant
    low += _MARGIN - middle
    high = low + (1 - 2 * _MARGIN)
    if not ((point >= low) & (point <= high)).all():
        # The point of the cell where the error is least: sweeps of Gauss and Seidel that stop at its sides.
        for _ in range(_SWEEPS):
            point[0] = min(max((bx - xy * point[1] - xz * point[2]) / xx, low[0]), high[0])
            point[1] = min(max((by - xy * point[0] - yz * point[2]) / yy, low[1]), high[1])
            point[2] = min(max((bz - xz * point[0] - yz * point[1]) / zz, low[2]), high[2])
    return middle + point


@compiled
def _nearest_source(surface, corners, faces, ring, point):
    """Returns the squared distance to the nearest of the loop's original faces, and that face."""
    nearest, found = np.inf, surface.source[ring[0]]
    for vertex in ring:
        face = surface.source[vertex]
        squared = _squared_distance(point, corners[faces[face, 0]], corners[faces[face, 1]], corners[faces[face, 2]])
        if squared < nearest:
            nearest, found = squared, face
    return nearest, found


@compiled
def _is_gain(surface, outward, ring, first, last, point):
    """Tells whether a fan round the point differs from the flat filling and faces the way that its planes do."""
    for triangle in range(first, last):
        a, b, c = surface.faces[triangle]
        if _squared_distance(point, surface.vertices[a], surface.vertices[b], surface.vertices[c]) < _GAIN**2:
            return False
    for i in range(len(ring)):
        a, b = ring[i], ring[(i + 1) % len(ring)]
        if _facing(surface.vertices[a], surface.vertices[b], point, outward[a] + outward[b]) <= 0:
            return False
    return True


@compiled
def _facing(a, b, c, normal):
    """Returns the product of a triangle's normal, as long as twice its area, with another normal."""
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    return normal[0] * (uy * vz - uz * vy) + normal[1] * (uz * vx - ux * vz) + normal[2] * (ux * vy - uy * vx)


@compiled
def _squared_distance(p, a, b, c):
    """Returns the squared distance of a point to a triangle (Ericson 2005, "Real-Time Collision Detection" §5.1.5)."""
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    px, py, pz = p[0] - a[0], p[1] - a[1], p[2] - a[2]
    uu, uv, vv = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz, vx * vx + vy * vy + vz * vz
    up, vp = ux * px + uy * py + uz * pz, vx * px + vy * py + vz * pz
    area = uu * vv - uv * uv
    s, t = vv * up - uv * vp, uu * vp - uv * up
    if area > 0 and s >= 0 and t >= 0 and s + t <= area:
        s, t = s / area, t / area
        return (px - s * ux - t * vx) ** 2 + (py - s * uy - t * vy) ** 2 + (pz - s * uz - t * vz) ** 2
    # Else one of the three sides is nearest.
    best = np.inf
    for side in range(3):
        if side == 0:
            s, t = _share(up, uu), 0.0
        elif side == 1:
            s, t = 0.0, _share(vp, vv)
        else:
            t = _share(vp - up - uv + uu, uu - 2 * uv + vv)
            s = 1 - t
        best = min(best, (px - s * ux - t * vx) ** 2 + (py - s * uy - t * vy) ** 2 + (pz - s * uz - t * vz) ** 2)
    return best


@compiled
def _share(along, whole):
    return min(max(along / whole, 0.0), 1.0) if whole > 0 else 0.0


@compiled
def _fill_loops(surface, outward, tips, key, order):
    """Returns the faces with a fan in every loop that has a new vertex, and the turned edges [E 4]."""
    old = surface.faces
    faces = np.zeros((len(old) + 2 * len(tips.source), 3), dtype=np.int32)
    fan = np.zeros(len(tips.source), dtype=np.int64)
    made, done = 0, 0
    num_vertices = len(surface.vertices)
    for k in range(len(tips.source)):
        first, last = tips.loop[k]
        faces[made : made + first - done] = old[done:first]
        made += first - done
        done = last
        fan[k] = made
        for slot in range(tips.start[k], tips.start[k + 1]):
            onward = slot + 1 if slot + 1 < tips.start[k + 1] else tips.start[k]
            faces[made] = tips.ring[slot], tips.ring[onward], np.int32(num_vertices + k)
            made += 1
    faces[made:] = old[done:]
    return faces, _turn_edges(surface, outward, tips, key, order, faces, fan)


@compiled
def _turn_edges(surface, outward, tips, key, order, faces, fan):
    """Turns the edges between two fans in place where that is closer to the planes; returns them [E 4]."""
    owner = np.zeros(len(tips.ring), dtype=np.int32)
    for k in range(len(tips.source)):
        owner[tips.start[k] : tips.start[k + 1]] = k
    joined = np.full(len(tips.ring), -1, dtype=np.int32)
    edges = np.zeros((len(tips.ring) // 2, 4), dtype=np.int32)
    count = 0
    num_vertices = len(surface.vertices)
    for i in range(len(order) - 1):
        one, other = order[i], order[i + 1]
        if key[one] != key[other]:
            continue
        k, m = owner[one], owner[other]
        a, b = tips.ring[one], tips.ring[other]  # the edge runs from a to b in the one fan and back in the other
        is_joined = False
        for slot in range(tips.start[k], tips.start[k + 1]):
            is_joined |= joined[slot] == m
        if is_joined or not _is_closer(surface, outward, a, b, tips.position[k], tips.position[m]):
            continue
        joined[one], joined[other] = m, k
        c, d = np.int32(num_vertices + k), np.int32(num_vertices + m)
        faces[fan[k] + one - tips.start[k]] = c, a, d
        faces[fan[m] + other - tips.start[m]] = d, b, c
        edges[count] = c, d, a, b
        count += 1
    return edges[:count].copy()


@compiled
def _is_closer(surface, outward, a, b, c, d):
    """Tells whether c - d fits the planes at the vertices a and b better than a - b does, with the triangles facing their way."""
    p, q = surface.vertices[a], surface.vertices[b]
    n, m = outward[a], outward[b]
    now, then = 0.0, 0.0
    for normal, at in ((n, p), (m, q)):
        mid_now, mid_then = 0.0, 0.0
        for axis in range(3):
            mid_now += normal[axis] * ((p[axis] + q[axis]) / 2 - at[axis])
            mid_then += normal[axis] * ((c[axis] + d[axis]) / 2 - at[axis])
        now, then = max(now, abs(mid_now)), max(then, abs(mid_then))
    if now < 1e-3 or then > _FLATTER * now:
        return False
    return _facing(c, p, d, n) > 0 and _facing(d, q, c, m) > 0

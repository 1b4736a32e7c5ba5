"""A small vocabulary of closed solids to build things from: y up, front +z, about one unit large.

Solids that stand (`box`, `cylinder`, `lathe`) rest on y = 0, centred in x and z; `sphere`, `torus` and `extrude` are centred at the
origin. Every solid is watertight and its faces point out.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unipart.geometry.formats.polygons import triangulate
from unipart.geometry.mesh import Mesh

Axis = Literal["x", "y", "z"]
Point = tuple[float, float, float]
Outline = Sequence[tuple[float, float]]

_DIGITS = 9


def loft(rings: ArrayLike, is_loop: bool = False) -> Mesh:
    """Returns the skin through rings of points [K N 3], capped at both ends unless it closes on itself.

    A ring may shrink to a point; repeated points become one vertex.
    """
    points = np.asarray(rings, dtype=np.float64)
    count, size = points.shape[:2]
    index = np.arange(count * size).reshape(count, size)
    low, high = (index, np.roll(index, -1, axis=0)) if is_loop else (index[:-1], index[1:])
    low_next, high_next = np.roll(low, -1, axis=1), np.roll(high, -1, axis=1)
    faces = [np.stack([low, low_next, high_next], axis=-1), np.stack([low, high_next, high], axis=-1)]
    vertices = points.reshape(-1, 3)
    if not is_loop:
        faces.append(index[0][triangulate(vertices, index[:1])[0]][:, ::-1])
        faces.append(index[-1][triangulate(vertices, index[-1:])[0]])
    return _closed(vertices, np.concatenate([block.reshape(-1, 3) for block in faces]))


def _closed(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> Mesh:
    """Joins repeated points, drops collapsed faces and turns the faces outwards."""
    points, inverse = np.unique(np.round(vertices, _DIGITS) + 0.0, axis=0, return_inverse=True)
    faces = inverse.reshape(-1)[faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    mesh = Mesh(points, faces)
    return mesh if mesh.volume() > 0 else Mesh(points, faces[:, ::-1])


def extrude(outline: Outline, depth: float, axis: Axis = "z", bevel: float = 0.0) -> Mesh:
    """Returns a plate with a simple polygon as its outline.

    Args:
        outline: corners (u, v), convex or not; (x, y) for axis z, (z, y) for axis x, (x, z) for axis y.
        depth: thickness along the axis, centred at 0.
        axis: direction of the thickness.
        bevel: width of the chamfer round both faces.
    """
    full, half = np.asarray(outline, dtype=np.float64), depth / 2
    if bevel > 0:
        small = _inset(full, bevel)
        levels = [(small, -half), (full, bevel - half), (full, half - bevel), (small, half)]
    else:
        levels = [(full, -half), (full, half)]
    order = {"x": [2, 1, 0], "y": [0, 2, 1], "z": [0, 1, 2]}[axis]
    return loft([np.column_stack([ring, np.full(len(ring), level)])[:, order] for ring, level in levels])


def _inset(outline: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Moves every edge of a polygon [N 2] inwards; corners follow their bisector."""
    ahead = np.roll(outline, -1, axis=0)
    sign = np.sign(np.sum(outline[:, 0] * ahead[:, 1] - ahead[:, 0] * outline[:, 1]))
    edge = ahead - outline
    inward = sign * np.stack([-edge[:, 1], edge[:, 0]], axis=1) / np.linalg.norm(edge, axis=1, keepdims=True)
    before = np.roll(inward, 1, axis=0)
    return outline + width * (inward + before) / (1 + np.sum(inward * before, axis=1, keepdims=True))


def box(width: float, height: float, depth: float, bevel: float = 0.0) -> Mesh:
    """Returns a box (x, y, z extents) standing on y = 0, all edges chamfered."""
    x, z, cut = width / 2, depth / 2, bevel
    corners = [(-x, -z), (x, -z), (x, z), (-x, z)]
    if bevel > 0:
        corners = [
            (cut - x, -z),
            (x - cut, -z),
            (x, cut - z),
            (x, z - cut),
            (x - cut, z),
            (cut - x, z),
            (-x, z - cut),
            (-x, cut - z),
        ]
    return moved(extrude(corners, height, "y", bevel), y=height / 2)


def lathe(profile: Outline, segments: int = 24, is_loop: bool = False) -> Mesh:
    """Returns a profile of (radius, height) points turned round the y axis, capped unless it ends on the axis or is a loop."""
    angles = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    rings = [np.stack([r * np.cos(angles), np.full(segments, y), -r * np.sin(angles)], axis=1) for r, y in profile]
    return loft(rings, is_loop)


def cylinder(radius: float, height: float, top: float | None = None, bevel: float = 0.0, segments: int = 24) -> Mesh:
    """Returns a cylinder, frustum (``top`` radius) or cone (top 0) standing on y = 0, its rims chamfered."""
    end = radius if top is None else top
    if bevel <= 0:
        return lathe([(radius, 0), (end, height)], segments)
    rims = [(radius - bevel, 0), (radius, bevel), (end, height - bevel), (max(end - bevel, 0), height)]
    return lathe(rims, segments)


def sphere(radius: float, segments: int = 20) -> Mesh:
    """Returns a sphere round the origin."""
    steps = np.linspace(-np.pi / 2, np.pi / 2, segments // 2 + 1)
    profile = [(radius * abs(np.cos(a)) if 0 < i < len(steps) - 1 else 0.0, radius * np.sin(a)) for i, a in enumerate(steps)]
    return lathe(profile, segments)


def torus(radius: float, thickness: float, segments: int = 24) -> Mesh:
    """Returns a ring round the y axis; ``thickness`` is the radius of its section."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    return lathe([(radius + thickness * np.cos(a), thickness * np.sin(a)) for a in angles], segments, is_loop=True)


def tube(path: Sequence[Point], radius: float | Sequence[float], segments: int = 12) -> Mesh:
    """Returns a round bar along a path of points; one radius, or one a point. Frames are carried along without twist."""
    points = np.asarray(path, dtype=np.float64)
    radii = np.broadcast_to(np.asarray(radius, dtype=np.float64), len(points))
    tangents = np.gradient(points, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    side = np.cross(tangents[0], np.eye(3)[np.argmin(np.abs(tangents[0]))])
    angles = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    rings = []
    for point, tangent, r in zip(points, tangents, radii, strict=True):
        side = side - tangent * (side @ tangent)
        side = side / np.linalg.norm(side)
        rings.append(point + r * (np.outer(np.cos(angles), side) + np.outer(np.sin(angles), np.cross(tangent, side))))
    return loft(rings)


def post(bottom: Point, top: Point, radius: float, top_radius: float | None = None, segments: int = 16) -> Mesh:
    """Returns a leaning bar with level ends (a leg); 4 segments make it square."""
    angles = np.linspace(0, 2 * np.pi, segments, endpoint=False) + np.pi / segments
    ring = np.stack([np.cos(angles), np.zeros(segments), -np.sin(angles)], axis=1)
    return loft([np.asarray(bottom) + radius * ring, np.asarray(top) + (radius if top_radius is None else top_radius) * ring])


def smooth(points: Outline, steps: int = 4) -> list[tuple[float, float]]:
    """Returns a curve through the points (Catmull-Rom), ``steps`` pieces between two of them."""
    known = np.asarray(points, dtype=np.float64)
    padded = np.concatenate([2 * known[:1] - known[1:2], known, 2 * known[-1:] - known[-2:-1]])
    curve = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for t in np.arange(steps) / steps:
            curve.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    return [(float(u), float(v)) for u, v in [*curve, known[-1]]]


def rounded_rectangle(width: float, height: float, radius: float, steps: int = 4) -> list[tuple[float, float]]:
    """Returns the outline of a rectangle with round corners, centred at 0."""
    x, y = width / 2 - radius, height / 2 - radius
    centres = [(x, y, 0.0), (-x, y, 0.5), (-x, -y, 1.0), (x, -y, 1.5)]
    turns = [(u, v, (start + 0.5 * i / steps) * np.pi) for u, v, start in centres for i in range(steps + 1)]
    return [(u + radius * float(np.cos(a)), v + radius * float(np.sin(a))) for u, v, a in turns]


def moved(mesh: Mesh, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mesh:
    """Returns the mesh shifted."""
    return Mesh(mesh.vertices + np.array([x, y, z]), mesh.faces)


def turned(mesh: Mesh, degrees: float, axis: Axis) -> Mesh:
    """Returns the mesh rotated about an axis through the origin (right-hand rule)."""
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.eye(3)
    rotation[[i, i, j, j], [i, j, i, j]] = cos, -sin, sin, cos
    return Mesh(mesh.vertices @ rotation.T, mesh.faces)


def scaled(mesh: Mesh, x: float = 1.0, y: float = 1.0, z: float = 1.0) -> Mesh:
    """Returns the mesh stretched from the origin; the factors are positive."""
    return Mesh(mesh.vertices * (x, y, z), mesh.faces)


def tapered(mesh: Mesh, top: float, top_z: float | None = None) -> Mesh:
    """Returns the mesh with x and z scaled linearly from 1 at its lowest point to ``top`` (``top_z`` for z) at its highest."""
    low, high = mesh.vertices[:, 1].min(), mesh.vertices[:, 1].max()
    share = (mesh.vertices[:, 1] - low) / (high - low)
    factors = np.ones_like(mesh.vertices)
    factors[:, 0] += share * (top - 1)
    factors[:, 2] += share * ((top if top_z is None else top_z) - 1)
    return Mesh(mesh.vertices * factors, mesh.faces)


def along(path: Callable[[float], Point], steps: int = 10) -> list[Point]:
    """Returns steps + 1 points of a curve, its parameter running from 0 to 1."""
    return [path(i / steps) for i in range(steps + 1)]

"""Winding-number remesh: any triangle soup -> a watertight, manifold, outward-oriented surface with part labels.

The winding number is never evaluated on a dense grid. Triangles are scan-converted onto the grid lines; the signed crossings give
the winding numbers of closed components, exact vertices, and the source face of every vertex. Solid angles are added up only where
membranes close the holes of open components. Sharp edges and corners are kept. Read `_scan`, `_winding` and `_caps`, `_marching`,
`_placing`, `_ridges`, in this order.

By design air gaps below one voxel close, cavities that hold nothing are filled, and a bowl modelled as one open sheet is filled up
to its rim (the number is 1/2 there).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unipart.config import Config
from unipart.errors import Reject
from unipart.geometry._bits import Bits, are_set, clear_border, clear_corners, empty_bits
from unipart.geometry._ears import clip_ears
from unipart.geometry._hash import label_components
from unipart.geometry._marching import Topology, march
from unipart.geometry._placing import Evidence, Surface, place_vertices, select_faces
from unipart.geometry._provenance import component_volumes, find_creases, label_faces, mend_isolated
from unipart.geometry._ridges import sharpen
from unipart.geometry._scan import MAX_CELLS, Grid, Lines, find_crossings, select_lines
from unipart.geometry._shell import ROD_VOXELS, add_shell, component_extents, count_lost, no_shell
from unipart.geometry._sides import count_crossings
from unipart.geometry._winding import Membrane, fill_inside, find_membrane, no_membrane
from unipart.geometry.field import winding_number_reference
from unipart.geometry.mesh import Mesh

_MARGIN_CELLS = 3
"""Free cells on each side of the mesh: the shell reaches one of them, the border corners have to stay outside."""


class RemeshConfig(Config):
    """How a mesh is made watertight."""

    resolution: int = Field(default=256, ge=16, le=MAX_CELLS)
    """Grid cells along the longest side of the mesh, three free cells on each side included."""
    thin_shell: bool = True
    """Replace sheets thinner than a voxel, which the winding number misses, by a thin shell."""
    shell_voxels: float = Field(default=0.75, ge=0.5, le=2.0)
    """Half thickness of that shell, in voxels."""
    min_component_voxels: float = Field(default=8.0, ge=0.0)
    """Output components of less volume are dropped as debris (the largest one never)."""
    accuracy_scale: float = Field(default=2.0, ge=1.0)
    """Accuracy of the fast winding number at thousands of hole edges (fewer are exact); 2 keeps the error below 0.005."""
    crease_degrees: float = Field(default=30.0, gt=0.0, lt=180.0)
    """Smallest angle between original faces that makes a sharp edge."""


@dataclass(frozen=True)
class Remeshed:
    """A watertight surface.

    Attributes:
        mesh: vertices float32, faces int32, part_of_face int16; the frame is that of the input.
        sharp_edges: vertex pairs on creases of the input and on the curves where parts meet [E 2] int32.
        stats: plain numbers, the same for the same input: see `remesh`.
    """

    mesh: Mesh
    sharp_edges: NDArray[np.int32]
    stats: dict[str, float | int]


@dataclass(frozen=True)
class WatertightReport:
    """What `check_watertight` found.

    Attributes:
        watertight: closed, oriented, and manifold at edges and vertices.
        edge_manifold: every edge has exactly two faces.
        vertex_manifold: the faces round every vertex form one fan.
        oriented: the faces at every edge run along it in opposite directions.
    """

    watertight: bool
    edge_manifold: bool
    vertex_manifold: bool
    oriented: bool


def remesh(
    mesh: Mesh, component_of_face: NDArray[Any], open_component: NDArray[np.bool_], config: RemeshConfig | None = None
) -> Remeshed:
    """Returns the surface of the solid that a mesh stands for: winding number above 1/2, plus thin shells.

    Args:
        mesh: any triangles; closed components oriented outward. Labels are carried over from `part_of_face` (one part if absent).
        component_of_face: connected component per face [F].
        open_component: whether a component has holes [num_components].
        config: resolution and limits.

    Returns:
        The surface. Its stats: resolution; voxel (edge of a cell, in units of the mesh); num_components and num_open_components of
        the input; dropped_components of the output;
        lost_area_fraction (share of the crossings that the solid alone misses); shell_used (corners added by the shell);
        winding_queries; parts_seen (parts hidden inside others vanish); volume; volume_ratio to the sum of the components (only
        where all are closed).

    Raises:
        Reject: ``degenerate_geometry`` (no extent), ``empty_remesh`` (nothing encloses a corner of the grid).
    """
    config = config or RemeshConfig()
    scanned = _scan(mesh, component_of_face, open_component, config.resolution)
    grid, is_open = scanned.grid, scanned.is_open
    solid, membrane, winding_queries = _fill(scanned, config)
    pieces, shell_stats = _extract(scanned, solid, membrane, config)

    normals = mesh.face_normals()
    surface, edges = sharpen(pieces.kept, grid.to_voxels(scanned.vertices), scanned.faces, normals)
    volume = component_volumes(surface.vertices.astype(np.float64), surface.faces, np.zeros(len(surface.faces), np.int32), 1)[0]
    surface = surface._replace(vertices=grid.to_mesh(surface.vertices).astype(np.float32))
    part = np.zeros(len(scanned.faces), np.int16) if mesh.part_of_face is None else mesh.part_of_face.astype(np.int16)
    labels = mend_isolated(surface.faces, label_faces(surface, scanned.vertices, scanned.faces, part))
    creases = find_creases(surface, edges, normals, np.cos(np.radians(config.crease_degrees)))
    stats: dict[str, float | int] = {
        "resolution": grid.num_cells,
        "voxel": grid.cell,
        "num_components": len(is_open),
        "num_open_components": int(is_open.sum()),
        **shell_stats,
        "winding_queries": winding_queries,
        "dropped_components": pieces.num_dropped,
        "parts_seen": len(np.unique(labels)),
        "volume": float(volume) * grid.cell**3,
    }
    if not is_open.any():
        corners = scanned.vertices - grid.origin
        original = component_volumes(corners, scanned.faces.astype(np.int32), scanned.component, len(is_open)).sum()
        if original > 0:
            stats["volume_ratio"] = stats["volume"] / float(original)
    return Remeshed(Mesh(surface.vertices, surface.faces, labels), creases, stats)


class _Scanned(NamedTuple):
    """A mesh and where the lines of its grid cross it."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    component: NDArray[np.int32]
    is_open: NDArray[np.bool_]
    grid: Grid
    lines: tuple[Lines, Lines, Lines]


class _Pieces(NamedTuple):
    """An extracted surface without its debris.

    Attributes:
        kept: the surface, in voxels.
        num_dropped: components dropped, walls of cavities included.
        debris: inside corners next to what was dropped, walls of cavities left out.
        debris_source: the face of the mesh that each of them is next to, or -1.
    """

    kept: Surface
    num_dropped: int
    debris: NDArray[np.int64]
    debris_source: NDArray[np.int32]


def _scan(mesh: Mesh, component_of_face: NDArray[Any], open_component: NDArray[np.bool_], resolution: int) -> _Scanned:
    # Copies: a kernel would compile again for arrays that are read-only or strided.
    vertices = np.array(mesh.vertices, dtype=np.float64, order="C")
    faces = np.array(mesh.faces, dtype=np.int64, order="C")
    component = np.array(component_of_face, dtype=np.int32, order="C")
    grid = _grid_round(vertices[faces.ravel()], resolution)
    return _Scanned(vertices, faces, component, open_component, grid, find_crossings(vertices, faces, grid))


def _grid_round(points: NDArray[np.float64], resolution: int) -> Grid:
    """Returns a cube grid round the points, shifted so that symmetry planes and base plates do not fall on corners."""
    # Column by column: ten times faster than along the first axis.
    low = np.array([points[:, axis].min(initial=np.inf) for axis in range(3)])
    high = np.array([points[:, axis].max(initial=-np.inf) for axis in range(3)])
    extent = float((high - low).max())
    if not 0 < extent < np.inf:
        raise Reject("degenerate_geometry", "the mesh has no triangle with an extent")
    cell = extent / (resolution - 2 * _MARGIN_CELLS)
    return Grid(resolution, cell, (low + high) / 2 - (resolution / 2 + 0.414) * cell)


def _fill(scanned: _Scanned, config: RemeshConfig) -> tuple[Bits, Membrane, int]:
    """Returns the corners inside, the membranes that close open components, and the number of winding numbers evaluated."""
    grid, lines = scanned.grid, scanned.lines
    bits = empty_bits(grid.num_cells)
    open_face = scanned.is_open[scanned.component]
    fill_inside(select_lines(lines[0], ~open_face), no_membrane(), False, grid.num_cells, bits)
    if not open_face.any():
        return bits, no_membrane(), 0
    open_lines = (select_lines(lines[0], open_face), select_lines(lines[1], open_face), select_lines(lines[2], open_face))
    membrane, num_queries = find_membrane(scanned.vertices, scanned.faces[open_face], open_lines, grid, config.accuracy_scale)
    # An open sheet may be wound either way: nothing tells its outside.
    fill_inside(open_lines[0], membrane, True, grid.num_cells, bits)
    return bits, membrane, num_queries


def _extract(scanned: _Scanned, solid: Bits, membrane: Membrane, config: RemeshConfig) -> tuple[_Pieces, dict[str, float | int]]:
    """Returns the surface of the solid with shells where it misses thin parts, and what there was to do about them.

    Debris may be all that the grid shows of a rod thinner than a voxel. Once it is cleared away the rod is seen to be missing.
    """
    grid, lines = scanned.grid, scanned.lines
    num_cells = grid.num_cells
    rank = _rank_by_area(scanned)
    while True:
        bits = solid.copy()
        if config.thin_shell:
            shell, num_lost = add_shell(scanned.vertices, scanned.faces, lines, rank, bits, grid, config.shell_voxels)
        else:
            shell, num_lost = no_shell(), count_lost(lines, bits, num_cells)
        clear_border(bits, num_cells)
        if not bits.any():
            raise Reject(
                "empty_remesh", f"nothing is inside on a grid of {num_cells} cells: no closed volume and no sheet to thicken"
            )
        topology = march(bits, num_cells)
        evidence = Evidence(lines, rank, shell, np.float32(config.shell_voxels), membrane)
        pieces = _without_debris(place_vertices(topology, evidence, num_cells), topology, num_cells, config.min_component_voxels)
        remains = _remains_of_rods(pieces, scanned)
        if not config.thin_shell or not are_set(solid, num_cells, remains).any():
            num_crossings = sum(len(axis.code) for axis in lines)
            stats: dict[str, float | int] = {
                "lost_area_fraction": num_lost / max(num_crossings, 1),
                "shell_used": int((~shell.solid & are_set(bits, num_cells, shell.corner)).sum()),
            }
            return pieces, stats
        clear_corners(solid, num_cells, remains)


def _remains_of_rods(pieces: _Pieces, scanned: _Scanned) -> NDArray[np.int64]:
    """Returns the corners of debris that belongs to something larger, and is no crumb in the mesh itself."""
    if len(pieces.debris) == 0:
        return pieces.debris
    extent = component_extents(scanned.vertices, scanned.faces, scanned.component)
    is_long = extent > ROD_VOXELS * scanned.grid.cell
    known = pieces.debris_source >= 0
    return pieces.debris[known & is_long[scanned.component[np.maximum(pieces.debris_source, 0)]]]


def _rank_by_area(scanned: _Scanned) -> NDArray[np.int32]:
    """Returns per face the rank of its component by area [F], the smallest first."""
    area = np.bincount(scanned.component, Mesh(scanned.vertices, scanned.faces).face_areas(), minlength=len(scanned.is_open))
    rank = np.zeros(len(area), dtype=np.int32)
    rank[np.argsort(area, kind="stable")] = np.arange(len(area))
    return rank[scanned.component]


def _without_debris(surface: Surface, topology: Topology, num_cells: int, least_volume: float) -> _Pieces:
    """Drops components below a volume, and the walls of cavities (their volume is negative) that hold nothing."""
    label, count = label_components(surface.faces, len(surface.vertices))
    volumes = component_volumes(surface.vertices.astype(np.float64), surface.faces, label, count)
    keep = volumes >= least_volume
    keep[np.argmax(volumes)] = True
    if keep.sum() > 1:
        for cavity in np.flatnonzero(volumes <= -least_volume):  # a smaller one can hold none that is kept
            keep[cavity] = _holds_any(Mesh(surface.vertices, surface.faces[label == cavity]), surface, label, keep & (volumes > 0))
    if keep.all():
        return _Pieces(surface, 0, np.zeros(0, np.int64), np.zeros(0, np.int32))
    crumbs = np.unique(surface.faces[(~keep & (volumes > 0))[label]])
    stride = (num_cells + 1) ** topology.axis[crumbs].astype(np.int64)
    debris = topology.corner[crumbs] + np.where(topology.entering[crumbs], stride, 0)
    kept = select_faces(surface, keep[label])
    return _Pieces(kept, int(count - keep.sum()), debris, surface.source[crumbs])


def _holds_any(wall: Mesh, surface: Surface, label: NDArray[np.int32], candidates: NDArray[np.bool_]) -> bool:
    """Tells whether one of the candidate components lies inside the wall of a cavity."""
    used = wall.vertices[np.unique(wall.faces)]
    _, first = np.unique(label, return_index=True)
    points = surface.vertices[surface.faces[first[candidates], 0]]
    points = points[((points > used.min(axis=0)) & (points < used.max(axis=0))).all(axis=1)]
    return bool((winding_number_reference(wall, points) < -0.5).any())


def remesh_dense(mesh: Mesh, resolution: int, accuracy_scale: float = 2.0) -> Mesh:
    """The plain reference: the winding number at every corner of the same grid, marching cubes at 1/2. For tests and benchmarks."""
    import igl
    from skimage.measure import marching_cubes

    vertices = np.ascontiguousarray(mesh.vertices, dtype=np.float64)
    faces = np.ascontiguousarray(mesh.faces, dtype=np.int64)
    grid = _grid_round(vertices[faces.ravel()], resolution)
    tree = igl.FastWindingNumberBVH()
    tree.init(vertices, faces, order=2)
    n = resolution + 1
    plane = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), axis=-1).reshape(-1, 2)
    winding = np.zeros((n, n, n), dtype=np.float32)
    for i in range(n):
        points = grid.to_mesh(np.column_stack([np.full(len(plane), i), plane]))
        winding[i] = np.reshape(tree.winding_number(points, accuracy_scale), (n, n))
    if winding.max() <= 0.5:
        raise Reject("empty_remesh", "the winding number exceeds 1/2 nowhere")
    corners, triangles, _, _ = marching_cubes(winding, 0.5, gradient_direction="ascent")
    return Mesh(grid.to_mesh(corners).astype(np.float32), triangles.astype(np.int32))


def check_watertight(faces: NDArray[Any]) -> WatertightReport:
    """Checks faces [F 3] for holes, non-manifold edges and vertices, and orientation (independent of how they were made)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    faces = np.asarray(faces, dtype=np.int64)
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    size = int(faces.max(initial=0)) + 1
    _, edge, count = np.unique(np.minimum(start, end) * size + np.maximum(start, end), return_inverse=True, return_counts=True)
    edge_manifold = len(faces) > 0 and bool((count == 2).all())
    oriented = bool((np.bincount(edge, np.where(start < end, 1, -1)) == 0).all())
    vertex_manifold = edge_manifold
    if edge_manifold:
        # Half-edge s of face f starts at corner 3 f + s and ends at the next. The corners that an edge joins lie in one fan.
        corner = np.arange(len(start)).reshape(-1, 3)
        low, high = corner.ravel(), np.roll(corner, -1, axis=1).ravel()
        low, high = np.where(start < end, low, high), np.where(start < end, high, low)
        pairs = np.argsort(edge, kind="stable").reshape(-1, 2)
        a, b = np.concatenate([low[pairs], high[pairs]]).T
        num_fans, _ = connected_components(
            coo_array((np.ones(len(a), np.int8), (a, b)), shape=(len(low), len(low))), directed=False
        )
        vertex_manifold = bool(num_fans == len(np.unique(faces)))
    return WatertightReport(edge_manifold and vertex_manifold and oriented, edge_manifold, vertex_manifold, oriented)


def warm_up() -> None:
    """Compiles the kernels of reading, hygiene, remesh and its quality; call once before forking workers, which share the cache."""
    from unipart.geometry.components import PartsConfig, find_parts

    corners = np.array([(x, y, z) for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    box = np.array([(a, b, c) for a, b, c, _ in quads] + [(a, c, d) for a, _, c, d in quads])
    sheet = np.array([(0.0, 2.0, 0.0), (1.0, 2.0, 0.0), (1.0, 2.0, 1.0), (0.0, 2.0, 1.0)])
    rod = corners * (1.0, 0.001, 0.001) + np.array([0.0, 1.5, 0.5])
    vertices = np.concatenate([corners, sheet, corners + np.array([2.0, 0.0, 0.0]), rod])
    faces = np.concatenate([box, np.array([(8, 9, 10), (8, 10, 11)]), box[:-1] + 12, box + 20])
    parted = find_parts(vertices, faces, np.zeros(len(faces), np.int32), ("warm-up",), PartsConfig())
    remesh(parted.mesh, parted.component_of_face, parted.open_component, RemeshConfig(resolution=32))
    count_crossings(corners, box, corners)
    clip_ears(sheet[:, ::2].copy(), 0.0)

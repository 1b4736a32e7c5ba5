"""Hygiene and part labels: a triangle soup becomes a clean mesh whose connected components are its parts.

Vertices are welded inside each node only: parts of different nodes often touch exactly and must not fuse.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unipart.config import Config
from unipart.errors import Reject
from unipart.geometry._contacts import count_contacts, merge_small_groups
from unipart.geometry._hash import edge_table, label_components, twin_table, weld
from unipart.geometry._provenance import component_volumes
from unipart.geometry.mesh import Mesh, Similarity

_FLAT_FACE = 1e-10
"""A face is flat when twice its area is below this share of its longest edge squared (about)."""
_VANISHING = 1e-4
"""Nodes smaller than this share of the box collapse under welding."""
_SAME_PLACE = 1e-9
"""Vertices within this share of the extent are at the same place, but for the rounding of the transforms."""


class PartsConfig(Config):
    """How parts are found, and which objects are refused."""

    min_parts: int = Field(default=2, ge=1)
    """Objects with fewer parts are refused: they teach nothing about parts."""
    max_parts: int = Field(default=50, ge=1)
    """Objects with more parts are refused (Sec. 4.1 of the paper)."""
    min_faces: int = Field(default=4, ge=1)
    """Objects with fewer faces are refused."""
    max_components: int = Field(default=4096, ge=1)
    """Objects with more connected components are refused before small ones are merged."""
    weld_tolerance: float = Field(default=2e-5, gt=0.0, lt=1e-2)
    """Vertices on open edges of a node within this share of the object's extent are one; parts fuse from about 1e-3 on."""
    connectivity: Literal["vertex", "edge"] = "vertex"
    """What joins faces to components: a shared vertex, or a shared edge."""
    merge_small: bool = True
    """Merge components below `min_area_fraction` into the neighbour that they touch most."""
    min_area_fraction: float = Field(default=0.01, ge=0.0, lt=1.0)
    """Share of the total area below which a component is small."""
    adjacency_resolution: int = Field(default=128, ge=16, le=512)
    """Voxels along the longest side for the test which components touch."""
    min_rest_extent: float = Field(default=0.02, ge=0.0, lt=1.0)
    """Objects whose components fit in this share of the box, all but the largest, are refused: a chair on a huge floor."""
    double_sided_fraction: float = Field(default=0.9, gt=0.5, le=1.0)
    """A component with this share of its area in opposite face pairs is a double-sided sheet: one copy of each pair stays."""


@dataclass(frozen=True)
class PartRecord:
    """A part, in GCS.

    Attributes:
        part_id: 0..N-1.
        name: name of the node with most of its area.
        area: surface area.
        volume: signed volume, meaningful where watertight_original.
        box_low: lower corner of the bounding box.
        box_high: upper corner.
        num_faces: faces after cleaning.
        watertight_original: every component of the part was closed.
    """

    part_id: int
    name: str
    area: float
    volume: float
    box_low: tuple[float, float, float]
    box_high: tuple[float, float, float]
    num_faces: int
    watertight_original: bool


@dataclass(frozen=True)
class PartedMesh:
    """A welded, cleaned, oriented mesh in GCS with part labels.

    Attributes:
        mesh: vertices float64, faces int64, part_of_face int32 0..N-1.
        component_of_face: connected component per face [F] int32, finer than the parts.
        open_component: whether a component has holes [num_components].
        source_face: index into the input's faces [F] int64.
        to_gcs: maps file units to GCS.
        parts: one record per part, in the order of their ids.
        stats: counts of what was cleaned.
    """

    mesh: Mesh
    component_of_face: NDArray[np.int32]
    open_component: NDArray[np.bool_]
    source_face: NDArray[np.int64]
    to_gcs: Similarity
    parts: tuple[PartRecord, ...]
    stats: dict[str, int | float]


@dataclass(frozen=True)
class _Components:
    """Connected components.

    Attributes:
        of_face: component per face [F].
        node: node per component [C].
        area: [C].
        low: lower corner of the bounding box [C 3].
        high: upper corner [C 3].
    """

    of_face: NDArray[np.int32]
    node: NDArray[np.int32]
    area: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def find_parts(
    vertices: NDArray[Any],
    faces: NDArray[Any],
    node_of_face: NDArray[Any],
    node_names: tuple[str, ...],
    config: PartsConfig | None = None,
) -> PartedMesh:
    """Cleans a mesh and labels its parts; part ids ascend with the centroid's (y, x, z).

    Args:
        vertices: positions in file units [V 3].
        faces: vertex indices [F 3].
        node_of_face: node per face [F]; welding never joins two nodes.
        node_names: name per node.
        config: limits and tolerances.

    Raises:
        Reject: ``no_faces``, ``non_finite_vertices``, ``degenerate_geometry``, ``too_few_faces``, ``extreme_part_scale``,
            ``single_component``, ``too_many_parts``.
    """
    config = config or PartsConfig()
    soup, to_gcs, kept = _normalised(vertices, faces, node_of_face)
    node = np.ascontiguousarray(node_of_face, dtype=np.int32)[kept]
    mesh, welded_kept, stats = _weld_nodes(soup, node, config.weld_tolerance)
    kept, node = kept[welded_kept], node[welded_kept]
    stats["dropped_faces"] = len(faces) - len(kept)

    keys = mesh.faces if config.connectivity == "vertex" else edge_table(mesh.faces).of_half_edge
    component, count = label_components(keys.astype(np.int32), int(keys.max()) + 1)
    stats["num_components_raw"] = int(count)
    if count > config.max_components:
        raise Reject("too_many_parts", f"{count} connected components, at most {config.max_components} are taken")
    single = _single_copies(mesh, component, config, stats)
    single &= ~_repeated_components(mesh, component, config, stats)[component]
    component, count = label_components(keys[single].astype(np.int32), int(keys.max()) + 1)
    mesh, kept, node = Mesh(mesh.vertices, mesh.faces[single]), kept[single], node[single]
    if len(kept) < config.min_faces:
        raise Reject("too_few_faces", f"{len(kept)} faces after cleaning, at least {config.min_faces} are needed")

    mesh, is_open = _oriented(mesh, component, int(count), stats)
    components = _measure(mesh, component, node)
    _check_scale(components.low, components.high, config.min_rest_extent)
    part_of_component = _parts_of_components(mesh, components, config, stats)
    part = part_of_component[component]
    num_parts = int(part_of_component.max()) + 1
    if num_parts < config.min_parts:
        raise Reject(
            "single_component", f"{num_parts} part(s) from {count} connected component(s), at least {config.min_parts} needed"
        )
    if num_parts > config.max_parts:
        raise Reject("too_many_parts", f"{num_parts} parts, at most {config.max_parts} are taken")

    used, renumbered = np.unique(mesh.faces, return_inverse=True)
    refit = Similarity.to_unit_box(mesh.vertices[used])
    clean = Mesh(refit.apply(mesh.vertices[used]), renumbered.reshape(-1, 3).astype(np.int64), part)
    records = _records(clean, part, is_open[component], node, node_names)
    return PartedMesh(clean, component, is_open, kept, to_gcs.then(refit), records, stats)


def _normalised(
    vertices: NDArray[Any], faces: NDArray[Any], node_of_face: NDArray[Any]
) -> tuple[Mesh, Similarity, NDArray[np.int64]]:
    """Maps the used vertices to GCS; returns the mesh without its flat faces, the map, and the indices of the faces that stay."""
    if len(faces) == 0:
        raise Reject("no_faces", "the file holds no triangle")
    points = np.asarray(vertices, dtype=np.float64)
    faces = np.ascontiguousarray(faces, dtype=np.int64)
    used = np.unique(faces)
    if not np.isfinite(points[used]).all():
        raise Reject(
            "non_finite_vertices", f"{int((~np.isfinite(points[used]).all(axis=1)).sum())} used vertices hold NaN or infinity"
        )
    _check_node_scale(points, faces, node_of_face)
    solid = np.flatnonzero(~_are_flat(points, faces))
    if len(solid) == 0:
        raise Reject("degenerate_geometry", "no face has an area")
    to_gcs = Similarity.to_unit_box(points[faces[solid].ravel()])
    return Mesh(to_gcs.apply(np.where(np.isfinite(points), points, 0.0)), faces[solid]), to_gcs, solid


def _are_flat(points: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tells which faces have no area; each is measured in units of its own longest edge, so no scale over- or underflows."""
    a, b, c = (points[faces[:, side]] for side in range(3))
    longest = np.maximum(np.abs(b - a), np.abs(c - a)).max(axis=1)[:, None]
    longest[longest == 0] = 1.0
    return np.linalg.norm(np.cross((b - a) / longest, (c - a) / longest), axis=1) <= _FLAT_FACE


def _check_node_scale(points: NDArray[np.float64], faces: NDArray[np.int64], node_of_face: NDArray[Any]) -> None:
    """Refuses a scene of which all nodes but one would vanish (before welding makes them)."""
    nodes, node = np.unique(node_of_face, return_inverse=True)
    low, high = np.full((len(nodes), 3), np.inf), np.full((len(nodes), 3), -np.inf)
    np.minimum.at(low, np.repeat(node, 3), points[faces.ravel()])
    np.maximum.at(high, np.repeat(node, 3), points[faces.ravel()])
    sized = (high > low).any(axis=1)
    _check_scale(low[sized], high[sized], _VANISHING)


def _check_scale(low: NDArray[np.float64], high: NDArray[np.float64], least: float) -> None:
    """Refuses boxes [C 3] that, but for the largest, fit together in the share `least` of the whole."""
    if len(low) < 2:
        return
    rest = np.arange(len(low)) != np.argmax((high - low).max(axis=1))
    share = (high[rest].max(axis=0) - low[rest].min(axis=0)).max() / (high.max(axis=0) - low.min(axis=0)).max()
    if share < least:
        raise Reject("extreme_part_scale", f"all parts but the largest fit in {share:.2g} of the object's extent")


def _weld_nodes(mesh: Mesh, node: NDArray[np.int32], tolerance: float) -> tuple[Mesh, NDArray[np.int64], dict[str, int | float]]:
    """Joins near vertices of the same node and drops the faces that collapse; returns the indices of the faces that stay.

    Vertices at the same place are joined first. What is closed then needs no more: only vertices on edges still open are joined
    within the tolerance, so that closed parts a hair's breadth apart stay two.
    """
    # A vertex used by two nodes splits: welding looks at (vertex, node) pairs.
    pair = mesh.faces * (int(node.max()) + 1) + node[:, None]
    pairs, corner = np.unique(pair, return_inverse=True)
    owner = (pairs % (int(node.max()) + 1)).astype(np.int32)
    points = np.ascontiguousarray(mesh.vertices[pairs // (int(node.max()) + 1)])
    extent = float((points.max(axis=0) - points.min(axis=0)).max())
    places, joined = weld(points, owner, _SAME_PLACE * extent)
    faces = joined[corner.reshape(-1, 3)]
    loose = _on_open_edges(faces)
    near, target = weld(points[places[loose]], owner[places[loose]], tolerance * extent)
    final = np.arange(len(places))
    final[loose] = loose[near[target]]
    representatives, final = np.unique(final, return_inverse=True)
    faces = final[faces]
    kept = np.flatnonzero((faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0]))
    if len(kept) == 0:
        raise Reject("degenerate_geometry", "every face collapses when near vertices are welded")
    stats: dict[str, int | float] = {"welded_vertices": len(points) - len(representatives)}
    return Mesh(points[places[representatives]], np.ascontiguousarray(faces[kept])), kept, stats


def _on_open_edges(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the vertices on edges of a single triangle, however often and in whatever orientation that triangle is there."""
    solid = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    single = np.ascontiguousarray(solid[twin_table(solid).first == np.arange(len(solid))])
    edges = edge_table(single)
    open_sides = (edges.num_faces == 1)[edges.of_half_edge]
    return np.unique(np.concatenate([single[open_sides], np.roll(single, -1, axis=1)[open_sides]]))


def _single_copies(
    mesh: Mesh, component: NDArray[np.int32], config: PartsConfig, stats: dict[str, int | float]
) -> NDArray[np.bool_]:
    """Tells which faces stay when repeats go.

    Of faces on the same vertices one per orientation stays: an opposite pair is an inner wall, and dropping half of it would open
    the mesh. Only in a component made of such pairs (each face drawn for both sides) one of each pair stays.
    """
    twins = twin_table(mesh.faces)
    area = mesh.face_areas()
    paired = (twins.num[twins.first] > 0).all(axis=1)
    share = np.bincount(component, area * paired) / np.bincount(component, area)
    double_sided = share > config.double_sided_fraction
    first_of_orientation = np.zeros(len(component), dtype=np.bool_)
    first_of_orientation[np.unique(2 * twins.first.astype(np.int64) + twins.parity, return_index=True)[1]] = True
    single = np.where(double_sided[component], twins.first == np.arange(len(component)), first_of_orientation)
    stats["double_sided_components"] = int(double_sided.sum())
    stats["duplicate_faces"] = int((~single).sum())
    return single


def _repeated_components(
    mesh: Mesh, component: NDArray[np.int32], config: PartsConfig, stats: dict[str, int | float]
) -> NDArray[np.bool_]:
    """Tells which components repeat an earlier one: the same shape in the same place."""
    from scipy.spatial import KDTree

    measured = _measure(mesh, component, np.zeros(len(component), np.int32))
    tolerance = 4 * config.weld_tolerance
    boxes = np.concatenate([measured.low, measured.high], axis=1)
    repeated = np.zeros(len(boxes), dtype=np.bool_)
    for a, b in sorted(KDTree(boxes).query_pairs(tolerance)):
        if repeated[a] or abs(measured.area[a] - measured.area[b]) > 1e-3 * measured.area[a]:
            continue
        first, second = (mesh.vertices[np.unique(mesh.faces[component == c])] for c in (a, b))
        gaps = np.concatenate([KDTree(first).query(second)[0], KDTree(second).query(first)[0]])
        repeated[b] |= bool(gaps.max() <= tolerance)
    stats["repeated_components"] = int(repeated.sum())
    return repeated


def _oriented(
    mesh: Mesh, component: NDArray[np.int32], count: int, stats: dict[str, int | float]
) -> tuple[Mesh, NDArray[np.bool_]]:
    """Makes the winding of faces consistent and closed components point outward; returns the mesh and which components are open."""
    faces = mesh.faces.copy()
    edges = edge_table(faces)
    inconsistent = (edges.num_faces == 2) & (edges.net != 0)
    mixed = np.zeros(count, dtype=np.bool_)
    mixed[component[inconsistent[edges.of_half_edge].any(axis=1)]] = True
    if mixed.any():
        import igl

        chosen = mixed[component]
        consistent, patch = igl.bfs_orient(np.ascontiguousarray(faces[chosen]))
        faces[chosen] = igl.orient_outward(mesh.vertices, consistent, np.ascontiguousarray(np.reshape(patch, (-1, 1))))[0]
        edges = edge_table(faces)
    is_open = np.zeros(count, dtype=np.bool_)
    is_open[component[(edges.net != 0)[edges.of_half_edge].any(axis=1)]] = True
    inward = ~is_open & (component_volumes(mesh.vertices, faces.astype(np.int32), component, count) < 0)
    faces[inward[component]] = faces[inward[component]][:, ::-1]
    stats |= {
        "reoriented_components": int(mixed.sum()),
        "flipped_components": int(inward.sum()),
        "open_components": int(is_open.sum()),
    }
    return Mesh(mesh.vertices, faces), is_open


def _measure(mesh: Mesh, component: NDArray[np.int32], node: NDArray[np.int32]) -> _Components:
    """Returns node, area and box of every component."""
    count = int(component.max()) + 1
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, np.repeat(component, 3), mesh.vertices[mesh.faces.ravel()])
    np.maximum.at(high, np.repeat(component, 3), mesh.vertices[mesh.faces.ravel()])
    node_of_component = np.zeros(count, dtype=np.int32)
    node_of_component[component] = node
    area = np.bincount(component, mesh.face_areas(), minlength=count).astype(np.float64)
    return _Components(component, node_of_component, area, low, high)


def _parts_of_components(
    mesh: Mesh, components: _Components, config: PartsConfig, stats: dict[str, int | float]
) -> NDArray[np.int32]:
    """Returns the part id per component [C]: small ones merged, ids in the order of the parts' centroids (y, x, z)."""
    group = np.arange(len(components.area))
    small = components.area < config.min_area_fraction * components.area.sum()
    if config.merge_small and small.any() and not small.all():
        contacts = count_contacts(mesh, components.of_face, small, config.adjacency_resolution)
        group = merge_small_groups(components.area, components.node, contacts, config.min_area_fraction * components.area.sum())
    groups, group = np.unique(group, return_inverse=True)
    stats["merged_components"] = len(components.area) - len(groups)
    area = mesh.face_areas()
    weighted = mesh.vertices[mesh.faces].mean(axis=1) * area[:, None]
    part = group[components.of_face]
    centroid = np.stack([np.bincount(part, weighted[:, axis]) for axis in range(3)], axis=1) / np.bincount(part, area)[:, None]
    # Rounded, so that noise does not reorder the parts of a symmetric object.
    x, y, z = np.round(centroid, 3).T
    rank = np.zeros(len(groups), dtype=np.int32)
    rank[np.lexsort((z, x, y))] = np.arange(len(groups))
    return rank[group]


def _records(
    mesh: Mesh, part: NDArray[np.int32], open_face: NDArray[np.bool_], node: NDArray[np.int32], node_names: tuple[str, ...]
) -> tuple[PartRecord, ...]:
    areas = mesh.face_areas()
    volumes = component_volumes(mesh.vertices, mesh.faces.astype(np.int32), part, mesh.num_parts)
    records = []
    for part_id in range(mesh.num_parts):
        chosen = part == part_id
        points = mesh.vertices[mesh.faces[chosen].ravel()]
        low, high = (tuple(float(value) for value in corner) for corner in (points.min(axis=0), points.max(axis=0)))
        records.append(
            PartRecord(
                part_id=part_id,
                name=node_names[int(np.argmax(np.bincount(node[chosen], areas[chosen])))],
                area=float(areas[chosen].sum()),
                volume=float(volumes[part_id]),
                box_low=(low[0], low[1], low[2]),
                box_high=(high[0], high[1], high[2]),
                num_faces=int(chosen.sum()),
                watertight_original=not open_face[chosen].any(),
            )
        )
    return tuple(records)

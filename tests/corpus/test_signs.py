"""Signs on the open components of every real object: the propagated ones against the whole grid."""

import igl
import numpy as np
import pytest

from unipart.errors import Reject
from unipart.geometry import _bits, _scan, _winding
from unipart.geometry._caps import boundary_edges
from unipart.geometry.components import PartsConfig, find_parts
from unipart.geometry.load import SUFFIXES, load_scene
from unipart.rng import derive

NUM_CELLS = 72
SOURCES = ("aws-small-house", "bullet3", "kaykit", "pmndrs-market", "quaternius", "")
"""Prefixes of folder names; the last one stands for all other folders."""


def open_surface(path):
    """Returns vertices in GCS and the faces of the open components, or None."""
    scene = load_scene(path)
    config = PartsConfig(min_parts=1, max_parts=10_000)
    try:
        parted = find_parts(scene.vertices, scene.faces, scene.node_of_face, scene.node_names, config)
    except Reject:
        return None
    faces = parted.mesh.faces[parted.open_component[parted.component_of_face]]
    return (parted.mesh.vertices, np.ascontiguousarray(faces)) if len(faces) else None


def check(path) -> bool:
    surface = open_surface(path)
    if surface is None:
        return False
    vertices, faces = surface
    grid = _scan.Grid(NUM_CELLS, 2 / (NUM_CELLS - 6), np.full(3, -1 - 3.414 * 2 / (NUM_CELLS - 6)))
    lines = _scan.find_crossings(vertices, faces, grid)
    bits = _bits.empty_bits(NUM_CELLS)
    membrane, num_queries = _winding.find_membrane(vertices, faces, lines, grid, 2.0)
    _winding.fill_inside(lines[0], membrane, True, NUM_CELLS, bits)
    corners = np.arange((NUM_CELLS + 1) ** 3)
    inside = _bits.are_set(bits, NUM_CELLS, corners)
    assert num_queries < len(corners) / 2, path.name

    # Every corner of the grid, none left to the propagation.
    boundary = boundary_edges(faces)
    dense = _winding._exact_winding(vertices, boundary, lines[0], grid)(corners)
    clear = np.abs(np.abs(dense) - 0.5) > 0.01
    np.testing.assert_array_equal(inside[clear], np.abs(dense[clear]) > 0.5, err_msg=path.name)

    # And the evaluation itself against libigl's sum over the faces, away from them.
    tree = igl.FastWindingNumberBVH()
    tree.init(vertices, faces, order=2)
    chosen = derive(1, path.name).integers(len(corners), size=2000)
    points = _winding._clear_of_faces(chosen, lines, NUM_CELLS, np.float32(0.05))
    off = np.abs(np.asarray(tree.winding_number(grid.to_mesh(points), 3.0)) - dense[chosen])
    assert np.percentile(off, 99) < 0.01, path.name
    return True


@pytest.mark.corpus
@pytest.mark.parametrize("prefix", SOURCES)
def test_the_propagation_misses_nothing(corpus, prefix):
    folders = [folder for folder in sorted((corpus / "dev").iterdir()) if folder.is_dir()]
    folders = [folder for folder in folders if next(known for known in SOURCES if folder.name.startswith(known)) == prefix]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES]
    checked = sum(check(path) for path in files)
    assert checked > 0

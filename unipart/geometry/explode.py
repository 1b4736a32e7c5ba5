"""Exploded views: parts moved apart so that each can be seen."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unipart.geometry.mesh import Mesh


def explode(meshes: Sequence[Mesh], factor: float = 0.6) -> list[Mesh]:
    """Moves every part away from the centre of the object.

    Args:
        meshes: the parts in one frame; an empty mesh stays as it is.
        factor: shift as a multiple of the way from the object's box centre to the part's box centre; 0 leaves all in place.

    Returns:
        The moved parts, in the same order, not scaled.
    """
    boxes = [_box(mesh) if len(mesh.vertices) else None for mesh in meshes]
    present = [box for box in boxes if box is not None]
    if not present:
        return list(meshes)
    low = np.min([box[0] for box in present], axis=0)
    high = np.max([box[1] for box in present], axis=0)
    moved = []
    for mesh, box in zip(meshes, boxes, strict=True):
        shift = factor * ((box[0] + box[1]) - (low + high)) / 2 if box is not None else 0.0
        moved.append(replace(mesh, vertices=(mesh.vertices + shift).astype(mesh.vertices.dtype)))
    return moved


def _box(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    return mesh.vertices.min(axis=0).astype(np.float64), mesh.vertices.max(axis=0).astype(np.float64)

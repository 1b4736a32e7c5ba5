"""From a part's two meshes to its place in the object (section 3.3, part decoding and composition)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unipart.data.schema import BundlePart
from unipart.geometry.mesh import Mesh, Similarity
from unipart.geometry.spaces import PlacementConfig, place_part


@dataclass(frozen=True)
class DecodedPart:
    """What the models say about one part.

    Attributes:
        part_id: 0..N-1.
        gcs_mesh: decoded in the object's frame; None when its field had no surface.
        ncs_mesh: decoded in the part's own frame; None when its field had no surface, or the model has no such space.
        anchors: [n 3] predicted anchors of the part's latents (GCS).
        predicted_iou: of the part's mask.
    """

    part_id: int
    gcs_mesh: Mesh | None
    ncs_mesh: Mesh | None
    anchors: NDArray[np.float32]
    predicted_iou: float


@dataclass(frozen=True)
class Composed:
    """A part in its place, or the reason why there is none.

    Attributes:
        part: None when no mesh could be decoded or placed.
        fall_back: empty when all went by the book.
    """

    part: BundlePart | None
    fall_back: str


def compose_part(decoded: DecodedPart, config: PlacementConfig, rng: np.random.Generator, has_ncs: bool = True) -> Composed:
    """Puts the detailed NCS mesh where its GCS twin says.

    Without an NCS mesh the GCS mesh is the part; without a GCS mesh the box of the part's anchors says where the NCS mesh goes.

    Args:
        decoded: the part.
        config: how scale and position are measured.
        rng: draws the samples of the robust placements.
        has_ncs: the part model generates NCS at all.
    """
    gcs, ncs, name = decoded.gcs_mesh, decoded.ncs_mesh, f"part {decoded.part_id}"
    if ncs is None:
        if gcs is None:
            return Composed(None, f"{name}: no surface in any space, the part is missing")
        note = f"{name}: no surface in NCS, the coarser GCS mesh is used" if has_ncs else ""
        return Composed(_part(decoded, gcs, Similarity.identity(), "gcs"), note)
    placement, source, note = _placement(decoded, ncs, config, rng)
    if placement is None:
        return Composed(None, f"{name}: {note}, the part is missing")
    return Composed(_part(decoded, ncs.transformed(placement), placement, source), f"{name}: {note}" if note else "")


def _placement(
    decoded: DecodedPart, ncs: Mesh, config: PlacementConfig, rng: np.random.Generator
) -> tuple[Similarity | None, str, str]:
    """Returns the map ncs -> gcs, what it was measured on, and a note when that was not the GCS mesh."""
    if decoded.gcs_mesh is not None:
        return place_part(ncs, decoded.gcs_mesh, config, rng), "ncs", ""
    low, high = (bound(decoded.anchors, axis=0) for bound in (np.min, np.max))
    if not np.max(high - low) > 0:
        return None, "", "no surface in GCS and its anchors span no box"
    box = Similarity.to_unit_box(decoded.anchors)
    return Similarity.to_unit_box(ncs.vertices).then(box.invert()), "anchors", "no surface in GCS, placed by the box of its anchors"


def _part(decoded: DecodedPart, mesh: Mesh, placement: Similarity, source: str) -> BundlePart:
    return BundlePart(
        part_id=decoded.part_id,
        mesh=mesh,
        gcs_mesh=decoded.gcs_mesh,
        placement=placement,
        source=source,
        num_latents=len(decoded.anchors),
        predicted_iou=decoded.predicted_iou,
    )

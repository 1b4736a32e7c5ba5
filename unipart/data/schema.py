"""What the artefacts hold: the training sample, the bundle, and the columns of the Parquet tables.

Frames: everything "gcs" is in the object's frame (bounding box centred at 0, max half extent 0.9999); "ncs" is a part's own
frame, normalised the same way. Field values are signed distances in the units of their own frame, positive inside, untruncated.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.geometry.mesh import Mesh, Similarity

SCHEMA_VERSION = 1
"""Version of the shard layout; a reader refuses another one."""

QUERY_KINDS = ("volume", "near", "sharp")
"""Names of the codes in `Sample.query_kind`."""

CATALOG_COLUMNS = {
    "asset_id": "string",
    "source": "string",
    "uri": "string",
    "location": "string",
    "sha256": "string",
    "licence": "string",
    "bytes": "int64",
    "version": "string",
    "split": "string",
}
"""A1: a row per asset found. `asset_id` is the first 20 hex digits of the sha256 of the asset's content (and of its format, where
the same content lies under names of several); `uri` names it within its source, `location` is where this run reads it (it goes into
no artefact, so a moved folder gives the same bytes), `version` changes when the asset does (size and time, or an ETag): unchanged
ones are not read again."""

LEDGER_COLUMNS = {
    "asset_id": "string",
    "source": "string",
    "uri": "string",
    "sha256": "string",
    "licence": "string",
    "split": "string",
    "state": "string",
    "stage": "string",
    "reason": "string",
    "message": "string",
    "traceback": "string",
    "num_parts": "int32",
    "seconds": "float64",
    "stage_seconds": "string",
    "quality": "string",
    "peak_rss_mb": "float64",
    "artefact_sha256": "string",
    "artefact_bytes": "int64",
}
"""One row per processed asset; `state` is kept, rejected or failed; `stage_seconds` is JSON {stage: CPU seconds},
`quality` is JSON {figure: value} of the whole's surface (`unipart.geometry.watertight`, `unipart.geometry.quality`).
The quarantine table is the rows of the ledger that are not kept."""


@dataclass(frozen=True)
class SurfaceSamples:
    """Points on a surface.

    Attributes:
        points: positions [C 3] float32.
        normals: unit normals [C 3] float32, pointing out.
        labels: part id per point [C] int16.
    """

    points: NDArray[np.float32]
    normals: NDArray[np.float32]
    labels: NDArray[np.int16]


@dataclass(frozen=True)
class PartSamples:
    """Per-part samples, stacked over the N parts of an object.

    Attributes:
        to_ncs: N maps gcs -> ncs.
        points: surface points in NCS [N Cp 3] float32 (`to_ncs[i].invert()` takes them to GCS).
        normals: [N Cp 3] float32; the same in both frames.
        gcs_queries, gcs_field: [N Qp 3], [N Qp] float32: locations round the part in GCS and the part's signed distance in GCS.
        ncs_queries, ncs_field: the same in NCS.
    """

    to_ncs: tuple[Similarity, ...]
    points: NDArray[np.float32]
    normals: NDArray[np.float32]
    gcs_queries: NDArray[np.float32]
    gcs_field: NDArray[np.float32]
    ncs_queries: NDArray[np.float32]
    ncs_field: NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """One condition render.

    Attributes:
        rgba: [H W 4] uint8, straight alpha.
        part_ids: [H W] uint8: 0 background, part id + 1; None when not stored or not asked for.
        normals: [H W 3] uint8: GCS normal * 127.5 + 127.5; None when not stored or not asked for.
        camera: JSON form of `unipart.geometry.render.Camera`.
    """

    rgba: NDArray[np.uint8]
    part_ids: NDArray[np.uint8] | None
    normals: NDArray[np.uint8] | None
    camera: dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One training record; groups of arrays that were not asked for are None or empty.

    Attributes:
        sample_id: the asset id.
        meta: JSON: source, uri, sha256, licence, split, num_parts, part_names, parts (a dict per part, the fields of
            `unipart.geometry.components.PartRecord`), normalisation (`Similarity` dict: file units -> gcs), cleaning (counts),
            remesh (quality figures: whole, and a list for the parts), warnings, render_backend, config_digest (of the stages that
            made the sample), code_version, schema_version.
        surface: uniform points of the whole [C ...].
        sharp: points on sharp edges of the whole; may have zero rows.
        queries, field: [Q 3], [Q] float32 of the whole in GCS.
        query_kind: [Q] uint8, an index into QUERY_KINDS.
        parts: per-part samples.
        mesh: the watertight whole mesh in GCS with part_of_face.
        part_meshes: the watertight mesh of each part in its NCS.
        views: condition renders.
    """

    sample_id: str
    meta: dict[str, Any]
    surface: SurfaceSamples | None = None
    sharp: SurfaceSamples | None = None
    queries: NDArray[np.float32] | None = None
    field: NDArray[np.float32] | None = None
    query_kind: NDArray[np.uint8] | None = None
    parts: PartSamples | None = None
    mesh: Mesh | None = None
    part_meshes: tuple[Mesh, ...] = ()
    views: tuple[View, ...] = ()

    @property
    def num_parts(self) -> int:
        """Number of parts N."""
        return int(self.meta["num_parts"])

    def parts_in_gcs(self) -> list[Mesh]:
        """Returns the watertight mesh of each part in its place, with what the other parts hide of it.

        Raises:
            ValueError: the sample was read without its meshes or without its parts.
        """
        if self.parts is None or len(self.part_meshes) != self.num_parts:
            raise ValueError(f"sample {self.sample_id} was read without its parts or meshes")
        return [mesh.transformed(to_ncs.invert()) for mesh, to_ncs in zip(self.part_meshes, self.parts.to_ncs, strict=True)]


@dataclass(frozen=True)
class BundlePart:
    """One generated part.

    Attributes:
        part_id: 0..N-1; the GLB node is called ``part_000`` and so on.
        mesh: the composed mesh in GCS.
        gcs_mesh: the mesh decoded in GCS, or None when it was empty.
        placement: ncs -> gcs map that put the NCS mesh into place.
        source: "ncs" when the mesh is the placed NCS mesh, "gcs" when it is the GCS twin, "anchors" when the box came from anchors.
        num_latents: how many latents of the whole object belong to the part.
        predicted_iou: what D_seg's IoU head said of the mask.
    """

    part_id: int
    mesh: Mesh
    gcs_mesh: Mesh | None
    placement: Similarity
    source: str
    num_latents: int
    predicted_iou: float


@dataclass(frozen=True)
class Bundle:
    """A generated object (artefact A4).

    Attributes:
        object_id: name of the bundle.
        parts: the parts; the object is their union.
        whole: the whole mesh decoded from Z_0, or None when it was empty.
        anchors: [L 3] float32 predicted anchor per latent (GCS).
        labels: [L] int16 part id per latent.
        masks: [N L] bool.
        image: the prepared condition image [H W 3] uint8, or None.
        info: JSON: seed, guidance, steps, checkpoint digests, image_encoder, timings {step: seconds}, fall_backs [text],
            warnings [text], and where known sample_id (ground truth in the shards).
    """

    object_id: str
    parts: tuple[BundlePart, ...]
    whole: Mesh | None
    anchors: NDArray[np.float32]
    labels: NDArray[np.int16]
    masks: NDArray[np.bool_]
    image: NDArray[np.uint8] | None = None
    info: dict[str, Any] = field(default_factory=dict)


SCORE_COLUMNS = {"method": "string", "object": "string", "metric": "string", "value": "float64"}
"""A5: scores in long form."""

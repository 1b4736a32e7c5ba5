"""Remesh: the watertight surface of the whole in GCS and of each part in its own NCS (model.md §3.4 steps 4-6)."""

import numpy as np

from pipelines.stages.base import Row, Stage
from unipart.config import Config
from unipart.geometry.components import PartedMesh
from unipart.geometry.mesh import Similarity
from unipart.geometry.spaces import fit_ncs
from unipart.geometry.watertight import RemeshConfig, Remeshed, remesh


class RemeshStageConfig(Config):
    """Resolution and limits of the watertight surfaces."""

    whole: RemeshConfig = RemeshConfig()
    """The whole object."""
    part: RemeshConfig = RemeshConfig()
    """Each part, in its own frame."""


class RemeshStage(Stage):
    """The expensive half of the curation; its results are kept between runs."""

    name = "remesh"
    version = 4
    reads = ("parted",)
    writes = ("whole", "part_surfaces", "to_ncs")
    config: RemeshStageConfig

    def __call__(self, row: Row) -> Row:
        """Returns the `Remeshed` whole, a `Remeshed` per part, and the maps gcs -> ncs of the parts."""
        parted: PartedMesh = row["parted"]
        whole = remesh(parted.mesh, parted.component_of_face, parted.open_component, self.config.whole)
        surfaces, maps = [], []
        for part_id in range(parted.mesh.num_parts):
            surface, to_ncs = self._remesh_part(parted, part_id)
            surfaces.append(surface)
            maps.append(to_ncs)
        return {"whole": whole, "part_surfaces": tuple(surfaces), "to_ncs": tuple(maps)}

    def _remesh_part(self, parted: PartedMesh, part_id: int) -> tuple[Remeshed, Similarity]:
        assert parted.mesh.part_of_face is not None
        part = parted.mesh.part(part_id)
        to_ncs = fit_ncs(part)
        own = parted.component_of_face[parted.mesh.part_of_face == part_id]
        components, component_of_face = np.unique(own, return_inverse=True)
        surface = remesh(
            part.transformed(to_ncs), component_of_face.reshape(-1), parted.open_component[components], self.config.part
        )
        return surface, to_ncs

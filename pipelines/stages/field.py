"""Field: where to ask for the signed distance and its value there, for the whole and for each part in both spaces."""

import numpy as np
from numpy.typing import NDArray

from pipelines.stages.base import Row, Stage
from unipart.config import Config
from unipart.data.schema import PartSamples
from unipart.geometry.field import QueryConfig, SignedDistance, draw_queries
from unipart.geometry.mesh import Similarity
from unipart.geometry.quality import measure_quality
from unipart.geometry.surface import SurfaceDraw
from unipart.geometry.watertight import Remeshed
from unipart.rng import derive


class FieldConfig(Config):
    """How many queries are stored; training draws from them."""

    whole: QueryConfig = QueryConfig()
    """Of the whole, in GCS."""
    part: QueryConfig = QueryConfig(volume=8_192, near=16_384, sharp=8_192)
    """Of each part, once in GCS and once in NCS."""


class FieldStage(Stage):
    """Evaluates signed distances, positive inside, untruncated, each in the units of its own frame."""

    name = "field"
    reads = ("asset_id", "parted", "whole", "part_surfaces", "to_ncs", "surface", "sharp", "part_draws", "part_sharp")
    writes = ("queries", "field", "query_kind", "parts", "quality")
    draws = True
    version = 2
    config: FieldConfig

    def __call__(self, row: Row) -> Row:
        """Returns the queries of the whole, the `PartSamples`, and how well the whole's surface stands for the original."""
        rng = derive(self.seed, row["asset_id"], self.name, "whole")
        queries, kind = draw_queries(row["surface"].points, row["sharp"].points, self.config.whole, rng)
        whole: Remeshed = row["whole"]
        distance = SignedDistance(whole.mesh)
        field, _ = distance(queries)
        # Here and not where the surface is made, because the tree for it is at hand.
        rng = derive(self.seed, row["asset_id"], self.name, "quality")
        parted = row["parted"]
        is_closed = ~parted.open_component[parted.component_of_face]
        quality = measure_quality(parted.mesh, whole.mesh, distance, float(whole.stats["voxel"]), rng, is_closed)
        parts = [
            self._part_queries(row["asset_id"], part_id, *columns)
            for part_id, columns in enumerate(
                zip(row["part_surfaces"], row["to_ncs"], row["part_draws"], row["part_sharp"], strict=True)
            )
        ]
        gcs_queries, gcs_field, ncs_queries, ncs_field = (np.stack(arrays) for arrays in zip(*parts, strict=True))
        samples = PartSamples(
            to_ncs=row["to_ncs"],
            points=np.stack([draw.points for draw in row["part_draws"]]),
            normals=np.stack([draw.normals for draw in row["part_draws"]]),
            gcs_queries=gcs_queries,
            gcs_field=gcs_field,
            ncs_queries=ncs_queries,
            ncs_field=ncs_field,
        )
        return {"queries": queries, "field": field, "query_kind": kind, "parts": samples, "quality": quality}

    def _part_queries(
        self, asset_id: str, part_id: int, surface: Remeshed, to_ncs: Similarity, draw: SurfaceDraw, sharp: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Returns GCS queries and field, NCS queries and field; the part's surface is the same one in both spaces."""
        distance = SignedDistance(surface.mesh)
        to_gcs = to_ncs.invert()
        rng = derive(self.seed, asset_id, self.name, "part", part_id)
        gcs_queries, _ = draw_queries(to_gcs.apply(draw.points), to_gcs.apply(sharp), self.config.part, rng)
        ncs_queries, _ = draw_queries(draw.points, sharp, self.config.part, rng)
        gcs_field = distance(to_ncs.apply(gcs_queries))[0] / np.float32(to_ncs.scale)
        return gcs_queries, gcs_field, ncs_queries, distance(ncs_queries)[0]

"""Points: surface points of the whole (with part ids), on its sharp edges, and of each part in its NCS."""

import numpy as np
from pydantic import Field

from pipelines.stages.base import Row, Stage
from unipart.config import Config
from unipart.data.schema import SurfaceSamples
from unipart.geometry.mesh import Mesh
from unipart.geometry.surface import SurfaceDraw, sample_edges, sample_surface
from unipart.geometry.watertight import Remeshed
from unipart.rng import derive


class PointsConfig(Config):
    """How many points are stored; training draws from them."""

    surface: int = Field(default=200_000, ge=1)
    """Uniform points of the whole."""
    sharp: int = Field(default=124_928, ge=0)
    """Points on sharp edges of the whole, where it has any."""
    part_surface: int = Field(default=20_480, ge=1)
    """Uniform points of each part."""


class PointsStage(Stage):
    """Samples the watertight surfaces."""

    name = "points"
    reads = ("asset_id", "whole", "part_surfaces")
    writes = ("surface", "sharp", "part_draws", "part_sharp")
    draws = True
    config: PointsConfig

    def __call__(self, row: Row) -> Row:
        """Returns `SurfaceSamples` of the whole, and per part the `SurfaceDraw` and points on sharp edges (NCS)."""
        whole: Remeshed = row["whole"]
        asset_id = row["asset_id"]
        draw = sample_surface(whole.mesh, self.config.surface, derive(self.seed, asset_id, self.name, "surface"))
        edges = self._edge_points(whole, self.config.sharp, derive(self.seed, asset_id, self.name, "sharp"))
        part_draws, part_sharp = [], []
        for part_id, part in enumerate(row["part_surfaces"]):
            rng = derive(self.seed, asset_id, self.name, "part", part_id)
            part_draws.append(sample_surface(part.mesh, self.config.part_surface, rng))
            part_sharp.append(self._edge_points(part, self.config.part_surface, rng).points)
        return {
            "surface": _labelled(draw, whole.mesh),
            "sharp": _labelled(edges, whole.mesh),
            "part_draws": tuple(part_draws),
            "part_sharp": tuple(part_sharp),
        }

    def _edge_points(self, surface: Remeshed, count: int, rng: np.random.Generator) -> SurfaceDraw:
        if len(surface.sharp_edges) == 0:
            nothing = np.zeros((0, 3), np.float32)
            return SurfaceDraw(nothing, nothing, np.zeros(0, np.int32))
        return sample_edges(surface.mesh, surface.sharp_edges, count, rng)


def _labelled(draw: SurfaceDraw, mesh: Mesh) -> SurfaceSamples:
    assert mesh.part_of_face is not None
    return SurfaceSamples(draw.points, draw.normals, mesh.part_of_face[draw.faces].astype(np.int16))

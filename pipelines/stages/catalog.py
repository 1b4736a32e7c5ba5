"""The stages by name, in the order in which a curation runs them."""

from pipelines.stages.base import Stage
from pipelines.stages.fetch import FetchStage
from pipelines.stages.field import FieldStage
from pipelines.stages.parts import PartsStage
from pipelines.stages.points import PointsStage
from pipelines.stages.remesh import RemeshStage
from pipelines.stages.render import RenderStage

STAGES: dict[str, type[Stage]] = {
    stage.name: stage for stage in (FetchStage, PartsStage, RemeshStage, PointsStage, FieldStage, RenderStage)
}

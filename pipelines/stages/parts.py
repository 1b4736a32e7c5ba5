"""Parts: scene -> welded, cleaned, normalised mesh with a part label per face."""

from pipelines.stages.base import Row, Stage
from unipart.geometry.components import PartsConfig, find_parts


class PartsStage(Stage):
    """Finds the parts of an object by connectivity."""

    name = "parts"
    reads = ("scene",)
    writes = ("parted",)
    version = 2
    config: PartsConfig

    def __call__(self, row: Row) -> Row:
        """Returns the `PartedMesh`."""
        scene = row["scene"]
        return {"parted": find_parts(scene.vertices, scene.faces, scene.node_of_face, scene.node_names, self.config)}

"""Parts: scene -> welded, cleaned, normalised mesh with a part label per face."""

from pipelines.stages.base import Row, Stage
from unipart.errors import Reject
from unipart.geometry.components import PartsConfig, find_parts


class PartsStage(Stage):
    """Finds the parts of an object by connectivity."""

    name = "parts"
    reads = ("scene",)
    writes = ("parted",)
    version = 2
    config: PartsConfig

    def __call__(self, row: Row) -> Row:
        """Returns the `PartedMesh`.

        Raises:
            Reject: ``too_many_parts``, before anything is welded, or as `find_parts`.
        """
        scene, most = row["scene"], self.config.max_components
        if len(scene.node_names) > most:  # no component is of two nodes
            raise Reject("too_many_parts", f"{len(scene.node_names)} nodes with faces, at most {most} components are taken")
        return {"parted": find_parts(scene.vertices, scene.faces, scene.node_of_face, scene.node_names, self.config)}

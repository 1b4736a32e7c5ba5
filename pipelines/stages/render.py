"""Render: condition views of the textured object, with part ids and normals per pixel."""

from pipelines.stages.base import Row, Stage
from unipart.data.schema import View
from unipart.errors import Reject
from unipart.geometry.render import RenderConfig, Renderer, bounding_radius, cameras, from_scene
from unipart.rng import derive


class RenderStage(Stage):
    """Draws the source mesh with its own materials, not the remeshed one."""

    name = "render"
    reads = ("asset_id", "scene", "parted")
    writes = ("views", "render_backend")
    draws = True
    config: RenderConfig

    def __call__(self, row: Row) -> Row:
        """Returns the `View`s and the name of the renderer's backend.

        Raises:
            Reject: ``invisible`` when the materials leave every view empty.
        """
        mesh = from_scene(row["scene"], row["parted"])
        renderer = Renderer(mesh, self.config.backend)
        views = []
        rng = derive(self.seed, row["asset_id"], self.name)
        # The sphere that just holds the object, so that a flat or slender one does not fill a corner of its picture.
        for camera in cameras(self.config.cameras, rng, bounding_radius(mesh.vertices)):
            image = renderer.render(camera, self.config.size, self.config.supersample, maps=self.config.maps)
            views.append(View(image.rgba, image.part_ids, image.normals, camera.to_dict()))
        if not any(view.rgba[..., 3].any() for view in views):
            raise Reject("invisible", "every view is empty: the materials are transparent all over")
        return {"views": tuple(views), "render_backend": renderer.backend}

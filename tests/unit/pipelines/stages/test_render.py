"""The render stage keeps no object that nobody sees."""

import dataclasses

import pytest

from pipelines.stages.render import RenderStage
from unipart.errors import Reject
from unipart.geometry.components import find_parts
from unipart.geometry.glb import GlbNode, write_glb
from unipart.geometry.load import load_scene_bytes
from unipart.geometry.render import CameraConfig, RenderConfig
from unipart.geometry.solids import box, moved


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_an_object_that_no_view_shows_is_refused(alpha):
    nodes = [GlbNode("low", box(1, 1, 1)), GlbNode("high", moved(box(1, 1, 1), y=2.0))]
    scene = load_scene_bytes(write_glb(nodes), ".glb")
    glass = dataclasses.replace(scene.materials[0], base_color=(1.0, 1.0, 1.0, alpha), alpha_mode="BLEND")
    scene = dataclasses.replace(scene, materials=(glass,) * len(scene.materials))
    parted = find_parts(scene.vertices, scene.faces, scene.node_of_face, scene.node_names)
    stage = RenderStage(RenderConfig(size=16, cameras=CameraConfig(views=2)))
    row = {"asset_id": "a", "scene": scene, "parted": parted}
    if alpha:
        assert len(stage(row)["views"]) == 2
    else:
        with pytest.raises(Reject, match="invisible"):
            stage(row)

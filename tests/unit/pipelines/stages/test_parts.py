"""The parts stage refuses early what `find_parts` would refuse late."""

import pytest

from pipelines.stages import parts
from unipart.errors import Reject
from unipart.geometry.components import PartsConfig
from unipart.geometry.glb import GlbNode, write_glb
from unipart.geometry.load import load_scene_bytes
from unipart.geometry.solids import box


def test_too_many_nodes_are_refused_before_they_are_welded(monkeypatch):
    scene = load_scene_bytes(write_glb([GlbNode(str(i), box(1, 1, 1)) for i in range(4)]), ".glb")
    monkeypatch.setattr(parts, "find_parts", lambda *_: "parted")
    assert parts.PartsStage(PartsConfig(max_components=4))({"scene": scene}) == {"parted": "parted"}
    with pytest.raises(Reject, match="too_many_parts: 4 nodes"):
        parts.PartsStage(PartsConfig(max_components=3))({"scene": scene})

"""The viewer file: self-contained, and its packed geometry is the mesh. How it draws is checked in a browser where there is one."""

import base64
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from unipart.geometry.mesh import Mesh
from unipart.report.viewer import ViewerPart, write_viewer

CUBE = Mesh(
    np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]),
    np.array(
        [
            [0, 1, 3],
            [0, 3, 2],
            [4, 6, 7],
            [4, 7, 5],
            [0, 4, 5],
            [0, 5, 1],
            [2, 3, 7],
            [2, 7, 6],
            [0, 2, 6],
            [0, 6, 4],
            [1, 5, 7],
            [1, 7, 3],
        ]
    ),
)
EMPTY = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))


def parts():
    moved = Mesh(CUBE.vertices * 0.3 + [0.8, 0, 0], CUBE.faces)
    return [
        ViewerPart("seat </script>", CUBE, (1.0, 0.0, 0.0)),
        ViewerPart("arm", moved, (0.0, 0.0, 1.0)),
        ViewerPart("none", EMPTY, (0, 1, 0)),
    ]


def scene_of(text):
    return json.loads(re.search(r'<script id="scene" type="application/json">(.*?)</script>', text, re.S).group(1))


def unpack(part):
    def array(name, dtype):
        return np.frombuffer(base64.b64decode(part[name]), dtype)

    position = array("position", "<u2").reshape(-1, 4)[:, :3] / 65535 * part["size"] + part["low"]
    return position, array("normal", np.int8).reshape(-1, 4)[:, :3] / 127, array("index", "<u4").reshape(-1, 3)


def test_geometry_survives_packing(tmp_path):
    scene = scene_of(write_viewer(tmp_path / "v.html", parts(), "chair").read_text())
    assert [part["name"] for part in scene["parts"]] == ["seat </script>", "arm", "none"]
    for packed, part in zip(scene["parts"][:2], parts()[:2], strict=True):
        position, normal, index = unpack(packed)
        assert len(position) == 24  # a cube has three normals a corner
        np.testing.assert_allclose(position[index], part.mesh.vertices[part.mesh.faces], atol=2e-5)
        np.testing.assert_allclose(normal[index[:, 0]], part.mesh.face_normals(), atol=0.01)
    assert scene["parts"][2]["index"] == ""


def test_the_file_asks_for_nothing_and_escapes(tmp_path):
    text = write_viewer(tmp_path / "v.html", parts(), "a <b>", np.zeros((4, 4, 3), np.uint8)).read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|@import|url\(", text)
    assert "a &lt;b&gt;" in text
    assert text.count("</script>") == 2
    assert 'id="condition" src="data:image/png' in text
    assert "$" not in re.sub(r'<script id="scene".*?</script>', "", text, flags=re.S)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here to draw the page")
def test_a_browser_draws_the_parts(tmp_path):
    page, picture = write_viewer(tmp_path / "v.html", parts(), "chair"), tmp_path / "v.png"
    flags = "--headless --no-sandbox --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader --no-first-run "
    flags += "--disable-background-networking --disable-component-update --disable-sync --disable-quic"
    subprocess.run(
        [
            "chromium",
            *flags.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={picture}",
            "--window-size=800,600",
            "--virtual-time-budget=8000",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)[100:500, 100:500]
    red = (pixels[..., 0] > 100) & (pixels[..., 1] < 80) & (pixels[..., 2] < 80)
    blue = (pixels[..., 2] > 100) & (pixels[..., 0] < 80) & (pixels[..., 1] < 80)
    assert red.mean() > 0.05
    assert blue.mean() > 0.002

"""An interactive viewer of an object's parts as one HTML file: opens from disk, from any server and in MLflow's artefact pane."""

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.data.schema import Bundle
from unipart.geometry._crease import crease_normals
from unipart.geometry.mesh import Mesh
from unipart.geometry.render import palette
from unipart.report.html import TEMPLATES, image_uri


@dataclass(frozen=True)
class ViewerPart:
    """One entry of the part list.

    Attributes:
        name: shown in the list.
        mesh: in the frame shared by all parts (GCS).
        color: sRGB 0..1.
    """

    name: str
    mesh: Mesh
    color: tuple[float, float, float]


def bundle_parts(bundle: Bundle) -> list[ViewerPart]:
    """Returns the viewer's parts of a bundle, in the palette's colours by part id."""
    colors = palette(len(bundle.parts))
    return [
        ViewerPart(f"part {part.part_id:03d}", part.mesh, (float(r), float(g), float(b)))
        for part, (r, g, b) in zip(bundle.parts, colors, strict=True)
    ]


def write_viewer(
    path: str | Path, parts: Sequence[ViewerPart], title: str, condition_image: NDArray[np.uint8] | None = None
) -> Path:
    """Writes the viewer and returns its path; ``body[data-ready]`` becomes "1" once the first frame is drawn.

    Args:
        path: of the HTML file.
        parts: what to show; parts without faces are listed but draw nothing.
        title: heading.
        condition_image: [H W 3 or 4] uint8, shown small beside the title.
    """
    scene = {"title": title, "parts": [_pack(part) for part in parts]}
    picture = (
        f'<img id="condition" src="{image_uri(condition_image)}" alt="condition image">' if condition_image is not None else ""
    )
    template = Template((TEMPLATES / "viewer.html").read_text(encoding="utf-8"))
    # "</" would end the script element early
    data = json.dumps(scene, separators=(",", ":")).replace("</", "<\\/")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(template.substitute(title=html.escape(title), condition=picture, scene=data), encoding="utf-8")
    return path


def _pack(part: ViewerPart) -> dict[str, Any]:
    """Returns a part as JSON: 16-bit positions inside its box, 8-bit normals, 32-bit indices, all base64.

    A corner becomes a vertex of its own only where its crease normal differs, so flat faces stay flat and smooth ones stay small.
    """
    color = [round(float(value), 4) for value in part.color]
    if len(part.mesh.faces) == 0:
        return {"name": part.name, "color": color, "low": [0, 0, 0], "size": [0, 0, 0], "position": "", "normal": "", "index": ""}
    vertices = np.asarray(part.mesh.vertices, np.float64)
    faces = np.asarray(part.mesh.faces, np.int64)
    normals = np.round(crease_normals(vertices, faces, np.zeros(len(faces), np.int64)).reshape(-1, 3) * 127).astype(np.int64)
    key = faces.ravel() << 24 | (normals[:, 0] + 128) << 16 | (normals[:, 1] + 128) << 8 | (normals[:, 2] + 128)
    unique, index = np.unique(key, return_inverse=True)
    codes = np.stack([unique >> 16 & 255, unique >> 8 & 255, unique & 255, np.full(len(unique), 128)], axis=1) - 128
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    size = np.maximum(high - low, 1e-12)
    position = np.round((vertices[unique >> 24] - low) / size * 65535).astype("<u2")
    position = np.concatenate([position, np.zeros((len(position), 1), "<u2")], axis=1)
    return {
        "name": part.name,
        "color": color,
        "low": low.tolist(),
        "size": size.tolist(),
        "position": _base64(position),
        "normal": _base64(codes.astype(np.int8)),
        "index": _base64(index.astype("<u4")),
    }


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()

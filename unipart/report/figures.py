"""The pictures of one generated object for the report: its parts, exploded, the whole, and the ground truth beside them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from unipart.data.schema import Bundle, Sample
from unipart.geometry.explode import explode
from unipart.geometry.mesh import Mesh, concatenate
from unipart.geometry.render import palette, render_figure
from unipart.report.html import ObjectEntry


def object_entry(
    bundle: Bundle,
    truth: Sample | None = None,
    scores: dict[str, float] | None = None,
    viewer: str | None = None,
    size: int = 420,
    azimuth: float = 30.0,
) -> ObjectEntry:
    """Returns the report's entry of a bundle.

    Args:
        bundle: what was generated.
        truth: the sample it should look like, with its mesh, or None.
        scores: metric -> value to show.
        viewer: link to the interactive viewer.
        size: pixels of a figure.
        azimuth: view angle in degrees from the front.
    """
    timings = bundle.info.get("timings", {})
    facts: dict[str, Any] = {"parts": len(bundle.parts)}
    if truth is not None:
        facts["true parts"] = truth.num_parts
    if "seed" in bundle.info:
        facts["seed"] = bundle.info["seed"]
    if timings:
        facts["generation time"] = float(sum(timings.values()))
    notes = [*bundle.info.get("fall_backs", []), *bundle.info.get("warnings", [])]
    figures = object_figures(bundle, truth, size, azimuth)
    return ObjectEntry(bundle.object_id, bundle.image, figures, facts, scores or {}, tuple(map(str, notes)), viewer)


def object_figures(
    bundle: Bundle, truth: Sample | None = None, size: int = 420, azimuth: float = 30.0
) -> dict[str, NDArray[np.uint8]]:
    """Returns caption -> RGBA figure: generated parts, exploded, whole model, ground truth.

    Part colours are those of the viewer and the GLB (by part id); a true part has the colour of the generated part it matches.
    """
    parts = [part.mesh for part in bundle.parts]
    true_parts = [] if truth is None or truth.mesh is None else [truth.mesh.part(i) for i in range(truth.mesh.num_parts)]
    colors = palette(len(parts) + len(true_parts))
    figures = {}
    if any(len(mesh.faces) for mesh in parts):
        figures["generated parts"] = _draw(parts, colors, size, azimuth)
        figures["exploded"] = _draw(explode(parts), colors, size, azimuth)
    if bundle.whole is not None and len(bundle.whole.faces):
        plain = Mesh(bundle.whole.vertices, bundle.whole.faces)
        figures["whole model"] = render_figure(plain, azimuth=azimuth, size=size)
    if true_parts:
        figures["ground truth"] = _draw(true_parts, colors[match_parts(true_parts, parts)], size, azimuth)
    return figures


def match_parts(meshes: Sequence[Mesh], others: Sequence[Mesh]) -> NDArray[np.int64]:
    """Returns the index of the other mesh that each mesh corresponds to, one to one; the rest get indices from len(others) on.

    The cost of a pair is the distance of the bounding-box corners, which sees both place and size.
    """
    matched = np.full(len(meshes), -1, np.int64)
    # A true part that lies wholly inside another has no face on the watertight whole, and a generated one may be empty.
    seen, solid = ([index for index, mesh in enumerate(group) if len(mesh.vertices)] for group in (meshes, others))
    if seen and solid:
        mine, theirs = np.stack([_box(meshes[index]) for index in seen]), np.stack([_box(others[index]) for index in solid])
        cost = np.linalg.norm(mine[:, None] - theirs[None], axis=2)
        rows, columns = linear_sum_assignment(cost)
        matched[np.asarray(seen)[rows]] = np.asarray(solid)[columns]
    left = matched < 0
    matched[left] = len(others) + np.arange(left.sum())
    return matched


def _draw(parts: Sequence[Mesh], colors: NDArray[np.float64], size: int, azimuth: float) -> NDArray[np.uint8]:
    return render_figure(concatenate(parts), azimuth=azimuth, size=size, colors=colors)


def _box(mesh: Mesh) -> NDArray[np.float64]:
    return np.concatenate([mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)]).astype(np.float64)

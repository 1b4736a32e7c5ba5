"""Best of four rotations about the up axis: generated objects may face any way (model.md §6.2)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.geometry.mesh import Mesh
from unipart.metrics.shape import (
    Measured,
    MetricsConfig,
    compare,
    draw_seed,
    empty_metrics,
    fallback,
    is_empty,
    measure,
    nearest_tree,
    normalisation,
)

_TURNS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
        [[-1, 0, 0], [0, 1, 0], [0, 0, -1]],
        [[0, 0, -1], [0, 1, 0], [1, 0, 0]],
    ]
)
"""Rotations by 0, 90, 180, 270 degrees about +y."""


def turn(points: NDArray[Any], quarter_turns: int) -> NDArray[Any]:
    """Rotates points [... 3] about +y by quarter turns, counter-clockwise seen from above."""
    return points @ _TURNS[quarter_turns % 4].T.astype(points.dtype)


def best_rotation(prediction: Mesh | None, truth: Mesh, config: MetricsConfig, rng: np.random.Generator) -> dict[str, float]:
    """Compares a prediction with the truth at its best quarter turn.

    Each mesh is normalised (bounding box centre to 0, max half extent to 1). A quarter turn maps a box to a box with the same
    centre and max extent, so normalising after each rotation and before all of them is the same; it is done once.

    Args:
        prediction: a mesh, or None when nothing was generated.
        truth: the true mesh.
        config: the protocol.
        rng: the only source of randomness.

    Returns:
        Every metric at the rotation with the smallest ``cd_l1_sum``; ``rotation`` in degrees; ``best_per_metric:*`` (each metric at
        its own best rotation); ``rot0:*`` (not rotated); ``iou_fallback`` and ``empty`` as in `shape_metrics`.

    Raises:
        ValueError: the truth has no area.
    """
    seed = draw_seed(rng)
    if is_empty(truth):
        raise ValueError("the true mesh has no area")
    if prediction is None or is_empty(prediction):
        return _report([empty_metrics(config)], 0.0, 1.0)
    measured, true = (measure(mesh.transformed(normalisation(mesh, config)), config, seed) for mesh in (prediction, truth))
    scores = [compare(_turned(measured, quarter_turns), true, config) for quarter_turns in range(4)]
    return _report(scores, fallback(measured, true), 0.0)


def _turned(measured: Measured, quarter_turns: int) -> Measured:
    if quarter_turns == 0:
        return measured
    points = turn(measured.points, quarter_turns)
    return Measured(points, nearest_tree(points), measured.voxels.turned(quarter_turns))


def _report(scores: list[dict[str, float]], iou_fallback: float, empty: float) -> dict[str, float]:
    best = min(range(len(scores)), key=lambda quarter_turns: scores[quarter_turns]["cd_l1_sum"])
    report = {**scores[best], "rotation": 90.0 * best, "iou_fallback": iou_fallback, "empty": empty}
    for name in scores[0]:
        pick = min if name.startswith("cd_") else max
        report[f"best_per_metric:{name}"] = pick(score[name] for score in scores)
    return report | {f"rot0:{name}": value for name, value in scores[0].items()}

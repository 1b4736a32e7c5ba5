"""What a prediction is compared with."""

from dataclasses import replace

import numpy as np
import pytest

from jobs.evaluate import Prediction, score_object
from jobs.training.smoke import two_balls
from unipart.geometry.mesh import Mesh
from unipart.metrics.shape import MetricsConfig
from unipart.rng import derive


def test_parts_are_compared_with_complete_ones_not_with_what_can_be_seen_of_them():
    sample = two_balls("object", derive(0, "object"))
    mesh = sample.mesh
    assert mesh is not None
    assert mesh.part_of_face is not None
    low = mesh.vertices[mesh.faces].mean(1)[:, 1]
    hidden = (mesh.part_of_face == 1) & (low > np.median(low[mesh.part_of_face == 1]))  # as if the first ball covered it
    sample = replace(sample, mesh=Mesh(mesh.vertices, mesh.faces[~hidden], mesh.part_of_face[~hidden]))
    config = MetricsConfig(num_points=2000, part_points=1000, normalise=False)
    perfect = score_object(Prediction("object", tuple(sample.parts_in_gcs())), sample, config)
    assert perfect["part_scale_error"] == pytest.approx(0, abs=1e-6)
    assert perfect["part_iou64"] == pytest.approx(1)
    assert perfect["part_count_error"] == 0


def test_a_sample_without_its_meshes_cannot_tell_its_parts():
    sample = two_balls("object", derive(0, "object"))
    for lacking in (replace(sample, part_meshes=()), replace(sample, parts=None)):
        with pytest.raises(ValueError, match="without its parts"):
            lacking.parts_in_gcs()

"""True objects as the VAE encodes them for validation."""

import pytest
import torch

from jobs.recipes import find_recipe
from jobs.training.loop import Place
from jobs.training.objectives import VaeObjective
from jobs.training.shapes import Context, Shapes
from jobs.training.smoke import two_balls
from unipart.data.schema import Sample
from unipart.geometry.mesh import Mesh
from unipart.rng import derive

PLACE = Place(torch.device("cpu"))


@pytest.fixture
def sample() -> Sample:
    return two_balls("object", derive(0, "object"))


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return Shapes(VaeObjective(find_recipe("vae", "ci"), PLACE).vae, Context(0, 16, PLACE))


def test_the_draws_hang_on_object_and_number_alone(shapes: Shapes, sample: Sample):
    with torch.no_grad():
        first, again, other = (shapes.encode(sample, number) for number in (0, 0, 1))
    assert torch.equal(first.z, again.z)
    assert torch.equal(first.token_labels, again.token_labels)
    assert not torch.equal(first.anchors, other.anchors)


def test_an_anchor_has_the_label_of_its_ball(shapes: Shapes, sample: Sample):
    with torch.no_grad():
        truth = shapes.encode(sample)
    assert ((truth.anchors[:, 1] > 0) == (truth.token_labels == 1)).all()


def test_a_part_is_compared_as_it_stands(shapes: Shapes, sample: Sample):
    part = sample.part_meshes[0]
    assert shapes.compare_part(part, part, sample) == {"cd_l1_sum": 0.0, "f@.05": 1.0}
    larger = Mesh(1.5 * part.vertices, part.faces)
    assert shapes.compare_part(larger, part, sample)["cd_l1_sum"] == pytest.approx(1.0, abs=0.05)
    assert shapes.compare_part(None, part, sample)["f@.05"] == 0

import numpy as np
import pytest
import torch

from jobs.recipes.sizes import tier
from jobs.recipes.vae import ci
from jobs.training.batches import PointShapes, anchors_with_points, make_draw, part_chances
from jobs.training.frozen import FrozenEncoder
from jobs.training.smoke import two_balls
from unipart.models.geom_seg_vae import GeomSegVAE, label_values
from unipart.nn.fps import farthest_point_sampling
from unipart.rng import derive

CONFIG = ci(tier("ci"))


def batch_of(item: dict) -> dict:
    return {name: torch.as_tensor(value)[None] for name, value in item.items() if name != "sample_id"} | {
        "sample_id": [item["sample_id"]]
    }


@pytest.mark.parametrize("part_fraction", [0.0, 1.0])
def test_anchors_sampled_with_the_points_are_those_that_the_encoder_would_sample(part_fraction):
    config = CONFIG.replace(part_fraction=part_fraction)
    sample = two_balls("balls", derive(0, "balls"))
    plain = make_draw(config, None, None)(sample, derive(1, "draw"))
    given = make_draw(config, None, None, "cuda")(sample, derive(1, "draw"))
    assert plain.keys() ^ given.keys() == {"anchor_index"}
    np.testing.assert_array_equal(plain["points"], given["points"])
    np.testing.assert_array_equal(plain["queries"], given["queries"])
    points, index = torch.from_numpy(given["points"])[None], torch.from_numpy(given["anchor_index"])[None]
    assert torch.equal(index, farthest_point_sampling(points, CONFIG.model.num_latents, index[:, 0]))


def test_the_encoder_takes_given_anchors():
    torch.manual_seed(0)
    vae = GeomSegVAE(CONFIG.model).eval()
    item = batch_of(make_draw(CONFIG, None, None, "cuda")(two_balls("balls", derive(0, "balls")), derive(1, "draw")))
    values = label_values(item["labels"], item["num_parts"], CONFIG.model.label_encoding, None)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    encoding = vae.encode(item["points"], item["normals"], values, generator, item["anchor_index"])
    assert torch.equal(encoding.anchor_index, item["anchor_index"])
    assert torch.equal(generator.get_state(), state)
    other = vae.encode(item["points"], item["normals"], values, generator)
    assert not torch.equal(other.anchor_index, encoding.anchor_index)


def test_fixed_draws_have_fixed_anchors_and_a_part_the_same_in_both_frames():
    torch.manual_seed(0)
    sample = two_balls("balls", derive(0, "balls"))
    shapes = PointShapes(CONFIG.model, 0, 2, anchors=True)
    whole = shapes.whole(sample, 1, derive(1, "any"))
    again = shapes.whole(sample, 1, derive(2, "other"))
    np.testing.assert_array_equal(whole["anchor_index"], again["anchor_index"])
    part = shapes.part(sample, 0, 1, whole, derive(1, "any"))
    encoder = FrozenEncoder(GeomSegVAE(CONFIG.model).eval(), cache=True, seed=0)
    batch = batch_of({"sample_id": sample.sample_id, **whole, "part": 0, **part})
    gcs, ncs = (encoder.part(batch, space, torch.default_generator) for space in ("gcs", "ncs"))
    index = part["part_anchor_index"]
    np.testing.assert_array_equal(gcs.anchors[0].numpy(), part["gcs_points"][index].astype(np.float32))
    np.testing.assert_array_equal(ncs.anchors[0].numpy(), part["ncs_points"][index].astype(np.float32))
    object_itself = shapes.part(sample, -1, 1, whole, derive(1, "any"))
    np.testing.assert_array_equal(object_itself["part_anchor_index"], whole["anchor_index"])


def test_on_a_processor_the_encoder_samples_for_itself():
    assert not anchors_with_points("cpu")
    assert "anchor_index" not in PointShapes(CONFIG.model, 0, 0).whole(two_balls("a", derive(0, "a")), -1, derive(0, "b"))


def test_parts_are_drawn_by_the_root_of_their_area():
    np.testing.assert_allclose(part_chances(np.array([4.0, 1.0, 0.0])), [2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(part_chances(np.array([0.0, 2.0])), [0, 1])

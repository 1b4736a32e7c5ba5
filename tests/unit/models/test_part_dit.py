from typing import Any

import pytest
import torch
from torch import Tensor

from unipart.errors import UserError
from unipart.losses.flow import flow_loss
from unipart.models.part_dit import DualLatents, PartDiT, PartDiTConfig
from unipart.models.whole_dit import WholeDiT, WholeDiTConfig
from unipart.sampling.path import interpolate, true_velocity

SIZES = {"latent_width": 8, "hidden": 64, "depth": 5, "num_heads": 2, "context_width": 16, "moe_layers": 1, "num_experts": 2}
CI = PartDiTConfig(**SIZES)
L = 10


def make(**changes: Any) -> PartDiT:
    torch.manual_seed(0)
    return PartDiT(CI.replace(**changes)).eval()


def wake(model: PartDiT) -> PartDiT:
    """Random weights where training starts from zeros, so that conditions show."""
    for block in model.stack.blocks:
        torch.nn.init.normal_(block.attn2_2.out_proj.weight, std=0.1)
    return model


def dual(batch: int = 2) -> DualLatents:
    return DualLatents(torch.randn(batch, L, 8), torch.randn(batch, L, 8))


def raw_conditions(batch: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z0, valid = torch.randn(batch, L, 8), torch.arange(L).expand(batch, L) < 4
    return torch.randn(batch, 5, 16), z0, z0 * valid[..., None], valid


def swap(x: DualLatents) -> DualLatents:
    assert x.ncs is not None
    return DualLatents(x.ncs, x.gcs)


def assert_same(a: DualLatents, b: DualLatents) -> None:
    torch.testing.assert_close(a.stacked(), b.stacked(), atol=1e-5, rtol=1e-5)


def test_paper_size_is_the_whole_model_plus_a_quarter_billion():
    with torch.device("meta"):
        model = PartDiT(PartDiTConfig())
    extra = sum(p.numel() for p in model.parameters()) - 3_050_758_720
    assert extra == pytest.approx(0.2644e9, rel=1e-3)


def test_gate_6_starts_as_the_whole_model_in_each_space():
    torch.manual_seed(1)
    whole, part = WholeDiT(WholeDiTConfig(**SIZES)).eval(), make()
    part.init_from_whole(whole)
    torch.nn.init.zeros_(part.space_embedding)
    image, z0, xi, valid = raw_conditions()
    z, t = torch.randn(2, L, 8), torch.rand(2)
    velocity = part(DualLatents(z, z), t, part.conditions(image, z0, xi, valid))
    expected = whole(z, t, image)
    torch.testing.assert_close(velocity.gcs, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(velocity.ncs, expected, atol=1e-5, rtol=1e-5)


def test_gate_6_conditions_are_silent_at_first_but_have_a_gradient():
    model, x, t = make(), dual(), torch.rand(2)
    image, *first = raw_conditions()
    _, *second = raw_conditions()
    out = model(x, t, model.conditions(image, *first))
    torch.testing.assert_close(out.stacked(), model(x, t, model.conditions(image, *second)).stacked())
    out.stacked().square().sum().backward()
    assert all(block.attn2_2.out_proj.weight.grad.abs().sum() > 0 for block in model.stack.blocks)


def test_channel_layout_also_starts_as_the_whole_model():
    torch.manual_seed(1)
    whole, part = WholeDiT(WholeDiTConfig(**SIZES)).eval(), make(space_layout="channels", space_embed_level="off")
    part.init_from_whole(whole)
    image, z0, xi, valid = raw_conditions()
    z, t = torch.randn(2, L, 8), torch.rand(2)
    velocity = part(DualLatents(z, z), t, part.conditions(image, z0, xi, valid))
    torch.testing.assert_close(velocity.stacked(), whole(z, t, image)[:, None].expand(-1, 2, -1, -1), atol=1e-5, rtol=1e-5)


def test_init_from_another_size_names_the_fields():
    with pytest.raises(UserError, match=r"hidden 32 / 64"):
        make().init_from_whole(WholeDiT(WholeDiTConfig(**{**SIZES, "hidden": 32})))


def test_gate_7_permuting_latents_permutes_the_velocity():
    model, x, t = wake(make()), dual(), torch.rand(2)
    image, z0, xi, valid = raw_conditions()
    expected = model(x, t, model.conditions(image, z0, xi, valid)).stacked()
    order, other = torch.randperm(L), torch.randperm(L)
    shuffled = DualLatents.from_stacked(x.stacked()[:, :, order])
    conditions = model.conditions(image, z0[:, other], xi[:, order], valid[:, order])
    torch.testing.assert_close(model(shuffled, t, conditions).stacked(), expected[:, :, order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("level", ["latent", "hidden"])
def test_probe_swapping_space_embeddings_swaps_roles(level: str):
    model, x, t = wake(make(space_embed_level=level)), dual(), torch.rand(2)
    conditions = model.conditions(*raw_conditions())
    before = model(x, t, conditions)
    with torch.no_grad():
        model.space_embedding.copy_(torch.randn_like(model.space_embedding))
    changed = model(x, t, conditions)
    assert (changed.gcs - before.gcs).abs().max() > 1e-3
    with torch.no_grad():
        model.space_embedding.copy_(model.space_embedding.flip(0))
    assert_same(swap(model(swap(x), t, conditions)), changed)


def test_without_a_space_embedding_the_spaces_cannot_be_told_apart():
    model, x, t = wake(make(space_embed_level="off")), dual(), torch.rand(2)
    conditions = model.conditions(*raw_conditions())
    assert_same(swap(model(swap(x), t, conditions)), model(x, t, conditions))


@pytest.mark.parametrize(("global_layers", "joined"), [("odd", True), ("all", True), ("none", False)])
def test_joint_attention_connects_the_spaces(global_layers: str, joined: bool):
    model, x, t = make(global_layers=global_layers), dual(), torch.rand(2)
    conditions = model.conditions(*raw_conditions())
    other = DualLatents(x.gcs, torch.randn(2, L, 8))
    difference = (model(x, t, conditions).gcs - model(other, t, conditions).gcs).abs().max()
    assert (difference > 1e-4) == joined


def test_local_and_joint_blocks_alternate():
    assert make()._groups_per_block() == (2, 1, 2, 1, 2)
    assert make(global_layers="all")._groups_per_block() == (1,) * 5
    assert make(spaces=("gcs",))._groups_per_block() == (1,) * 5


@pytest.mark.parametrize(
    ("changes", "sees_z0", "sees_xi"),
    [
        ({}, True, True),
        ({"use_z0": False}, False, True),
        ({"use_xi": False}, True, False),
        ({"use_z0": False, "use_xi": False}, False, False),
    ],
)
def test_condition_switches(changes: dict[str, bool], sees_z0: bool, sees_xi: bool):
    model, x, t = make(**changes), dual(), torch.rand(2)
    if sees_z0 or sees_xi:
        wake(model)
    image, z0, xi, valid = raw_conditions()
    base = model(x, t, model.conditions(image, z0, xi, valid)).stacked()
    other_z0 = model(x, t, model.conditions(image, torch.randn_like(z0), xi, valid)).stacked()
    other_xi = model(x, t, model.conditions(image, z0, torch.randn_like(xi), valid)).stacked()
    assert ((base - other_z0).abs().max() > 1e-4) == sees_z0
    assert ((base - other_xi).abs().max() > 1e-4) == sees_xi


def test_padding_content_is_ignored_but_its_place_is_marked():
    model = make()
    _, z0, xi, valid = raw_conditions()
    conditioner = model.latent_conditioner
    assert conditioner is not None
    clean, dirty = conditioner(z0, xi, valid), conditioner(z0, xi + 5.0 * ~valid[..., None], valid)
    torch.testing.assert_close(clean, dirty)
    assert (clean - conditioner(z0, xi, torch.ones_like(valid))).abs().max() > 1e-4


def test_fused_condition_marks_members_in_half_the_tokens():
    model, x, t = wake(make(kv="fused")), dual(), torch.rand(2)
    image, z0, xi, valid = raw_conditions()
    conditions = model.conditions(image, z0, xi, valid)
    assert conditions.latents[0][0].shape[2] == L
    assert wake(make()).conditions(image, z0, xi, valid).latents[0][0].shape[2] == 2 * L
    other = model.conditions(image, z0, xi, ~valid)
    assert (model(x, t, conditions).gcs - model(x, t, other).gcs).abs().max() > 1e-4


def test_one_space_takes_and_gives_gcs_alone():
    model = make(spaces=("gcs",))
    x = DualLatents(torch.randn(2, L, 8), None)
    velocity = model(x, torch.rand(2), model.conditions(*raw_conditions()))
    assert velocity.ncs is None
    assert velocity.gcs.shape == (2, L, 8)
    with pytest.raises(ValueError, match="spaces"):
        model(dual(), torch.rand(2), None)


def test_dropped_samples_equal_the_unconditional_velocity():
    model, x, t = wake(make()), dual(), torch.rand(2)
    conditions = model.conditions(*raw_conditions(), torch.tensor([True, False]))
    velocity, free = model(x, t, conditions), model(x, t, None)
    torch.testing.assert_close(velocity.gcs[0], free.gcs[0], atol=1e-5, rtol=1e-5)
    assert (velocity.gcs[1] - free.gcs[1]).abs().max() > 1e-3


@pytest.mark.parametrize("changes", [{"kv": "fused", "use_z0": False}, {"space_layout": "channels", "space_embed_level": "hidden"}])
def test_contradicting_switches_are_refused(changes: dict[str, Any]):
    with pytest.raises(UserError):
        CI.replace(**changes)


def test_probe_the_output_follows_the_part_latents():
    """Two parts of one object (same image, same Z_0): after a few steps swapping X_i swaps what the velocity points at."""
    torch.manual_seed(0)
    model = PartDiT(CI.replace(depth=3, moe_layers=0, t_scale=1000.0))
    image, z0 = torch.randn(1, 5, 16).expand(8, -1, -1), torch.randn(1, L, 8).expand(8, -1, -1)
    masks = torch.stack([torch.arange(L) < 5, torch.arange(L) >= 5]).repeat(4, 1)
    data = torch.randn(2, 2, 1, 8).expand(2, 2, L, 8).repeat(4, 1, 1, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)

    def velocity(x: Tensor, t: Tensor, members: Tensor) -> Tensor:
        conditions = model.conditions(image, z0, z0 * members[..., None], members)
        return model(DualLatents.from_stacked(x), t, conditions).stacked()

    for _ in range(100):
        t, noise = torch.rand(8), torch.randn(8, 2, L, 8)
        loss = flow_loss(velocity(interpolate(data, noise, t), t, masks), true_velocity(data, noise))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    noise, t = torch.randn(8, 2, L, 8), torch.ones(8)
    moved = velocity(noise, t, masks) - velocity(noise, t, masks.flip(0))
    assert torch.cosine_similarity(moved.flatten(), (data.flip(0) - data).flatten(), dim=0) > 0.6


def test_conditions_in_point_form_have_the_encoders_width_and_reach_the_output():
    model, x, t = wake(make(cond_form="points", point_width=24)), dual(), torch.rand(2)
    image, valid = torch.randn(2, 5, 16), torch.ones(2, L, dtype=torch.bool)
    whole, part, other = (torch.randn(2, L, 24) for _ in range(3))
    before = model(x, t, model.conditions(image, whole, part, valid)).stacked()
    after = model(x, t, model.conditions(image, whole, other, valid)).stacked()
    assert (after - before).abs().max() > 1e-3


def test_point_form_has_no_members_to_mark():
    with pytest.raises(UserError, match="fused"):
        make(cond_form="points", kv="fused")

"""Counts of parameters, FLOPs and memory against the shapes: model.md §8's table, and blocks counted by hand."""

import pytest
import torch

from jobs.recipes import ablations, find_recipe
from jobs.recipes.sizes import TIERS
from jobs.training.budget import (
    count_flops,
    idle_parameters,
    image_encoder_cost,
    make_budget,
    num_parameters,
)
from jobs.training.config import KINDS
from jobs.training.saved import Saved, measure_saved
from jobs.training.workload import Parents, Workload, make_workload
from unipart.errors import UserError
from unipart.models.image_encoder import Dinov2Encoder, ImageEncoderConfig
from unipart.nn.blocks import CrossBlock, SelfBlock
from unipart.nn.moe import MoE


def saved(load: Workload, batch: int) -> Saved:
    return measure_saved(load.trained, [lambda run=run: run(batch) for run in load.passes.values()], bf16=True)


def parents(tier: str) -> Parents:
    return Parents(find_recipe("vae", tier).model, find_recipe("whole", tier).image_encoder)


@pytest.fixture(scope="module")
def paper():
    return {kind: make_budget(find_recipe(kind, "paper"), parents("paper")) for kind in KINDS}


def test_paper_parameters_are_those_of_the_specification(paper):
    vae = paper["vae"].modules
    assert vae["encoder"] + vae["geometry_decoder"] == 327_746_177
    assert paper["whole"].parameters["trained"] == 3_050_758_720
    assert paper["whole"].parameters["active per token"] == pytest.approx(1.84e9, rel=2e-3)
    assert paper["part"].parameters["trained"] == pytest.approx(3.315e9, rel=2e-4)
    assert paper["part"].parameters["frozen"] == paper["vae"].parameters["total"] + 304_368_640


@pytest.mark.parametrize(
    ("tier", "vae", "whole", "part"),
    [
        ("ci", 0.26e6, 1.7e6, 2.0e6),
        ("mini", 6.4e6, 41e6, 49e6),
        ("small", 44e6, 127e6, 150e6),
        ("base", 142e6, 302e6, 364e6),
        ("large", 327.7e6, 0.83e9, 0.99e9),
        ("paper", 327.7e6, 3.05e9, 3.315e9),
    ],
)
def test_every_tiers_parameters_are_those_of_the_ladder(tier: str, vae: float, whole: float, part: float):
    learnt = {kind: make_workload(find_recipe(kind, tier), parents(tier)).trained for kind in KINDS}
    geometry = num_parameters(learnt["vae"].encoder) + num_parameters(learnt["vae"].geometry_decoder)
    assert geometry == pytest.approx(vae, rel=0.02)
    assert num_parameters(learnt["whole"]["dit"]) == pytest.approx(whole, rel=0.03)
    assert num_parameters(learnt["part"]) == pytest.approx(part, rel=0.03)


def test_paper_flops_are_those_of_the_cost_table(paper):
    tera = 1e12
    vae = paper["vae"].forward
    assert vae["encode"] / tera == pytest.approx(3.19, rel=0.01)
    assert vae["decode"] / tera == pytest.approx(2.75, rel=0.01)
    assert vae["12288 queries"] / tera == pytest.approx(0.48, rel=0.01)
    assert vae["segmentation trunk"] / tera == pytest.approx(0.24, rel=0.01)
    assert vae["16 prompts x 3 rounds"] / tera == pytest.approx(48 * 0.011, rel=0.05)
    assert paper["whole"].forward["whole model"] / tera == pytest.approx(18.2, rel=0.005)
    assert paper["part"].forward["part model"] / tera == pytest.approx(54.8, rel=0.005)
    assert paper["whole"].frozen["image encoder"] / tera == pytest.approx(1.01, rel=0.01)
    assert paper["vae"].step / tera == pytest.approx(21.6, rel=0.01)
    assert paper["whole"].step / tera == pytest.approx(54.6 + 4.2, rel=0.01)
    assert paper["part"].step / tera == pytest.approx(164 + 10.6, rel=0.01)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_self_blocks_flops_equal_the_formula(device: str):
    tokens, width, batch = 48, 64, 2
    with torch.device(device):
        block, x = SelfBlock(width, 4), torch.zeros(batch, tokens, width, requires_grad=True)
    forward, backward = count_flops(lambda: block(x), backward=True)
    linear, attention = batch * 24 * tokens * width**2, batch * 4 * tokens**2 * width
    if device == "cpu":  # attention is a fused kernel there, which the counter does not know
        assert forward in (linear, linear + attention)
    else:
        assert (forward, backward) == (linear + attention, 2 * (linear + attention))


def test_a_cross_blocks_flops_equal_the_formula():
    rows, columns, width, given = 32, 80, 64, 48
    with torch.device("meta"):
        block = CrossBlock(width, given, 4)
        x, context = torch.zeros(1, rows, width, requires_grad=True), torch.zeros(1, columns, given, requires_grad=True)
    expected = 20 * rows * width**2 + 4 * columns * given * width + 4 * rows * columns * width
    assert count_flops(lambda: block(x, context))[0] == expected


@pytest.mark.parametrize(("num_experts", "top_k"), [(8, 2), (4, 1), (2, 2)])
def test_experts_cost_what_a_token_meets_and_no_more(num_experts: int, top_k: int):
    tokens, width = 64, 32
    with torch.device("meta"):
        layer, x = MoE(width, num_experts, top_k), torch.zeros(tokens, width, requires_grad=True)
    forward, backward = count_flops(lambda: layer(x), backward=True)
    gate, bias = 2 * tokens * width * num_experts, 2 * tokens * top_k * num_experts * 5 * width
    expected = (top_k + 1) * 16 * tokens * width**2 + gate + bias
    assert forward == expected
    assert backward == pytest.approx(2 * expected, rel=0.05)
    assert idle_parameters(layer) == (num_experts - top_k) * (8 * width**2 + 5 * width)


def test_the_image_encoders_formula_equals_the_model():
    pytest.importorskip("transformers")
    config = ImageEncoderConfig(kind="dinov2", size=518, width=1024, layers=24, num_heads=16)
    with torch.device("meta"):
        encoder = Dinov2Encoder(config)
    assert image_encoder_cost(config)[1] == sum(p.numel() for p in encoder.parameters())


def test_saved_tensors_grow_with_the_batch_and_recomputing_keeps_few():
    load = make_workload(find_recipe("part", "base"), parents("base"))
    one, two = (saved(load, batch) for batch in (1, 2))
    copies = 2 * one.total(False) - two.total(False)
    trained = sum(p.numel() for p in load.trained.parameters())
    assert copies == pytest.approx(2 * trained, rel=0.1), "autocast's bf16 copies: two bytes a weight"
    assert len(one.blocks) == find_recipe("part", "base").model.depth
    # A block's input: tokens of both spaces and their time tokens; bf16 until the first skip's norm, float32 from then on.
    assert one.inputs == (10 * 2 + 7 * 4) * (2 * 1025) * 1024
    assert one.total(True) < 0.3 * one.total(False)


def test_no_attention_matrix_is_counted_as_saved():
    load = make_workload(find_recipe("whole", "paper"), parents("paper"))
    config = find_recipe("whole", "paper").model
    matrix = 2 * config.num_heads * 4097**2
    assert max(saved(load, 1).blocks[:10]) < 6 * matrix


def test_what_is_measured_on_meta_is_what_autograd_keeps_on_a_device():
    config = find_recipe("part", "tiny")
    real, meta = (make_workload(config, parents("tiny"), device) for device in ("cpu", "meta"))
    known = {parameter.data_ptr() for parameter in real.trained.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = real.passes["part model"](2)
    measured = measure_saved(meta.trained, [lambda: meta.passes["part model"](2)], bf16=False)
    assert measured.total(False) == pytest.approx(sum(kept.values()), rel=0.05)
    assert result.requires_grad


def test_memory_lines_follow_the_formula():
    config = find_recipe("part", "base")
    budget = make_budget(config, parents("base"), workers=4)
    trained = budget.parameters["trained"]
    replicated, sharded = budget.memory["replicated"], budget.memory["sharded"]
    assert replicated.micro_batch == config.batch_size // 4
    assert [replicated.lines[name] for name in ("parameters", "gradients", "AdamW states", "weight average")] == [
        4 * trained,
        4 * trained,
        8 * trained,
        4 * trained,
    ]
    assert sharded.lines["AdamW states"] == 2 * trained
    assert sharded.lines["activations"] == replicated.lines["activations"]
    for memory in budget.memory.values():
        assert memory.lines["total"] == sum(size for name, size in memory.lines.items() if name != "total")
    assert budget.memory["replicated, recomputed"].lines["total"] < replicated.lines["total"]


@pytest.mark.parametrize("kind", ["vae", "whole", "part"])
def test_one_gpu_holds_the_largest_training_below_the_papers_size(kind):
    budget = make_budget(find_recipe(kind, "large"), parents("large"))
    assert budget.memory[budget.chosen].lines["total"] < 139 * 2**30


def test_a_batch_that_cannot_be_divided_names_the_flag_that_helps():
    with pytest.raises(UserError) as stop:
        make_budget(find_recipe("part", "paper").replace(accumulate=12), parents("paper"), workers=8)
    assert stop.value.fix == "--accumulate 8"


@pytest.mark.parametrize(
    ("tier", "ablation"),
    [*(("paper", one) for one in ablations.OF_THE_PAPER), *(("small", one) for one in ablations.OUR_OWN)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_ablation_builds_and_the_papers_at_its_size(tier: str, ablation):
    load = make_workload(ablation(TIERS[tier]), parents(tier))
    (_, run), *_ = load.passes.items()
    assert count_flops(lambda: run(1))[0] > {"paper": 1e11, "small": 1e8}[tier]


def test_ablations_cost_what_the_specification_says():
    def tera(ablation) -> float:
        load = make_workload(ablation(TIERS["paper"]), parents("paper"))
        return count_flops(lambda: load.passes["part model"](1))[0] / 1e12

    assert tera(ablations.without_ncs) == pytest.approx(26.8, rel=0.02)
    assert tera(ablations.without_local_attention) == pytest.approx(57.8, rel=0.02)
    assert tera(ablations.fused_conditions) == pytest.approx(48.3, rel=0.02)

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

import unipart.nn.moe as moe_module
from unipart.nn.moe import MoE, _grouped_linear_fused, balance_loss, grouped_linear, row_experts


def make(num_experts: int = 4, top_k: int = 2) -> MoE:
    torch.manual_seed(0)
    return MoE(16, num_experts, top_k)


def reference(moe: MoE, tokens: torch.Tensor) -> torch.Tensor:
    """Every token through every one of its experts, one by one."""
    scores = moe.gate(tokens).softmax(-1)
    rows = []
    for token, probability in zip(tokens, scores, strict=True):
        total = moe.shared(token)
        for expert in probability.topk(moe.top_k).indices:
            hidden = F.gelu(F.linear(token, moe.fc1_weight[expert], moe.fc1_bias[expert]))
            total = total + probability[expert] * F.linear(hidden, moe.fc2_weight[expert], moe.fc2_bias[expert])
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize(("num_experts", "top_k"), [(4, 2), (8, 1), (2, 2)])
def test_grouped_computation_equals_the_token_by_token_reference(num_experts: int, top_k: int):
    moe, x = make(num_experts, top_k), torch.randn(3, 7, 16)
    torch.testing.assert_close(moe(x), reference(moe, x.flatten(0, 1)).view_as(x), atol=1e-5, rtol=1e-5)


def test_gradients_equal_the_reference():
    moe, x = make(), torch.randn(20, 16, requires_grad=True)
    parameters = [x, *moe.parameters()]
    ours = torch.autograd.grad(moe(x).square().sum(), parameters)
    theirs = torch.autograd.grad(reference(moe, x).square().sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_fused_product_equals_the_loop_in_bfloat16():
    if not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no grouped_mm")
    counts = torch.tensor([3, 0, 8, 5])
    x, weight, bias = (torch.randn(*shape).bfloat16() for shape in ((16, 16), (4, 32, 16), (4, 32)))
    expected = grouped_linear(x, weight, bias, counts)
    torch.testing.assert_close(_grouped_linear_fused(x, weight, bias, counts), expected, atol=0.1, rtol=0.05)


def test_gradients_of_the_fused_product_equal_the_loop():
    if not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no grouped_mm")
    counts = torch.tensor([3, 0, 8, 5])
    inputs = [torch.randn(*shape).bfloat16().requires_grad_() for shape in ((16, 16), (4, 32, 16), (4, 32))]
    upstream = torch.randn(16, 32).bfloat16()
    ours = torch.autograd.grad(_grouped_linear_fused(*inputs, counts), inputs, upstream)
    theirs = torch.autograd.grad(grouped_linear(*inputs, counts), inputs, upstream)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("counts", [[3, 0, 8, 5], [0, 0, 4], [7], [0, 1, 0, 1, 0]])
def test_rows_belong_to_the_expert_whose_count_covers_them(counts: list[int]):
    expected = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    member = row_experts(torch.tensor(counts), sum(counts))
    assert member.sum(dim=1).eq(1).all()
    assert member.int().argmax(dim=1).equal(expected)


def test_the_whole_layer_on_the_fused_path_equals_the_loop(monkeypatch: pytest.MonkeyPatch):
    if not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no grouped_mm")
    layer, x = make(num_experts=8).bfloat16(), torch.randn(40, 16).bfloat16()
    expected = layer(x)
    monkeypatch.setattr(moe_module, "grouped_linear", _grouped_linear_fused)
    torch.testing.assert_close(layer(x), expected, atol=0.05, rtol=0.05)


COMPILED = """
import torch
import unipart.nn.moe as moe
moe.grouped_linear = moe._grouped_linear_fused
torch.manual_seed(0)
layer, x = moe.MoE(16, 8).bfloat16(), torch.randn(40, 16).bfloat16()
wanted, traced = ([], [])
for run, kept in ((layer, wanted), (torch.compile(layer, backend="aot_eager", fullgraph=True), traced)):
    given = x.clone().requires_grad_()
    kept += [out := run(given), *torch.autograd.grad(out.float().square().sum(), [given, *layer.parameters()])]
for a, b in zip(wanted, traced, strict=True):
    torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)
"""


@pytest.mark.slow
def test_the_fused_path_compiles_into_one_graph():
    if not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no grouped_mm")
    # In a process of its own: the shape checks of these tests cannot be compiled.
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


def test_nothing_is_read_on_the_host_on_the_fused_path():
    with torch.device("meta"):  # a meta tensor has no values: any read fails
        layer, x = make(num_experts=8), torch.randn(40, 16, requires_grad=True)
        (layer(x).square().sum() + layer.balance_loss).backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_balance_loss_is_one_when_even_and_grows_when_one_expert_takes_all():
    even = torch.full((8, 4), 0.25)
    spread = torch.arange(8).remainder(4)[:, None]
    assert balance_loss(even, spread).item() == pytest.approx(1.0)
    collapsed = torch.nn.functional.one_hot(torch.zeros(8, dtype=torch.long), 4).float()
    assert balance_loss(collapsed, torch.zeros(8, 1, dtype=torch.long)).item() == pytest.approx(4.0)


def test_balance_loss_is_kept_in_training_only_and_reaches_the_gate():
    moe, x = make(), torch.randn(20, 16)
    moe.eval()(x)
    assert moe.balance_loss.item() == 0
    moe.train()(x)
    moe.balance_loss.backward()
    assert moe.gate.weight.grad is not None
    assert moe.gate.weight.grad.abs().sum() > 0


def test_an_expert_may_get_no_tokens():
    moe = make()
    with torch.no_grad():
        moe.gate.weight.zero_()
        moe.gate.weight[0] = 10
        moe.gate.weight[1] = 5
    x = torch.rand(6, 16)
    torch.testing.assert_close(moe(x), reference(moe, x), atol=1e-5, rtol=1e-5)

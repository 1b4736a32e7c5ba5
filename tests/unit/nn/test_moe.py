import pytest
import torch
from torch.nn import functional as F

from unipart.nn.moe import MoE, _grouped_linear_fused, balance_loss, grouped_linear


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

"""The mixture of experts on a GPU: the grouped product never waits for the device."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unipart.nn.moe import MoE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0) or not hasattr(F, "grouped_mm"),
        reason="torch has no grouped kernel here: it needs CUDA, compute capability 9 and grouped_mm",
    ),
]


def layer_and_input() -> tuple[MoE, Tensor]:
    torch.manual_seed(0)
    return MoE(64, 8).cuda().train(), torch.randn(2, 100, 64, device="cuda", requires_grad=True)


def step(layer: MoE, x: Tensor) -> Tensor:
    with torch.autocast("cuda", torch.bfloat16):
        result = layer(x)
    (result.float().square().mean() + 0.01 * layer.balance_loss).backward()
    return result.detach()


def test_a_training_step_in_bfloat16_reads_nothing_on_the_host():
    layer, x = layer_and_input()
    step(layer, x)  # what libraries set up on their first use may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(layer, x)
        with pytest.raises(RuntimeError, match="synchroniz"):  # the alarm is on
            x.sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_grouped_product_equals_the_loop_in_fp32():
    layer, x = layer_and_input()
    ours, gradient = step(layer, x), x.grad
    x.grad = None
    theirs = layer(x)  # no autocast: fp32, hence the loop
    theirs.square().mean().backward()
    assert gradient is not None
    assert x.grad is not None
    # Rounding may send a token to another expert, so not every value agrees.
    assert torch.cosine_similarity(ours.float().flatten(), theirs.detach().flatten(), dim=0) > 0.99
    assert torch.cosine_similarity(gradient.flatten(), x.grad.flatten(), dim=0) > 0.98

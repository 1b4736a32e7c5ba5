import pytest
import torch
from torch import Tensor

from unipart.errors import UserError
from unipart.nn.dit_block import Conditions, DiTBlock, DiTStack, StackConfig, attend, drop_context

CONFIG = StackConfig(hidden=32, depth=5, num_heads=2, context_width=16, moe_layers=1, num_experts=2)


def make_stack(latent_context: bool = False, **changes: int) -> DiTStack:
    torch.manual_seed(0)
    return DiTStack(CONFIG.replace(**changes), latent_context)


def tokens(length: int = 6) -> Tensor:
    return torch.randn(2, length, 32)


def test_null_condition_equals_attention_to_zeros():
    attention = make_stack().blocks[0].attn2
    x, zeros = tokens(), torch.zeros(2, 9, 16)
    expected = attention(x, zeros)
    torch.testing.assert_close(attend(attention, x, None).expand_as(x), expected, atol=1e-6, rtol=0)


def test_dropped_samples_get_the_null_condition_and_others_do_not():
    stack, x, context = make_stack().eval(), tokens(), torch.randn(2, 9, 16)
    dropped = Conditions(stack.image_keys_values(drop_context(context, torch.tensor([True, False]))))
    full = Conditions(stack.image_keys_values(context))
    groups = (1,) * 5
    mixed = stack(x, dropped, groups)
    torch.testing.assert_close(mixed[0], stack(x, None, groups)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[1], stack(x, full, groups)[1], atol=1e-5, rtol=0)
    assert (mixed[0] - stack(x, full, groups)[0]).abs().max() > 1e-3


def test_groups_do_not_see_one_another():
    block = make_stack(moe_layers=0).blocks[0]
    x = tokens(8)
    changed = torch.cat([x[:, :4], torch.randn(2, 4, 32)], dim=1)
    torch.testing.assert_close(block(x, None, groups=2)[:, :4], block(changed, None, groups=2)[:, :4])
    assert (block(x, None, groups=1)[:, :4] - block(changed, None, groups=1)[:, :4]).abs().max() > 1e-3


def test_skips_join_block_i_with_its_mirror_image():
    stack = make_stack()
    outputs: dict[int, Tensor] = {}
    received: dict[int, Tensor | None] = {}

    def remember(layer: int, arguments: tuple, output: Tensor) -> None:
        received[layer], outputs[layer] = arguments[4], output

    for layer, block in enumerate(stack.blocks):
        block.register_forward_hook(lambda _, arguments, output, layer=layer: remember(layer, arguments, output))
    stack(tokens(), None, (1,) * 5)
    assert [received[layer] is None for layer in range(5)] == [True, True, True, False, False]
    assert received[3] is outputs[1]
    assert received[4] is outputs[0]


def test_latent_branch_is_silent_at_first_and_gets_a_gradient():
    stack = make_stack(latent_context=True)
    image, latents = stack.image_keys_values(torch.randn(2, 9, 16)), stack.latent_keys_values(torch.randn(2, 12, 16))
    x, groups = tokens(), (1,) * 5
    out = stack(x, Conditions(image, latents), groups)
    torch.testing.assert_close(out, stack(x, Conditions(image), groups))
    out.square().sum().backward()
    for block in stack.blocks:
        assert isinstance(block, DiTBlock)
        assert block.attn2_2.out_proj.weight.grad is not None
        assert block.attn2_2.out_proj.weight.grad.abs().sum() > 0


def test_recomputing_changes_no_gradient():
    gradients = []
    for recompute in (False, True):
        stack = make_stack()
        stack.recompute = recompute
        x = torch.linspace(-1, 1, 2 * 6 * 32).view(2, 6, 32).requires_grad_()
        (stack(x, None, (1,) * 5).square().sum() + stack.balance_loss()).backward()
        gradients.append([x.grad, *(p.grad for p in stack.parameters())])
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_balance_loss_sums_over_the_layers_with_experts():
    stack = make_stack(moe_layers=2)
    stack(tokens(), None, (1,) * 5)
    assert stack.balance_loss().item() == pytest.approx(sum(block.ffn.balance_loss.item() for block in stack.blocks[-2:]))
    assert make_stack(moe_layers=0).balance_loss().item() == 0


@pytest.mark.parametrize("changes", [{"depth": 0}, {"hidden": 33}, {"moe_layers": 6}, {"top_k": 3}])
def test_impossible_sizes_are_refused(changes: dict[str, int]):
    with pytest.raises(UserError):
        CONFIG.replace(**changes)


def test_without_experts_their_numbers_mean_nothing():
    assert CONFIG.replace(moe_layers=0, num_experts=0, top_k=0).moe_layers == 0

"""A mixture of experts on rows sorted by expert: no loop over masks, and in bfloat16 on a GPU one grouped product an expert layer.

That product waits for nothing on the host, where torch has a grouped kernel (compute capability 9 and above; on older GPUs torch
loops itself). Everything else, fp32 and fp16 on a GPU, a torch without `grouped_mm`, and CPUs, is a loop over experts that reads
how many rows each has: one wait for the GPU a layer. Running every row through every expert would not wait, but costs E / k times
the work. Trainings compute in bfloat16 (`precision`), generation on a GPU too.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from unipart.nn.blocks import MLP


class MoE(nn.Module):
    """sum over the top k experts of p_e(x) E_e(x), plus a shared expert; the p are not renormalised (Hunyuan3D-2.1).

    Args:
        width: D.
        num_experts: E.
        top_k: experts per token.
        ratio: hidden width of an expert over D.

    Attributes:
        balance_loss: of the last training forward, 1 when tokens spread evenly; 0 in evaluation. Weight it by 0.01.
    """

    def __init__(self, width: int, num_experts: int, top_k: int = 2, ratio: int = 4) -> None:
        super().__init__()
        self.top_k = top_k
        self.gate = nn.Linear(width, num_experts, bias=False)
        self.fc1_weight, self.fc1_bias = _expert_parameters(num_experts, width, ratio * width)
        self.fc2_weight, self.fc2_bias = _expert_parameters(num_experts, ratio * width, width)
        self.shared = MLP(width, ratio)
        self.balance_loss = torch.zeros(())

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Applies to the last axis; every token is routed on its own."""
        tokens = x.flatten(0, -2)
        scores = self.gate(tokens).float().softmax(dim=-1)
        weights, chosen = scores.topk(self.top_k, dim=-1)
        self.balance_loss = balance_loss(scores, chosen) if self.training else scores.new_zeros(())
        return (self.routed(tokens, chosen, weights) + self.shared(tokens)).view_as(x)

    def routed(
        self, tokens: Float[Tensor, "T D"], chosen: Int[Tensor, "T K"], weights: Float[Tensor, "T K"]
    ) -> Float[Tensor, "T D"]:
        """Returns sum_k weights_k E_chosen_k(tokens): rows sorted by expert, two grouped products, rows put back."""
        order = chosen.flatten().argsort(stable=True)
        places = order.argsort().view_as(chosen)  # where each choice of each token went: the inverse of order
        counts = _expert_counts(chosen, len(self.fc1_weight))
        rows = _ReadRows.apply(tokens, order // self.top_k, places)
        hidden = F.gelu(grouped_linear(rows, self.fc1_weight, self.fc1_bias, counts))
        outputs = grouped_linear(hidden, self.fc2_weight, self.fc2_bias, counts)
        # Putting rows back by a gather keeps the sum over k deterministic on a GPU; index_add would not.
        per_choice = _ReadRows.apply(outputs, places.flatten(), order[:, None]).unflatten(0, chosen.shape)
        return (per_choice * weights[..., None].to(outputs.dtype)).sum(dim=1)


def balance_loss(scores: Float[Tensor, "T E"], chosen: Int[Tensor, "T K"]) -> Float[Tensor, ""]:
    """Returns E * sum_e (mean probability of e) * (share of choices that fell on e); 1 when both are uniform."""
    share = _expert_counts(chosen, scores.shape[1]) / chosen.numel()
    return scores.shape[1] * (scores.mean(dim=0) * share).sum()


def grouped_linear(
    x: Float[Tensor, "R I"], weight: Float[Tensor, "E O I"], bias: Float[Tensor, "E O"], counts: Int[Tensor, " E"]
) -> Float[Tensor, "R O"]:
    """Applies expert e's linear map to its counts[e] consecutive rows.

    In bfloat16 on a GPU, with a torch that has `grouped_mm`, this is one grouped product (also on the meta device, which has no
    counts to read); elsewhere the plain loop over experts, which reads `counts` on the host.
    """
    dtype = torch.get_autocast_dtype(x.device.type) if x.is_cuda and torch.is_autocast_enabled("cuda") else x.dtype
    if x.is_meta or (x.is_cuda and dtype == torch.bfloat16 and hasattr(F, "grouped_mm")):
        return _grouped_linear_fused(x, weight, bias, counts)
    rows = x.split(counts.tolist())
    return torch.cat([F.linear(*group) for group in zip(rows, weight, bias, strict=True)])


def _grouped_linear_fused(x: Tensor, weight: Tensor, bias: Tensor, counts: Tensor) -> Tensor:
    ends = counts.cumsum(0).to(torch.int32)
    product = F.grouped_mm(x.bfloat16(), weight.bfloat16().transpose(-2, -1), offs=ends)
    # The bias as a product too: the gradient of a repeated bias would be thousands of colliding atomic additions.
    return torch.addmm(product, row_experts(counts, len(x)).bfloat16(), bias.bfloat16())


def row_experts(counts: Int[Tensor, " E"], num_rows: int) -> Bool[Tensor, "R E"]:
    """Returns which expert each row belongs to, rows sorted by expert; nothing is read on the host."""
    ends = counts.cumsum(0)
    row = torch.arange(num_rows, device=counts.device)[:, None]
    return (row >= ends - counts) & (row < ends)


class _ReadRows(Function):
    """x[index], where every row of x is read k times; `readers` [R k] says by which rows of the result.

    Knowing the readers, the gradient is a gather and a sum over k. Autograd's own is a scatter: slow, or of random order on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, readers: Tensor) -> Tensor:
        ctx.save_for_backward(readers)
        return x[index]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (readers,) = ctx.saved_tensors
        return gradient[readers].sum(dim=1), None, None


def _expert_counts(chosen: Tensor, num_experts: int) -> Tensor:
    # A comparison instead of bincount, which waits for the GPU.
    return (chosen.flatten()[:, None] == torch.arange(num_experts, device=chosen.device)).sum(dim=0)


def _expert_parameters(num_experts: int, fan_in: int, fan_out: int) -> tuple[nn.Parameter, nn.Parameter]:
    bound = fan_in**-0.5  # what nn.Linear draws
    weight = nn.Parameter(torch.zeros(num_experts, fan_out, fan_in).uniform_(-bound, bound))
    return weight, nn.Parameter(torch.zeros(num_experts, fan_out).uniform_(-bound, bound))

"""Attention with fused projections, query-key normalisation and precomputable keys and values.

Layout: every projection has its rows ordered [q|k|v][head][channel]; the Hunyuan3D-2.1 interleaves are undone by the importer.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

QkNorm = Literal["none", "layer", "rms"]


def check_heads(width: int, num_heads: int) -> None:
    """For the configs of models: raises `ValueError` where heads do not share a width evenly."""
    if width < 1 or num_heads < 1 or width % num_heads:
        raise ValueError(f"the width, {width}, is no positive multiple of {num_heads}: see num_heads")


class SelfAttention(nn.Module):
    """Multi-head attention of a set with itself.

    Args:
        width: D, a multiple of num_heads.
        num_heads: H.
        qk_norm: normalisation of queries and keys over the head channels (eps 1e-6).
        qkv_bias: bias on the fused projection.
    """

    def __init__(self, width: int, num_heads: int, qk_norm: QkNorm = "layer", qkv_bias: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.q_norm, self.k_norm = (_head_norm(qk_norm, width // num_heads) for _ in range(2))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Returns the attended set."""
        q, k, v = _split_heads(self.qkv(x), 3, self.num_heads)
        return self.out_proj(_merge_heads(scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)))


class CrossAttention(nn.Module):
    """Multi-head attention of a set to a context.

    `keys_values` depends on the context alone, so a sampler computes it once for all steps.
    """

    def __init__(self, width: int, context_width: int, num_heads: int, qk_norm: QkNorm = "layer", qkv_bias: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width, bias=qkv_bias)
        self.kv = nn.Linear(context_width, 2 * width, bias=qkv_bias)
        self.q_norm, self.k_norm = (_head_norm(qk_norm, width // num_heads) for _ in range(2))
        self.out_proj = nn.Linear(width, width)

    def keys_values(self, context: Float[Tensor, "B T Dc"]) -> tuple[Tensor, Tensor]:
        """Returns keys and values [B H T D/H] of a context."""
        k, v = _split_heads(self.kv(context), 2, self.num_heads)
        return self.k_norm(k), v

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B T Dc"] | tuple[Tensor, Tensor]
    ) -> Float[Tensor, "B L D"]:
        """Returns x attending to a context, or to what `keys_values` made of it."""
        k, v = context if isinstance(context, tuple) else self.keys_values(context)
        (q,) = _split_heads(self.q(x), 1, self.num_heads)
        return self.out_proj(_merge_heads(scaled_dot_product_attention(self.q_norm(q), k, v)))


def _head_norm(kind: QkNorm, channels: int) -> nn.Module:
    if kind == "layer":
        return nn.LayerNorm(channels, eps=1e-6)
    return nn.RMSNorm(channels, eps=1e-6) if kind == "rms" else nn.Identity()


def _split_heads(x: Tensor, groups: int, num_heads: int) -> tuple[Tensor, ...]:
    batch, length, _ = x.shape
    return tuple(x.view(batch, length, groups, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0))


def _merge_heads(x: Tensor) -> Tensor:
    return torch.flatten(x.transpose(1, 2), 2)

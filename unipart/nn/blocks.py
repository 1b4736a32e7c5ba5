"""The transformer blocks that the VAE and the segmentation decoder share: pre-LN self and cross blocks."""

from jaxtyping import Float
from torch import Tensor, nn

from unipart.nn.attention import CrossAttention, QkNorm, SelfAttention

EPS = 1e-6


class MLP(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Applies to the last axis."""
        return self.fc2(self.act(self.fc1(x)))


class SelfBlock(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, width: int, num_heads: int, qk_norm: QkNorm = "layer", mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attention = SelfAttention(width, num_heads, qk_norm)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = MLP(width, mlp_ratio)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Returns the updated set."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """x + attention(norm x, norm context), then x + mlp(norm x)."""

    def __init__(self, width: int, context_width: int, num_heads: int, qk_norm: QkNorm = "layer", mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(width, eps=EPS)
        self.norm_context = nn.LayerNorm(context_width, eps=EPS)
        self.attention = CrossAttention(width, context_width, num_heads, qk_norm)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = MLP(width, mlp_ratio)

    def keys_values(self, context: Float[Tensor, "B T Dc"]) -> tuple[Tensor, Tensor]:
        """Returns the context's keys and values, to be computed once for many calls."""
        return self.attention.keys_values(self.norm_context(context))

    def forward(
        self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B T Dc"] | tuple[Tensor, Tensor]
    ) -> Float[Tensor, "B L D"]:
        """Returns x updated from the context or from its `keys_values`."""
        kv = context if isinstance(context, tuple) else self.keys_values(context)
        x = x + self.attention(self.norm_query(x), kv)
        return x + self.mlp(self.norm2(x))

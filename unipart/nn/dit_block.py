"""The transformer that both diffusion models share: Hunyuan3D-2.1's block in a U-shaped stack."""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from pydantic import model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unipart.config import Config
from unipart.nn.attention import CrossAttention, QkNorm, SelfAttention, check_heads
from unipart.nn.blocks import EPS, MLP
from unipart.nn.moe import MoE

KeysValues = tuple[Tensor, Tensor]


class StackConfig(Config):
    """Sizes of the transformer; the defaults are the paper's."""

    hidden: int = 2048
    """D, the width of a token inside the transformer."""
    depth: int = 21
    """Number of blocks; at an odd depth block i is joined to block depth-1-i and the middle one stands alone."""
    num_heads: int = 16
    """H; hidden / H should be 64 or 128 on a GPU."""
    context_width: int = 1024
    """Dc, the width of image tokens and of embedded condition latents."""
    mlp_ratio: int = 4
    """Hidden width of a feed-forward layer over D."""
    moe_layers: int = 6
    """The last blocks whose feed-forward layer is a mixture of experts."""
    num_experts: int = 8
    """Experts of a mixture, beside the shared one."""
    top_k: int = 2
    """Experts a token is sent to."""
    qk_norm: QkNorm = "rms"
    """Normalisation of queries and keys per head."""

    @model_validator(mode="after")
    def _check(self) -> "StackConfig":
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, not {self.depth}")
        check_heads(self.hidden, self.num_heads)
        if not 0 <= self.moe_layers <= self.depth:
            raise ValueError(f"moe_layers must be in 0..depth {self.depth}, not {self.moe_layers}")
        if self.moe_layers and not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"top_k must be in 1..num_experts {self.num_experts}, not {self.top_k}")
        return self


@dataclass(frozen=True)
class Conditions:
    """Keys and values of what a model is conditioned on, per block: computed once, used in every sampling step.

    Attributes:
        image: of the image tokens, one (keys, values) pair per block.
        latents: of the condition latents, likewise; empty for a model without them.
    """

    image: tuple[KeysValues, ...]
    latents: tuple[KeysValues, ...] = ()


class DiTBlock(nn.Module):
    """Joins the skip, attends within its set, attends to the conditions, feeds forward; no AdaLN: time is a token.

    Args:
        config: sizes.
        skip: the block takes the output of its partner in the first half.
        moe: the feed-forward layer is a mixture of experts.
        latent_context: a second cross attention, to condition latents, runs beside the one to the image.
    """

    def __init__(self, config: StackConfig, skip: bool, moe: bool, latent_context: bool) -> None:
        super().__init__()
        width, heads, norm = config.hidden, config.num_heads, config.qk_norm
        if skip:
            self.skip_linear = nn.Linear(2 * width, width)
            self.skip_norm = nn.LayerNorm(width, eps=EPS)
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn1 = SelfAttention(width, heads, norm)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.attn2 = CrossAttention(width, config.context_width, heads, norm)
        self.latent_context = latent_context
        if latent_context:
            self.norm2_2 = nn.LayerNorm(width, eps=EPS)
            self.attn2_2 = CrossAttention(width, config.context_width, heads, norm)
            # A silent branch: a model that starts from another one's weights starts as that model.
            nn.init.zeros_(self.attn2_2.out_proj.weight)
            nn.init.zeros_(self.attn2_2.out_proj.bias)
        self.norm3 = nn.LayerNorm(width, eps=EPS)
        self.ffn = MoE(width, config.num_experts, config.top_k, config.mlp_ratio) if moe else MLP(width, config.mlp_ratio)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        image: KeysValues | None,
        latents: KeysValues | None = None,
        groups: int = 1,
        saved: Float[Tensor, "B T D"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Returns the updated tokens.

        Args:
            x: tokens.
            image: keys and values of the image; None is the null condition (zeros), which needs no attention.
            latents: likewise of the condition latents.
            groups: self attention runs within each of this many equal slices of T: 1 joins all (Eq. 5), 2 keeps them apart (Eq. 4).
            saved: output of the partner block.
        """
        if saved is not None:
            x = self.skip_norm(self.skip_linear(torch.cat([saved, x], dim=-1)))
        x = x + _within_groups(self.attn1, self.norm1(x), groups)
        update = attend(self.attn2, self.norm2(x), image)
        if self.latent_context:
            update = update + attend(self.attn2_2, self.norm2_2(x), latents)
        x = x + update
        return x + self.ffn(self.norm3(x))


class DiTStack(nn.Module):
    """The blocks with U-ViT skips: block i hands its output to block depth-1-i.

    Attributes:
        recompute: in training, keep only the blocks' inputs and compute the rest again in the backward pass.
    """

    def __init__(self, config: StackConfig, latent_context: bool = False) -> None:
        super().__init__()
        self.middle = config.depth // 2
        first_moe = config.depth - config.moe_layers
        self.blocks = nn.ModuleList(
            DiTBlock(config, skip=layer > self.middle, moe=layer >= first_moe, latent_context=latent_context)
            for layer in range(config.depth)
        )
        self.recompute = False

    def forward(self, x: Float[Tensor, "B T D"], conditions: Conditions | None, groups: tuple[int, ...]) -> Float[Tensor, "B T D"]:
        """Returns the tokens after the last block.

        Args:
            x: tokens.
            conditions: what to attend to; None is the null condition.
            groups: number of slices that self attention keeps apart, per block.
        """
        waiting: list[Tensor] = []
        for layer, block in enumerate(self._typed_blocks()):
            image = conditions.image[layer] if conditions else None
            latents = conditions.latents[layer] if conditions and conditions.latents else None
            saved = waiting.pop() if layer > self.middle else None
            if self.recompute and self.training:
                x = checkpoint(block, x, image, latents, groups[layer], saved, use_reentrant=False)
            else:
                x = block(x, image, latents, groups[layer], saved)
            if layer < self.middle:
                waiting.append(x)
        return x

    def image_keys_values(self, tokens: Float[Tensor, "B T Dc"]) -> tuple[KeysValues, ...]:
        """Returns the keys and values of image tokens for every block."""
        return tuple(block.attn2.keys_values(tokens) for block in self._typed_blocks())

    def latent_keys_values(self, tokens: Float[Tensor, "B T Dc"]) -> tuple[KeysValues, ...]:
        """Returns the keys and values of embedded condition latents for every block."""
        return tuple(block.attn2_2.keys_values(tokens) for block in self._typed_blocks())

    def balance_loss(self) -> Float[Tensor, ""]:
        """Returns the sum of the experts' balance losses of the last training forward; 0 without experts."""
        losses = [block.ffn.balance_loss for block in self._typed_blocks() if isinstance(block.ffn, MoE)]
        return torch.stack(losses).sum() if losses else torch.zeros(())

    def _typed_blocks(self) -> list[DiTBlock]:
        return cast("list[DiTBlock]", list(self.blocks))


def attend(
    attention: CrossAttention, x: Float[Tensor, "B T D"], context: KeysValues | None
) -> Float[Tensor, "B T D"] | Float[Tensor, " D"]:
    """Returns x attending to a context.

    A null context is all zeros; without biases on keys and values the attended value is then exactly zero whatever the query,
    so only the bias of the output projection is left and nothing needs to be computed.
    """
    return attention.out_proj.bias.to(x.dtype) if context is None else attention(x, context)


def drop_context(context: Float[Tensor, "B T Dc"], drop: Bool[Tensor, " B"] | None) -> Float[Tensor, "B T Dc"]:
    """Zeroes the context of the dropped samples: the null condition of classifier-free guidance."""
    return context if drop is None else context.masked_fill(drop[:, None, None], 0.0)


def _within_groups(attention: SelfAttention, x: Tensor, groups: int) -> Tensor:
    batch, length, width = x.shape
    return attention(x.reshape(batch * groups, length // groups, width)).reshape(batch, length, width)

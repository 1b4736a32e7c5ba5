"""D_seg: a latent index goes in as a prompt, the mask of latents of the same part comes out (paper §3.1, after SAM 2).

    z ─► stem ─► trunk (once per object) ─► tokens ─┐
    prompt indices ─► gather ─► + click sign ───────┼─► two-way transformer ─► 1 + 3 masks over the L latents, 4 predicted IoUs
    previous mask ─► dense prompt ──────────────────┘

Latents are a set without coordinates, so a learned projection of z takes the place of SAM 2's positional encoding.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from unipart.config import Config
from unipart.nn.attention import check_heads
from unipart.nn.blocks import SelfBlock

NUM_MASKS = 4
"""Mask 0 is the single answer; masks 1 to 3 are the answers to an ambiguous single click."""


class SegDecoderConfig(Config):
    """Sizes of the segmentation decoder."""

    width: int = 512
    """Channels of its tokens, a multiple of 8 * num_heads."""
    num_heads: int = 8
    """Attention heads everywhere."""
    trunk_layers: int = 4
    """Self-attention blocks over the latents, run once per object."""
    two_way_layers: int = 2
    """Layers in which prompts and latents attend to each other, run per prompt."""
    mlp_width: int = 2048
    """Hidden channels of the prompts' MLP."""

    @model_validator(mode="after")
    def _check(self) -> "SegDecoderConfig":
        check_heads(self.width, 8 * self.num_heads)
        return self


@dataclass(frozen=True)
class SegFeatures:
    """What the trunk makes of one batch of objects, shared by all prompts.

    Attributes:
        tokens: [B L C] mixed latents.
        position: [B L C] what tells latents apart; added to queries and keys in every layer.
    """

    tokens: Tensor
    position: Tensor


@dataclass(frozen=True)
class SegOutput:
    """Answers to K prompts per object.

    Attributes:
        logits: [B K 4 L], positive = the latent belongs to the prompted part; mask 0 single, 1..3 multiple.
        iou: [B K 4] predicted IoU of each mask. Linear, as in SAM 1: the L1 loss drives a sigmoid into saturation as soon as most
            masks are right, and the head then ranks nothing.
    """

    logits: Tensor
    iou: Tensor


class SegDecoder(nn.Module):
    """The promptable segmentation decoder D_seg.

    Args:
        latent_width: d of the latents.
        config: sizes.
    """

    def __init__(self, latent_width: int, config: SegDecoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.stem = nn.Linear(latent_width, width)
        self.position = nn.Linear(latent_width, width)
        self.trunk_blocks = nn.ModuleList(SelfBlock(width, config.num_heads) for _ in range(config.trunk_layers))
        self.trunk_norm = nn.LayerNorm(width, eps=1e-6)
        self.click_sign = nn.Embedding(2, width)
        self.no_click = nn.Parameter(torch.randn(width))
        self.no_mask = nn.Parameter(torch.zeros(width))
        self.previous_mask = nn.Linear(1, width)
        self.answers = nn.Parameter(torch.randn(1 + NUM_MASKS, width))
        self.two_way = nn.ModuleList(TwoWayBlock(config) for _ in range(config.two_way_layers))
        self.final_attention = PlainAttention(width, width // 2, config.num_heads)
        self.final_norm = nn.LayerNorm(width)
        self.mask_features = nn.Linear(width, width // 8)
        self.mask_weights = nn.ModuleList(_three_layers(width, width // 8) for _ in range(NUM_MASKS))
        self.iou_head = _three_layers(width, NUM_MASKS)

    def trunk(self, z: Float[Tensor, "B L d"]) -> SegFeatures:
        """Mixes the latents; call once per object, then prompt as often as needed."""
        tokens = self.stem(z)
        for block in self.trunk_blocks:
            tokens = block(tokens)
        return SegFeatures(self.trunk_norm(tokens), self.position(z))

    def forward(
        self,
        features: SegFeatures,
        prompts: Int[Tensor, "B K n"],
        prompt_labels: Int[Tensor, "B K n"],
        previous: Float[Tensor, "B K L"] | None = None,
    ) -> SegOutput:
        """Answers prompts independently of one another.

        Args:
            features: from `trunk`.
            prompts: latent index of each click.
            prompt_labels: 1 inside the part, 0 outside, -1 no click (padding).
            previous: mask logits of an earlier answer to refine.

        Returns:
            Masks over the latents and their predicted IoU.
        """
        batch, num_prompts, _ = prompts.shape
        clicks = self._embed_clicks(features, prompts, prompt_labels)
        answers = self.answers.expand(batch, num_prompts, -1, -1)
        query = query_position = torch.cat([answers, clicks], dim=2).flatten(0, 1)
        dense = self.no_mask if previous is None else self.previous_mask(previous[..., None].to(features.tokens.dtype))
        tokens = (features.tokens[:, None] + dense).expand(-1, num_prompts, -1, -1).flatten(0, 1)
        position = features.position[:, None].expand(-1, num_prompts, -1, -1).flatten(0, 1)
        for block in self.two_way:
            query, tokens = block(query, tokens, query_position, position)
        attended = self.final_attention(query + query_position, tokens + position, tokens)
        query = self.final_norm(query + attended)

        weights = torch.stack([head(query[:, 1 + i]) for i, head in enumerate(self.mask_weights)], dim=1)
        logits = weights @ self.mask_features(tokens).transpose(1, 2)
        iou = self.iou_head(query[:, 0])
        return SegOutput(logits.unflatten(0, (batch, num_prompts)), iou.unflatten(0, (batch, num_prompts)))

    def _embed_clicks(self, features: SegFeatures, prompts: Tensor, prompt_labels: Tensor) -> Tensor:
        rows = torch.arange(len(prompts), device=prompts.device)[:, None, None]
        clicked = (features.tokens + features.position)[rows, prompts] + self.click_sign(prompt_labels.clamp_min(0))
        return torch.where((prompt_labels < 0)[..., None], self.no_click.to(clicked.dtype), clicked)


class TwoWayBlock(nn.Module):
    """Prompts attend to themselves and to the latents, then the latents attend to the prompts (SAM 2; post-norm)."""

    def __init__(self, config: SegDecoderConfig) -> None:
        super().__init__()
        width, heads = config.width, config.num_heads
        self.self_attention = PlainAttention(width, width, heads)
        self.to_tokens = PlainAttention(width, width // 2, heads)
        self.mlp = nn.Sequential(nn.Linear(width, config.mlp_width), nn.ReLU(), nn.Linear(config.mlp_width, width))
        self.from_query = PlainAttention(width, width // 2, heads)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))

    def forward(
        self,
        query: Float[Tensor, "P A C"],
        tokens: Float[Tensor, "P L C"],
        query_position: Float[Tensor, "P A C"],
        position: Float[Tensor, "P L C"],
    ) -> tuple[Float[Tensor, "P A C"], Float[Tensor, "P L C"]]:
        """Returns the updated prompts and latents; positions are added to what is matched, never to what is read."""
        placed = query + query_position
        query = self.norm1(query + self.self_attention(placed, placed, query))
        query = self.norm2(query + self.to_tokens(query + query_position, tokens + position, tokens))
        query = self.norm3(query + self.mlp(query))
        tokens = self.norm4(tokens + self.from_query(tokens + position, query + query_position, query))
        return query, tokens


class PlainAttention(nn.Module):
    """Attention with separate query, key and value inputs in `inner` channels."""

    def __init__(self, width: int, inner: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, query: Float[Tensor, "P A C"], key: Float[Tensor, "P T C"], value: Float[Tensor, "P T C"]) -> Tensor:
        """Returns [P A C]."""
        heads = (self.num_heads, -1)
        q, k, v = (layer(x).unflatten(-1, heads).transpose(1, 2) for layer, x in ((self.q, query), (self.k, key), (self.v, value)))
        return self.out_proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _three_layers(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))

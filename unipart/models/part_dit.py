"""The part model (section 3.3): a diffusion transformer that generates one part in two spaces at once.

The dual latent X* = (X^gcs, X^ncs) is two groups of L tokens. Each group carries its space embedding and its own copy of the time
token. Blocks alternate between local attention, within one space (Eq. 4), and joint attention, across both (Eq. 5). Every block
also attends to the image and, beside it, to the condition latents: the whole object's Z_0 and the part's X_i.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import model_validator
from torch import Tensor, nn

from unipart.errors import UserError
from unipart.models.whole_dit import WholeDiT, WholeDiTConfig
from unipart.nn.blocks import EPS
from unipart.nn.dit_block import Conditions, DiTStack, drop_context
from unipart.nn.embeddings import TimeEmbedding

INIT_STD = 0.02
WHOLE, PART = 0, 1


@dataclass(frozen=True)
class DualLatents:
    """A part's latents in both spaces.

    Attributes:
        gcs: in the object's frame [B L d].
        ncs: in the part's own frame [B L d]; None for a model of one space.
    """

    gcs: Float[Tensor, "B L d"]
    ncs: Float[Tensor, "B L d"] | None

    def stacked(self) -> Float[Tensor, "B S L d"]:
        """Returns both as one tensor, gcs first: what a sampler steps and a loss compares."""
        return torch.stack([self.gcs] if self.ncs is None else [self.gcs, self.ncs], dim=1)

    @classmethod
    def from_stacked(cls, x: Float[Tensor, "B S L d"]) -> "DualLatents":
        """Undoes `stacked`."""
        return cls(x[:, 0], x[:, 1] if x.shape[1] == 2 else None)


class PartDiTConfig(WholeDiTConfig):
    """Sizes and ablation switches of the part model; the defaults are the paper's."""

    spaces: tuple[Literal["gcs"], Literal["ncs"]] | tuple[Literal["gcs"]] = ("gcs", "ncs")
    """Spaces that are generated; ("gcs",) is the ablation without NCS."""
    space_layout: Literal["tokens", "channels"] = "tokens"
    """Two groups of tokens, or one group of tokens with both latents side by side in the channels (baseline)."""
    space_embed_level: Literal["latent", "hidden", "off"] = "latent"
    """Where the space embedding is added: to the latents (the paper), to the hidden tokens and the time token, or nowhere."""
    global_layers: Literal["odd", "all", "none"] = "odd"
    """Blocks whose self attention is joint over both spaces; the others are local."""
    kv: Literal["concat", "fused"] = "concat"
    """Condition latents as Z_0 beside X_i (2 L tokens), or Z_0 with a mark on the members of X_i (L tokens)."""
    cond_form: Literal["latents", "points"] = "latents"
    """What Z_0 and X_i are given as: latents (the paper), or the frozen encoder's features of surface points (ablation)."""
    point_width: int = 1024
    """Width of those features: that of the VAE."""
    use_z0: bool = True
    """Condition on the whole object's latents."""
    use_xi: bool = True
    """Condition on the part's latents."""

    @property
    def condition_width(self) -> int:
        """Channels of a condition token."""
        return self.latent_width if self.cond_form == "latents" else self.point_width

    @model_validator(mode="after")
    def _check_switches(self) -> "PartDiTConfig":
        if self.kv == "fused" and not self.use_z0:
            raise ValueError("kv 'fused' marks members of Z_0, so it needs use_z0")
        if self.kv == "fused" and self.cond_form == "points":
            raise ValueError("kv 'fused' marks members of Z_0; the points of X_i are none: set kv to 'concat'")
        if self.space_layout == "channels" and self.space_embed_level == "hidden":
            raise ValueError(
                "space_layout 'channels' has no token group of its own per space: set space_embed_level to 'latent' or 'off'"
            )
        return self


class LatentConditioner(nn.Module):
    """Embeds the condition latents as a context: what they are (whole or part), where X_i is padded, who its members are."""

    def __init__(self, config: PartDiTConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.condition_width, config.context_width)
        self.kind = nn.Parameter(INIT_STD * torch.randn(2, config.context_width))
        self.pad = nn.Parameter(INIT_STD * torch.randn(config.context_width))
        self.member = nn.Parameter(INIT_STD * torch.randn(config.context_width))
        self.norm = nn.LayerNorm(config.context_width, eps=EPS)

    def forward(
        self, z0: Float[Tensor, "B L E"], part_latents: Float[Tensor, "B L E"], valid: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B T Dc"]:
        """Returns the context: T is 2 L for "concat", L for "fused" or when one condition is switched off."""
        config, row = self.config, valid[..., None]
        whole = self.embed(z0) + self.kind[WHOLE]
        if config.kv == "fused":
            return self.norm(whole + row * self.member if config.use_xi else whole)
        # Padding is a learned token and not an attention mask: masks would keep flash kernels from being used.
        part = self.embed(part_latents * row) + self.kind[PART] + ~row * self.pad
        return self.norm(torch.cat([whole] * config.use_z0 + [part] * config.use_xi, dim=1))


class PartDiT(nn.Module):
    """Predicts the velocity of a part's dual latent given the image, Z_0 and X_i; parts are independent of one another."""

    def __init__(self, config: PartDiTConfig) -> None:
        super().__init__()
        self.config = config
        num_spaces = len(config.spaces)
        side_by_side = num_spaces if config.space_layout == "channels" else 1
        self.num_groups = num_spaces // side_by_side
        latent_context = config.use_z0 or config.use_xi

        embedding_width = {"latent": config.latent_width, "hidden": config.hidden, "off": 0}[config.space_embed_level]
        self.space_embedding = nn.Parameter(INIT_STD * torch.randn(num_spaces, embedding_width))
        self.embed = nn.Linear(side_by_side * config.latent_width, config.hidden)
        self.time = TimeEmbedding(config.hidden, config.t_scale, reverse=config.reversed_time)
        self.latent_conditioner = LatentConditioner(config) if latent_context else None
        self.stack = DiTStack(config, latent_context)
        self.final_norm = nn.LayerNorm(config.hidden, eps=EPS)
        self.final = nn.Linear(config.hidden, side_by_side * config.latent_width)

    def conditions(
        self,
        image_tokens: Float[Tensor, "B T Dc"],
        z0: Float[Tensor, "B L E"],
        part_latents: Float[Tensor, "B L E"],
        valid: Bool[Tensor, "B L"],
        drop: Bool[Tensor, " B"] | None = None,
    ) -> Conditions:
        """Returns the keys and values of all conditions, to be computed once for all sampling steps.

        Args:
            image_tokens: of the condition image.
            z0: latents of the whole object, scaled like the data; for cond_form "points" the features of its surface.
            part_latents: X_i, scaled likewise; rows in any order, except for kv "fused" where row j must be row j of z0.
            valid: which rows of X_i are latents of the part; the others are padding.
            drop: samples to be trained without any condition (classifier-free guidance).
        """
        latents = ()
        if self.latent_conditioner is not None:
            context = self.latent_conditioner(z0, part_latents, valid)
            latents = self.stack.latent_keys_values(drop_context(context, drop))
        return Conditions(self.stack.image_keys_values(drop_context(image_tokens, drop)), latents)

    def forward(self, x: DualLatents, t: Float[Tensor, " B"], conditions: Conditions | None) -> DualLatents:
        """Returns the velocity of both latents.

        Args:
            x: noisy latents, scaled by the VAE's z_scale, at the same time in both spaces.
            t: times; 0 is data, 1 is noise.
            conditions: from `conditions`; None for the unconditional velocity.
        """
        stacked = x.stacked()
        if stacked.shape[1] != len(self.config.spaces):
            raise ValueError(f"{stacked.shape[1]} latents were given, the model generates the spaces {self.config.spaces}")
        tokens = self.stack(self._to_tokens(stacked, t), conditions, self._groups_per_block())
        return DualLatents.from_stacked(self._to_latents(self.final_norm(tokens)))

    def balance_loss(self) -> Float[Tensor, ""]:
        """Returns the experts' balance loss of the last training forward, unweighted."""
        return self.stack.balance_loss()

    def _to_tokens(self, x: Float[Tensor, "B S L d"], t: Float[Tensor, " B"]) -> Float[Tensor, "B T D"]:
        """Adds the space embedding, embeds, and puts a time token before each group of tokens."""
        level = self.config.space_embed_level
        if level == "latent":
            x = x + self.space_embedding[:, None]
        if self.config.space_layout == "channels":
            x = x.transpose(1, 2).flatten(2)[:, None]
        tokens = self.embed(x)
        time = self.time(t)[:, None, None].expand(-1, self.num_groups, -1, -1)
        tokens = torch.cat([time.to(tokens), tokens], dim=2)
        if level == "hidden":
            tokens = tokens + self.space_embedding[:, None]
        return tokens.flatten(1, 2)

    def _groups_per_block(self) -> tuple[int, ...]:
        joint = {"odd": lambda layer: layer % 2 == 1, "all": lambda _: True, "none": lambda _: False}[self.config.global_layers]
        return tuple(1 if joint(layer) else self.num_groups for layer in range(self.config.depth))

    def _to_latents(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B S L d"]:
        """Drops the time tokens and projects back to latents."""
        latents = self.final(tokens.unflatten(1, (self.num_groups, -1))[:, :, 1:])
        if self.config.space_layout == "channels":
            return latents[:, 0].unflatten(-1, (len(self.config.spaces), -1)).transpose(1, 2)
        return latents

    @torch.no_grad()
    def init_from_whole(self, whole: WholeDiT) -> None:
        """Copies the weights of a whole model, so that without a space embedding the first output is the whole model's per space.

        The new cross attention starts with the image attention's queries, fresh keys and values, and a zero output projection.

        Raises:
            UserError: the sizes of the two models differ; names the fields.
        """
        shared = {name: getattr(self.config, name) for name in type(whole.config).model_fields}
        difference = whole.config.diff(WholeDiTConfig(**shared))
        if difference:
            fields = ", ".join(f"{name} {theirs} / {ours}" for name, (theirs, ours) in difference.items())
            raise UserError(
                f"the whole model cannot start the part model, sizes (whole / part) differ: {fields}", "make them equal"
            )
        weights = self.state_dict()
        weights.update(whole.state_dict())
        if self.config.space_layout == "channels":
            copies = len(self.config.spaces)
            weights["embed.weight"] = whole.embed.weight.repeat(1, copies) / copies
            weights["final.weight"], weights["final.bias"] = whole.final.weight.repeat(copies, 1), whole.final.bias.repeat(copies)
        for name in [name for name in weights if "2_2." in name]:
            if "norm2_2." in name or ".q." in name or ".q_norm." in name or ".k_norm." in name:
                weights[name] = weights[name.replace("2_2.", "2.")]
            elif ".kv." in name:
                nn.init.normal_(weights[name], std=INIT_STD)
            else:
                nn.init.zeros_(weights[name])
        self.load_state_dict(weights)

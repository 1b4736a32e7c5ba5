"""Which of our tensors is made of which of Hunyuan3D-2.1's, both ways and without rounding (model.md sections 1.3, 1.5, 2.3, 2.5).

A layout is a list of ties. Tensors are renamed, stacked, negated, and the rows of attention projections are reordered: Hunyuan
writes them head by head ([head][q|k|v][channel], in the DiT even across the boundaries of to_q, to_k and to_v), we write
[q|k|v][head][channel]. Nothing is computed, so the way back gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unipart.errors import UserError
from unipart.models.geom_seg_vae import GeomSegVAE
from unipart.models.whole_dit import WholeDiT


@dataclass(frozen=True)
class Tie:
    """One of our tensors and the ones it is made of.

    Attributes:
        ours: our name.
        theirs: Hunyuan's names; more than one are joined along the rows, or stacked.
        groups: what the rows of a head-by-head projection hold, 3 for q|k|v, 2 for k|v; 1 where rows keep their order.
        heads: attention heads.
        stack: `theirs` are stacked along a new first axis (experts).
        negate: the sign is flipped.
    """

    ours: str
    theirs: tuple[str, ...]
    groups: int = 1
    heads: int = 1
    stack: bool = False
    negate: bool = False

    def merge(self, tensors: Sequence[Tensor]) -> Tensor:
        """Returns our tensor."""
        whole = torch.stack(tuple(tensors)) if self.stack else torch.cat(tuple(tensors)) if len(tensors) > 1 else tensors[0]
        return -_swap(whole, self.heads, self.groups) if self.negate else _swap(whole, self.heads, self.groups)

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Undoes `merge`."""
        whole = _swap(-tensor if self.negate else tensor, self.groups, self.heads)
        if self.stack:
            return list(whole.unbind())
        return list(whole.chunk(len(self.theirs))) if len(self.theirs) > 1 else [whole]


def _swap(rows: Tensor, outer: int, inner: int) -> Tensor:
    """Reorders rows from [outer][inner][channel] to [inner][outer][channel]."""
    if outer == 1 or inner == 1:
        return rows
    return rows.unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)


def vae_layout(vae: GeomSegVAE) -> list[Tie]:
    """Returns the ties of the VAE's encoder and geometry decoder; its segmentation decoder has no counterpart."""
    table = {
        "encoder.input_proj": ("encoder.input_proj", 1),
        "encoder.norm": ("encoder.ln_post", 1),
        "encoder.to_posterior": ("pre_kl", 1),
        "geometry_decoder.from_latent": ("post_kl", 1),
        "geometry_decoder.query_proj": ("geo_decoder.query_proj", 1),
        "geometry_decoder.norm": ("geo_decoder.ln_post", 1),
        "geometry_decoder.output_proj": ("geo_decoder.output_proj", 1),
        **_vae_block("encoder.cross_block", "encoder.cross_attn", cross=True),
        **_vae_block("geometry_decoder.query_block", "geo_decoder.cross_attn_decoder", cross=True),
    }
    for layer in range(vae.config.encoder_layers):
        table |= _vae_block(f"encoder.blocks.{layer}", f"encoder.self_attn.resblocks.{layer}", cross=False)
    for layer in range(vae.config.decoder_layers):
        table |= _vae_block(f"geometry_decoder.blocks.{layer}", f"transformer.resblocks.{layer}", cross=False)
    ties = []
    for name in vae.state_dict():
        module, _, leaf = name.rpartition(".")
        if module in table:
            theirs, groups = table[module]
            ties.append(Tie(name, (f"{theirs}.{leaf}",), groups, vae.config.num_heads if groups > 1 else 1))
        else:
            assert name == "z_scale" or name.startswith("seg_decoder."), f"{name} is in no table"
    return ties


def _vae_block(ours: str, theirs: str, cross: bool) -> dict[str, tuple[str, int]]:
    """Returns {our module: (their module, groups)} of a pre-LN block."""
    if cross:
        own = {"norm_query": ("ln_1", 1), "norm_context": ("ln_2", 1), "norm2": ("ln_3", 1)}
        own |= {"attention.q": ("attn.c_q", 1), "attention.kv": ("attn.c_kv", 2)}
    else:
        own = {"norm1": ("ln_1", 1), "norm2": ("ln_2", 1), "attention.qkv": ("attn.c_qkv", 3)}
    own |= {"attention.q_norm": ("attn.attention.q_norm", 1), "attention.k_norm": ("attn.attention.k_norm", 1)}
    own |= {"attention.out_proj": ("attn.c_proj", 1), "mlp.fc1": ("mlp.c_fc", 1), "mlp.fc2": ("mlp.c_proj", 1)}
    return {f"{ours}.{name}": (f"{theirs}.{other}", groups) for name, (other, groups) in own.items()}


def whole_dit_layout(dit: WholeDiT) -> list[Tie]:
    """Returns the ties of the whole DiT: every tensor of either side takes part."""
    # Hunyuan predicts data - noise, we predict noise - data: the sign is that of the last layer.
    outer = {"embed": "x_embedder", "time.fc1": "t_embedder.mlp.0", "time.fc2": "t_embedder.mlp.2"}
    outer |= {"final_norm": "final_layer.norm_final", "final": "final_layer.linear"}
    ties = []
    for name in dit.state_dict():
        module, _, leaf = name.rpartition(".")
        if module in outer:
            ties.append(Tie(name, (f"{outer[module]}.{leaf}",), negate=module == "final"))
        else:
            ties.append(_block_tie(name, dit))
    return ties


def _block_tie(name: str, dit: WholeDiT) -> Tie:
    """Returns the tie of a tensor inside a block: ``stack.blocks.7.attn1.qkv.weight``."""
    _, _, layer, inner = name.split(".", 3)
    module, _, leaf = inner.rpartition(".")
    block, heads = f"blocks.{layer}", dit.config.num_heads
    if module == "ffn":
        part, _, leaf = leaf.partition("_")
        experts = range(dit.config.num_experts)
        return Tie(name, tuple(f"{block}.moe.experts.{expert}.{_EXPERT[part]}.{leaf}" for expert in experts), stack=True)
    if module.startswith("ffn.shared."):
        return Tie(name, (f"{block}.moe.shared_experts.{_EXPERT[module.rpartition('.')[2]]}.{leaf}",))
    if module == "attn1.qkv":
        return Tie(name, tuple(f"{block}.attn1.to_{part}.{leaf}" for part in "qkv"), 3, heads)
    if module == "attn2.kv":
        return Tie(name, tuple(f"{block}.attn2.to_{part}.{leaf}" for part in "kv"), 2, heads)
    renamed = {"attn2.q": "attn2.to_q", "ffn.gate": "moe.gate", "ffn.fc1": "mlp.fc1", "ffn.fc2": "mlp.fc2"}
    return Tie(name, (f"{block}.{renamed.get(module, module)}.{leaf}",))


_EXPERT = {"fc1": "net.0.proj", "fc2": "net.2"}


def expected_shapes(ties: Sequence[Tie], ours: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each of Hunyuan's tensors; `ours` may be on the meta device."""
    shapes = {}
    for tie in ties:
        pieces = tie.split(ours[tie.ours].to("meta"))
        shapes |= {name: tuple(piece.shape) for name, piece in zip(tie.theirs, pieces, strict=True)}
    return shapes


def merge_all(ties: Sequence[Tie], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns our tensors, in the precision of theirs and sharing no memory with them.

    Raises:
        UserError: tensors that become one differ in precision, or one is no floating-point tensor.
    """
    ours = {}
    for tie in ties:
        pieces = [theirs[name] for name in tie.theirs]
        dtypes = {piece.dtype for piece in pieces}
        if len(dtypes) > 1 or not pieces[0].is_floating_point():
            found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            raise UserError(f"{' and '.join(tie.theirs[:3])} have the types {found}", "store them in one floating-point type")
        whole = tie.merge(pieces)
        ours[tie.ours] = whole.clone() if whole.data_ptr() == pieces[0].data_ptr() else whole
    return ours


def split_all(ties: Sequence[Tie], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undoes `merge_all`."""
    theirs = {}
    for tie in ties:
        pieces = tie.split(ours[tie.ours].detach())
        theirs |= {name: piece.clone(memory_format=torch.contiguous_format) for name, piece in zip(tie.theirs, pieces, strict=True)}
    return theirs

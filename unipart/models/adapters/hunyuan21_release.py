"""Hunyuan3D-2.1's weights as they are released: sections of a file, configs in their own key names, the licence. No torch here.

The pipeline's file holds three state dicts: ``model`` (the DiT), ``vae`` and ``conditioner`` (DINOv2), nested in a ``.ckpt``, as
prefixes of the names in a ``.safetensors``. A file may also hold one state dict alone (model.md sections 1.5 and 2.5).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from unipart.errors import UserError

T = TypeVar("T")
Kind = Literal["vae", "whole", "image_encoder"]
KINDS: tuple[Kind, ...] = ("vae", "whole", "image_encoder")
SECTIONS: dict[Kind, str] = {"vae": "vae", "whole": "model", "image_encoder": "conditioner"}
"""Our kind of model -> the section of the pipeline's file."""
CONFIG_SECTIONS: dict[Kind, tuple[str, ...]] = {"vae": ("vae",), "whole": ("dit", "model"), "image_encoder": ("conditioner",)}
DINO_PREFIX = "main_image_encoder."
MARKERS: dict[Kind, str] = {"vae": "geo_decoder.output_proj.weight", "whole": "x_embedder.weight", "image_encoder": DINO_PREFIX}

LICENCE = "Tencent Hunyuan 3D 2.1 Community License"
LICENCE_URL = "https://github.com/Tencent-Hunyuan/Hunyuan3D-2.1/blob/main/LICENSE"
LICENCE_NOTICE = f"""\
These weights are Tencent's, under the {LICENCE}, not under UniPart's Apache-2.0.
As we understand that licence (its own text decides, and this is no legal advice):
  - it grants nothing in the European Union, the United Kingdom and South Korea;
  - its acceptable-use policy restricts what the weights and their outputs may be used for;
  - above one million monthly active users, a licence has to be requested from Tencent;
  - models derived from these weights are likely to fall under it too: keep it and its notices with them.
Read it before you use or pass on what is imported: {LICENCE_URL}"""

RELEASED_VAE: dict[str, Any] = {
    "num_latents": 4096,
    "pc_size": 81920,
    "pc_sharpedge_size": 0,
    "include_pi": False,
    "scale_factor": 1.0039506158752403,
    "geo_decoder_downsample_ratio": 1,
}
"""What the weights of a VAE do not show, as in the released model."""
RELEASED_DIT: dict[str, Any] = {
    "input_size": 4096,
    "text_len": 1370,
    "moe_top_k": 2,
    "norm_type": "layer",
    "use_pos_emb": False,
    "use_attention_pooling": False,
    "with_decoupled_ca": False,
}
"""Likewise of a DiT."""
RELEASED_HEAD_WIDTH = {"vae": 64, "dit": 128}


def split_sections(tree: Mapping[str, T | Mapping[str, T]]) -> dict[Kind, dict[str, T]]:
    """Returns the state dicts in a file by kind of model, with the names that they have alone.

    Args:
        tree: what a file holds: tensors by name, or state dicts by section.

    Raises:
        UserError: a tensor belongs to none of the three.
    """
    flat: dict[str, T] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": tensor for inner, tensor in value.items()}
        else:
            flat[name] = value
    if not flat:
        raise UserError("there is no tensor in it", "give a file of Hunyuan3D-2.1's weights")
    if {name.partition(".")[0] for name in flat} <= set(SECTIONS.values()):
        return {
            kind: {name.removeprefix(f"{section}."): value for name, value in flat.items() if name.startswith(f"{section}.")}
            for kind, section in SECTIONS.items()
            if any(name.startswith(f"{section}.") for name in flat)
        }
    for kind, marker in MARKERS.items():
        if any(name.startswith(marker) for name in flat):
            return {kind: flat}
    shown = ", ".join(list(flat)[:3])
    raise UserError(
        f"these are not Hunyuan3D-2.1's weights: {len(flat)} tensors, the first {shown}",
        "give its model.fp16.ckpt, the safetensors form of it, or the state dict of its VAE, DiT or conditioner",
    )


def join_sections(parts: Mapping[Kind, Mapping[str, T]]) -> dict[str, T]:
    """Undoes `split_sections` of a pipeline's file, in its safetensors form."""
    return {f"{SECTIONS[kind]}.{name}": value for kind, part in parts.items() for name, value in part.items()}


def config_section(document: Mapping[str, Any], kind: Kind) -> dict[str, Any] | None:
    """Returns a model's config from a file with several, ``{"vae": {...}}`` or ``{"vae": {"params": {...}}}``; None without one."""
    for name in CONFIG_SECTIONS[kind]:
        section = document.get(name)
        if isinstance(section, Mapping):
            inner = section.get("params", section)
            return dict(inner)
    return None


def guess_config(kind: Kind, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Returns a config in Hunyuan's key names: sizes from the shapes of its tensors, the rest as in the released model.

    Raises:
        UserError: a tensor that sizes are read from is missing.
    """
    try:
        return _guess_vae(shapes) if kind == "vae" else _guess_dit(shapes) if kind == "whole" else _guess_image_encoder(shapes)
    except KeyError as error:
        raise UserError(f"the tensor {error} is missing", "give the complete state dict") from None


def _guess_vae(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    width, inputs = shapes["encoder.input_proj.weight"]
    query_inputs = shapes["geo_decoder.query_proj.weight"][1]
    norm = shapes.get("encoder.cross_attn.attn.attention.q_norm.weight")
    return {
        **RELEASED_VAE,
        "width": width,
        "heads": width // (norm[0] if norm else RELEASED_HEAD_WIDTH["vae"]),
        "embed_dim": shapes["post_kl.weight"][1],
        "num_freqs": (query_inputs - 3) // 6,
        "point_feats": inputs - query_inputs,
        "num_encoder_layers": _count(shapes, "encoder.self_attn.resblocks."),
        "num_decoder_layers": _count(shapes, "transformer.resblocks."),
        "qkv_bias": "encoder.cross_attn.attn.c_q.bias" in shapes,
        "qk_norm": norm is not None,
        "geo_decoder_mlp_expand_ratio": shapes["geo_decoder.cross_attn_decoder.mlp.c_fc.weight"][0] // width,
        "geo_decoder_ln_post": "geo_decoder.ln_post.weight" in shapes,
    }


def _guess_dit(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    hidden, channels = shapes["x_embedder.weight"]
    norm = shapes.get("blocks.0.attn1.q_norm.weight")
    gates = [shape for name, shape in shapes.items() if name.endswith(".moe.gate.weight")]
    return {
        **RELEASED_DIT,
        "in_channels": channels,
        "hidden_size": hidden,
        "context_dim": shapes["blocks.0.attn2.to_k.weight"][1],
        "depth": _count(shapes, "blocks."),
        "num_heads": hidden // (norm[0] if norm else RELEASED_HEAD_WIDTH["dit"]),
        "qk_norm": norm is not None,
        "qk_norm_type": "layer" if "blocks.0.attn1.q_norm.bias" in shapes else "rms",
        "qkv_bias": "blocks.0.attn1.to_q.bias" in shapes,
        "num_moe_layers": len(gates),
        "num_experts": gates[0][0] if gates else 8,
    }


def _guess_image_encoder(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    prefix = f"{DINO_PREFIX}model."
    width, _, patch, _ = shapes[f"{prefix}embeddings.patch_embeddings.projection.weight"]
    patches = shapes[f"{prefix}embeddings.position_embeddings"][1] - 1
    return {
        "width": width,
        "layers": _count(shapes, f"{prefix}encoder.layer."),
        "num_heads": width // 64,  # every released DINOv2 has 64 channels a head
        "patch": patch,
        "size": round(patches**0.5) * patch,
    }


def _count(names: Iterable[str], prefix: str) -> int:
    """Returns how many numbers follow a prefix: the layers of a stack."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)})

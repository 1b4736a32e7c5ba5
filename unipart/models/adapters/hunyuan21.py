"""Hunyuan3D-2.1's VAE, DiT and image conditioner as our models, and back: from the dicts of a config and a state dict.

Every tensor is used or named in an error, and nothing is rounded: import, then export, gives the same names, types and bytes. What
differs between the two projects is translated here and nowhere else:

    | Hunyuan3D-2.1                          | here                                     | how                                |
    |----------------------------------------|------------------------------------------|------------------------------------|
    | attention rows head by head            | q, k, v one after another                | rows reordered (hunyuan21_layout)  |
    | time 1 is data, velocity data - noise  | time 0 is data, velocity noise - data    | ``reversed_time``, last layer negated |
    | seventh input: sharp-edge flag, 0      | part label                               | ``label_encoding="none"``: stays 0 |
    | scale_factor                           | ``vae.z_scale``                          | the same number                    |
    | field positive inside, 128 * distance  | the same                                 | ``field="tsdf"``, ``tsdf_res=128`` |

An imported VAE is a plain geometry VAE (no segmentation decoder) that behaves as Hunyuan's for every label. A training that starts
from it (`unipart.models.warm_start`) sets the label's weights to zero and draws the segmentation decoder anew.
"""

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unipart.errors import UserError
from unipart.models.adapters.hunyuan21_layout import Tie, expected_shapes, merge_all, split_all, vae_layout, whole_dit_layout
from unipart.models.adapters.hunyuan21_release import DINO_PREFIX, config_section, guess_config
from unipart.models.geom_seg_vae import LOGVAR_RANGE, GeomSegVAE, GeomSegVAEConfig
from unipart.models.image_encoder import Dinov2Encoder, ImageEncoderConfig
from unipart.models.pretrained import differences, shorten
from unipart.models.whole_dit import WholeDiT, WholeDiTConfig
from unipart.nn.fps import farthest_point_sampling

LOGGER = logging.getLogger(__name__)
M = TypeVar("M", bound=nn.Module)

VAE_FIXED: dict[str, Any] = {
    "include_pi": False,
    "point_feats": 4,
    "qkv_bias": False,
    "geo_decoder_mlp_expand_ratio": 4,
    "geo_decoder_downsample_ratio": 1,
    "geo_decoder_ln_post": True,
    "use_ln_post": True,
}
"""What our VAE shares with the released one and does not offer as a choice."""
VAE_SIZES = ("num_latents", "pc_size", "embed_dim", "width", "heads", "num_encoder_layers", "num_decoder_layers", "num_freqs")
VAE_OTHER = ("qk_norm", "scale_factor", "pc_sharpedge_size", "downsample_ratio", "label_type", "drop_path_rate")
DIT_FIXED: dict[str, Any] = {
    "norm_type": "layer",
    "qkv_bias": False,
    "use_pos_emb": False,
    "use_attention_pooling": False,
    "with_decoupled_ca": False,
    "mlp_ratio": 4,
}
DIT_SIZES = ("in_channels", "hidden_size", "depth", "num_heads", "context_dim", "num_moe_layers", "num_experts", "moe_top_k")
DIT_OTHER = ("qk_norm", "qk_norm_type", "input_size", "text_len", "decoupled_ca_dim", "decoupled_ca_scale")


def vae_from_hunyuan(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> GeomSegVAE:
    """Returns Hunyuan's ShapeVAE as our VAE, in evaluation mode and in the precision of the weights (``.float()`` to compute).

    Moments, latents and field in Hunyuan's conventions, for a surface [B N 7] of position, normal and sharp-edge flag::

        vae = vae_from_hunyuan(config["vae"], state_dict)
        mean, logvar = hunyuan_moments(vae, surface)       # or (vae, surface, index) with anchors chosen elsewhere
        features = vae.decode_latents(z)                   # z as sampled, before the scale factor: [B L d] -> [B L width]
        field = vae.query(features, queries)               # [B Q], positive inside, unclamped: the sign and scale are Hunyuan's

    The seventh channel: Hunyuan's flag was always 0 (no sharp-edge points). Its weights stay in the label's place, so `surface`
    may carry any flag; where there is none feed 0, which is what ``vae.encode(points, normals, None, generator)`` does (its
    first anchor is random, `hunyuan_moments` starts at point 0). The DiT works on ``z * vae.z_scale`` (the scale factor).

    Args:
        config: in Hunyuan's key names, the section ``vae`` or a file that has it. Keys that are missing are read off the weights,
            or are as released.
        state_dict: in Hunyuan's names and layouts.

    Raises:
        UserError: unknown or unsupported config keys; missing, unexpected or misshapen tensors (all of them named).
    """
    config = config_section(config, "vae") or config
    settings = _settings("VAE", config, guess_config("vae", _shapes(state_dict)), VAE_FIXED, VAE_SIZES + VAE_OTHER)
    per_latent, rest = divmod(settings["pc_size"], settings["num_latents"])
    if rest or per_latent == 0:
        LOGGER.warning("pc_size %(pc_size)s is no multiple of num_latents %(num_latents)s: training rounds it down", settings)
    if settings["pc_sharpedge_size"]:
        LOGGER.warning("pc_sharpedge_size %(pc_sharpedge_size)s: here anchors are chosen among all points alike", settings)
    ours = {
        "num_latents": settings["num_latents"],
        "latent_width": settings["embed_dim"],
        "width": settings["width"],
        "num_heads": settings["heads"],
        "encoder_layers": settings["num_encoder_layers"],
        "decoder_layers": settings["num_decoder_layers"],
        "points_per_latent": max(per_latent, 1),
        "num_freqs": settings["num_freqs"],
        "qk_norm": "layer" if settings["qk_norm"] else "none",
        "label_encoding": "none",
        "seg": None,
    }
    vae = GeomSegVAE(GeomSegVAEConfig.parse(ours, source="the VAE's config"))
    vae.z_scale.fill_(settings["scale_factor"])
    return _fill(vae, vae_layout(vae), state_dict, "VAE")


def vae_to_hunyuan(vae: GeomSegVAE, geometry_only: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns config and state dict of a VAE in Hunyuan's form, in the model's precision; undoes `vae_from_hunyuan`.

    A scalar label's weights go to the sharp-edge flag: Hunyuan's flag 0 is our "no label". What has no place there (see
    `beyond_hunyuan`) is left out only when `geometry_only` says so; latents keep their meaning for geometry.

    Raises:
        UserError: the VAE holds more than Hunyuan's and `geometry_only` is not set, or cannot be expressed.
    """
    surplus = beyond_hunyuan(vae)
    if surplus and not geometry_only:
        raise UserError(
            f"Hunyuan3D-2.1's VAE has no place for {shorten(surplus)}", "export the geometry alone: geometry_only (--geometry-only)"
        )
    config = vae.config
    if config.qk_norm == "rms":
        raise UserError("Hunyuan3D-2.1's VAE has no RMS query-key normalisation", "export a VAE with qk_norm 'layer' or 'none'")
    ours = dict(vae.state_dict())
    if config.label_width > 1:
        weight = ours["encoder.input_proj.weight"]
        ours["encoder.input_proj.weight"] = torch.cat([weight[:, : -config.label_width], torch.zeros_like(weight[:, :1])], dim=1)
    settings = {
        **VAE_FIXED,
        "num_latents": config.num_latents,
        "pc_size": config.num_points,
        "pc_sharpedge_size": 0,
        "embed_dim": config.latent_width,
        "width": config.width,
        "heads": config.num_heads,
        "num_encoder_layers": config.encoder_layers,
        "num_decoder_layers": config.decoder_layers,
        "num_freqs": config.num_freqs,
        "qk_norm": config.qk_norm == "layer",
        "scale_factor": float(vae.z_scale),
    }
    del settings["use_ln_post"]  # a default of Hunyuan's that its config files do not mention
    return settings, split_all(vae_layout(vae), ours)


def beyond_hunyuan(vae: GeomSegVAE) -> list[str]:
    """Returns what of a VAE has no place in Hunyuan's: an 8-channel label code, the segmentation decoder's tensors."""
    code = [f"the {vae.config.label_width} label channels of encoder.input_proj.weight"] if vae.config.label_width > 1 else []
    return code + [name for name in vae.state_dict() if name.startswith("seg_decoder.")]


def hunyuan_moments(
    vae: GeomSegVAE, surface: Float[Tensor, "B N 7"], anchor_index: Int[Tensor, "B L"] | None = None
) -> tuple[Float[Tensor, "B L d"], Float[Tensor, "B L d"]]:
    """Returns mean and log-variance (clamped to [-30, 20]) of the posterior, unscaled, float32.

    Args:
        vae: from `vae_from_hunyuan`.
        surface: position, unit normal, sharp-edge flag; points are taken in this order.
        anchor_index: points that seed the latents; by default farthest point sampling from point 0.
    """
    points, normals, flag = surface.split([3, 3, 1], dim=-1)
    if anchor_index is None:
        anchor_index = farthest_point_sampling(points, vae.config.num_latents)
    mean, logvar = vae.encoder(points, normals, flag, anchor_index).float().chunk(2, dim=-1)
    return mean, logvar.clamp(*LOGVAR_RANGE)


def whole_dit_from_hunyuan(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> WholeDiT:
    """Returns Hunyuan's DiT as our whole DiT, in evaluation mode and in the precision of the weights (``.float()`` to compute).

    The model speaks the paper's convention: ``dit(z_t, t, context)`` with t = 0 at the data predicts noise - data. Hunyuan's, with
    time 1 at the data and the velocity data - noise::

        dit = whole_dit_from_hunyuan(config["dit"], state_dict)
        velocity = hunyuan_velocity(dit, x, t_hunyuan, context)      # = -dit(x, 1 - t_hunyuan, context)

    A context of zeros is Hunyuan's unconditional branch; None gives the same without computing it. The latents are scaled by the
    VAE's ``z_scale``.

    Args:
        config: in Hunyuan's key names, the section ``dit`` or a file that has it. Keys that are missing are read off the weights,
            or are as released.
        state_dict: in Hunyuan's names and layouts.

    Raises:
        UserError: unknown or unsupported config keys; missing, unexpected or misshapen tensors (all of them named).
    """
    config = config_section(config, "whole") or config
    settings = _settings("DiT", config, guess_config("whole", _shapes(state_dict)), DIT_FIXED, DIT_SIZES + DIT_OTHER)
    ours = {
        "latent_width": settings["in_channels"],
        "hidden": settings["hidden_size"],
        "depth": settings["depth"],
        "num_heads": settings["num_heads"],
        "context_width": settings["context_dim"],
        "moe_layers": settings["num_moe_layers"],
        "num_experts": settings["num_experts"],
        "top_k": settings["moe_top_k"],
        "qk_norm": settings["qk_norm_type"] if settings["qk_norm"] else "none",
        "t_scale": 1.0,
        "reversed_time": True,
    }
    _warn_of_centred_norms(state_dict)
    with torch.device("meta"):  # random weights that are replaced anyway would take 12 GB at the released size
        dit = WholeDiT(WholeDiTConfig.parse(ours, source="the DiT's config"))
    return _fill(dit, whole_dit_layout(dit), state_dict, "DiT")


def _warn_of_centred_norms(state_dict: Mapping[str, Tensor]) -> None:
    """Says where the weights of query and key norms lie round 0, not round 1: some models store them less 1 (model.md §2.5)."""
    means = [float(value.float().mean()) for name, value in state_dict.items() if name.endswith(("q_norm.weight", "k_norm.weight"))]
    if means and sum(means) / len(means) < 0.5:
        LOGGER.warning(
            "the weights of the query and key norms are %.2f on average: if this model stores them less 1, add 1 before the import",
            sum(means) / len(means),
        )


def whole_dit_to_hunyuan(dit: WholeDiT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns config and state dict of a whole DiT in Hunyuan's form, in the model's precision; undoes `whole_dit_from_hunyuan`.

    Raises:
        UserError: the model reads time in another way than Hunyuan's (it was trained from scratch).
    """
    config = dit.config
    if not config.reversed_time or config.t_scale != 1 or config.mlp_ratio != 4:
        raise UserError(
            f"Hunyuan3D-2.1's DiT reads 1 - t unscaled and has mlp_ratio 4; this model has reversed_time {config.reversed_time}, "
            f"t_scale {config.t_scale}, mlp_ratio {config.mlp_ratio}",
            "export a model that was imported, or trained with reversed_time true and t_scale 1",
        )
    settings = {
        **DIT_FIXED,
        "in_channels": config.latent_width,
        "hidden_size": config.hidden,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "context_dim": config.context_width,
        "num_moe_layers": config.moe_layers,
        "num_experts": config.num_experts,
        "moe_top_k": config.top_k,
        "qk_norm": config.qk_norm != "none",
        "qk_norm_type": "rms" if config.qk_norm == "none" else config.qk_norm,
    }
    del settings["mlp_ratio"]  # a default of Hunyuan's that its config files do not mention
    return settings, split_all(whole_dit_layout(dit), dit.state_dict())


def hunyuan_velocity(
    dit: WholeDiT, x: Float[Tensor, "B L d"], t: Float[Tensor, " B"], context: Float[Tensor, "B T Dc"] | None
) -> Float[Tensor, "B L d"]:
    """Returns Hunyuan's velocity, data - noise, at Hunyuan's time, 1 at the data.

    Args:
        dit: from `whole_dit_from_hunyuan`, or fine-tuned from it.
        x: noisy latents, scaled.
        t: Hunyuan's times.
        context: image tokens; zeros or None for the unconditional branch.
    """
    return -dit(x, 1 - t, context)


def image_encoder_from_hunyuan(state_dict: Mapping[str, Tensor]) -> Dinov2Encoder:
    """Returns Hunyuan's image conditioner, a DINOv2, as our frozen image encoder; it takes images in [0, 1].

    Args:
        state_dict: names ``main_image_encoder.model.*``, followed by those of transformers' ``Dinov2Model``.

    Raises:
        UserError: missing, unexpected or misshapen tensors.
        EnvironmentProblem: transformers is not installed.
    """
    sizes = guess_config("image_encoder", _shapes(state_dict))
    encoder = Dinov2Encoder(ImageEncoderConfig.parse({"kind": "dinov2", **sizes}, source="the conditioner's weights"))
    return _fill(encoder, image_encoder_layout(encoder), state_dict, "conditioner")


def image_encoder_to_hunyuan(encoder: Dinov2Encoder) -> dict[str, Tensor]:
    """Returns the state dict of a DINOv2 in Hunyuan's form; undoes `image_encoder_from_hunyuan`."""
    return split_all(image_encoder_layout(encoder), encoder.state_dict())


def image_encoder_layout(encoder: Dinov2Encoder) -> list[Tie]:
    """Returns the ties of the image encoder: the names alone differ."""
    return [Tie(name, (f"{DINO_PREFIX}{name}",)) for name in encoder.state_dict()]


def _settings(
    what: str, config: Mapping[str, Any], guess: Mapping[str, Any], fixed: Mapping[str, Any], known: tuple[str, ...]
) -> dict[str, Any]:
    """Returns the config with its gaps filled; refuses what our model does not do.

    Raises:
        UserError: names the keys.
    """
    settings = {**fixed, **guess, **config}
    wrong = [f"{name} {settings[name]!r} (only {value!r})" for name, value in fixed.items() if settings[name] != value]
    if wrong:
        raise UserError(
            f"the {what}'s config asks for what UniPart's model does not do: {', '.join(wrong)}", "import another model"
        )
    # An option that is switched off changes nothing; one that we do not know and that is on might.
    unknown = [f"{name} {value!r}" for name, value in settings.items() if name not in fixed and name not in known and value]
    if unknown:
        raise UserError(
            f"the {what}'s config has keys that the importer does not know: {', '.join(unknown)}",
            f"remove them if they do not change what the model computes; known: {', '.join((*known, *fixed))}",
        )
    return settings


def _fill(model: M, ties: list[Tie], state_dict: Mapping[str, Tensor], what: str) -> M:
    """Gives a model copies of Hunyuan's tensors, in their precision."""
    problems = differences(expected_shapes(ties, model.state_dict()), _shapes(state_dict))
    if problems:
        raise UserError(
            f"the {what}'s weights do not fit its config: {shorten(problems, len(problems))}", "give the config of these weights"
        )
    model.load_state_dict({**model.state_dict(), **merge_all(ties, state_dict)}, assign=True)
    return model.eval()


def _shapes(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state_dict.items()}

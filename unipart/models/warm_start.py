"""Starting a training from finished weights: the paper fine-tunes Hunyuan3D-2.1 (sections 3.1 to 3.3)."""

import torch
from torch import nn

from unipart.config import Config
from unipart.errors import UserError
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig
from unipart.models.part_dit import PartDiT, PartDiTConfig
from unipart.models.pretrained import config_of
from unipart.models.registry import model_name
from unipart.models.whole_dit import WholeDiT, WholeDiTConfig

VAE_FREE = ("num_latents", "points_per_latent", "label_encoding", "label_init", "seg")
"""Fields of a VAE's config that no weight of the encoder and the geometry decoder hangs on."""


@torch.no_grad()
def warm_start(model: nn.Module, source: nn.Module) -> list[str]:
    """Copies the weights of a finished model into a new one.

    A VAE with labels starts from a plain geometry VAE: the label's weights become zero, so that step 0 is the source whatever the
    labels, and the segmentation decoder stays as it was drawn. A part DiT starts from a whole DiT (`PartDiT.init_from_whole`).
    Everything else starts from its own kind and config.

    Args:
        model: freshly built; changed in place.
        source: finished; any floating-point precision.

    Returns:
        The names of the tensors that are not the source's.

    Raises:
        UserError: the two do not fit; names the fields.
    """
    check_start(config_of(model), config_of(source))
    if isinstance(model, PartDiT) and isinstance(source, WholeDiT):
        model.init_from_whole(source)
        known = set(source.state_dict())
        return [name for name in model.state_dict() if name not in known]
    if isinstance(model, GeomSegVAE) and isinstance(source, GeomSegVAE):
        return _start_vae(model, source)
    model.load_state_dict(source.state_dict())
    return []


def check_start(config: Config, source: Config) -> None:
    """Checks that a model of one config can start from the weights of a model of the other.

    Raises:
        UserError: it cannot; names the fields and the flags that make them equal.
    """
    if isinstance(config, PartDiTConfig) and type(source) is WholeDiTConfig:
        config = WholeDiTConfig(**{name: getattr(config, name) for name in WholeDiTConfig.model_fields})
    if type(config) is not type(source):
        raise UserError(
            f"the weights of a {model_name(source)} cannot start a {model_name(config)}", "give a checkpoint of the model to train"
        )
    free = VAE_FREE if isinstance(config, GeomSegVAEConfig) else ()
    wrong = {name: pair for name, pair in source.diff(config).items() if name.partition(".")[0] not in free}
    if wrong:
        fields = ", ".join(f"{name} {theirs} / {ours}" for name, (theirs, ours) in wrong.items())
        fixes = " ".join(f"--model.{name} {str(theirs).lower()}" for name, (theirs, _) in wrong.items())
        raise UserError(f"these weights cannot start this training, configs (weights / training) differ: {fields}", f"add {fixes}")


def _start_vae(model: GeomSegVAE, source: GeomSegVAE) -> list[str]:
    weights, given = model.state_dict(), dict(source.state_dict())
    keep_labels = source.config.label_encoding != "none" and model.config.label_width == source.config.label_width
    if not keep_labels:
        columns = weights["encoder.input_proj.weight"].shape[1] - model.config.label_width
        inputs = torch.zeros_like(weights["encoder.input_proj.weight"])
        inputs[:, :columns] = given["encoder.input_proj.weight"][:, :columns]
        given["encoder.input_proj.weight"] = inputs
    if model.config.seg != source.config.seg:
        given = {name: value for name, value in given.items() if not name.startswith("seg_decoder.")}
    model.load_state_dict({**weights, **given})
    return [name for name in weights if name not in given] + ([] if keep_labels else ["encoder.input_proj.weight (labels)"])

"""The checkpoints that one generation needs, loaded and checked to belong together."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import nn

from unipart.errors import UserError
from unipart.models.anchor_decoder import AnchorDecoder
from unipart.models.geom_seg_vae import GeomSegVAE
from unipart.models.image_encoder import Dinov2Encoder, ImageEncoder, ImageEncoderConfig, SmallImageEncoder, build_image_encoder
from unipart.models.part_dit import PartDiT
from unipart.models.pretrained import IMAGE_ENCODER as IMAGE_ENCODER
from unipart.models.pretrained import fetch_pretrained, load_config, load_pretrained, read_document
from unipart.models.whole_dit import WholeDiT

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Models:
    """Everything that generation needs.

    Attributes:
        vae, anchor, whole, part: the models of the paper.
        image_encoder: of the whole model; the part model was trained with it too.
        digests: {name: weights digest}.
        image_encoder_note: which image encoder it is, in words.
        warnings: what a reader of the results must know.
    """

    vae: GeomSegVAE
    anchor: AnchorDecoder
    whole: WholeDiT
    part: PartDiT
    image_encoder: ImageEncoder
    digests: Mapping[str, str]
    image_encoder_note: str
    warnings: tuple[str, ...]


def load_models(
    vae: str | Path, anchor: str | Path, whole: str | Path, part: str | Path, image_weights: str | None = None
) -> Models:
    """Loads four checkpoints from wherever they are; see `UniPartPipeline.from_checkpoints`.

    Raises:
        UserError: a folder is no checkpoint, or the checkpoints do not belong together (names both sides).
    """
    given = {"vae": vae, "anchor": anchor, "whole": whole, "part": part}
    folders = {name: fetch_pretrained(source) for name, source in given.items()}
    digests = _check_lineage(folders)
    models = {
        "vae": _load(folders["vae"], "geom_seg_vae", GeomSegVAE),
        "anchor": _load(folders["anchor"], "anchor_decoder", AnchorDecoder),
        "whole": _load(folders["whole"], "whole_dit", WholeDiT),
        "part": _load(folders["part"], "part_dit", PartDiT),
    }
    encoder = load_image_encoder(folders["whole"], image_weights)
    loaded = Models(
        **models,
        image_encoder=encoder,
        digests=digests,
        image_encoder_note=_describe(encoder),
        warnings=tuple(_warnings(encoder)),
    )
    _check_sizes(loaded, folders)
    return loaded


def load_image_encoder(folder: Path, image_weights: str | None = None) -> ImageEncoder:
    """Returns the image encoder in a subfolder of the whole model's checkpoint.

    Args:
        folder: checkpoint of the whole model.
        image_weights: released DINOv2 weights to use instead of the checkpoint's copy.
    """
    if image_weights is not None:
        config = load_config(folder / IMAGE_ENCODER, IMAGE_ENCODER)
        if isinstance(config, ImageEncoderConfig) and config.kind == "dinov2":
            return build_image_encoder(config, image_weights).eval()
        raise UserError(
            f"image weights {image_weights!r} were given, but {folder} was trained with the small encoder", "leave them out"
        )
    encoder = load_pretrained(folder / IMAGE_ENCODER, IMAGE_ENCODER)
    if not isinstance(encoder, SmallImageEncoder | Dinov2Encoder):
        raise TypeError(type(encoder).__name__)
    return encoder


def _load(folder: Path, name: str, kind: type[M]) -> M:
    model = load_pretrained(folder, name)
    if not isinstance(model, kind):
        raise TypeError(f"the registry builds {type(model).__name__} for {name}")
    return model.requires_grad_(False)


def _check_lineage(folders: Mapping[str, Path]) -> dict[str, str]:
    """Returns every weights digest; refuses a model that was trained against another checkpoint than the one given."""
    documents = {name: read_document(folder) for name, folder in folders.items()}
    digests = {name: document["digest"] for name, document in documents.items()}
    for name, document in documents.items():
        for parent, trained_against in document["lineage"].items():
            if parent in digests and trained_against != digests[parent]:
                raise UserError(
                    f"checkpoints do not belong together: the {name} model in {folders[name]} was trained against the {parent} "
                    f"{trained_against[:12]}, but {folders[parent]} is {digests[parent][:12]}",
                    f"give the {parent} checkpoint that the {name} model was trained with, or train it anew",
                )
    return digests


def _check_sizes(models: Models, folders: Mapping[str, Path]) -> None:
    width = models.vae.config.latent_width
    for name, found in {
        "anchor": models.anchor.config.latent_width,
        "whole": models.whole.config.latent_width,
        "part": models.part.config.latent_width,
    }.items():
        if found != width:
            raise UserError(
                f"latents of the vae in {folders['vae']} have {width} channels, the {name} model in {folders[name]} takes {found}",
                "give checkpoints of one training",
            )
    tokens = models.image_encoder.config.width
    for name, found in {"whole": models.whole.config.context_width, "part": models.part.config.context_width}.items():
        if found != tokens:
            raise UserError(
                f"image tokens of {folders['whole'] / IMAGE_ENCODER} have {tokens} channels, the {name} model in {folders[name]} "
                f"takes {found}",
                "give the whole model that the part model was trained with",
            )
    part = models.part.config
    if part.cond_form == "points" and part.point_width != models.vae.config.width:
        raise UserError(
            f"point features of the vae in {folders['vae']} have {models.vae.config.width} channels, the part model in "
            f"{folders['part']} takes {part.point_width}",
            "give checkpoints of one training",
        )
    if models.vae.seg_decoder is None:
        raise UserError(f"the vae in {folders['vae']} has no segmentation decoder", "give a Geom-Seg VAE (seg is not null)")


def _describe(encoder: ImageEncoder) -> str:
    config = encoder.config
    kind = "frozen DINOv2" if config.kind == "dinov2" else "small network trained from scratch"
    return f"{kind}, {config.num_tokens} tokens x {config.width}, {config.size} px"


def _warnings(encoder: ImageEncoder) -> list[str]:
    if encoder.config.kind == "dinov2":
        return []
    return ["The image encoder is a small network trained from scratch; the paper uses frozen DINOv2-large."]

"""The Geom-Seg VAE (paper §3.1): one latent set that holds an object's geometry and its segmentation into parts.

    points P [C 7] ─► E ─► Z [L d] ─┬─► D_geom(Z, q) ─► implicit field      L_recon
    (xyz, normal, part label)       └─► D_seg(Z, r)  ─► part masks          L_seg

Encoder and geometry decoder have exactly the shapes and the arithmetic of Hunyuan3D-2.1's ShapeVAE, so that its weights can be
imported; the part label takes the place of its sharp-edge flag.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import model_validator
from torch import Generator, Tensor, nn

from unipart.config import Config
from unipart.models.seg_decoder import SegDecoder, SegDecoderConfig
from unipart.nn.attention import QkNorm, check_heads
from unipart.nn.blocks import CrossBlock, SelfBlock
from unipart.nn.embeddings import FourierEmbedding
from unipart.nn.fps import farthest_point_sampling
from unipart.rng import derive_seed

LabelEncoding = Literal["scalar_perm", "scalar_sorted", "code8", "none"]
CODE_WIDTH = 8
MAX_CODES = 256
LOGVAR_RANGE = (-30.0, 20.0)


class GeomSegVAEConfig(Config):
    """Sizes of the VAE and the conventions of its input label and output field. The defaults are the paper's."""

    num_latents: int = 4096
    """L: latents per shape. No weight depends on it."""
    latent_width: int = 64
    """d: channels of a latent."""
    width: int = 1024
    """Channels inside."""
    num_heads: int = 16
    """Attention heads."""
    encoder_layers: int = 8
    """Self-attention blocks of the encoder."""
    decoder_layers: int = 16
    """Self-attention blocks of the geometry decoder."""
    points_per_latent: int = 20
    """Surface points encoded per latent: C = 20 L."""
    num_freqs: int = 8
    """Fourier frequencies of positions."""
    qk_norm: QkNorm = "layer"
    """Normalisation of queries and keys."""
    field: Literal["tsdf", "occ", "sdf"] = "tsdf"
    """What the decoder predicts of the signed distance s: clamp(tsdf_res * s, -1, 1), sign(s), or s. Positive inside."""
    tsdf_res: float = 128.0
    """Slope of the truncated distance: values saturate 1 / tsdf_res from the surface."""
    label_encoding: LabelEncoding = "scalar_perm"
    """How a part id enters the encoder: one scalar by random or sorted rank, an 8-channel unit code, or (none) not at all: the
    channel is always 0, like the sharp-edge flag of Hunyuan3D-2.1 whose weights an imported VAE keeps there."""
    label_init: Literal["zero", "normal"] = "normal"
    """Initial label weights: zero leaves an imported geometry VAE as it was; normal is for training from scratch."""
    seg: SegDecoderConfig | None = SegDecoderConfig()
    """The segmentation decoder; None is the plain geometry VAE (ablation)."""

    @model_validator(mode="after")
    def _check(self) -> "GeomSegVAEConfig":
        check_heads(self.width, self.num_heads)
        return self

    @property
    def label_width(self) -> int:
        """Number of label channels E."""
        return CODE_WIDTH if self.label_encoding == "code8" else 1

    @property
    def num_points(self) -> int:
        """Number of surface points C that the encoder is trained on."""
        return self.num_latents * self.points_per_latent


@dataclass(frozen=True)
class Encoding:
    """The posterior of a batch of shapes.

    Attributes:
        mean, logvar: [B L d] float32.
        anchors: [B L 3] positions of the points that seeded the latents.
        anchor_index: [B L] their indices among the encoded points.
    """

    mean: Tensor
    logvar: Tensor
    anchors: Tensor
    anchor_index: Tensor

    def sample(self, generator: Generator) -> Float[Tensor, "B L d"]:
        """Draws z. The mean itself reconstructs visibly worse, so there is no other way to get a latent."""
        noise = torch.randn(self.mean.shape, generator=generator, device=generator.device)
        return self.mean + (0.5 * self.logvar).exp() * noise.to(self.mean)

    def token_labels(self, labels: Int[Tensor, "B C"]) -> Int[Tensor, "B L"]:
        """Returns the part id of each latent: that of its anchor."""
        return labels.gather(1, self.anchor_index)


class GeomSegVAE(nn.Module):
    """Encoder, geometry decoder and segmentation decoder.

    Attributes:
        z_scale: 1 / standard deviation of the latents, measured after training; the diffusion models work on z * z_scale.
    """

    z_scale: Tensor

    def __init__(self, config: GeomSegVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.geometry_decoder = GeometryDecoder(config)
        self.seg_decoder = SegDecoder(config.latent_width, config.seg) if config.seg is not None else None
        self.register_buffer("z_scale", torch.ones(()))

    def encode(
        self,
        points: Float[Tensor, "B C 3"],
        normals: Float[Tensor, "B C 3"],
        labels: Float[Tensor, "B C E"] | None,
        generator: Generator,
        anchor_index: Int[Tensor, "B L"] | None = None,
    ) -> Encoding:
        """Encodes surface points, C >= L.

        Args:
            points: positions in a normalised frame.
            normals: unit normals.
            labels: from `label_values`; None for shapes without parts, which is the label 0.
            generator: draws the first anchor of each shape.
            anchor_index: the anchors, where the farthest points were sampled before; None samples them here.
        """
        if labels is None:
            labels = points.new_zeros(*points.shape[:2], self.config.label_width)
        index = self._anchor_index(points, generator) if anchor_index is None else anchor_index
        mean, logvar = self.encoder(points, normals, labels, index).float().chunk(2, dim=-1)
        anchors = points.gather(1, index[..., None].expand(-1, -1, 3))
        return Encoding(mean, logvar.clamp(*LOGVAR_RANGE), anchors, index)

    def point_features(
        self, points: Float[Tensor, "B C 3"], normals: Float[Tensor, "B C 3"], generator: Generator
    ) -> Float[Tensor, "B L D"]:
        """Returns the encoder's features of shapes without labels, before the posterior: conditions in point form (ablation)."""
        labels = points.new_zeros(*points.shape[:2], self.config.label_width)
        return self.encoder.features(points, normals, labels, self._anchor_index(points, generator))

    def _anchor_index(self, points: Tensor, generator: Generator) -> Tensor:
        start = torch.randint(points.shape[1], (len(points),), generator=generator, device=generator.device)
        return farthest_point_sampling(points, self.config.num_latents, start.to(points.device))

    def decode_latents(self, z: Float[Tensor, "B L d"]) -> Float[Tensor, "B L D"]:
        """Returns the features that field queries attend to: the deep half of D_geom, run once per shape."""
        return self.geometry_decoder(z)

    def geometry(self, z: Float[Tensor, "B L d"]) -> "GeometryField":
        """Returns the implicit field D_geom(Z, .), ready for many queries."""
        return self.field_of(self.decode_latents(z))

    def field_of(self, features: Float[Tensor, "B L D"]) -> "GeometryField":
        """Returns the implicit field of decoded features, its keys and values computed once."""
        return GeometryField(self.geometry_decoder, self.geometry_decoder.query_block.keys_values(features))

    def query(self, features: Float[Tensor, "B L D"], queries: Float[Tensor, "B Q 3"]) -> Float[Tensor, "B Q"]:
        """Returns the field at queries, from `decode_latents`."""
        return self.field_of(features)(queries)

    def field_target(self, signed_distance: Tensor) -> Tensor:
        """Returns the field that D_geom must predict for signed distances (positive inside) of any shape.

        The zero level is the surface in every convention; occ is the paper's [0, 1] occupancy mapped to [-1, 1].
        """
        if self.config.field == "tsdf":
            return (self.config.tsdf_res * signed_distance).clamp(-1, 1)
        return signed_distance.sign() if self.config.field == "occ" else signed_distance


@dataclass(frozen=True)
class GeometryField:
    """The implicit field of a batch of shapes: call it with queries [B Q 3], get values [B Q], positive inside."""

    decoder: "GeometryDecoder"
    keys_values: tuple[Tensor, Tensor]

    def __call__(self, queries: Float[Tensor, "B Q 3"]) -> Float[Tensor, "B Q"]:
        """Evaluates; memory grows with Q, so callers chunk large grids."""
        return self.decoder.query(self.keys_values, queries)


class Encoder(nn.Module):
    """E: the anchors attend to all surface points, then to one another."""

    def __init__(self, config: GeomSegVAEConfig) -> None:
        super().__init__()
        width = config.width
        self.fourier = FourierEmbedding(config.num_freqs)
        self.input_proj = nn.Linear(self.fourier.out_channels + 3 + config.label_width, width)
        self.cross_block = CrossBlock(width, width, config.num_heads, config.qk_norm)
        self.blocks = nn.ModuleList(SelfBlock(width, config.num_heads, config.qk_norm) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.to_posterior = nn.Linear(width, 2 * config.latent_width)
        if config.label_init == "zero":
            nn.init.zeros_(self.input_proj.weight[:, -config.label_width :])

    def forward(
        self,
        points: Float[Tensor, "B C 3"],
        normals: Float[Tensor, "B C 3"],
        labels: Float[Tensor, "B C E"],
        anchor_index: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B L E2"]:
        """Returns mean and log-variance side by side [B L 2d]."""
        return self.to_posterior(self.features(points, normals, labels, anchor_index))

    def features(
        self,
        points: Float[Tensor, "B C 3"],
        normals: Float[Tensor, "B C 3"],
        labels: Float[Tensor, "B C E"],
        anchor_index: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B L D"]:
        """Returns what the posterior is read from."""
        features = torch.cat([self.fourier(points.float()), normals, labels], dim=-1)
        data = self.input_proj(features.to(self.input_proj.weight.dtype))
        latents = data.gather(1, anchor_index[..., None].expand(-1, -1, data.shape[-1]))
        latents = self.cross_block(latents, data)
        for block in self.blocks:
            latents = block(latents)
        return self.norm(latents)


class GeometryDecoder(nn.Module):
    """D_geom: self-attention over the latents once, then one cross-attention block per query."""

    def __init__(self, config: GeomSegVAEConfig) -> None:
        super().__init__()
        width = config.width
        self.from_latent = nn.Linear(config.latent_width, width)
        self.blocks = nn.ModuleList(SelfBlock(width, config.num_heads, config.qk_norm) for _ in range(config.decoder_layers))
        self.fourier = FourierEmbedding(config.num_freqs)
        self.query_proj = nn.Linear(self.fourier.out_channels, width)
        self.query_block = CrossBlock(width, width, config.num_heads, config.qk_norm)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.output_proj = nn.Linear(width, 1)

    def forward(self, z: Float[Tensor, "B L d"]) -> Float[Tensor, "B L D"]:
        """Returns the features of the latents."""
        features = self.from_latent(z.to(self.from_latent.weight.dtype))
        for block in self.blocks:
            features = block(features)
        return features

    def query(self, keys_values: tuple[Tensor, Tensor], queries: Float[Tensor, "B Q 3"]) -> Float[Tensor, "B Q"]:
        """Returns the field at queries."""
        embedded = self.query_proj(self.fourier(queries.float()).to(self.query_proj.weight.dtype))
        return self.output_proj(self.norm(self.query_block(embedded, keys_values))).squeeze(-1)


def label_values(
    labels: Int[Tensor, "B C"], num_parts: Int[Tensor, " B"], encoding: LabelEncoding, generator: Generator | None
) -> Float[Tensor, "B C E"]:
    """Turns part ids into the encoder's label channels.

    Args:
        labels: part ids 0..N-1, in the dataset's order (by centroid y, x, z); -1 where unknown.
        num_parts: N per shape.
        encoding: see `GeomSegVAEConfig.label_encoding`.
        generator: shuffles the ranks (or draws the codes) anew, so that the VAE learns the grouping and not the identity; None
            keeps the dataset's order, which gives the diffusion models less to guess. `scalar_sorted` never shuffles.

    Returns:
        [B C E]; 0 where the label is unknown, for shapes of one part, and everywhere for "none".

    Raises:
        ValueError: more parts than there are fixed codes.
    """
    if encoding == "none":
        return torch.zeros(*labels.shape, 1, device=labels.device)
    batch, most = len(labels), max(1, int(num_parts.max()))
    known = (labels >= 0) & (num_parts[:, None] > 1)
    if encoding == "code8":
        codes = _codes(batch, most, generator).to(labels.device)
        values = codes.gather(1, labels.clamp_min(0).long()[..., None].expand(-1, -1, CODE_WIDTH))
    else:
        shuffle = generator if encoding == "scalar_perm" else None
        rank = _ranks(num_parts, most, shuffle).gather(1, labels.clamp_min(0).long())
        values = ((rank + 0.5) / num_parts[:, None] * 2 - 1)[..., None]
    return torch.where(known[..., None], values, 0.0)


def _ranks(num_parts: Tensor, most: int, generator: Generator | None) -> Tensor:
    """Rank of each part id [B most]: a permutation of 0..N-1 in the first N columns."""
    ids = torch.arange(most, device=num_parts.device).expand(len(num_parts), -1)
    if generator is None:
        return ids
    keys = torch.rand(len(num_parts), most, generator=generator, device=generator.device).to(num_parts.device)
    return keys.masked_fill(ids >= num_parts[:, None], 2.0).argsort(dim=1).argsort(dim=1)


def _codes(batch: int, most: int, generator: Generator | None) -> Tensor:
    """Unit codes [B most 8]: drawn anew, or the fixed code of each rank."""
    if generator is not None:
        codes = torch.randn(batch, most, CODE_WIDTH, generator=generator, device=generator.device)
    else:
        if most > MAX_CODES:
            raise ValueError(f"code8 has {MAX_CODES} fixed codes, a shape has {most} parts")
        fixed = Generator().manual_seed(derive_seed(0, "label codes"))
        codes = torch.randn(MAX_CODES, CODE_WIDTH, generator=fixed)[:most].expand(batch, -1, -1)
    return codes / codes.norm(dim=-1, keepdim=True)

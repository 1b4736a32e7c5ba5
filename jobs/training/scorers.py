"""What each of the four models is scored by on a true object: figures named as in the score tables, and pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from jobs.training.batches import image_input
from jobs.training.frozen import FrozenEncoder
from jobs.training.objectives import AnchorObjective, PartObjective, VaeObjective, WholeObjective
from jobs.training.panels import Panels, Picture, matched_colors, resized, split_by_anchors
from jobs.training.segmentation_rounds import click_scores
from jobs.training.shapes import SHAPE, Context, Shapes, TrueLatents
from unipart.data.schema import Sample
from unipart.geometry.mesh import Mesh, Similarity
from unipart.inference.compose import DecodedPart, compose_part
from unipart.inference.pipeline import PARTS_AT_ONCE
from unipart.inference.point_conditions import point_conditions
from unipart.metrics.align import best_rotation
from unipart.metrics.parts import nearest_labels, segmentation_iou
from unipart.models.anchor_decoder import AnchorDecoder
from unipart.models.geom_seg_vae import GeomSegVAE
from unipart.models.part_dit import DualLatents
from unipart.sampling.guidance import guided
from unipart.sampling.solver import euler
from unipart.segmentation.part_latents import PartLatents, gather_parts
from unipart.segmentation.segment import Segmentation, segment_latents

MAX_PARTS = PARTS_AT_ONCE["normal"]
"""Parts of an object that the part model is scored on: those with most latents."""
SEGMENTATION_POINTS = 4096


@dataclass(frozen=True)
class Scored:
    """What became of one object.

    Attributes:
        figures: {name: value}.
        pictures: {panel: pixels}.
        notes: what did not go by the book, in words.
    """

    figures: dict[str, float]
    pictures: dict[str, Picture]
    notes: tuple[str, ...] = ()


class VaeScorer:
    """Encode, decode, compare; click, and segment without clicks."""

    groups = ("surface", "mesh")

    def __init__(self, objective: VaeObjective, context: Context) -> None:
        self.context, self.shapes = context, Shapes(objective.vae, context)

    def __call__(self, sample: Sample) -> Scored:
        """Scores an object."""
        shapes, truth = self.shapes, _true_mesh(sample)
        panels, found = Panels(_true_parts(sample)), shapes.encode(sample)
        mesh = shapes.decode(found.z)
        figures = shapes.compare(mesh, truth, sample)
        pictures = {"truth": panels.truth(), "reconstruction": panels.plain(mesh)}
        seg_decoder = shapes.vae.seg_decoder
        if seg_decoder is None:
            return Scored(figures, pictures)
        figures |= click_scores(seg_decoder, found.z, found.token_labels, self.context.draw(sample, "clicks"))
        segmentation = segment_latents(seg_decoder, lambda _: found.anchors[None], found.z, shapes.settings.segment)
        labels, true_labels = segmentation.labels.cpu().numpy(), found.token_labels.cpu().numpy()
        figures["miou_best"] = segmentation_iou(labels, true_labels)["miou_best"]
        colors = matched_colors(labels, true_labels, len(segmentation.masks), sample.num_parts)
        pictures |= _segmented(panels, truth if mesh is None else mesh, segmentation, colors)
        return Scored(figures, pictures, segmentation.fall_backs)


class _OnFrozenVae:
    """A scorer of a model that builds on a VAE: the training's own or, where latent shards stand for it, the checkpoint."""

    def __init__(self, encoder: object, context: Context) -> None:
        self.encoder, self.context = encoder, context

    @cached_property
    def shapes(self) -> Shapes:
        """The frozen VAE."""
        context, encoder = self.context, self.encoder
        vae = encoder.vae if isinstance(encoder, FrozenEncoder) else context.load(context.parents["vae"], GeomSegVAE)
        return Shapes(vae, context)


class AnchorScorer(_OnFrozenVae):
    """The distance of D_pos' anchors from those that seeded the latents."""

    groups = ("surface", "mesh")

    def __init__(self, objective: AnchorObjective, context: Context) -> None:
        super().__init__(objective.encoder, context)
        self.decoder = objective.decoder

    def __call__(self, sample: Sample) -> Scored:
        """Scores an object."""
        panels, truth = Panels(_true_parts(sample)), self.shapes.encode(sample)
        anchors = self.decoder(truth.z[None])[0].float()
        labels = truth.token_labels.cpu().numpy()
        pictures = {
            "truth": panels.anchors(truth.anchors.cpu().numpy(), labels),
            "anchors": panels.anchors(anchors.cpu().numpy(), labels),
        }
        return Scored({"anchor_error": float((anchors - truth.anchors).norm(dim=-1).mean())}, pictures)


class WholeScorer(_OnFrozenVae):
    """Generated latents beside encoded ones, the mesh they make, and the parts that D_seg finds in them."""

    groups = ("surface", "mesh", "views")

    def __init__(self, objective: WholeObjective, context: Context) -> None:
        super().__init__(objective.encoder, context)
        self.dit, self.image_encoder = objective.dit, objective.image_encoder

    @cached_property
    def anchor(self) -> AnchorDecoder | None:
        """D_pos, where there is one."""
        return None if self.context.anchor is None else self.context.load(self.context.anchor, AnchorDecoder)

    def __call__(self, sample: Sample) -> Scored:
        """Scores the object generated from the sample's first view."""
        shapes, scale, image = self.shapes, self.shapes.vae.z_scale, _image(sample, self.image_encoder.config.size)
        z = self.generate(sample, image)
        truth, again = (shapes.encode(sample, number).z * scale for number in (0, 1))
        figures = {"latent_distance": latent_distance(z, truth), "latent_floor": latent_distance(again, truth)}
        mesh, true_mesh = shapes.decode(z / scale), _true_mesh(sample)
        metrics = shapes.metrics.replace(normalise=True)  # as in the score tables: objects may face any way
        shape = best_rotation(mesh, true_mesh, metrics, self.context.rng(sample, "metrics"))
        figures |= {name: shape[name] for name in SHAPE}
        panels = Panels(_true_parts(sample))
        pictures = {"image": _pixels(image), "truth": panels.truth(), "generated": panels.plain(mesh)}
        if self.anchor is None or shapes.vae.seg_decoder is None:
            return Scored(figures, pictures, ("no anchor decoder of this VAE lies beside it: its parts are not scored",))
        segmentation = segment_latents(shapes.vae.seg_decoder, self.anchor, z / scale, shapes.settings.segment)
        assert sample.surface is not None
        points, true_labels = (array[:SEGMENTATION_POINTS] for array in (sample.surface.points, sample.surface.labels))
        labels = nearest_labels(points, segmentation.anchors.cpu().numpy(), segmentation.labels.cpu().numpy())
        figures["miou_best"] = segmentation_iou(labels, true_labels)["miou_best"]
        if mesh is not None:
            colors = matched_colors(labels, true_labels, len(segmentation.masks), sample.num_parts)
            pictures |= _segmented(panels, mesh, segmentation, colors)
        return Scored(figures, pictures, segmentation.fall_backs)

    def generate(self, sample: Sample, image: Float[Tensor, "3 S S"]) -> Float[Tensor, "L d"]:
        """Samples Z_0 as inference does; scaled."""
        config, settings = self.shapes.vae.config, self.shapes.settings
        conditions = self.dit.conditions(self.image_encoder(image[None].to(self.context.device)))
        velocity = guided(lambda z, t: self.dit(z, t, conditions), lambda z, t: self.dit(z, t, None), settings.guidance_whole)
        noise = self.context.noise(sample, (1, config.num_latents, config.latent_width), "whole")
        return euler(velocity, noise, settings.steps)[0]


class PartScorer(_OnFrozenVae):
    """Parts generated from true latents and true masks, in both spaces, and where composition puts them."""

    groups = ("surface", "parts", "mesh", "views")

    def __init__(self, objective: PartObjective, context: Context) -> None:
        super().__init__(objective.encoder, context)
        self.dit, self.image_encoder = objective.dit, objective.image_encoder

    def __call__(self, sample: Sample) -> Scored:
        """Scores the parts of an object, given its first view."""
        assert sample.parts is not None
        truth, image = self.shapes.encode(sample), _image(sample, self.image_encoder.config.size)
        sizes = np.bincount(truth.token_labels.cpu().numpy(), minlength=sample.num_parts)
        largest = np.argsort(-sizes, kind="stable")[:MAX_PARTS]
        chosen = np.sort(largest[sizes[largest] > 0])
        left = sample.num_parts - len(chosen)
        notes = [f"{left} of {sample.num_parts} parts are not scored: they have fewest latents, or none"] if left else []
        masks = truth.token_labels == torch.from_numpy(chosen).to(truth.token_labels)[:, None]
        duals = self.generate(sample, image, truth, masks, chosen)
        rows, meshes = [], {}
        for part, dual, mask in zip(chosen.tolist(), duals, masks, strict=True):
            figures, mesh, note = self._score_part(sample, part, dual, truth.anchors[mask])
            rows.append(figures)
            notes += [note] if note else []
            if mesh is not None:
                meshes[part] = mesh
        panels, parts, colors = Panels(_true_parts(sample)), list(meshes.values()), np.array(list(meshes), np.int64)
        pictures = {
            "image": _pixels(image),
            "truth": panels.truth(),
            "generated": panels.parts(parts, colors),
            "exploded": panels.parts(parts, colors, exploded=True),
        }
        return Scored(mean_figures(rows), pictures, tuple(notes))

    def generate(
        self,
        sample: Sample,
        image: Float[Tensor, "3 S S"],
        truth: TrueLatents,
        masks: Bool[Tensor, "N L"],
        chosen: NDArray[np.int64],
    ) -> Float[Tensor, "N S L d"]:
        """Samples the dual latents of the chosen parts as inference does; unscaled."""
        config, settings, scale = self.dit.config, self.shapes.settings, self.shapes.vae.z_scale
        z = truth.z * scale
        whole, parts = z[None], PartLatents(z * masks[..., None], masks) if config.kv == "fused" else gather_parts(z, masks)
        if config.cond_form == "points":
            rng = self.context.rng(sample, "point conditions")
            features = point_conditions(self.shapes.vae, _true_mesh(sample), truth.anchors, masks, rng)
            whole, parts = features[:1], PartLatents(features[1:], torch.ones_like(masks))
        count = len(masks)
        tokens = self.image_encoder(image[None].to(self.context.device)).expand(count, -1, -1)
        conditions = self.dit.conditions(tokens, whole.expand(count, -1, -1), parts.latents, parts.valid)

        def velocity(given: object) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda x, t: self.dit(DualLatents.from_stacked(x), t, given).stacked()

        shape = (len(config.spaces), *z.shape)
        noise = torch.stack([self.context.noise(sample, shape, "part", int(part)) for part in chosen])
        return euler(guided(velocity(conditions), velocity(None), settings.guidance_part), noise, settings.steps) / scale

    def _score_part(
        self, sample: Sample, part: int, dual: Float[Tensor, "S L d"], anchors: Float[Tensor, "n 3"]
    ) -> tuple[dict[str, float], Mesh | None, str]:
        assert sample.parts is not None
        shapes, ncs_truth, to_gcs = self.shapes, sample.part_meshes[part], sample.parts.to_ncs[part].invert()
        decoded = dict(zip(self.dit.config.spaces, (shapes.decode(z) for z in dual), strict=True))
        figures: dict[str, float] = {}
        for space, truth in {"gcs": ncs_truth.transformed(to_gcs), "ncs": ncs_truth}.items():
            if space in decoded:
                scores = shapes.compare_part(decoded[space], truth, sample)
                figures |= {f"{space}_{name}": value for name, value in scores.items()}
        made = DecodedPart(part, decoded["gcs"], decoded.get("ncs"), anchors.cpu().numpy().astype(np.float32), 1.0)
        composed = compose_part(made, shapes.settings.placement, self.context.rng(sample, "placement", part), "ncs" in decoded)
        mesh = None if composed.part is None else composed.part.mesh
        truth = Similarity.to_unit_box(ncs_truth.vertices).invert().then(to_gcs)
        return figures | placement_errors(mesh, truth), mesh, composed.fall_back


Scorer = VaeScorer | AnchorScorer | WholeScorer | PartScorer


def latent_distance(one: Float[Tensor, "L d"], other: Float[Tensor, "L d"]) -> float:
    """Returns the mean distance from a latent of either set to the nearest one of the other set, both ways in equal shares."""
    distance = torch.cdist(one.float(), other.float())
    return float((distance.amin(0).mean() + distance.amin(1).mean()) / 2)


def placement_errors(mesh: Mesh | None, truth: Similarity) -> dict[str, float]:
    """Compares the box of a composed part with the true one.

    Args:
        mesh: in GCS; None for a part that is missing.
        truth: the map from the unit box of the part to its true box.

    Returns:
        `part_scale_error`, |generated / true - 1| of the longest side; `part_offset_error`, the distance of the boxes' centres in
        GCS. Both are 1 for a missing part.
    """
    if mesh is None:
        return {"part_scale_error": 1.0, "part_offset_error": 1.0}
    found = Similarity.to_unit_box(mesh.vertices).invert()
    offset = float(np.linalg.norm(np.subtract(found.offset, truth.offset)))
    return {"part_scale_error": abs(found.scale / truth.scale - 1), "part_offset_error": offset}


def mean_figures(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of every figure over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def _true_mesh(sample: Sample) -> Mesh:
    assert sample.mesh is not None
    return Mesh(sample.mesh.vertices, sample.mesh.faces)


def _true_parts(sample: Sample) -> list[Mesh]:
    assert sample.mesh is not None
    return [sample.mesh.part(part) for part in range(sample.num_parts)]


def _image(sample: Sample, size: int) -> Float[Tensor, "3 S S"]:
    return torch.from_numpy(image_input(sample.views[0].rgba, size))


def _pixels(image: Float[Tensor, "3 S S"]) -> Picture:
    return resized((image.permute(1, 2, 0) * 255).round().byte().numpy())


def _segmented(panels: Panels, mesh: Mesh, segmentation: Segmentation, colors: NDArray[np.int64]) -> dict[str, Picture]:
    """Draws a mesh in the colours of its latents' parts, whole and exploded."""
    meshes = split_by_anchors(mesh, segmentation.anchors.cpu().numpy(), segmentation.labels.cpu().numpy())
    return {"segmentation": panels.parts(meshes, colors), "exploded": panels.parts(meshes, colors, exploded=True)}

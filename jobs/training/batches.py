"""From samples to batches: what each training draws from a sample, and the stream of batches that the loop reads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.training.config import AnchorTrainConfig, AnyTrainConfig, VaeTrainConfig, WholeTrainConfig
from jobs.training.loop import Place
from unipart.data.latents import LatentIndex, StoredLatents, has_tokens, open_latents, part_member, tokens_member, whole_member
from unipart.data.loader import Batch, LoaderOptions, make_loader
from unipart.data.schema import QUERY_KINDS, Sample, SurfaceSamples
from unipart.data.shard_cache import ShardCache
from unipart.data.shards import ShardIndex
from unipart.data.stream import make_stream
from unipart.inference.preprocess import prepare_image
from unipart.models.geom_seg_vae import GeomSegVAEConfig
from unipart.nn.fps import COMPILED, farthest_point_sampling
from unipart.rng import derive

Item = dict[str, Any]
ONLINE = "online"
"""Value of the field `latents` of a training that encodes as it goes."""
WHOLE = -1
"""Part number that stands for the whole object."""


class VaeDraw:
    """A whole object, or now and then a single part, with surface points and field queries.

    Args:
        config: the recipe.
        anchors: sample the anchors too.
    """

    groups = ("surface", "field", "parts")

    def __init__(self, config: VaeTrainConfig, anchors: bool = False) -> None:
        self.config = config
        self.num_anchors = config.model.num_latents if anchors else 0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Item:
        """Draws C points and the configured number of queries."""
        choice = rng.random()
        if choice < self.config.part_fraction:
            return self._part(sample, rng, in_ncs=choice < self.config.part_fraction / 2)
        labelled = choice < 1 - self.config.unlabelled_fraction
        assert sample.queries is not None
        assert sample.field is not None
        assert sample.query_kind is not None
        rows = _query_rows(sample.query_kind, self.config.queries, rng)
        surface = draw_surface(sample, self.config.model.num_points, rng)
        return {
            "sample_id": sample.sample_id,
            **_surface_item(surface, sample.num_parts, labelled),
            **sample_anchors("anchor_index", surface.points, self.num_anchors, rng),
            "queries": sample.queries.take(rows, axis=0),
            "field": sample.field[rows],
        }

    def _part(self, sample: Sample, rng: np.random.Generator, in_ncs: bool) -> Item:
        assert sample.parts is not None
        part = int(rng.integers(sample.num_parts))
        surface = draw_part(sample, part, self.config.model.num_points, rng, in_ncs)
        queries = (sample.parts.ncs_queries if in_ncs else sample.parts.gcs_queries)[part]
        field = (sample.parts.ncs_field if in_ncs else sample.parts.gcs_field)[part]
        rows = _choose(len(queries), sum(self.config.queries), rng)
        item = {"sample_id": sample.sample_id, **_surface_item(surface, 1, labelled=False)}
        item |= sample_anchors("anchor_index", surface.points, self.num_anchors, rng)
        return {**item, "queries": queries.take(rows, axis=0), "field": field[rows]}


class PointShapes:
    """Shapes as surface points, for an encoder that runs inside the training.

    Args:
        vae: sizes of the frozen VAE.
        seed: of the fixed draws.
        num_draws: how often the points of an object are drawn, always the same; 0 draws new ones at each visit.
        anchors: sample the anchors too. A part has the same in both frames: they differ by a similarity.
    """

    groups = ("surface",)
    part_groups = ("surface", "parts")

    def __init__(self, vae: GeomSegVAEConfig, seed: int, num_draws: int, anchors: bool = False) -> None:
        self.vae, self.seed, self.num_draws = vae, seed, num_draws
        self.num_anchors = vae.num_latents if anchors else 0

    def draw(self, sample: Any, rng: np.random.Generator) -> int:
        """Chooses one of the fixed draws; -1 where there are none."""
        return int(rng.integers(self.num_draws)) if self.num_draws else -1

    def whole(self, sample: Sample, draw: int, rng: np.random.Generator) -> Item:
        """Returns C labelled points of the whole."""
        rng = self._rng(sample, WHOLE, draw, rng)
        surface = draw_surface(sample, self.vae.num_points, rng)
        item = {**_surface_item(surface, sample.num_parts, labelled=True), "point_draw": draw}
        return item | sample_anchors("anchor_index", surface.points, self.num_anchors, rng)

    def part(self, sample: Sample, part: int, draw: int, whole: Item, rng: np.random.Generator) -> Item:
        """Returns C points of a part in both frames; for the whole object as its own part those of `whole`."""
        if part == WHOLE:
            item = {"gcs_points": whole["points"], "ncs_points": whole["points"], "part_normals": whole["normals"]}
            return item | ({"part_anchor_index": whole["anchor_index"]} if self.num_anchors else {})
        assert sample.parts is not None
        rng = self._rng(sample, part, draw, rng)
        ncs = draw_part(sample, part, self.vae.num_points, rng, in_ncs=True)
        item = {"gcs_points": sample.parts.to_ncs[part].invert().apply(ncs.points), "ncs_points": ncs.points}
        item |= sample_anchors("part_anchor_index", ncs.points, self.num_anchors, rng)
        return {**item, "part_normals": ncs.normals}

    def _rng(self, sample: Sample, part: int, draw: int, rng: np.random.Generator) -> np.random.Generator:
        return rng if draw < 0 else derive(self.seed, "points", sample.sample_id, part, *draw_key(draw))


class StoredShapes:
    """Shapes as latent shards hold them: the posterior of a VAE that ran before the training."""

    groups = part_groups = ()

    def draw(self, sample: StoredLatents, rng: np.random.Generator) -> int:
        """Chooses one of the draws that were encoded."""
        return int(rng.integers(sample.meta["num_draws"]))

    def whole(self, sample: StoredLatents, draw: int, rng: np.random.Generator) -> Item:
        """Returns mean, logvar, anchors and token_labels of the whole."""
        return dict(sample.arrays(whole_member(draw)))

    def part(self, sample: StoredLatents, part: int, draw: int, whole: Item, rng: np.random.Generator) -> Item:
        """Returns means and logvars of a part in both frames."""
        if part == WHOLE:
            return {f"{space}_{name}": whole[name] for space in ("gcs", "ncs") for name in ("mean", "logvar")}
        arrays = sample.arrays(part_member(part, draw))
        return {name: array for name, array in arrays.items() if not name.endswith("anchors")}


class WholeDraw:
    """A whole object and, for the whole model, one condition image.

    Args:
        shapes: what stands for a shape.
        image_size: pixels of the image; None for no image.
        tokens: read the image's tokens, which are stored, in its place.
        remember: keep prepared images in memory.
    """

    def __init__(self, shapes: PointShapes | StoredShapes, image_size: int | None, tokens: bool, remember: bool) -> None:
        self.shapes, self.image_size, self.tokens, self.remember = shapes, image_size, tokens, remember
        self.groups = shapes.groups if image_size is None else (*shapes.groups, "views")
        self._images: dict[tuple[str, int], NDArray[np.float32]] = {}

    def __call__(self, sample: Any, rng: np.random.Generator) -> Item:
        """Draws the shape and an image."""
        shape = self.shapes.whole(sample, self.shapes.draw(sample, rng), rng)
        item = {"sample_id": sample.sample_id, **shape}
        return item if self.image_size is None else {**item, **self._image(sample, rng)}

    def _image(self, sample: Any, rng: np.random.Generator) -> Item:
        """A random view, prepared as at inference, [3 S S] in [0, 1]; or its tokens [T Dc]."""
        if self.tokens:
            return {"image_tokens": sample.arrays(tokens_member(sample.view))["tokens"]}
        assert self.image_size is not None
        rgba = sample.views[int(rng.integers(len(sample.views)))].rgba
        key = (sample.sample_id, hash(rgba.tobytes()))  # a view has no number here: the loader may have read this one alone
        image = self._images.get(key)
        if image is None:
            image = image_input(rgba, self.image_size)
            if self.remember:
                self._images[key] = image
        return {"image": image}


class PartDraw(WholeDraw):
    """What the part model learns from: the whole, an image, and one part in both spaces."""

    def __init__(
        self, whole_fraction: float, shapes: PointShapes | StoredShapes, image_size: int, tokens: bool, remember: bool
    ) -> None:
        super().__init__(shapes, image_size, tokens, remember)
        self.whole_fraction = whole_fraction
        self.groups = (*shapes.part_groups, "views")

    def __call__(self, sample: Any, rng: np.random.Generator) -> Item:
        """Draws a part by `part_chances` and says its share of the area, or the whole object as its own part."""
        draw = self.shapes.draw(sample, rng)
        whole = self.shapes.whole(sample, draw, rng)
        item = {"sample_id": sample.sample_id, **whole, **self._image(sample, rng)}
        part, area = WHOLE, 1.0
        if rng.random() >= self.whole_fraction:
            areas = np.array([part["area"] for part in sample.meta["parts"]])
            part = int(rng.choice(sample.num_parts, p=part_chances(areas)))
            area = float(areas[part] / areas.sum())
        return {**item, "part": part, "part_area": area, **self.shapes.part(sample, part, draw, whole, rng)}


def part_chances(areas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns how likely each part is drawn [N]: by the square root of its area."""
    weights = np.sqrt(areas)
    return weights / weights.sum()


def anchors_with_points(device: str) -> bool:
    """Tells whether the anchors of an encoder on this type of device are best sampled where its points are drawn."""
    return device != "cpu" and COMPILED


def image_input(rgba: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Returns a view as the image encoder takes it, [3 S S] in [0, 1]."""
    pixels = prepare_image(rgba, size).pixels
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def sample_anchors(name: str, points: NDArray[np.float32], count: int, rng: np.random.Generator) -> Item:
    """Returns the anchors of surface points [C 3], an index [count] int64 under a name; nothing where the encoder finds its own.

    On a GPU each farthest point waits for the one before; a core that prepares the batches meanwhile takes milliseconds for all.
    """
    if count == 0:
        return {}
    start = torch.tensor([int(rng.integers(len(points)))])
    return {name: farthest_point_sampling(torch.from_numpy(points.astype(np.float32))[None], count, start)[0].numpy()}


def draw_key(draw: int) -> tuple[int, ...]:
    """Returns what a fixed draw of points adds to the key of its seed; the first adds nothing."""
    return (draw,) if draw else ()


def draw_surface(sample: Sample, count: int, rng: np.random.Generator) -> SurfaceSamples:
    """Draws `count` of the whole's surface points."""
    surface = sample.surface
    assert surface is not None
    rows = _choose(len(surface.points), count, rng)
    return SurfaceSamples(surface.points.take(rows, axis=0), surface.normals.take(rows, axis=0), surface.labels[rows])


def draw_part(sample: Sample, part: int, count: int, rng: np.random.Generator, in_ncs: bool) -> SurfaceSamples:
    """Draws `count` of a part's surface points in one of its frames."""
    assert sample.parts is not None
    rows = _choose(sample.parts.points.shape[1], count, rng)
    points = sample.parts.points[part].take(rows, axis=0)
    if not in_ncs:
        points = sample.parts.to_ncs[part].invert().apply(points)
    return SurfaceSamples(points, sample.parts.normals[part].take(rows, axis=0), np.full(count, part, np.int16))


class BatchSource:
    """The training and validation streams of a dataset.

    Args:
        dataset: folder or s3:// address of the shards.
        config: the recipe.
        draw: what to take from each sample.
        place: rank and world.
    """

    def __init__(self, dataset: str, config: AnyTrainConfig, draw: Any, place: Place) -> None:
        self.dataset, self.config, self.draw, self.place = dataset, config, draw, place
        self.micro_batch = config.batch_size // config.accumulate
        self.cache = ShardCache(Path(config.shard_cache), round(config.shard_cache_gb * 1e9)) if config.shard_cache else None
        self.has_validation = len(ShardIndex.open(dataset, "val")) > 0
        self._loaders: dict[str, Any] = {}

    def train(self, start: int) -> Iterator[Batch]:
        """Yields micro-batches without end, the first `start` skipped."""
        return iter(self._loader("train", start))

    def validation(self) -> Iterator[Batch]:
        """Yields the validation split once, in order; nothing if it is empty."""
        return iter(self._loader("val", 0)) if self.has_validation else iter(())

    def _loader(self, split: str, start: int) -> Any:
        if split not in self._loaders:
            training = split == "train"
            stored = self._open_latents(split)
            options = LoaderOptions(
                rank=self.place.rank,
                world_size=self.place.world,
                num_workers=self.config.loader_workers if training else 0,
                epochs=None if training else 1,
                shuffle=training,
                window_shards=self.config.window_shards,
                cache=self.cache,
                cache_samples=self.config.cache_samples and stored is None,
                views_per_sample=1,
                pin_memory=self.place.device.type == "cuda",
            )
            common = (split, self.micro_batch, self.draw, self.draw.groups, self.config.seed)
            if training and self.config.stream_buffer:
                self._loaders[split] = make_stream(self.dataset, *common, self.config.stream_buffer, options)
            else:
                self._loaders[split] = make_loader(stored or self.dataset, *common, options)
        loader = self._loaders[split]
        loader.start_at(start)
        return loader

    def _open_latents(self, split: str) -> LatentIndex | None:
        config = self.config
        if isinstance(config, VaeTrainConfig) or config.latents == ONLINE:
            return None
        pixels = "views" in self.draw.groups and not self.draw.tokens
        return open_latents(config.latents, self.dataset, split, pixels, self.cache)


def make_draw(
    config: AnyTrainConfig, vae: GeomSegVAEConfig | None, image_size: int | None, device: str = "cpu"
) -> VaeDraw | WholeDraw:
    """Returns what a training draws from a sample.

    Args:
        config: the recipe.
        vae: sizes of the VAE that the training builds on.
        image_size: pixels of the image that its image encoder takes.
        device: type of the device that encodes. For a GPU the anchors are sampled with the points.
    """
    anchors = anchors_with_points(device)
    if isinstance(config, VaeTrainConfig):
        return VaeDraw(config, anchors)
    assert vae is not None
    stored = config.latents != ONLINE
    num_draws = config.point_draws if config.cache_latents else 0
    shapes = StoredShapes() if stored else PointShapes(vae, config.seed, num_draws, anchors)
    if isinstance(config, AnchorTrainConfig):
        return WholeDraw(shapes, None, tokens=False, remember=False)
    assert image_size is not None
    tokens = stored and has_tokens(config.latents)
    if isinstance(config, WholeTrainConfig):
        frozen = config.image_encoder.kind != "small"
        return WholeDraw(shapes, image_size, tokens and frozen, config.cache_latents)
    return PartDraw(config.whole_fraction, shapes, image_size, tokens, config.cache_latents)


def _surface_item(surface: SurfaceSamples, num_parts: int, labelled: bool) -> Item:
    labels = surface.labels.astype(np.int64) if labelled else np.full(len(surface.labels), -1, np.int64)
    return {
        "points": surface.points.astype(np.float32),
        "normals": surface.normals.astype(np.float32),
        "labels": labels,
        "num_parts": num_parts if labelled else 1,
    }


def _query_rows(kinds: NDArray[np.uint8], counts: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws queries by kind; a kind that the object lacks (no sharp edge) is replaced by near-surface ones."""
    rows = []
    for kind, count in enumerate(counts):
        members = np.flatnonzero(kinds == kind)
        if len(members) == 0:
            members = np.flatnonzero(kinds == QUERY_KINDS.index("near"))
        rows.append(members[_choose(len(members), count, rng)])
    return np.concatenate(rows)


def _choose(available: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws `count` rows, without repetition where there are enough."""
    if available >= count:
        return rng.permutation(available)[:count]
    return rng.integers(available, size=count)

"""From samples to batches: what each training draws from a sample, and the stream of batches that the loop reads."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.training.config import AnchorTrainConfig, AnyTrainConfig, PartTrainConfig, VaeTrainConfig, WholeTrainConfig
from jobs.training.loop import Place
from unipart.data.loader import Batch, LoaderOptions, make_loader
from unipart.data.schema import QUERY_KINDS, Sample, SurfaceSamples
from unipart.data.shards import ShardIndex
from unipart.inference.preprocess import prepare_image
from unipart.models.geom_seg_vae import GeomSegVAEConfig
from unipart.rng import derive

Item = dict[str, Any]
WHOLE = -1
"""Part number that stands for the whole object."""


class VaeDraw:
    """A whole object, or now and then a single part, with surface points and field queries."""

    groups = ("surface", "field", "parts")

    def __init__(self, config: VaeTrainConfig) -> None:
        self.config = config

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
            "queries": sample.queries[rows],
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
        return {**item, "queries": queries[rows], "field": field[rows]}


class WholeDraw:
    """A whole object's labelled points and, for the whole model, one condition image.

    Args:
        vae: sizes of the frozen VAE.
        image_size: pixels of the image; None for no image.
        fixed: draw the same points of an object each time, so that its latents can be cached.
        seed: of the fixed draws.
    """

    def __init__(self, vae: GeomSegVAEConfig, image_size: int | None, fixed: bool, seed: int) -> None:
        self.vae, self.image_size, self.fixed, self.seed = vae, image_size, fixed, seed
        self.groups = ("surface",) if image_size is None else ("surface", "views")
        self._images: dict[tuple[str, int], NDArray[np.float32]] = {}

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Item:
        """Draws C points and an image."""
        surface = draw_surface(sample, self.vae.num_points, self._points_rng(sample, rng, WHOLE))
        item = {"sample_id": sample.sample_id, **_surface_item(surface, sample.num_parts, labelled=True)}
        return item if self.image_size is None else {**item, "image": self._image(sample, rng)}

    def _points_rng(self, sample: Sample, rng: np.random.Generator, part: int) -> np.random.Generator:
        return derive(self.seed, "points", sample.sample_id, part) if self.fixed else rng

    def _image(self, sample: Sample, rng: np.random.Generator) -> NDArray[np.float32]:
        """A random view, prepared as at inference, [3 S S] in [0, 1]."""
        assert self.image_size is not None
        number = int(rng.integers(len(sample.views)))
        key = (sample.sample_id, number)
        if key in self._images:
            return self._images[key]
        pixels = prepare_image(sample.views[number].rgba, self.image_size).pixels
        image = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
        if self.fixed:
            self._images[key] = image
        return image


class PartDraw(WholeDraw):
    """What the part model learns from: the whole, an image, and one part in both spaces."""

    def __init__(self, config: PartTrainConfig, vae: GeomSegVAEConfig, image_size: int) -> None:
        super().__init__(vae, image_size, config.cache_latents, config.seed)
        self.whole_fraction = config.whole_fraction
        self.groups = ("surface", "views", "parts")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Item:
        """Draws a part with weight sqrt(area), or the whole object as its own part."""
        item = super().__call__(sample, rng)
        if rng.random() < self.whole_fraction:
            same = {"gcs_points": item["points"], "ncs_points": item["points"], "part_normals": item["normals"]}
            return {**item, "part": WHOLE, **same}
        weights = np.sqrt([part["area"] for part in sample.meta["parts"]])
        part = int(rng.choice(sample.num_parts, p=weights / weights.sum()))
        assert sample.parts is not None
        ncs = draw_part(sample, part, self.vae.num_points, self._points_rng(sample, rng, part), in_ncs=True)
        gcs_points = sample.parts.to_ncs[part].invert().apply(ncs.points)
        return {**item, "part": part, "gcs_points": gcs_points, "ncs_points": ncs.points, "part_normals": ncs.normals}


def draw_surface(sample: Sample, count: int, rng: np.random.Generator) -> SurfaceSamples:
    """Draws `count` of the whole's surface points."""
    assert sample.surface is not None
    rows = _choose(len(sample.surface.points), count, rng)
    return SurfaceSamples(sample.surface.points[rows], sample.surface.normals[rows], sample.surface.labels[rows])


def draw_part(sample: Sample, part: int, count: int, rng: np.random.Generator, in_ncs: bool) -> SurfaceSamples:
    """Draws `count` of a part's surface points in one of its frames."""
    assert sample.parts is not None
    rows = _choose(sample.parts.points.shape[1], count, rng)
    points = sample.parts.points[part][rows]
    if not in_ncs:
        points = sample.parts.to_ncs[part].invert().apply(points)
    return SurfaceSamples(points, sample.parts.normals[part][rows], np.full(count, part, np.int16))


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
            options = LoaderOptions(
                rank=self.place.rank,
                world_size=self.place.world,
                num_workers=self.config.loader_workers if training else 0,
                epochs=None if training else 1,
                shuffle=training,
                cache_samples=self.config.cache_samples,
                views_per_sample=None if self.config.cache_samples else 1,
                pin_memory=self.place.device.type == "cuda",
            )
            self._loaders[split] = make_loader(
                self.dataset, split, self.micro_batch, self.draw, self.draw.groups, self.config.seed, options
            )
        loader = self._loaders[split]
        loader.order.cursor = start
        return loader


def make_draw(config: AnyTrainConfig, vae: GeomSegVAEConfig | None, image_size: int | None) -> VaeDraw | WholeDraw:
    """Returns what a training draws from a sample; `vae` and `image_size` come from the models it builds on."""
    if isinstance(config, VaeTrainConfig):
        return VaeDraw(config)
    assert vae is not None
    if isinstance(config, AnchorTrainConfig):
        return WholeDraw(vae, None, config.cache_latents, config.seed)
    assert image_size is not None
    if isinstance(config, WholeTrainConfig):
        return WholeDraw(vae, image_size, config.cache_latents, config.seed)
    return PartDraw(config, vae, image_size)


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

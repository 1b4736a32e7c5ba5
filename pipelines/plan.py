"""Config -> ordered stages, checked before anything runs; no cluster here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from pipelines.cache import CACHED_COLUMNS
from pipelines.stages.base import Resources, Stage
from pipelines.stages.catalog import STAGES
from pipelines.stages.field import FieldConfig
from pipelines.stages.points import PointsConfig
from pipelines.stages.remesh import RemeshStageConfig
from unipart.config import Config, digest_json
from unipart.data.schema import SCHEMA_VERSION
from unipart.geometry.components import PartsConfig
from unipart.geometry.load import LoadLimits
from unipart.geometry.render import RenderConfig

INPUT_COLUMNS = ("asset_id", "sha256", "location")
"""What an asset brings along."""
CACHED_THROUGH = "remesh"
"""The last stage whose results are kept between runs."""
_DIGEST_DIGITS = 16


class LimitsConfig(Config):
    """What one asset may cost; no part of its identity, so `--retry failed` with larger limits keeps what is done."""

    seconds: float = Field(default=600.0, gt=0)
    """Wall time."""
    memory_mb: int = Field(default=1024, ge=256)
    """Private memory of the process that works on it."""


class PackConfig(Config):
    """How kept samples are put into shards."""

    val_fraction: float = Field(default=0.02, ge=0, le=1)
    """Share of the assets in the split val."""
    test_fraction: float = Field(default=0.02, ge=0, le=1)
    """Share of the assets in the split test."""
    shard_max_bytes: int = Field(default=10**9, ge=1)
    """A shard is closed before it would grow beyond this."""
    shard_max_samples: int = Field(default=1000, ge=1)
    """Most samples in a shard."""


class CurationConfig(Config):
    """Everything that decides what a dataset holds."""

    seed: int = 0
    """Of every draw."""
    licences: tuple[str, ...] = ()
    """Licences that are let in, as the sources name them; empty for all."""
    fetch: LoadLimits = LoadLimits()
    """Limits of the loader."""
    parts: PartsConfig = PartsConfig()
    """How parts are found."""
    remesh: RemeshStageConfig = RemeshStageConfig()
    """Watertight surfaces."""
    points: PointsConfig = PointsConfig()
    """Surface points."""
    field: FieldConfig = FieldConfig()
    """Queries and signed distances."""
    render: RenderConfig = RenderConfig()
    """Condition views."""
    limits: LimitsConfig = LimitsConfig()
    """What one asset may cost."""
    pack: PackConfig = PackConfig()
    """Splits and shards."""


@dataclass(frozen=True)
class Plan:
    """The stages of a curation in order.

    Attributes:
        config: the whole config.
        stages: checked: each finds the columns that it reads.
    """

    config: CurationConfig
    stages: tuple[Stage, ...]

    @property
    def digest(self) -> str:
        """What the samples depend on besides the content of the assets (16 hex digits)."""
        return self.digest_through(self.stages[-1].name)

    @property
    def cache_digest(self) -> str:
        """What the cached half depends on besides the content (16 hex digits)."""
        return self.digest_through(CACHED_THROUGH)

    @property
    def resources(self) -> Resources:
        """What one asset takes: the most that any stage asks for, since one worker runs them all."""
        return Resources(cpus=max(stage.resources.cpus for stage in self.stages))

    def digest_through(self, name: str) -> str:
        """Returns the digest of the chain of stages up to and including one."""
        end = [stage.name for stage in self.stages].index(name) + 1
        chain = [stage.identity() for stage in self.stages[:end]]
        return digest_json({"schema_version": SCHEMA_VERSION, "chain": chain})[:_DIGEST_DIGITS]

    def describe(self) -> list[dict[str, Any]]:
        """Returns a row per stage: name, reads, writes, cpus, the digest of the chain so far, whether its results are cached."""
        cached = set(CACHED_COLUMNS)
        return [
            {
                "stage": stage.name,
                "reads": list(stage.reads),
                "writes": list(stage.writes),
                "cpus": stage.resources.cpus,
                "digest": self.digest_through(stage.name),
                "cached": set(stage.writes) <= cached,
            }
            for stage in self.stages
        ]


def build_plan(config: CurationConfig) -> Plan:
    """Builds the stages of the catalog, each with its section of the config."""
    stages = tuple(stage(getattr(config, name), config.seed) for name, stage in STAGES.items())
    check_stages(stages)
    return Plan(config, stages)


def check_stages(stages: Sequence[Stage]) -> None:
    """Checks that every stage finds the columns that it reads and that no column is written twice.

    Raises:
        ValueError: names the stage and the columns.
    """
    known = set(INPUT_COLUMNS)
    for stage in stages:
        missing = sorted(set(stage.reads) - known)
        if missing:
            raise ValueError(f"stage '{stage.name}' reads {missing}, which no stage before it writes")
        twice = sorted(set(stage.writes) & known)
        if twice:
            raise ValueError(f"stage '{stage.name}' writes {twice}, which exist already")
        known |= set(stage.writes)

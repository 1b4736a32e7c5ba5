"""Complete curation configs by name."""

from collections.abc import Callable

from pipelines.plan import CurationConfig, LimitsConfig, PackConfig
from pipelines.stages.field import FieldConfig
from pipelines.stages.points import PointsConfig
from pipelines.stages.remesh import RemeshStageConfig
from unipart.errors import UserError, did_you_mean
from unipart.geometry.field import QueryConfig
from unipart.geometry.render import CameraConfig, RenderConfig
from unipart.geometry.watertight import RemeshConfig

TINY_CAMERAS = CameraConfig(kind="orbit", views=4, fov_degrees=(30, 40), azimuth_degrees=(-60, 60), elevation_degrees=(5, 35))
"""Views from the front half: models of a few minutes' training cannot learn pose from any side."""


def ci() -> CurationConfig:
    """A fraction of a second per object: every stage runs, nothing can be learnt from it."""
    return tiny().replace(
        remesh__whole__resolution=48,
        remesh__part__resolution=32,
        points={"surface": 256, "sharp": 64, "part_surface": 128},
        field__whole={"volume": 64, "near": 128, "sharp": 64},
        field__part={"volume": 400, "near": 64, "sharp": 32},
        render__size=32,
        render__supersample=1,
        render__cameras__views=2,
        pack={"val_fraction": 0.3, "test_fraction": 0.0, "shard_max_samples": 3},
    )


def tiny() -> CurationConfig:
    """A second or two per object: for the demo, tests and trials."""
    return CurationConfig(
        remesh=RemeshStageConfig(whole=RemeshConfig(resolution=96), part=RemeshConfig(resolution=64)),
        points=PointsConfig(surface=4096, sharp=2048, part_surface=2048),
        field=FieldConfig(
            whole=QueryConfig(volume=2048, near=4096, sharp=2048), part=QueryConfig(volume=1024, near=2048, sharp=1024)
        ),
        render=RenderConfig(size=160, cameras=TINY_CAMERAS),
        limits=LimitsConfig(seconds=120, memory_mb=1024),
        pack=PackConfig(val_fraction=0.1, test_fraction=0.1),
    )


def base() -> CurationConfig:
    """The paper's scale: resolution 256, 200,000 surface points, views of 518 pixels; at most 1 GB per process."""
    return CurationConfig()


def large() -> CurationConfig:
    """Resolution 512 for the whole, in at most 2 GB; parts stay at 256, which in their own frames is as fine or finer."""
    return base().replace(remesh__whole__resolution=512, limits={"seconds": 1800.0, "memory_mb": 2048})


PRESETS: dict[str, Callable[[], CurationConfig]] = {"ci": ci, "tiny": tiny, "base": base, "large": large}


def preset(name: str) -> CurationConfig:
    """Returns a preset by name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in PRESETS:
        raise UserError(f"there is no size '{name}'.{did_you_mean(name, list(PRESETS))}", f"choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()

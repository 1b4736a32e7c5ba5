import pytest

from pipelines.plan import CurationConfig, build_plan, check_stages
from pipelines.presets import preset
from unipart.config import Config
from unipart.errors import UserError


def test_stages_read_only_what_was_written():
    stages = build_plan(CurationConfig()).stages
    assert [stage.name for stage in stages] == ["fetch", "parts", "remesh", "points", "field", "render"]
    with pytest.raises(ValueError, match=r"'remesh' reads \['parted'\]"):
        check_stages([stage for stage in stages if stage.name != "parts"])
    with pytest.raises(ValueError, match="exist already"):
        check_stages([*stages, stages[-1]])


@pytest.mark.parametrize(
    ("change", "same_cache", "same_samples"),
    [
        ({"points__surface": 77}, True, False),
        ({"render__size": 64}, True, False),
        ({"field__part__near": 5}, True, False),
        ({"seed": 1}, True, False),
        ({"remesh__part__resolution": 32}, False, False),
        ({"parts__max_parts": 7}, False, False),
        ({"fetch__max_faces": 7}, False, False),
        ({"limits__seconds": 1.0}, True, True),
        ({"pack__shard_max_samples": 3}, True, True),
        ({"licences": ("MIT",)}, True, True),
    ],
)
def test_digests_change_with_what_the_results_depend_on(change, same_cache, same_samples):
    before, after = (build_plan(config) for config in (preset("tiny"), preset("tiny").replace(**change)))
    assert (before.cache_digest == after.cache_digest) is same_cache
    assert (before.digest == after.digest) is same_samples
    assert before.config.digest() != after.config.digest()


def test_a_new_version_of_a_stage_changes_the_chain(monkeypatch):
    before = build_plan(preset("tiny"))
    digest, cache = before.digest, before.cache_digest
    monkeypatch.setattr(type(before.stages[-1]), "version", 2)
    assert build_plan(preset("tiny")).digest != digest
    assert build_plan(preset("tiny")).cache_digest == cache


def test_describe_is_for_people_and_json():
    rows = build_plan(CurationConfig()).describe()
    assert [row["stage"] for row in rows if row["cached"]] == ["parts", "remesh"]
    assert len({row["digest"] for row in rows}) == len(rows)


def test_presets():
    assert preset("base").remesh.whole.resolution == 256
    assert preset("base").points.surface == 200_000
    assert preset("large").remesh.whole.resolution == 512
    assert [preset(name).limits.memory_mb for name in ("tiny", "base", "large")] == [1024, 1024, 2048]
    assert isinstance(preset("tiny"), Config)
    with pytest.raises(UserError, match="'tiny'"):
        preset("tinny")

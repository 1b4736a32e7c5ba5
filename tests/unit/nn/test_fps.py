"""Farthest point sampling: every form equals the reference."""

import numpy as np
import pytest
import torch

from unipart.nn import fps
from unipart.rng import derive


def _clouds(kind: str, num_points: int = 700) -> torch.Tensor:
    rng = derive(0, "fps", kind)
    points = rng.standard_normal((3, num_points, 3)).astype(np.float32)
    if kind == "sphere":
        points /= np.linalg.norm(points, axis=-1, keepdims=True)
    elif kind == "plane":
        points[..., 1] = 0.25
    elif kind == "lattice":  # many exact ties and duplicates
        points = np.round(points * 2) / 2
    elif kind == "one_place":
        points[:] = 0.5
    return torch.from_numpy(points)


@pytest.mark.parametrize("kind", ["sphere", "plane", "lattice", "one_place"])
@pytest.mark.parametrize("count", [1, 2, 64, 700])
def test_both_forms_equal_the_reference(kind: str, count: int) -> None:
    clouds = _clouds(kind)
    start = torch.tensor([0, 5, 699])
    expected = np.stack(
        [fps.farthest_point_sampling_reference(cloud.numpy(), count, int(s)) for cloud, s in zip(clouds, start, strict=True)]
    )
    np.testing.assert_array_equal(fps.farthest_point_sampling(clouds, count, start).numpy(), expected)
    np.testing.assert_array_equal(fps._tensor_loop(clouds, count, start).numpy(), expected)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clouds = _clouds("sphere")
    expected = fps.farthest_point_sampling(clouds, 100)
    monkeypatch.setattr(fps, "THREADED_WORK", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.equal(fps.farthest_point_sampling(clouds, 100), expected)


def test_works_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    clouds = _clouds("sphere")
    expected = fps.farthest_point_sampling(clouds, 50)
    monkeypatch.setattr(fps, "find_spec", lambda _: None)
    assert torch.equal(fps.farthest_point_sampling(clouds, 50), expected)


def test_spreads_better_than_chance() -> None:
    cloud = _clouds("sphere")[:1]
    chosen = fps.farthest_point_sampling(cloud, 64)[0]
    assert len(set(chosen.tolist())) == 64
    covered = torch.cdist(cloud[0], cloud[0, chosen]).min(-1).values.max()
    by_chance = torch.cdist(cloud[0], cloud[0, :64]).min(-1).values.max()
    assert covered < 0.7 * by_chance


@pytest.mark.parametrize("count", [0, 701])
def test_refuses_an_impossible_count(count: int) -> None:
    with pytest.raises(ValueError, match="count"):
        fps.farthest_point_sampling(_clouds("sphere"), count)


def test_refuses_points_that_are_not_finite() -> None:
    clouds = _clouds("sphere").clone()
    clouds[0, 3, 1] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        fps.farthest_point_sampling(clouds, 10)

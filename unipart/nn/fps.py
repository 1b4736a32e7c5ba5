"""Farthest point sampling: each next point is the one farthest from those already chosen.

Three forms with one answer: compiled buckets on CPU (numba), a tensor loop elsewhere, and the plain reference that the tests
compare both with. Ties go to the lowest index, and distances are summed x, y, z in float32 everywhere, so the answers are equal.
"""

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from unipart.nn.fps_buckets import make_buckets

COMPILED = find_spec("numba") is not None
THREADED_WORK = 1_000_000
"""Distance updates per cloud (points x samples) above which a second thread pays for itself."""


@torch.no_grad()
def farthest_point_sampling(
    points: Float[Tensor, "B C 3"], count: int, start: Int[Tensor, " B"] | None = None
) -> Int[Tensor, "B K"]:
    """Chooses points that cover each cloud evenly.

    Args:
        points: clouds [B C 3], finite.
        count: K, at most C.
        start: index of the first point of each cloud [B]; None starts at index 0.

    Returns:
        Indices [B K] int64 in the order of choice, on the device of the points.

    Raises:
        ValueError: count is not in 1..C, or (on CPU) a point is not finite.
    """
    batch, num_points, _ = points.shape
    if not 1 <= count <= num_points:
        raise ValueError(f"farthest point sampling needs 1 <= count <= {num_points} points, got count={count}")
    if start is None:
        start = torch.zeros(batch, dtype=torch.long, device=points.device)
    if points.device.type == "cpu" and COMPILED:
        return _compiled(points.float(), count, start)
    return _tensor_loop(points.float(), count, start.to(points.device))


def farthest_point_sampling_reference(points: NDArray[np.float32], count: int, start: int = 0) -> NDArray[np.int64]:
    """The definition, for one cloud [C 3]: what the faster forms must equal."""
    nearest = np.full(len(points), np.inf, np.float32)
    chosen = np.zeros(count, np.int64)
    chosen[0] = start
    for i in range(1, count):
        dx, dy, dz = (points - points[chosen[i - 1]]).T
        nearest = np.minimum(nearest, dx * dx + dy * dy + dz * dz)
        chosen[i] = np.argmax(nearest)
    return chosen


def _compiled(points: Tensor, count: int, start: Tensor) -> Tensor:
    if not torch.isfinite(points).all():
        raise ValueError("farthest point sampling got points that are not finite")
    clouds, starts = points.numpy(), start.tolist()
    sample = _bucket_kernel()

    def run(index: int) -> NDArray[np.int64]:
        cloud = np.ascontiguousarray(clouds[index])
        return sample(cloud, *make_buckets(cloud), count, starts[index])

    threads = min(torch.get_num_threads(), len(starts))
    if threads > 1 and points.shape[1] * count > THREADED_WORK:
        with ThreadPoolExecutor(threads) as pool:
            chosen = list(pool.map(run, range(len(starts))))
    else:
        chosen = [run(index) for index in range(len(starts))]
    return torch.from_numpy(np.stack(chosen)) if chosen else torch.zeros(0, count, dtype=torch.long)


def _tensor_loop(points: Tensor, count: int, start: Tensor) -> Tensor:
    """All clouds advance together; nothing waits for the device."""
    x, y, z = points.unbind(-1)
    rows = torch.arange(len(points), device=points.device)
    nearest = torch.full_like(x, torch.inf)
    chosen = torch.zeros(len(points), count, dtype=torch.long, device=points.device)
    chosen[:, 0] = current = start.long()
    for i in range(1, count):
        dx, dy, dz = (axis - axis[rows, current][:, None] for axis in (x, y, z))
        nearest = torch.minimum(nearest, dx * dx + dy * dy + dz * dz)
        chosen[:, i] = current = nearest.argmax(-1)
    return chosen


@cache
def _bucket_kernel() -> Callable[..., NDArray[np.int64]]:
    """Compiles on first use: importing numba takes a second, and most importers never sample."""
    import numba

    from unipart.nn.fps_buckets import sample_buckets

    kernel = inspect.unwrap(sample_buckets)  # the tests' shape checker wraps every function of the package
    # nnan/nsz let the maximum vectorise; the order of every sum stays as written, so the result equals the reference.
    return numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz"}, error_model="numpy")(kernel)

"""Farthest point sampling: the compiled buckets against the tensor loop and the plain reference.

python -m benchmarks.fps [--device cuda] [--size ci]
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from unipart.nn import fps
from unipart.rng import derive

SIZES = {"ci": (4, 640, 32), "mini": (4, 5_120, 256), "base": (4, 20_480, 1024), "paper": (1, 81_920, 4096)}
"""Size of the ladder -> (batch, points, samples)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=list(SIZES), nargs="+", default=list(SIZES))
    options = parser.parse_args()
    device = torch.device(options.device)
    print(f"{'size':>6} {'B':>2} {'C':>6} {'K':>5} {'public ms':>10} {'loop ms':>9} {'reference ms':>13}  equal")
    for name in options.size:
        batch, num_points, count = SIZES[name]
        points = torch.from_numpy(derive(0, "bench fps", name).standard_normal((batch, num_points, 3)).astype(np.float32))
        points = (points / points.norm(dim=-1, keepdim=True)).to(device)
        start = torch.zeros(batch, dtype=torch.long, device=device)
        public, public_ms = _timed(lambda p=points, c=count: fps.farthest_point_sampling(p, c), 3)
        loop, loop_ms = _timed(lambda p=points, c=count, s=start: fps._tensor_loop(p, c, s), 1)
        clouds = points.cpu().numpy()
        plain, plain_ms = _timed(lambda p=clouds, c=count: _reference(p, c), 1)
        equal = bool((public.cpu() == plain).all() and (loop.cpu() == plain).all())
        print(f"{name:>6} {batch:>2} {num_points:>6} {count:>5} {public_ms:>10.2f} {loop_ms:>9.1f} {plain_ms:>13.1f}  {equal}")


def _reference(clouds: np.ndarray, count: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([fps.farthest_point_sampling_reference(cloud, count) for cloud in clouds]))


def _timed(call: Callable[[], torch.Tensor], repeats: int) -> tuple[torch.Tensor, float]:
    call()
    seconds = []
    for _ in range(repeats):
        _synchronise()
        begin = time.perf_counter()
        result = call()
        _synchronise()
        seconds.append(time.perf_counter() - begin)
    return result, 1000 * min(seconds)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()

"""The mixture of experts: sorted and grouped, against the loop over experts with boolean masks that Hunyuan3D-2.1 trains with.

python -m benchmarks.moe [--device cuda] [--json FILE]

Whole layers, gate and shared expert included; outputs and gradients are compared in the same run. On a CPU both call the same
matrix products, one an expert, so the ratio there says what sorting costs or saves; on a GPU ours is one grouped product.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from unipart.nn.moe import MoE

SIZES = {
    "ci": {"width": 128, "tokens": 2 * 33 * 4, "num_experts": 2},
    "small": {"width": 256, "tokens": 2 * 513, "num_experts": 8},
    "paper": {"width": 2048, "tokens": 2 * 4097, "num_experts": 8},
}
"""Size -> tokens of one part (two spaces) and experts; a CPU runs the first two."""
REPEATS = {"cpu": 7, "cuda": 20}
TOLERANCE = {"cpu": 1e-5, "cuda": 2e-2}


def loop_over_experts(moe: MoE, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """The reference: for each expert, pick its tokens with a mask, apply it, add the result in. Waits for the device every time."""
    rows = tokens.repeat_interleave(moe.top_k, dim=0)
    flat = chosen.flatten()
    outputs = torch.zeros_like(rows, dtype=torch.get_autocast_dtype("cuda") if rows.is_cuda else rows.dtype)
    for expert in range(len(moe.fc1_weight)):
        mine = flat == expert
        hidden = F.gelu(F.linear(rows[mine], moe.fc1_weight[expert], moe.fc1_bias[expert]))
        outputs[mine] = F.linear(hidden, moe.fc2_weight[expert], moe.fc2_bias[expert])
    return (outputs.unflatten(0, chosen.shape) * weights[..., None].to(outputs.dtype)).sum(dim=1)


class LoopMoE(MoE):
    """The layer with the reference inside."""

    def routed(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Returns the experts' part."""
        return loop_over_experts(self, tokens, chosen, weights)


def compare(name: str, device: torch.device, repeats: int) -> dict[str, object]:
    """Times both ways, forward alone and with the backward pass, and checks that they agree."""
    size = SIZES[name]
    torch.manual_seed(0)
    with device:
        grouped, loop = (kind(size["width"], size["num_experts"]).train() for kind in (MoE, LoopMoE))
        x = torch.randn(size["tokens"], size["width"])
    loop.load_state_dict(grouped.state_dict())
    row: dict[str, object] = {"size": name, **size, "device": device.type, "dtype": "bf16" if device.type == "cuda" else "fp32"}
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        row["largest difference"] = check(grouped, loop, x, TOLERANCE[device.type])
        with torch.no_grad():
            row |= ratio("forward", lambda: grouped(x), lambda: loop(x), device, repeats)
        row |= ratio("step", lambda: step(grouped, x), lambda: step(loop, x), device, repeats)
    return row


def check(grouped: MoE, loop: MoE, x: Tensor, tolerance: float) -> float:
    """Compares outputs and gradients relative to their size; returns the largest difference.

    Raises:
        SystemExit: they differ by more than the tolerance.
    """
    results = []
    for layer in (grouped, loop):
        given = x.clone().requires_grad_()
        out = layer(given)
        out.float().square().mean().backward()
        results.append([out, given.grad, layer.fc1_weight.grad, layer.fc2_bias.grad, layer.gate.weight.grad])
        layer.zero_grad(set_to_none=True)
    worst = max(
        float((ours - theirs).detach().abs().max() / theirs.detach().abs().max()) for ours, theirs in zip(*results, strict=True)
    )
    if worst > tolerance:
        raise SystemExit(f"grouped and loop differ by {worst:.2e} of the largest value")
    return worst


def step(layer: MoE, x: Tensor) -> None:
    layer(x).float().square().mean().backward()
    layer.zero_grad(set_to_none=True)


def ratio(
    what: str, ours: Callable[[], object], reference: Callable[[], object], device: torch.device, repeats: int
) -> dict[str, float]:
    """Times two calls in turn, so that a busy machine is busy for both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats + 2):
        for call, kept in zip((ours, reference), seconds, strict=True):
            start = clock(device)
            call()
            if number >= 2:
                kept.append(clock(device) - start)
    a, b = median(seconds[0]), median(seconds[1])
    return {f"{what} ms": 1000 * a, f"{what} loop ms": 1000 * b, f"{what} ratio": b / a}


def clock(device: torch.device) -> float:
    """Seconds of this process's CPU, or of the wall when a GPU works."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=list(SIZES), nargs="+", help="default: ci and small on a CPU, all on a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    device = torch.device(options.device)
    sizes = options.size or (list(SIZES) if device.type == "cuda" else ["ci", "small"])
    rows = []
    for name in sizes:
        rows.append(compare(name, device, REPEATS[device.type]))
        print(
            "  ".join(f"{key}: {value:.3g}" if isinstance(value, float) else f"{key}: {value}" for key, value in rows[-1].items())
        )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

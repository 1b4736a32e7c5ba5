"""Forward and training step of the models: time, TFLOP/s, share of what this device's matrix product reaches, peak memory.

python -m benchmarks.models --tier base --model part [--batch 2] [--recompute] [--json FILE]

On a GPU in bfloat16 autocast (fp32 weights, as in training) with torch.compile, wall time; on a CPU in fp32 without, CPU time of
the process. A training step is forward, backward and AdamW on what is trained; frozen passes are left out of time and FLOPs alike.
Needs no Ray, igl or MLflow.
"""

import argparse
import json
import resource
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn

from benchmarks.moe import clock
from jobs.recipes import find_recipe
from jobs.recipes.sizes import TIERS
from jobs.training.budget import make_budget, num_parameters
from jobs.training.config import OptimizerConfig
from jobs.training.loop import make_optimizer
from jobs.training.parallel import compile_blocks
from jobs.training.workload import Parents, Workload, make_workload
from unipart.nn.dit_block import DiTStack
from unipart.nn.fps import farthest_point_sampling

MODELS = ("vae", "anchor", "whole", "part")
CEILING_SIDE = {"cuda": 8192, "cpu": 1536}
SAMPLING = "farthest point sampling"


@dataclass(frozen=True)
class Row:
    """One pass of one model.

    Attributes:
        model, tier, what, batch: which.
        parameters: of the trained module.
        seconds: median.
        spread: (largest - smallest) / median.
        gflop: of the batch, by the conventions of `jobs.training.budget`.
        tflop_per_s: achieved.
        mfu: the same over the measured ceiling.
        peak_gib: memory of the pass on a GPU, of the whole process so far on a CPU.
    """

    model: str
    tier: str
    what: str
    batch: int
    parameters: int
    seconds: float
    spread: float
    gflop: float
    tflop_per_s: float
    mfu: float
    peak_gib: float


@dataclass(frozen=True)
class Bench:
    """How things are run here."""

    device: torch.device
    repeats: int
    batch: int
    compiled: bool
    recompute: bool

    @property
    def bf16(self) -> bool:
        """The compute type is bfloat16."""
        return self.device.type == "cuda"

    def autocast(self) -> torch.autocast:
        """Returns what a training's forward pass runs under."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def timed(self, call: Callable[[], object], warm_up: int = 3) -> tuple[float, float]:
        """Returns the median seconds of a call and (max - min) / median."""
        for _ in range(warm_up):
            call()
        seconds = []
        for _ in range(self.repeats):
            start = clock(self.device)
            call()
            seconds.append(clock(self.device) - start)
        middle = median(seconds)
        return middle, (max(seconds) - min(seconds)) / middle

    def peak_gib(self) -> float:
        """Returns the most memory that was in use."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def ceiling(bench: Bench) -> float:
    """Returns the TFLOP/s of a large matrix product in the compute type: the most a model can reach here."""
    side = CEILING_SIDE[bench.device.type]
    draw = torch.Generator(bench.device).manual_seed(0)
    dtype = torch.bfloat16 if bench.bf16 else torch.float32
    a, b = (torch.randn(side, side, device=bench.device, generator=draw).to(dtype) for _ in range(2))
    times = 20 if bench.bf16 else 1  # one product is over before the clock of a GPU settles

    def products() -> None:
        for _ in range(times):
            torch.mm(a, b)

    return times * 2 * side**3 / bench.timed(products)[0] / 1e12


def bench_model(kind: str, tier: str, bench: Bench, limit: float) -> list[Row]:
    """Times each forward pass, all of them, and a training step."""
    config, whole = find_recipe(kind, tier), find_recipe("whole", tier)
    parents = Parents(find_recipe("vae", tier).model, whole.image_encoder)
    budget = make_budget(config.replace(batch_size=1, accumulate=1), parents)
    load = make_workload(config, parents, bench.device)
    prepare(load.trained, bench)
    size = num_parameters(load.trained)

    def row(what: str, call: Callable[[], object], flops: float) -> Row:
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(bench.device)
        seconds, spread = bench.timed(call)
        speed = flops * bench.batch / seconds / 1e12
        gflop = flops * bench.batch / 1e9
        return Row(kind, tier, what, bench.batch, size, seconds, spread, gflop, speed, speed / limit, bench.peak_gib())

    rows = [row(f"forward: {name}", forward(load, name, bench), budget.forward[name]) for name in load.passes]
    step = budget.step - sum(budget.frozen.values())
    rows.append(row("training step", training_step(load, config.optimizer, bench), step))
    if kind == "vae":
        rows.append(row(SAMPLING, sampling(config.model.num_points, config.model.num_latents, bench), 0.0))
    return rows


def prepare(module: nn.Module, bench: Bench) -> None:
    """Compiles what a training compiles, in place, and switches recomputation."""
    for layer in module.modules():
        if isinstance(layer, DiTStack):
            layer.recompute = bench.recompute
    if bench.compiled:
        compile_blocks(module)
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # a benchmark must not time what was not compiled


def forward(load: Workload, name: str, bench: Bench) -> Callable[[], object]:
    def call() -> None:
        load.trained.eval()
        with torch.no_grad(), bench.autocast():
            load.passes[name](bench.batch)

    return call


def training_step(load: Workload, settings: OptimizerConfig, bench: Bench) -> Callable[[], object]:
    """Every pass forward and backward, then AdamW: what `jobs.training.loop` does, without data, losses and clicks."""
    optimizer = make_optimizer(load.trained, settings)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # the weights stay as they are, so every repeat does the same work

    def call() -> None:
        load.trained.train()
        for run in load.passes.values():
            with bench.autocast():
                loss = run(bench.batch).float().square().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return call


def sampling(num_points: int, count: int, bench: Bench) -> Callable[[], object]:
    draw = torch.Generator(bench.device).manual_seed(0)
    points = torch.randn(bench.batch, num_points, 3, device=bench.device, generator=draw)
    points = points / points.norm(dim=-1, keepdim=True)
    return lambda: farthest_point_sampling(points, count)


def sampling_share(rows: list[Row]) -> dict[str, float]:
    """Returns, for each tier, how much of an encode of the VAE is farthest point sampling."""
    seconds = {(row.tier, row.what): row.seconds for row in rows if row.model == "vae"}
    pairs = {tier: (sampled, seconds[tier, "forward: encode"]) for (tier, what), sampled in seconds.items() if what == SAMPLING}
    return {tier: sampled / (sampled + rest) for tier, (sampled, rest) in pairs.items()}


def describe(bench: Bench, limit: float) -> dict[str, object]:
    """What a reader must know of the machine."""
    cuda = bench.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(bench.device) if cuda else f"CPU, {torch.get_num_threads()} thread(s)",
        "torch": torch.__version__,
        "compute": "bf16 autocast" if bench.bf16 else "fp32",
        "compiled": bench.compiled,
        "recompute": bench.recompute,
        "ceiling_tflop_per_s": limit,
        "ceiling": f"matrix product of side {CEILING_SIDE[bench.device.type]}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--tier", choices=list(TIERS), nargs="+", default=["ci"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None, help="default: on a GPU")
    parser.add_argument("--recompute", action="store_true", help="recompute the diffusion models' blocks in the backward pass")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args()
    device = torch.device(options.device)
    compiled = device.type == "cuda" if options.compile is None else options.compile
    bench = Bench(device, options.repeats, options.batch, compiled, options.recompute)
    limit = ceiling(bench)
    machine = describe(bench, limit)
    print("  ".join(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}" for name, value in machine.items()))
    print(
        f"{'model':<7}{'tier':<7}{'what':<34}{'B':>3}{'ms':>10}{'spread':>8}{'GFLOP':>11}{'TFLOP/s':>10}{'MFU':>8}{'peak GiB':>10}"
    )
    rows: list[Row] = []
    for tier in options.tier:
        for model in options.model:
            new = bench_model(model, tier, bench, limit)
            rows += new
            for row in new:
                rate = f"{row.tflop_per_s:>10.4f}{row.mfu:>8.1%}" if row.gflop else " " * 18
                print(
                    f"{row.model:<7}{row.tier:<7}{row.what:<34}{row.batch:>3}{1000 * row.seconds:>10.2f}{row.spread:>8.0%}"
                    f"{row.gflop:>11.3f}{rate}{row.peak_gib:>10.2f}",
                    flush=True,
                )
            if device.type == "cuda":
                torch.cuda.empty_cache()
    shares = sampling_share(rows)
    for tier, share in shares.items():
        print(f"{SAMPLING} is {share:.1%} of an encode at {tier}")
    if options.json is not None:
        document = {"machine": machine, "rows": [asdict(row) for row in rows], "sampling_share": shares}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()

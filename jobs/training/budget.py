"""What a training costs, told before it starts: parameters, FLOPs and memory.

The models are built on the meta device: any size takes seconds and no memory. Conventions: a multiply-add is 2 FLOPs; only matrix
products, convolutions and attention count. Attention counts as its two products forward and as four backward, as if nothing were
computed twice (what MFU is measured against). A token costs its top k experts and the shared one. Farthest point sampling, losses,
clicks and normalisations are not counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from jobs.training.config import AnyTrainConfig, PartTrainConfig, VaeTrainConfig, WholeTrainConfig
from jobs.training.saved import Saved, measure_saved, recomputable
from jobs.training.workload import Inputs, Parents, Workload, encode, encode_image, make_workload
from unipart.errors import UserError
from unipart.models.geom_seg_vae import GeomSegVAE
from unipart.models.image_encoder import ImageEncoderConfig, SmallImageEncoder
from unipart.nn.moe import MoE

DINOV2_POSITIONS = (518 // 14) ** 2 + 1


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, by line; workspace, cuDNN and fragmentation come on top (10 to 20 %).

    Attributes:
        micro_batch: samples a worker runs at once.
        lines: parameters, gradients, ... and their sum "total".
    """

    micro_batch: int
    lines: dict[str, float]


@dataclass(frozen=True)
class Budget:
    """What a training costs.

    Attributes:
        parameters: total, trained, frozen, and active per token (trained, without the experts that a token is not sent to).
        modules: trained parameters by module.
        forward: FLOPs of one sample's forward pass by part of the trained model.
        frozen: FLOPs of one sample's passes through frozen models.
        step: FLOPs of one sample in training: forward, backward and frozen passes.
        memory: {"replicated", "sharded"} and, where blocks can be recomputed, {"... , recomputed"}.
        chosen: which of them the config asks for.
        workers: GPUs.
    """

    parameters: dict[str, int]
    modules: dict[str, int]
    forward: dict[str, float]
    frozen: dict[str, float]
    step: float
    memory: dict[str, Memory]
    chosen: str
    workers: int


def make_budget(config: AnyTrainConfig, parents: Parents, workers: int = 1) -> Budget:
    """Counts a training; nothing is trained or allocated.

    Args:
        config: the recipe.
        parents: the models it builds on.
        workers: GPUs over which a step's samples are divided.

    Raises:
        UserError: the micro-batch cannot be divided among the workers.
    """
    micro_batch = _micro_batch(config, workers)
    load = make_workload(config, parents)
    flops = {name: count_flops(lambda run=run: run(1), backward=True) for name, run in load.passes.items()}
    cost = _frozen(config, parents)
    trained, frozen = num_parameters(load.trained), sum(size for _, size in cost.values())
    return Budget(
        parameters={
            "total": trained + frozen,
            "trained": trained,
            "frozen": frozen,
            "active per token": trained - idle_parameters(load.trained),
        },
        modules={name: num_parameters(child) for name, child in load.trained.named_children() if num_parameters(child)},
        forward={name: forward for name, (forward, _) in flops.items()},
        frozen={name: one for name, (one, _) in cost.items()},
        step=_step_flops(flops, cost),
        memory=_memory(config, load, frozen, micro_batch, workers),
        chosen=_chosen(config, workers),
        workers=workers,
    )


def sample_flops(config: AnyTrainConfig, parents: Parents) -> float:
    """Returns the FLOPs of one sample in training: what MFU is measured by."""
    load = make_workload(config, parents)
    return _step_flops(
        {name: count_flops(lambda run=run: run(1), backward=True) for name, run in load.passes.items()}, _frozen(config, parents)
    )


def _step_flops(flops: dict[str, tuple[float, float]], frozen: dict[str, tuple[float, int]]) -> float:
    return sum(map(sum, flops.values())) + sum(one for one, _ in frozen.values())


def num_parameters(module: nn.Module) -> int:
    """Returns how many numbers a module learns or was given."""
    return sum(parameter.numel() for parameter in module.parameters())


def idle_parameters(module: nn.Module) -> int:
    """Returns the parameters of experts that a token is not sent to."""
    idle = 0
    for layer in module.modules():
        if isinstance(layer, MoE):
            experts = (layer.fc1_weight, layer.fc1_bias, layer.fc2_weight, layer.fc2_bias)
            idle += sum(p.numel() // len(p) * (len(p) - layer.top_k) for p in experts)
    return idle


def count_flops(run: Callable[[], Tensor], backward: bool = False) -> tuple[float, float]:
    """Returns the FLOPs of `run` and, if asked for, of its backward pass; made for meta tensors, right for real ones."""
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: _grouped_flops}) as counter:
        result = run()
        forward = counter.get_total_flops()
        if backward:
            result.square().sum().backward()
        return forward, counter.get_total_flops() - forward


def _grouped_flops(a: tuple[int, ...], b: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Rows [R I] times one of [E I O] each, or (gradient of the weights) [O R] times [R I] in groups of rows."""
    return 2 * a[0] * a[1] * b[-1]


def _frozen(config: AnyTrainConfig, parents: Parents) -> dict[str, tuple[float, int]]:
    """Returns FLOPs a sample and parameters of the frozen models, by name."""
    if isinstance(config, VaeTrainConfig):
        return {}
    with torch.device("meta"):
        vae = GeomSegVAE(parents.vae)
    times = 1
    if isinstance(config, PartTrainConfig):  # the part in each space; in point form also the conditions
        times += len(config.model.spaces) + 2 * (config.model.cond_form == "points")
    flops = times * count_flops(lambda: encode(vae, 1, Inputs("meta")))[0]
    frozen = {f"vae encode x {times}": (flops, num_parameters(vae))}
    if isinstance(config, PartTrainConfig) or (isinstance(config, WholeTrainConfig) and config.image_encoder.kind == "dinov2"):
        frozen["image encoder"] = image_encoder_cost(parents.image)
    return frozen


def image_encoder_cost(config: ImageEncoderConfig) -> tuple[float, int]:
    """Returns FLOPs an image and parameters; DINOv2 from its sizes, so that transformers need not be installed.

    A block of width W over T tokens: 24 T W^2 for its four linear maps, 4 T^2 W for attention; 12 W^2 + 15 W parameters.
    """
    if config.kind == "small":
        with torch.device("meta"):
            encoder = SmallImageEncoder(config)
        return count_flops(lambda: encode_image(encoder, config, 1, Inputs("meta")))[0], num_parameters(encoder)
    tokens, width, pixels = config.num_tokens, config.width, 3 * config.patch**2
    flops = 2 * (tokens - 1) * pixels * width + config.layers * (24 * tokens * width**2 + 4 * tokens**2 * width)
    around = (pixels + 1) * width + (1 + 1 + DINOV2_POSITIONS) * width + 2 * width  # patches, class and mask token, places, norm
    return flops, around + config.layers * (12 * width**2 + 15 * width)


def _micro_batch(config: AnyTrainConfig, workers: int) -> int:
    """Returns the samples that a worker runs at once."""
    number = max(config.accumulate, workers)  # as `count_micro_batches` has it
    micro, rest = divmod(config.batch_size, number)
    if rest or not micro or number % workers:
        raise UserError(
            f"{config.batch_size} samples a step make {number} micro-batches, which {workers} workers cannot share evenly",
            f"--accumulate {workers}" if config.batch_size % workers == 0 else "change --batch_size or --workers",
        )
    return micro


def _chosen(config: AnyTrainConfig, workers: int) -> str:
    """Returns the line of the memory table that a config asks for; one worker has nobody to share weights with."""
    recomputed = isinstance(config, WholeTrainConfig | PartTrainConfig) and config.recompute
    return ("sharded" if config.parallel == "fsdp" and workers > 1 else "replicated") + (", recomputed" if recomputed else "")


def _memory(config: AnyTrainConfig, load: Workload, frozen: int, micro: int, workers: int) -> dict[str, Memory]:
    """Bytes a GPU, for N trained and F frozen parameters in fp32 and W workers.

    Replicated (`parallel` ddp): 4 N parameters, 4 N gradients, 8 N AdamW, 4 N average, 4 F frozen; the all-reduce
    needs no buffer of its own. Sharded (fsdp): all of N's over W, with the largest block gathered twice in the compute type.
    Activations: what autograd saves on the meta device under autocast's rules, b samples of it and once the weights' bf16 copies.
    Recomputed: only the blocks' inputs, what lies outside the blocks, and the largest block's own.
    """
    trained = num_parameters(load.trained)
    one, two = (_saved(config, load, batch) for batch in (1, 2))
    averaged = 4.0 * trained if config.optimizer.ema_decay else 0.0
    states = {"parameters": 4.0 * trained, "gradients": 4.0 * trained, "AdamW states": 8.0 * trained, "weight average": averaged}
    copies = 2 if config.precision == "bf16" else 4
    largest = max((num_parameters(block) for block in recomputable(load.trained)), default=trained)
    kinds = {
        "replicated": states,
        "sharded": {**{name: size / workers for name, size in states.items()}, "gathered blocks": 2.0 * copies * largest},
    }
    # What is saved and does not grow with the batch are the weights' copies; sharded, they are the gathered blocks.
    once = {"replicated": max(0.0, 2.0 * one.total(False) - two.total(False)), "sharded": 0.0}
    memory: dict[str, Memory] = {}
    for kind, lines in kinds.items():
        for recomputed in (False, True) if one.blocks else (False,):
            each = two.total(recomputed) - one.total(recomputed)
            told = {**lines, "frozen models": 4.0 * frozen, "bf16 copies of weights": once[kind], "activations": micro * each}
            told = {name: size for name, size in told.items() if size}
            memory[f"{kind}, recomputed" if recomputed else kind] = Memory(micro, {**told, "total": sum(told.values())})
    return memory


def _saved(config: AnyTrainConfig, load: Workload, batch: int) -> Saved:
    forwards = [lambda run=run: run(batch) for run in load.passes.values()]
    return measure_saved(load.trained, forwards, config.precision == "bf16")

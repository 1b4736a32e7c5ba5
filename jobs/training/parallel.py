"""How a training is spread over workers: each holds all of the model (DDP), or a slice of it (FSDP2).

What is trained stays one module with the same parameter names; only `Parallel` knows which of the two it is.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from jobs.training.config import TrainConfig
from unipart.errors import EnvironmentProblem
from unipart.models.seg_decoder import TwoWayBlock
from unipart.nn.attention import CrossAttention
from unipart.nn.blocks import CrossBlock, SelfBlock
from unipart.nn.dit_block import DiTBlock
from unipart.nn.embeddings import TimeEmbedding

SHARDED = (DiTBlock, SelfBlock)
"""Units of sharding. A cross block is none: its keys and values are computed outside its forward, where slices stay slices."""
COMPILED = (*SHARDED, CrossBlock, TwoWayBlock)
"""Units of compilation."""
MOST_GRAPHS = 64
"""Local or joint, skip or not, experts or not, training or not: each is a graph. Beyond a limit torch quietly stops compiling."""

LossFunction = Callable[[dict[str, Any], torch.Generator], dict[str, Tensor]]


class _Losses(nn.Module):
    """An objective as a module: its forward is the one door through which DDP and FSDP see a micro-batch.

    The objectives enter their models by many doors (encode, query, conditions), which wrapping the model itself would miss.
    """

    def __init__(self, trained: nn.Module, losses: LossFunction) -> None:
        super().__init__()
        self.trained, self.losses = trained, losses

    def forward(self, batch: dict[str, Any], draw: torch.Generator) -> dict[str, Tensor]:
        """Returns the losses."""
        return self.losses(batch, draw)


class Parallel:
    """The losses of a micro-batch, with gradients that end up as the mean over all workers.

    DDP is torch's own: its buckets are reduced while the backward pass still runs. One all-reduce of a flat copy afterwards is
    simpler, but overlaps with nothing and needs a second copy of all gradients.

    Args:
        trained: what is trained; with FSDP its parameters become DTensors.
        losses: of the objective.
        config: the recipe: `parallel`, `compile_blocks`, `precision`.
        device: of this worker.
        world: number of workers; above 1 the process group must be up.
    """

    def __init__(self, trained: nn.Module, losses: LossFunction, config: TrainConfig, device: torch.device, world: int) -> None:
        self.module: nn.Module = _Losses(trained, losses)
        self.sharded = config.parallel == "fsdp" and world > 1
        self._compiler_errors: tuple[type[Exception], ...] = ()
        if config.compile_blocks:
            from torch._dynamo.exc import BackendCompilerFailed  # seconds of imports

            self._compiler_errors = (BackendCompilerFailed,)
            compile_blocks(trained)
        if self.sharded:
            weights = self.module.state_dict() if distributed.get_rank() == 0 else {}
            _shard(self.module, device, world, config.precision == "bf16" and device.type == "cuda")
            _deal(self.module, weights, device)
        elif world > 1:
            # Which parameters a batch uses is the objective's business; the search costs a walk over the graph.
            self.module = DistributedDataParallel(
                self.module, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=True
            )

    def losses(self, batch: dict[str, Any], draw: torch.Generator) -> dict[str, Tensor]:
        """Returns the objective's losses of a micro-batch.

        Raises:
            EnvironmentProblem: the blocks cannot be compiled here.
        """
        try:
            return self.module(batch, draw)
        except self._compiler_errors as error:
            why = str(error).splitlines()[0]
            raise EnvironmentProblem(
                f"torch.compile failed: {why}", "install a C++ compiler (g++), or train with --compile_blocks false"
            ) from error

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of a micro-batch: only the last one of a step communicates.

        FSDP reduces after each: whole gradients kept until the last would cost the memory that it saves.
        """
        return nullcontext() if last or not isinstance(self.module, DistributedDataParallel) else self.module.no_sync()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Every worker holds all weights for the length of a block, so that the model can be called by any door, by any worker."""
        if not self.sharded:
            yield
            return
        members = [member for member in self.module.modules() if isinstance(member, FSDPModule)]
        for member in members:
            member.set_reshard_after_forward(False, recurse=False)
            member.unshard()
        try:
            yield
        finally:
            for member in members:
                member.reshard()
                member.set_reshard_after_forward(True, recurse=False)


def _deal(module: nn.Module, weights: dict[str, Any], device: torch.device) -> None:
    """Gives every worker its slices of rank 0's weights: a host that holds eight workers would else hold the model eight times."""
    if not weights:
        module.to_empty(device=device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(module, weights, options=options)
    for buffer in module.buffers():  # a state dict lacks the constants
        distributed.broadcast(buffer, src=0)


def blocks(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    """Returns the transformer blocks of some kinds."""
    return [layer for layer in module.modules() if isinstance(layer, kinds)]


def compile_blocks(module: nn.Module) -> None:
    """Compiles the transformer blocks in place, when they first run; one graph serves all blocks that compute alike."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
    for block in blocks(module, COMPILED):
        block.compile()


def full(value: Tensor) -> Tensor:
    """Returns all of a tensor, of which this worker may hold a slice; then all workers must call."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def agreed(value: str | None, world: int) -> str | None:
    """Returns rank 0's value on every worker."""
    values = [value]
    if world > 1:
        distributed.broadcast_object_list(values, src=0)
    return values[0]


def _shard(module: nn.Module, device: torch.device, world: int, bf16: bool) -> None:
    """Shards each block, the blocks' condition projections, the time embedding (it stays float32), and the rest as the root."""
    policy = MixedPrecisionPolicy(torch.bfloat16 if bf16 else None, torch.float32, cast_forward_inputs=False)
    options: dict[str, Any] = {"mesh": init_device_mesh(device.type, (world,)), "mp_policy": policy, "reshard_after_forward": True}
    units = blocks(module, SHARDED)
    # Keys and values of the conditions are computed for all blocks before the first one runs, outside the blocks' forward.
    attentions = [a for unit in units if isinstance(unit, DiTBlock) for a in unit.modules() if isinstance(a, CrossAttention)]
    for attention in attentions:
        for layer in (attention.kv, attention.k_norm):
            if list(layer.parameters()):
                fully_shard(layer, **options)
    for unit in units:
        fully_shard(unit, **options)
    for unit in blocks(module, (TimeEmbedding,)):
        fully_shard(unit, **{**options, "mp_policy": MixedPrecisionPolicy(None, torch.float32, cast_forward_inputs=False)})
    fully_shard(module, **options)

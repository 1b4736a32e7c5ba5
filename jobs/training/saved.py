"""What autograd keeps between forward and backward on a GPU, measured on the meta device: nothing is computed or allocated."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from unipart.nn.dit_block import DiTBlock


@dataclass
class Saved:
    """Bytes that autograd keeps from forward to backward.

    Attributes:
        outside: saved outside the blocks.
        blocks: saved by each block.
        inputs: the blocks' inputs, all that is kept of them when they are recomputed.
    """

    outside: int = 0
    blocks: list[int] = field(default_factory=list)
    inputs: int = 0

    def total(self, recomputed: bool) -> int:
        """Returns the sum, with every block's own tensors or those of the largest only."""
        if recomputed:
            return self.outside + self.inputs + max(self.blocks, default=0)
        return self.outside + sum(self.blocks)


def measure_saved(trained: nn.Module, forwards: Iterable[Callable[[], Tensor]], bf16: bool) -> Saved:
    """Runs forward passes on the meta device and adds up what autograd saves, each storage once.

    Args:
        trained: the module that the passes run; its parameters are not counted.
        forwards: the passes.
        bf16: under autocast's rules.
    """
    saved, kept = Saved(), []
    seen = {parameter.untyped_storage()._cdata for parameter in trained.parameters()}
    inside: list[bool] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            kept.append(tensor)  # a freed storage's address would be taken for the next one's
            if inside:
                saved.blocks[-1] += storage.nbytes()
            else:
                saved.outside += storage.nbytes()
        return tensor

    def enter(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        inside.append(True)
        saved.blocks.append(0)
        saved.inputs += inputs[0].nbytes

    handles = [block.register_forward_pre_hook(enter) for block in recomputable(trained)]
    handles += [block.register_forward_hook(lambda *_: inside.clear()) for block in recomputable(trained)]
    trained.train()
    with saved_tensors_hooks(pack, lambda tensor: tensor), _LikeCuda(bf16):
        kept += [run() for run in forwards]
    for handle in handles:
        handle.remove()
    return saved


def recomputable(module: nn.Module) -> list[nn.Module]:
    """The blocks that `DiTStack.recompute` can compute again."""
    return [layer for layer in module.modules() if isinstance(layer, DiTBlock)]


class _LikeCuda(TorchFunctionMode):
    """On the meta device, the types and the saved tensors of CUDA: autocast's casts, and attention that keeps no L x L matrix."""

    PRODUCTS = frozenset({"linear", "matmul", "__matmul__", "addmm", "conv2d"})
    NORMS = frozenset({"layer_norm", "rms_norm"})

    def __init__(self, bf16: bool) -> None:
        super().__init__()
        self.bf16 = bf16

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return _Flash.apply(*self._cast(args, torch.bfloat16))
        if name in self.PRODUCTS:
            args = self._cast(args, torch.bfloat16)
        elif name in self.NORMS:
            args = self._cast(args, torch.float32)
        return func(*args, **(kwargs or {}))

    def _cast(self, args: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
        if not self.bf16:
            return args
        return tuple(arg.to(dtype) if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args)


class _Flash(Function):
    """What a flash kernel saves: queries, keys, values, the result and a log-sum per row. It computes nothing."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        result = torch.zeros_like(q)
        ctx.save_for_backward(q, k, v, result, torch.zeros(q.shape[:-1], device=q.device))
        return result

"""The model's other fast paths against their references: same results, ratio in one run.

python -m benchmarks.hot_paths [--device cuda]

- conditions: keys and values of image, Z_0 and X_i once for all sampling steps, against anew in every step;
- null branch: the unconditional velocity without cross attention, against attending to zeros;
- attention: PyTorch's fused kernel against the explicit L x L matrix.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.moe import REPEATS, ratio
from jobs.recipes import find_recipe
from jobs.training.config import PartTrainConfig
from jobs.training.workload import Inputs
from unipart.models.part_dit import DualLatents, PartDiT, PartDiTConfig
from unipart.nn.dit_block import Conditions
from unipart.sampling.solver import euler

STEPS = 10
SIZES = {"cpu": "tiny", "cuda": "base"}
ATTENTION = {"cpu": (1, 4, 1024, 64), "cuda": (1, 16, 8194, 128)}
"""(batch, heads, tokens, channels a head)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tier", help="default: tiny on a CPU, base on a GPU")
    options = parser.parse_args()
    device = torch.device(options.device)
    name = options.tier or SIZES[device.type]
    recipe, whole, vae = find_recipe("part", name), find_recipe("whole", name), find_recipe("vae", name)
    assert isinstance(recipe, PartTrainConfig)
    latents = vae.model.num_latents
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        sampler(recipe.model, latents, whole.image_encoder.num_tokens, name, device)
        attention(device)


def sampler(config: PartDiTConfig, latents: int, image_tokens: int, name: str, device: torch.device) -> None:
    inputs = Inputs(device)
    with device:
        model = PartDiT(config).eval()
    for block in model.stack.blocks:  # awake, or nothing would be compared
        torch.nn.init.normal_(block.attn2_2.out_proj.weight, std=0.02)
    width = config.latent_width
    z0, xi, image = (
        inputs.floats(1, latents, width),
        inputs.floats(1, latents, width),
        inputs.floats(1, image_tokens, config.context_width),
    )
    valid = inputs.indices(1, latents, below=2) > 0
    noise = inputs.floats(1, len(config.spaces), latents, width)

    def sample(conditions: Callable[[], Conditions | None]) -> Tensor:
        return euler(lambda x, t: model(DualLatents.from_stacked(x), t, conditions()).stacked(), noise, STEPS)

    def anew() -> Conditions:
        return model.conditions(image, z0, xi, valid)

    def once() -> Tensor:
        conditions = anew()
        return sample(lambda: conditions)

    tell(f"conditions once, {name}, {STEPS} steps", once, lambda: sample(anew), device)
    zeros = Conditions(
        model.stack.image_keys_values(torch.zeros_like(image)),
        model.stack.latent_keys_values(torch.zeros(1, 2 * latents, config.context_width, device=device)),
    )
    tell(f"null branch, {name}, {STEPS} steps", lambda: sample(lambda: None), lambda: sample(lambda: zeros), device)


def attention(device: torch.device) -> None:
    shape = ATTENTION[device.type]
    inputs = Inputs(device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (inputs.floats(*shape).to(dtype) for _ in range(3))

    def explicit() -> Tensor:
        return ((q @ k.transpose(-2, -1)) * shape[-1] ** -0.5).softmax(-1) @ v

    tell(f"attention {shape}", lambda: F.scaled_dot_product_attention(q, k, v), explicit, device)


def tell(what: str, ours: Callable[[], Tensor], reference: Callable[[], Tensor], device: torch.device) -> None:
    a, b = ours(), reference()
    difference = float((a - b).abs().max() / b.abs().max())
    assert difference < (2e-2 if device.type == "cuda" else 1e-4), f"{what}: results differ by {difference:.1e}"
    row = ratio("fast", ours, reference, device, REPEATS[device.type])
    print(
        f"{what:<44} fast {row['fast ms']:>9.2f} ms  reference {row['fast loop ms']:>9.2f} ms  ratio {row['fast ratio']:>5.2f}"
        f"  difference {difference:.1e}",
        flush=True,
    )


if __name__ == "__main__":
    main()

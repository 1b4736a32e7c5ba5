"""The model's other fast paths against their references: same results, ratio in one run.

python -m benchmarks.hot_paths [--device cuda]

- conditions: keys and values of image, Z_0 and X_i once for all sampling steps, against anew in every step;
- null branch: the unconditional velocity without cross attention, against attending to zeros;
- attention: PyTorch's fused kernel against the explicit L x L matrix;
- decode: the field of a ball, at the price of the VAE's: hierarchical against every node of the grid;
- field queries: keys and values of the latents once for all chunks, against anew for each.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.moe import REPEATS, ratio
from jobs.recipes import find_recipe
from jobs.training.config import PartTrainConfig
from jobs.training.workload import Inputs
from unipart.inference.decode import DecodeConfig, decode_dense, decode_field, field_slope
from unipart.models.geom_seg_vae import GeomSegVAE, GeomSegVAEConfig
from unipart.models.part_dit import DualLatents, PartDiT, PartDiTConfig
from unipart.nn.dit_block import Conditions
from unipart.sampling.solver import euler

STEPS = 10
SIZES = {"cpu": "tiny", "cuda": "base"}
ATTENTION = {"cpu": (1, 4, 1024, 64), "cuda": (1, 16, 8194, 128)}
"""(batch, heads, tokens, channels a head)."""
GRID = {"cpu": (96, 4_096), "cuda": (256, 65_536)}
"""(cells along an axis, queries at once), as generation has them at these sizes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tier", help="default: tiny on a CPU, base on a GPU")
    parser.add_argument("--resolution", type=int, help="cells along an axis of the decode (default: 96 on a CPU, 256 on a GPU)")
    options = parser.parse_args()
    device = torch.device(options.device)
    name = options.tier or SIZES[device.type]
    recipe, whole, vae = find_recipe("part", name), find_recipe("whole", name), find_recipe("vae", name)
    assert isinstance(recipe, PartTrainConfig)
    latents = vae.model.num_latents
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        sampler(recipe.model, latents, whole.image_encoder.num_tokens, name, device)
        attention(device)
        decode(vae.model, name, options.resolution or GRID[device.type][0], device)


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


def decode(config: GeomSegVAEConfig, name: str, resolution: int, device: torch.device) -> None:
    chunk = GRID[device.type][1]
    settings, slope = DecodeConfig(resolution=resolution, chunk=chunk), field_slope(config)
    with device:
        vae = GeomSegVAE(config).eval()
    features = vae.decode_latents(Inputs(device).floats(1, config.num_latents, config.latent_width))
    learnt = vae.field_of(features)

    def ball(queries: Tensor) -> Tensor:
        """Untrained weights have no surface: their values are paid for, and those of a ball are told."""
        return 0.0 * learnt(queries) + vae.field_target(0.6 - queries.norm(dim=-1))

    def inside(values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values > 0).float()

    tell(
        f"decode, {name}, {resolution}^3 cells",
        lambda: inside(decode_field(ball, slope, settings, device)),
        lambda: inside(decode_dense(ball, settings, device)),
        device,
    )
    chunks = Inputs(device).floats(1, 8 * chunk, 3).split(chunk, dim=1)
    tell(
        f"field queries, {name}, 8 x {chunk:,}",
        lambda: torch.cat([*map(vae.field_of(features), chunks)], dim=1),
        lambda: torch.cat([vae.query(features, queries) for queries in chunks], dim=1),
        device,
    )


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

"""X_i: the right rows, in order, padded with zeros."""

import torch

from unipart.rng import derive_seed
from unipart.segmentation.part_latents import gather_parts


def test_gathers_rows_in_order_and_pads_with_zeros() -> None:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(derive_seed(0, "gather")))
    masks = torch.tensor([[0, 1, 0, 1, 0, 1], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    parts = gather_parts(z, masks)
    assert parts.valid.tolist() == [[True] * 3 + [False] * 3, [True] + [False] * 5, [False] * 6]
    assert torch.equal(parts.latents[0, :3], z[[1, 3, 5]])
    assert torch.equal(parts.latents[1, 0], z[0])
    assert parts.latents[~parts.valid].abs().sum() == 0

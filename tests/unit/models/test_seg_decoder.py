"""D_seg: shapes, equivariance, what clicks and earlier masks do, and gate 8."""

import torch

from jobs.training.segmentation_rounds import SegmentationRoundsConfig, segmentation_rounds
from unipart.models.seg_decoder import SegDecoder, SegDecoderConfig
from unipart.rng import derive_seed
from unipart.segmentation.segment import SegmentConfig, segment_latents

CONFIG = SegDecoderConfig(width=64, num_heads=4, trunk_layers=1, mlp_width=128)


def _generator(*names: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(0, "seg", *names))


def _decoder(latent_width: int = 16) -> SegDecoder:
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(0, "seg weights"))
        return SegDecoder(latent_width, CONFIG)


def test_shapes() -> None:
    decoder = _decoder()
    features = decoder.trunk(torch.randn(2, 32, 16, generator=_generator("z")))
    answer = decoder(features, torch.zeros(2, 5, 3, dtype=torch.long), torch.ones(2, 5, 3, dtype=torch.long))
    assert answer.logits.shape == (2, 5, 4, 32)
    assert answer.iou.shape == (2, 5, 4)


def test_gate_7_permuting_latents_permutes_masks() -> None:
    decoder, order = _decoder(), torch.randperm(32, generator=_generator("order"))
    z = torch.randn(1, 32, 16, generator=_generator("z"))
    prompts, signs = torch.tensor([[[3], [17]]]), torch.ones(1, 2, 1, dtype=torch.long)
    previous = torch.randn(1, 2, 32, generator=_generator("previous"))
    answer = decoder(decoder.trunk(z), prompts, signs, previous)
    moved = decoder(decoder.trunk(z[:, order]), torch.argsort(order)[prompts], signs, previous[..., order])
    assert torch.allclose(answer.logits[..., order], moved.logits, atol=1e-4)
    assert torch.allclose(answer.iou, moved.iou, atol=1e-5)


def test_prompts_do_not_see_one_another() -> None:
    decoder = _decoder()
    features = decoder.trunk(torch.randn(1, 32, 16, generator=_generator("z")))
    signs = torch.ones(1, 2, 1, dtype=torch.long)
    together = decoder(features, torch.tensor([[[3], [17]]]), signs).logits
    alone = decoder(features, torch.tensor([[[17]]]), signs[:, :1]).logits
    assert torch.allclose(together[:, 1:], alone, atol=1e-5)


def test_sign_previous_mask_and_padding_matter_as_they_should() -> None:
    decoder = _decoder()
    features = decoder.trunk(torch.randn(1, 32, 16, generator=_generator("z")))
    prompt = torch.tensor([[[3, 9]]])

    def answer(*signs: int, clicks: torch.Tensor = prompt, previous: torch.Tensor | None = None) -> torch.Tensor:
        return decoder(features, clicks, torch.tensor([[signs]]), previous).logits

    assert not torch.allclose(answer(1, 1), answer(1, 0))
    assert not torch.allclose(answer(1, 1), answer(1, 1, previous=torch.full((1, 1, 32), 3.0)))
    assert torch.allclose(answer(1, -1), answer(1, -1, clicks=torch.tensor([[[3, 20]]])))


def _clustered(batch: int, generator: torch.Generator, num_latents: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [anchor 3 | noisy cluster code 13] of 2 to 4 clusters of equal size, and their labels."""
    clusters = torch.randint(2, 5, (batch,), generator=generator)
    labels = torch.arange(num_latents) % clusters[:, None]
    centres = torch.randn(batch, 6, 13, generator=generator)
    codes = centres.gather(1, labels[..., None].expand(-1, -1, 13))
    noise = torch.randn(batch, num_latents, 16, generator=generator)
    return torch.cat([noise[..., :3], codes + 0.1 * noise[..., 3:]], dim=-1), labels


def test_gate_8_segments_clustered_latents() -> None:
    decoder, generator, steps, rate = _decoder(), _generator("train"), 400, 2e-3
    rounds = SegmentationRoundsConfig(num_prompts=4, num_corrections=0)
    optimiser = torch.optim.AdamW(decoder.parameters(), rate)
    for step in range(steps):
        z, labels = _clustered(8, generator)
        optimiser.param_groups[0]["lr"] = rate * min(1, (step + 1) / 20) * (1 - step / steps)
        optimiser.zero_grad()
        segmentation_rounds(decoder, z, labels, rounds, generator)["seg"].backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()

    ious = []
    for z, labels in zip(*_clustered(20, _generator("test")), strict=True):
        masks = segment_latents(decoder, lambda x: x[..., :3], z, SegmentConfig()).masks
        for truth in (labels == part for part in labels.unique()):
            ious.append(((masks & truth).sum(-1) / (masks | truth).sum(-1)).max().item())
    assert sum(ious) / len(ious) >= 0.95


def test_corrections_use_the_error_and_all_parameters_learn() -> None:
    decoder = _decoder()
    z, labels = _clustered(2, _generator("rounds"))
    losses = segmentation_rounds(decoder, z, labels, SegmentationRoundsConfig(num_prompts=4), _generator("clicks"))
    losses["seg"].backward()
    unused = {name for name, parameter in decoder.named_parameters() if parameter.grad is None}
    assert unused <= {"no_click"}
    assert set(losses) == {"seg", "seg_focal", "seg_dice", "seg_iou_error", "seg_iou_1", "seg_iou"}
    assert not losses["seg_focal"].requires_grad


def test_unlabelled_objects_cost_nothing() -> None:
    z, labels = _clustered(2, _generator("unlabelled"))
    losses = segmentation_rounds(
        _decoder(), z, torch.full_like(labels, -1), SegmentationRoundsConfig(num_prompts=4), _generator("u")
    )
    assert losses["seg"].item() == 0

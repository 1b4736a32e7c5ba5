"""Latent segmentation with a scripted D_seg: latents are [x y z, part id] and answers are exact unless a test spoils them."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from unipart.rng import derive_seed
from unipart.segmentation.segment import SegmentConfig, segment_latents

Answer = Callable[[Tensor, int], tuple[Tensor, Tensor]]


class ScriptedDecoder:
    """Answers with the masks [3 L] and IoUs [3] that `answer` makes of the part ids and the clicked part."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.calls: list[int] = []

    def trunk(self, z: Tensor) -> Tensor:
        return z[0, :, 3].long()

    def __call__(self, features: Tensor, prompts: Tensor, prompt_labels: Tensor) -> SimpleNamespace:
        self.calls.append(prompts.shape[1])
        masks, ious = zip(*(self.answer(features, int(features[index])) for index in prompts[0, :, 0]), strict=True)
        logits = (torch.stack(masks).float() - 0.5) * 20
        padded = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
        iou = torch.stack(ious)
        return SimpleNamespace(logits=padded[None], iou=torch.cat([torch.ones_like(iou[:, :1]), iou], dim=1)[None])


def exact(parts: Tensor, clicked: int) -> tuple[Tensor, Tensor]:
    """The part, a pair of parts that holds it, and everything."""
    return torch.stack([parts == clicked, parts // 2 == clicked // 2, parts >= 0]), torch.tensor([0.9, 0.8, 0.7])


def _object(num_parts: int = 4, each: int = 16) -> Tensor:
    parts = torch.arange(num_parts).repeat_interleave(each)
    spread = torch.randn(len(parts), 3, generator=torch.Generator().manual_seed(derive_seed(0, "segment"))) * 0.05
    return torch.cat([spread + parts[:, None] * torch.tensor([0.0, 1.0, 0.0]), parts[:, None].float()], dim=1)


def _segment(z: Tensor, answer: Answer = exact, **changes):
    return segment_latents(ScriptedDecoder(answer), lambda x: x[..., :3], z, SegmentConfig().replace(**changes))


def test_recovers_the_parts_numbered_from_the_bottom() -> None:
    z = _object()
    found = _segment(z)
    assert torch.equal(found.labels, z[:, 3].long())
    assert torch.equal(found.masks, found.labels == torch.arange(4)[:, None])
    assert found.iou.tolist() == pytest.approx([0.9] * 4)
    assert torch.equal(found.anchors, z[:, :3])
    assert found.fall_backs == ()


def test_order_of_latents_does_not_matter() -> None:
    z = _object()
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(derive_seed(0, "order")))
    assert torch.equal(_segment(z[order]).labels, _segment(z).labels[order])


@pytest.mark.parametrize(("rank", "num_parts"), [("agreement", 1), ("iou", 2)])
def test_masks_are_ranked_by_trust_with_or_without_agreement(rank: str, num_parts: int) -> None:
    def answer(parts: Tensor, clicked: int) -> tuple[Tensor, Tensor]:
        """Everything; but clicks into one corner answer with the third round it, and more trust."""
        return torch.stack([parts >= 2 if clicked == 3 else parts >= 0] * 3), torch.tensor([0.99 if clicked == 3 else 0.9] * 3)

    z = _object()[: 3 * 16 + 5]
    assert len(_segment(z, answer, rank=rank).masks) == num_parts


@pytest.mark.parametrize(("granularity", "num_parts"), [("fine", 4), ("auto", 4), ("coarse", 1)])
def test_granularity(granularity: str, num_parts: int) -> None:
    assert len(_segment(_object(), granularity=granularity).masks) == num_parts


def test_prompts_are_decoded_in_bounded_calls() -> None:
    decoder = ScriptedDecoder(exact)
    segment_latents(decoder, lambda x: x[..., :3], _object(), SegmentConfig(num_prompts=20, prompts_per_call=8))
    assert decoder.calls == [8, 8, 4]


def test_one_part_when_nothing_survives() -> None:
    found = _segment(_object(), lambda parts, clicked: (exact(parts, clicked)[0], torch.full((3,), 0.1)))
    assert found.masks.tolist() == [[True] * 64]
    assert len(found.fall_backs) == 1
    assert "one part" in found.fall_backs[0]


def test_unclaimed_region_becomes_its_own_part_and_is_reported() -> None:
    def blind(parts: Tensor, clicked: int) -> tuple[Tensor, Tensor]:
        masks, iou = exact(parts, clicked)
        return masks, iou * (0.0 if clicked == 2 else 1.0)

    z = _object()
    found = _segment(z, blind)
    assert torch.equal(found.labels, z[:, 3].long())
    assert found.iou[2] == 0
    assert len(found.fall_backs) == 2


def test_stray_unclaimed_latents_join_their_neighbours() -> None:
    def ragged(parts: Tensor, clicked: int) -> tuple[Tensor, Tensor]:
        masks, iou = exact(parts, clicked)
        masks[:, ::16] = False
        return masks, iou

    z = _object()
    found = _segment(z, ragged)
    assert torch.equal(found.labels, z[:, 3].long())
    assert found.fall_backs == ("4 of 64 latents were in no kept mask",)


def test_unstable_masks_do_not_count() -> None:
    def unsure(parts: Tensor, clicked: int) -> tuple[Tensor, Tensor]:
        masks, iou = exact(parts, clicked)
        return (masks.float() if clicked != 1 else torch.full(masks.shape, 0.5 + 1e-3)), iou

    assert _segment(_object(), unsure).iou[1] == 0


def test_max_parts_bounds_the_number() -> None:
    found = _segment(_object(6), max_parts=3)
    assert len(found.masks) == 3
    assert found.masks.sum(0).tolist() == [1] * 96

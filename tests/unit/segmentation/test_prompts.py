"""Prompts: where clicks fall, and what they mean."""

import torch

from unipart.rng import derive_seed
from unipart.segmentation.prompts import correction_clicks, draw_latents, first_clicks, spread_prompts


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(0, "prompts", name))


LABELS = torch.tensor([[0] * 60 + [1] * 3 + [2] + [-1] * 6])


def test_half_of_the_first_clicks_favour_small_parts() -> None:
    clicks = first_clicks(LABELS, 2000, _generator("share"))
    clicked = LABELS[0, clicks.index[0]]
    by_part, by_token = clicked[:1000], clicked[1000:]
    assert 0.42 < (by_part == 1).float().mean() < 0.58
    assert (by_token == 1).float().mean() < 0.1
    assert clicks.valid.all()


def test_single_latents_and_unknown_labels_are_never_clicked() -> None:
    clicks = first_clicks(LABELS, 500, _generator("skip"))
    assert set(LABELS[0, clicks.index[0]].tolist()) == {0, 1}


def test_targets_are_the_clicked_part() -> None:
    clicks = first_clicks(LABELS, 7, _generator("target"))
    for index, target in zip(clicks.index[0], clicks.target[0], strict=True):
        assert torch.equal(target, LABELS[0] == LABELS[0, index])


def test_an_object_without_labels_is_invalid_but_does_not_stop_the_batch() -> None:
    clicks = first_clicks(torch.cat([LABELS, torch.full_like(LABELS, -1)]), 4, _generator("none"))
    assert clicks.valid.tolist() == [[True] * 4, [False] * 4]


def test_corrections_fall_on_errors_and_say_which_side() -> None:
    target = torch.zeros(1, 400, 10, dtype=torch.bool)
    target[..., :4] = True
    answer = torch.zeros_like(target)
    answer[..., 2:6] = True
    index, label = correction_clicks(answer, target, _generator("errors"), from_target=0.0)
    assert set(index.flatten().tolist()) == {0, 1, 4, 5}
    assert torch.equal(label, (index < 4).long())


def test_some_corrections_come_from_the_target() -> None:
    target = torch.zeros(1, 1000, 10, dtype=torch.bool)
    target[..., :4] = True
    answer = torch.ones_like(target)
    index, label = correction_clicks(answer, target, _generator("gt"), from_target=0.1)
    assert 0.06 < label.float().mean() < 0.14
    assert torch.equal(label == 1, index < 4)


def test_a_right_answer_gets_a_negative_click_and_a_full_one_a_positive_click() -> None:
    part = torch.zeros(1, 50, 10, dtype=torch.bool)
    part[..., :4] = True
    index, label = correction_clicks(part, part, _generator("right"), from_target=0.0)
    assert (label == 0).all()
    assert (index >= 4).all()
    everything = torch.ones_like(part)
    assert (correction_clicks(everything, everything, _generator("full"), from_target=0.0)[1] == 1).all()


def test_draws_follow_the_weights_and_the_generator() -> None:
    weights = torch.tensor([[0.0, 1.0, 3.0], [0.0, 0.0, 0.0]])
    drawn = draw_latents(weights, 4000, _generator("draw"))
    assert 0.7 < (drawn[0] == 2).float().mean() < 0.8
    assert not (drawn[0] == 0).any()
    assert set(drawn[1].tolist()) == {0, 1, 2}
    assert torch.equal(drawn, draw_latents(weights, 4000, _generator("draw")))


def test_spread_prompts_do_not_depend_on_the_order_of_latents() -> None:
    anchors = torch.randn(100, 3, generator=_generator("anchors"))
    order = torch.randperm(100, generator=_generator("order"))
    chosen, shuffled = spread_prompts(anchors, 20), spread_prompts(anchors[order], 20)
    assert torch.equal(anchors[chosen], anchors[order][shuffled])
    assert sorted(spread_prompts(anchors, 500).tolist()) == list(range(100))

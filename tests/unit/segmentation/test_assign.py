"""Labels per latent: claims, votes, leftovers, small parts."""

import numpy as np

from unipart.segmentation.assign import claim, dissolve, renumber, split_leftovers, vote

LINE = np.stack([np.arange(20.0), np.zeros(20), np.zeros(20)], axis=1)


def _labels(*runs: tuple[int, int]) -> np.ndarray:
    return np.concatenate([np.full(count, label) for label, count in runs])


def test_the_strongest_mask_that_holds_a_latent_gets_it() -> None:
    masks = np.array([[True, True, False, False], [False, True, True, False]])
    strength = np.array([[0.6, 0.6, 0.99, 0.1], [0.4, 0.9, 0.9, 0.1]])
    assert claim(masks, strength).tolist() == [0, 1, 1, -1]


def test_votes_fill_every_gap_from_near_by() -> None:
    labels = _labels((0, 8), (-1, 3), (0, 2), (1, 7))
    assert vote(labels, LINE).tolist() == _labels((0, 13), (1, 7)).tolist()


def test_vote_works_with_one_claimed_latent() -> None:
    assert vote(_labels((-1, 19), (3, 1)), LINE).tolist() == [3] * 20


def test_large_near_groups_of_leftovers_become_parts_and_small_ones_do_not() -> None:
    labels = _labels((-1, 6), (0, 10), (-1, 4))
    assert split_leftovers(labels, LINE, min_tokens=5).tolist() == _labels((1, 6), (0, 10), (-1, 4)).tolist()
    assert split_leftovers(labels, LINE, min_tokens=4).tolist() == _labels((1, 6), (0, 10), (2, 4)).tolist()


def test_small_parts_dissolve_into_their_neighbours() -> None:
    labels = _labels((0, 9), (1, 1), (0, 2), (2, 8))
    assert dissolve(labels, LINE, min_tokens=2, max_parts=9).tolist() == _labels((0, 12), (2, 8)).tolist()


def test_max_parts_keeps_the_largest_and_one_always_stays() -> None:
    labels = _labels((0, 4), (1, 9), (2, 7))
    assert dissolve(labels, LINE, min_tokens=2, max_parts=2).tolist() == _labels((1, 13), (2, 7)).tolist()
    assert dissolve(labels, LINE, min_tokens=50, max_parts=9).tolist() == [1] * 20


def test_parts_are_numbered_by_height_first() -> None:
    anchors = np.array([[0.0, 5.0, 0.0], [0.0, 1.0, 0.0], [-2.0, 1.0, 0.0]])
    labels, old = renumber(np.array([7, 4, 2]), anchors)
    assert labels.tolist() == [2, 1, 0]
    assert old.tolist() == [2, 4, 7]

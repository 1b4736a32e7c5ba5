"""From kept masks to one label per latent: the best claim, then the neighbours' vote for what nobody claimed (NumPy)."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

Labels = NDArray[np.int64]
UNCLAIMED = -1


def claim(masks: NDArray[np.bool_], strength: NDArray[np.floating]) -> Labels:
    """Gives each latent to the mask that holds it with the greatest strength.

    Args:
        masks: [N L].
        strength: probability times predicted IoU [N L].

    Returns:
        [L] index of the mask, UNCLAIMED where none holds the latent.
    """
    best = np.where(masks, strength, -1.0).argmax(axis=0)
    return np.where(masks.any(axis=0), best, UNCLAIMED)


def vote(labels: Labels, anchors: NDArray[np.floating], num_neighbours: int = 5) -> Labels:
    """Gives unclaimed latents the most frequent label among the nearest claimed anchors (ties to the nearest one's side).

    At least one latent must be claimed.
    """
    claimed, open_ = np.flatnonzero(labels != UNCLAIMED), np.flatnonzero(labels == UNCLAIMED)
    if len(open_) == 0:
        return labels
    count = min(num_neighbours, len(claimed))
    ballots = labels[claimed][_nearest(anchors[claimed], anchors[open_], count)]
    votes = (ballots[:, :, None] == ballots[:, None, :]).sum(axis=-1)
    filled = labels.copy()
    filled[open_] = np.take_along_axis(ballots, votes.argmax(axis=1)[:, None], axis=1)[:, 0]
    return filled


def split_leftovers(labels: Labels, anchors: NDArray[np.floating], min_tokens: int, num_neighbours: int = 5) -> Labels:
    """Makes a new part of every group of unclaimed latents that are near one another and at least min_tokens many.

    Two unclaimed latents are near when one is among the nearest anchors of the other, claimed or not.
    """
    open_ = np.flatnonzero(labels == UNCLAIMED)
    if len(open_) < min_tokens:
        return labels
    count = min(num_neighbours + 1, len(anchors))
    nearest = _nearest(anchors, anchors[open_], count)
    position = np.full(len(labels), UNCLAIMED)
    position[open_] = np.arange(len(open_))
    rows, columns = np.repeat(np.arange(len(open_)), count), position[nearest].ravel()
    linked = columns != UNCLAIMED
    graph = coo_array((np.ones(linked.sum()), (rows[linked], columns[linked])), shape=(len(open_), len(open_)))
    _, group = connected_components(graph, directed=False)
    result, label = labels.copy(), int(labels.max()) + 1
    for index, size in enumerate(np.bincount(group)):
        if size >= min_tokens:
            result[open_[group == index]] = label
            label += 1
    return result


def dissolve(labels: Labels, anchors: NDArray[np.floating], min_tokens: int, max_parts: int) -> Labels:
    """Hands the latents of parts that are too small, then of the smallest beyond max_parts, to their neighbours.

    One part, the largest, always stays.
    """
    ids, sizes = np.unique(labels[labels != UNCLAIMED], return_counts=True)
    largest_first = ids[np.lexsort((ids, -sizes))]
    num_large = max(1, int((sizes >= min_tokens).sum()))
    kept = largest_first[: min(num_large, max_parts)]
    return vote(np.where(np.isin(labels, kept), labels, UNCLAIMED), anchors)


def renumber(labels: Labels, anchors: NDArray[np.floating]) -> tuple[Labels, Labels]:
    """Numbers parts 0..N-1 by the centre of their anchors (y, then x, z), as the dataset numbers them.

    Returns:
        New labels [L], and the old label of each part [N].
    """
    ids = np.unique(labels)
    centres = np.stack([anchors[labels == index].mean(axis=0) for index in ids])
    old = ids[np.lexsort((centres[:, 2], centres[:, 0], centres[:, 1]))]
    new_of_old = {int(label): rank for rank, label in enumerate(old)}
    return np.array([new_of_old[int(label)] for label in labels], np.int64), old


def _nearest(points: NDArray[np.floating], queries: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Indices [Q count] of the nearest points; `count` of 1 keeps its axis."""
    return KDTree(points).query(queries, k=count)[1].reshape(len(queries), count)

"""One bit per grid corner, and the decorator of compiled kernels.

A grid of N cells along each axis has (N+1)^3 corners. Corner (i, j, k) has the number (k (N+1) + j) (N+1) + i. The bits of one row
along x lie side by side, 64 corners to a word: row k (N+1) + j, word i // 64, bit i % 64. A set bit means inside.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
"""[(N+1)^2, ceil((N+1) / 64)] words."""

compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")

ONE = np.uint64(1)
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_BIT_OF_HASH = np.zeros(64, dtype=np.int64)
for _bit in range(64):
    _BIT_OF_HASH[(int(_DE_BRUIJN) << _bit & int(ALL)) >> 58] = _bit


def empty_bits(num_cells: int) -> Bits:
    """Returns a grid of corners that are all outside."""
    return np.zeros(((num_cells + 1) ** 2, num_cells // 64 + 1), dtype=np.uint64)


@compiled
def lowest_bit(word):
    """Returns the position of the lowest set bit of a word > 0: the two's complement isolates it, a de Bruijn hash names it."""
    return _BIT_OF_HASH[((word & (~word + ONE)) * _DE_BRUIJN) >> np.uint64(58)]


@compiled
def count_bits(word):
    """Returns the number of set bits of a word: sums of 2, 4 and 8 neighbouring bits, then of all bytes."""
    word -= (word >> ONE) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def get_bit(bits, row, i):
    """Returns 1 where corner i of a row is inside, else 0."""
    return (bits[row, i >> 6] >> np.uint64(i & 63)) & ONE


@compiled
def set_range(bits, row, first, last):
    """Sets the corners first..last (inclusive, first <= last) of a row."""
    head = ALL << np.uint64(first & 63)
    tail = ALL >> np.uint64(63 - (last & 63))
    if first >> 6 == last >> 6:
        bits[row, first >> 6] |= head & tail
        return
    bits[row, first >> 6] |= head
    for word in range((first >> 6) + 1, last >> 6):
        bits[row, word] = ALL
    bits[row, last >> 6] |= tail


@compiled
def set_corners(bits, num_cells, corners):
    """Sets the corners with the given numbers."""
    for corner in corners:
        i = corner % (num_cells + 1)
        bits[corner // (num_cells + 1), i >> 6] |= ONE << np.uint64(i & 63)


@compiled
def clear_corners(bits, num_cells, corners):
    """Puts the corners with the given numbers outside."""
    for corner in corners:
        i = corner % (num_cells + 1)
        bits[corner // (num_cells + 1), i >> 6] &= ~(ONE << np.uint64(i & 63))


@compiled
def is_set(bits, num_cells, corner):
    """Tells whether the corner with the given number is inside."""
    return get_bit(bits, corner // (num_cells + 1), corner % (num_cells + 1)) == ONE


@compiled
def are_set(bits, num_cells, corners):
    """Returns a bool per corner number."""
    result = np.zeros(len(corners), dtype=np.bool_)
    for q, corner in enumerate(corners):
        result[q] = is_set(bits, num_cells, corner)
    return result


@compiled
def list_corners(bits, num_cells):
    """Returns the numbers of all set corners, ascending, int64."""
    count = 0
    for row in range(bits.shape[0]):
        for word in range(bits.shape[1]):
            count += count_bits(bits[row, word])
    corners = np.zeros(count, dtype=np.int64)
    count = 0
    for row in range(bits.shape[0]):
        for word in range(bits.shape[1]):
            rest = bits[row, word]
            while rest:
                corners[count] = row * (num_cells + 1) + word * 64 + lowest_bit(rest)
                rest &= rest - ONE
                count += 1
    return corners


def clear_border(bits: Bits, num_cells: int) -> None:
    """Puts the corners on the six sides of the grid outside, so that the surface between inside and outside closes within it."""
    n = num_cells + 1
    planes = bits.reshape(n, n, -1)
    planes[[0, -1]] = 0
    planes[:, [0, -1]] = 0
    bits[:, 0] &= ~ONE
    bits[:, num_cells >> 6] &= ~(ONE << np.uint64(num_cells & 63))


def corner_positions(corners: NDArray[np.int64], num_cells: int) -> NDArray[np.int64]:
    """Returns (i, j, k) per corner number, [Q 3]."""
    n = num_cells + 1
    return np.stack([corners % n, corners // n % n, corners // (n * n)], axis=1)


def corner_numbers(positions: NDArray[np.int64], num_cells: int) -> NDArray[np.int64]:
    """Returns the number of every corner (i, j, k) [Q 3]."""
    n = num_cells + 1
    return (positions[:, 2] * n + positions[:, 1]) * n + positions[:, 0]

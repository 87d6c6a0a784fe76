"""Perceptual hashes of images, and an exact search for near hashes among millions.

The hash is pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
2010). Its bits say which of the 8 x 8 lowest DCT coefficients of a 32 x 32 grey picture exceed
their median. Half of them do, so that two hashes differ in an even number of bits.

Near hashes differ in at most 8 of 64 bits. The bits are cut into four runs of 16 bits. Then either
the first run differs in at most two bits, or one of the other three runs in at most one bit:
otherwise, the hashes would differ in at least 3 + 3 * 2 = 9 bits. So 137 + 3 * 17 look-ups find all
near hashes (multi-index hashing, Norouzi et al., arXiv:1307.2982).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]

SIDE = 32
"""Height and width of the pictures that are hashed, in pixels."""
RADIUS = 8
"""Near hashes differ in at most so many bits."""
_N_FREQUENCIES = 8  # the lowest frequencies of each axis that are hashed
_N_RUNS = 4  # runs of 16 bits in a hash
_DCT_BASIS = dct(np.eye(SIDE, dtype=np.float32), axis=0, norm="ortho")[:_N_FREQUENCIES]
_ROUNDING = 1e-2  # coefficients of a constant picture are not exactly 0
# All numbers of 16 bits of which at most one bit is set, and at most two bits are set.
_UP_TO_ONE_BIT = np.array([0, *(1 << bit for bit in range(16))], np.uint16)
_UP_TO_TWO_BITS = np.unique(_UP_TO_ONE_BIT[:, None] ^ _UP_TO_ONE_BIT)
# For each run: the patterns of flipped bits that are looked up.
_FLIPPED_BITS = (_UP_TO_TWO_BITS, _UP_TO_ONE_BIT, _UP_TO_ONE_BIT, _UP_TO_ONE_BIT)
_BLOCK = 1 << 16  # queries at a time
# The number of bits that are set in each number of 16 bits.
_N_BITS_SET = np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)


def perceptual_hashes(pictures: NDArray[np.uint8]) -> Hashes:
    """Return the pHash of each grey picture, (N,), from pictures (N, 32, 32).

    Each of the 64 bits of a hash says whether one of the 8 x 8 lowest DCT coefficients of the
    picture is above the median of all 64.
    """
    spectra = _DCT_BASIS @ pictures.astype(np.float32) @ _DCT_BASIS.T  # (N, 8, 8)
    coefficients = spectra.reshape(-1, _N_FREQUENCIES**2)
    is_high = coefficients > np.median(coefficients, axis=1, keepdims=True) + _ROUNDING
    # Pack 64 truth values into 8 bytes, and read them as one number.
    return np.packbits(is_high, axis=1).view(np.uint64)[:, 0]


class Near(NamedTuple):
    """K pairs of a query and an item with near hashes, as arrays (K,)."""

    # The index of the query.
    query: Ints
    # The index of the item.
    item: Ints
    # The number of bits in which their hashes differ.
    distance: NDArray[np.uint8]


class HashIndex:
    """An index of the hashes (N,) of items, in which near hashes are found."""

    def __init__(self, hashes: Hashes) -> None:
        """Sort the items by each of the four runs of 16 bits of their hashes.

        For example, items with the values [2, 0, 2] of a run are sorted as [1, 0, 2]. The value 0
        begins at place 0, the values 1 and 2 begin at place 1, and 3 at place 3.
        """
        self._hashes = hashes
        # For each run, the indices of the items, sorted by the run's value, (N,).
        self._sorted_items = []
        # For each run, the place at which each of the 2^16 possible values begins among the sorted
        # items, and a last entry for the end, (2^16 + 1,).
        self._first_places = []
        for values in _split_into_runs(hashes).T:
            n_items_by_value = np.bincount(values, minlength=1 << 16)
            self._sorted_items.append(np.argsort(values, kind="stable"))
            self._first_places.append(np.cumsum([0, *n_items_by_value]))

    def near(self, queries: Hashes) -> Near:
        """Return all items whose hashes differ from a query's hash in at most RADIUS bits.

        `queries` (M,) holds the hashes of the queries. The pairs are sorted by query, then by item.
        """
        pairs_of_blocks = [np.empty((0, 2), np.int64)]
        for start in range(0, len(queries), _BLOCK):
            block = queries[start : start + _BLOCK]
            pairs_of_runs: list[Ints] = []
            for run in range(_N_RUNS):
                pairs_of_runs += self._find_by_run(block, run)
            # A pair may be found by several runs.
            pairs = np.unique(np.concatenate(pairs_of_runs), axis=0)
            pairs[:, 0] += start
            pairs_of_blocks.append(pairs)
        query, item = np.concatenate(pairs_of_blocks).T
        return Near(query, item, differing_bits(queries[query], self._hashes[item]))

    def _find_by_run(self, queries: Hashes, run: int) -> Iterator[Ints]:
        """Look up the items that are near to queries, by one run of 16 bits of their hashes.

        Args:
            queries: (M,), the hashes of the queries.
            run: The index of the run, 0 to 3.

        Yields:
            For each pattern of at most one or two flipped bits, the pairs of a query and a near
            item whose runs differ exactly by the pattern: their indices, (K, 2).
        """
        query_bits = _split_into_runs(queries)[:, run]
        sorted_items, first_places = self._sorted_items[run], self._first_places[run]
        for flipped_bits in _FLIPPED_BITS[run]:
            # The items whose run has these bits lie side by side among the sorted items.
            item_bits = query_bits ^ flipped_bits
            first_place = first_places[item_bits]
            end_place = first_places[item_bits.astype(np.int64) + 1]
            n_items = end_place - first_place

            # One pair for each query and each of its items. For example, two queries whose items
            # begin at the places [5, 8], with [2, 1] items, have the queries 0, 0, 1 and the places
            # 5, 6, 8. The first pairs of the queries have the indices 0 and 2.
            query_indices = np.repeat(np.arange(len(queries)), n_items)
            first_pairs = np.cumsum(n_items) - n_items
            places = np.arange(len(query_indices)) + np.repeat(first_place - first_pairs, n_items)
            item_indices = sorted_items[places]

            # Keep the pairs that are near in all bits.
            distances = differing_bits(queries[query_indices], self._hashes[item_indices])
            pairs = np.stack([query_indices, item_indices], axis=1)
            yield pairs[distances <= RADIUS]


def _split_into_runs(hashes: Hashes) -> NDArray[np.uint16]:
    """Return the 64 bits of each hash as four numbers of 16 bits, (N, 4)."""
    return np.ascontiguousarray(hashes).view(np.uint16).reshape(-1, _N_RUNS)


def differing_bits(a: Hashes, b: Hashes) -> NDArray[np.uint8]:
    """Return the number of bits in which hashes a (N,) and b (N,) differ, (N,).

    For example, the hashes 0b0110 and 0b0011 differ in 2 bits.
    """
    return _N_BITS_SET[_split_into_runs(a ^ b)].sum(axis=1, dtype=np.uint8)


def correlations(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return Pearson's correlation of the pixels of each pair of pictures, (N,).

    Args:
        a: (N, 32, 32), grey pictures.
        b: (N, 32, 32), the pictures that they are compared with: a[i] with b[i].

    Returns:
        Correlations in [-1, 1]. The correlation with a constant picture is 0.
    """
    pixels_a = a.reshape(len(a), SIDE**2).astype(np.float32)
    pixels_b = b.reshape(len(b), SIDE**2).astype(np.float32)
    centered_a = pixels_a - pixels_a.mean(axis=1, keepdims=True)
    centered_b = pixels_b - pixels_b.mean(axis=1, keepdims=True)
    products = (centered_a * centered_b).sum(axis=1)
    norms = np.sqrt((centered_a**2).sum(axis=1) * (centered_b**2).sum(axis=1))
    return np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0)

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
_LOW = 8  # lowest frequencies of each axis
_RUNS = 4  # of 16 bits in a hash
_BASIS = dct(np.eye(SIDE, dtype=np.float32), axis=0, norm="ortho")[:_LOW]
_ROUNDING = 1e-2  # coefficients of a constant picture are not exactly 0
_UP_TO_ONE = np.array([0, *(1 << bit for bit in range(16))], np.uint16)
_UP_TO_TWO = np.unique(_UP_TO_ONE[:, None] ^ _UP_TO_ONE)
_FLIPPED_BITS = (_UP_TO_TWO, _UP_TO_ONE, _UP_TO_ONE, _UP_TO_ONE)  # that are looked up in each run
_BLOCK = 1 << 16  # queries at a time
_BITS_SET = np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)


def perceptual_hashes(pictures: NDArray[np.uint8]) -> Hashes:
    """Return the hashes (N,) of grey pictures (N, 32, 32)."""
    coefficients = (_BASIS @ pictures.astype(np.float32) @ _BASIS.T).reshape(-1, _LOW**2)
    is_high = coefficients > np.median(coefficients, axis=1, keepdims=True) + _ROUNDING
    return np.packbits(is_high, axis=1).view(np.uint64)[:, 0]


class Near(NamedTuple):
    """Pairs of a query and an item with near hashes, (K,) each."""

    # The index of the query.
    query: Ints
    # The index of the item.
    item: Ints
    # The number of bits in which their hashes differ.
    distance: NDArray[np.uint8]


class HashIndex:
    """An index of the hashes (N,) of items, in which near hashes are found."""

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes
        # For each run: the items in the order of the run's value, and the first place in this order
        # of each of the 2^16 possible values.
        self._order, self._starts = [], []
        for run in _runs(hashes).T:
            self._order.append(np.argsort(run, kind="stable"))
            self._starts.append(np.cumsum([0, *np.bincount(run, minlength=1 << 16)]))

    def near(self, queries: Hashes) -> Near:
        """Return all items within RADIUS of each query (M,), sorted by query, then by item."""
        pairs_of_blocks = [np.empty((0, 2), np.int64)]
        for start in range(0, len(queries), _BLOCK):
            block = queries[start : start + _BLOCK]
            pairs_of_runs: list[Ints] = []
            for run in range(_RUNS):
                pairs_of_runs += self._near_by_run(block, run)
            pairs = np.unique(np.concatenate(pairs_of_runs), axis=0)
            pairs[:, 0] += start
            pairs_of_blocks.append(pairs)
        query, item = np.concatenate(pairs_of_blocks).T
        return Near(query, item, differing_bits(queries[query], self._hashes[item]))

    def _near_by_run(self, queries: Hashes, run: int) -> Iterator[Ints]:
        """Yield near pairs of a query and an item, (K, 2), for each pattern of `_FLIPPED_BITS`.

        The bits of the pair's run differ exactly by the pattern.
        """
        query_bits, order, starts = _runs(queries)[:, run], self._order[run], self._starts[run]
        for flipped in _FLIPPED_BITS[run]:
            item_bits = query_bits ^ flipped
            first_place = starts[item_bits]
            n_items = starts[item_bits.astype(np.int64) + 1] - first_place
            query = np.repeat(np.arange(len(queries)), n_items)
            # The places of each query's items in the order: first_place, first_place + 1, ...
            first_pair = np.cumsum(n_items) - n_items  # the index of each query's first pair
            place = np.arange(len(query)) + np.repeat(first_place - first_pair, n_items)
            item = order[place]
            is_near = differing_bits(queries[query], self._hashes[item]) <= RADIUS
            yield np.stack([query[is_near], item[is_near]], axis=1)


def _runs(hashes: Hashes) -> NDArray[np.uint16]:
    """Return the runs of 16 bits of each hash, (N, 4)."""
    return np.ascontiguousarray(hashes).view(np.uint16).reshape(-1, _RUNS)


def differing_bits(a: Hashes, b: Hashes) -> NDArray[np.uint8]:
    """Return the number of bits in which hashes a (N,) and b (N,) differ, (N,)."""
    return _BITS_SET[_runs(a ^ b)].sum(axis=1, dtype=np.uint8)


def correlations(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the correlations (N,) of the pixels of pictures a and b, (N, 32, 32) each.

    The correlation with a constant picture is 0.
    """
    x = a.reshape(len(a), SIDE**2).astype(np.float32)
    y = b.reshape(len(b), SIDE**2).astype(np.float32)
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    norms = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), norms, out=np.zeros_like(norms), where=norms > 0)

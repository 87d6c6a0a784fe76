"""Perceptual hashes of images, and exact search for near ones among millions.

The hash is pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
2010): which of the 8 x 8 lowest DCT coefficients of a 32 x 32 grey picture exceed their median.
Half of them do, so that two hashes differ in an even number of bits. If they differ in up to 8 of
64 bits, then in one of three runs of 16 bits in one bit at most, or in the fourth run in two at
most (else in 3 * 2 + 3 = 9 or more): 3 * 17 and 137 look-ups find all of them (multi-index hashing,
Norouzi et al., arXiv:1307.2982).
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
"""Bits in which near hashes may differ."""
_LOW, _RUNS = 8, 4
_BASIS = dct(np.eye(SIDE, dtype=np.float32), axis=0, norm="ortho")[:_LOW]
_ROUNDING = 1e-2  # coefficients of a constant picture are not exactly 0
_UP_TO_ONE = np.array([0, *(1 << bit for bit in range(16))], np.uint16)
_UP_TO_TWO = np.unique(_UP_TO_ONE[:, None] ^ _UP_TO_ONE)
_FLIPPED_BITS = (_UP_TO_TWO, _UP_TO_ONE, _UP_TO_ONE, _UP_TO_ONE)  # of each run
_BLOCK = 1 << 16  # queries at a time
_BITS = np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)


def perceptual_hashes(pictures: NDArray[np.uint8]) -> Hashes:
    """Return the hashes (N,) of grey pictures (N, 32, 32)."""
    low = (_BASIS @ pictures.astype(np.float32) @ _BASIS.T).reshape(len(pictures), _LOW**2)
    above = low > np.median(low, axis=1, keepdims=True) + _ROUNDING
    return np.packbits(above, axis=1).view(np.uint64)[:, 0]


class Near(NamedTuple):
    """Indices of queries and of items, (K,) each, and the bits in which their hashes differ."""

    query: Ints
    item: Ints
    distance: NDArray[np.uint8]


class HashIndex:
    """Hashes (N,) in which near ones are found."""

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes
        self._order, self._starts = [], []
        for run in _runs(hashes).T:
            self._order.append(np.argsort(run, kind="stable"))
            self._starts.append(np.cumsum([0, *np.bincount(run, minlength=1 << 16)]))

    def near(self, queries: Hashes) -> Near:
        """Find all items within RADIUS of each query (M,), by query, then by item."""
        blocks = (queries[start : start + _BLOCK] for start in range(0, len(queries), _BLOCK))
        found = [np.empty((0, 2), np.int64)]
        for number, block in enumerate(blocks):
            pairs = [pair for run in range(_RUNS) for pair in self._candidates(block, run)]
            own = np.unique(np.concatenate(pairs), axis=0)
            own[:, 0] += number * _BLOCK
            found.append(own)
        query, item = np.concatenate(found).T
        return Near(query, item, differing_bits(queries[query], self._hashes[item]))

    def _candidates(self, queries: Hashes, run: int) -> Iterator[Ints]:
        """Yield (K, 2) near queries and items whose bits of a run differ as `_FLIPPED_BITS` do."""
        query_bits, order, starts = _runs(queries)[:, run], self._order[run], self._starts[run]
        for flipped in _FLIPPED_BITS[run]:
            bits = query_bits ^ flipped
            begin = starts[bits]
            counts = starts[bits.astype(np.int64) + 1] - begin
            query = np.repeat(np.arange(len(queries)), counts)
            # Places in the order: begin, begin + 1, ... of each query.
            place = np.arange(len(query)) + np.repeat(begin - np.cumsum(counts) + counts, counts)
            item = order[place]
            near = differing_bits(queries[query], self._hashes[item]) <= RADIUS
            yield np.stack([query[near], item[near]], axis=1)


def _runs(hashes: Hashes) -> NDArray[np.uint16]:
    return np.ascontiguousarray(hashes).view(np.uint16).reshape(-1, _RUNS)


def differing_bits(a: Hashes, b: Hashes) -> NDArray[np.uint8]:
    """Count the bits in which hashes (N,) differ."""
    return _BITS[_runs(a ^ b)].sum(axis=1, dtype=np.uint8)


def correlations(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the correlation of pixels (N,) of pictures (N, 32, 32); 0 where one is constant."""
    x, y = (one.reshape(len(one), SIDE**2).astype(np.float32) for one in (a, b))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    norms = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), norms, out=np.zeros_like(norms), where=norms > 0)

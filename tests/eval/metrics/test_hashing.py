"""Perceptual hashes against SciPy, and near ones against a comparison of all with all."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dctn

from cosmos_eval.stats import hashing
from cosmos_eval.stats.hashing import (
    RADIUS,
    HashIndex,
    correlations,
    differing_bits,
    perceptual_hashes,
)


def bits(number: int) -> int:
    return bin(number).count("1")


def flipped(number: int, *places: int) -> int:
    for place in places:
        number ^= 1 << place
    return number


def test_the_hash_is_the_sign_of_low_coefficients_about_their_median() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
    for picture, picture_hash in zip(pictures, perceptual_hashes(pictures).tolist(), strict=True):
        low_coefficients = dctn(picture.astype(float), norm="ortho")[:8, :8].ravel()
        is_above = low_coefficients > np.median(low_coefficients)
        assert picture_hash == np.packbits(is_above).view(np.uint64)[0]
    # Only the mean of a constant picture is above the rest.
    grey = np.full((1, 32, 32), 90, np.uint8)
    assert bits(int(perceptual_hashes(grey)[0])) == 1


@pytest.mark.parametrize("block", [7, 1 << 16])
def test_near_hashes_equal_a_comparison_of_all(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_BLOCK", block)
    rng = np.random.default_rng(1)
    items = rng.integers(0, 2**64, 60, dtype=np.uint64)
    items[7] = items[3]
    queries = rng.integers(0, 2**64, 40, dtype=np.uint64)
    for query in range(0, 40, 2):  # 0 to 10 bits away from an item, spread and in one run
        places = rng.permutation(64)[: query // 4]
        queries[query] = flipped(int(items[query]), *map(int, places))
    queries[1] = flipped(int(items[3]), *range(16, 24))
    queries[3] = flipped(int(items[3]), 0, 1, 16, 17, 32, 33, 48, 49)  # two bits in every run
    near = HashIndex(items).near(queries)
    expected = []
    for query, query_hash in enumerate(queries):
        for item, item_hash in enumerate(items):
            distance = bits(int(query_hash) ^ int(item_hash))
            if distance <= RADIUS:
                expected.append((query, item, distance))
    assert [*zip(*(column.tolist() for column in near), strict=True)] == expected
    assert {(1, 3, 8), (1, 7, 8), (3, 3, 8), (3, 7, 8)} <= {*expected}
    assert max(distance for *_, distance in expected) == RADIUS


def test_no_hash_is_near_if_all_bits_differ() -> None:
    near = HashIndex(np.array([0], np.uint64)).near(np.array([2**64 - 1], np.uint64))
    assert [len(column) for column in near] == [0, 0, 0]


def test_bits_and_correlations() -> None:
    a = np.array([0, 5, 2**64 - 1], np.uint64)
    assert differing_bits(a, np.array([0, 2, 0], np.uint64)).tolist() == [0, 3, 64]
    pictures = np.random.default_rng(2).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    pictures[3] = 8
    other = pictures[[1, 1, 2, 0]]
    pairs = zip(pictures[:3], other[:3], strict=True)
    expected = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in pairs]
    np.testing.assert_allclose(correlations(pictures, other), [*expected, 0], atol=1e-6)

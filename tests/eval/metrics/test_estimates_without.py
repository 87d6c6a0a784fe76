"""Estimates without some of the images, by hand."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cosmos_eval.stats.estimates import (
    FunctionOfSums,
    GroupMean,
    Mean,
    Median,
    Proportion,
    without,
)

# Of three images, the one in the middle is left out.
KEEP = np.array([True, False, True])


class Shares(NamedTuple):
    numerator: np.ndarray
    denominator: np.ndarray


def ratio_of_sums(sums: Shares) -> np.ndarray:
    return sums.numerator / sums.denominator


def test_estimates_without_an_image() -> None:
    assert without(Proportion(np.array([True, True, False])), KEEP).value == 0.5
    clusters = np.array([0, 0, 1, 1, 2])
    assert without(Mean(np.array([1, 2, 9, 9, 6]), clusters), KEEP).value == 3
    assert without(Median(np.array([1, 2, 9, 9, 6]), clusters), KEEP).value == 2
    hits = np.array([True, False, True])
    assert without(GroupMean(hits, np.array([0, 0, 1])), KEEP).value == 1
    item_hits = np.array([True, False, False, True, False])
    of_items = GroupMean(item_hits, np.zeros(5, int), clusters)
    assert without(of_items, KEEP).value == 1 / 3
    shares = Shares(np.array([1.0, 5, 2]), np.array([2.0, 5, 4]))
    assert without(FunctionOfSums(shares, ratio_of_sums), KEEP).value == 0.5

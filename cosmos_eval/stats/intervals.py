"""Confidence intervals of estimates: Wilson's score interval and the percentile bootstrap.

Wilson 1927, "Probable inference"; Efron and Tibshirani 1993, "An Introduction to the Bootstrap",
chapter 13.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from cosmos_eval.stats.estimates import FunctionOfSums, GroupMean, Proportion
from cosmos_eval.stats.resampling import (
    RESAMPLES,
    Estimates,
    Statistic,
    by_clusters,
    resample,
    statistic_of,
    statistics_of_kinds,
)
from cosmos_eval.types import Interval

LEVEL = 0.95


def wilson(successes: int, n: int, level: float = LEVEL) -> Interval:
    """Return Wilson's interval of a proportion; ValueError unless 0 <= successes <= n > 0."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"no share of {successes} in {n}")
    z2 = float(ndtri((1 + level) / 2)) ** 2
    share = successes / n
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(max(0.0, center - half), min(1.0, center + half), "wilson", level)


def intervals(
    estimates: Estimates, *, seed: int = 0, level: float = LEVEL, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Return the intervals of estimates by name.

    A resample in which an estimate has no value (NaN) does not count for it; an estimate without a
    value in any resample has no interval. Raises ValueError for estimates of no samples.
    """
    found: dict[str, Interval] = {}

    def add(method: str, statistic: Statistic, counts: NDArray[np.integer], **how: bool) -> None:
        (values,) = resample([statistic], counts, seed=seed, resamples=resamples, **how)
        for name, drawn in values.items():
            if not np.isnan(drawn).all():
                low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
                found[name] = Interval(float(low), float(high), method, level)

    of_sums = {n: one for n, one in estimates.items() if isinstance(one, FunctionOfSums)}
    for size, some in by_clusters(of_sums).items():
        add("bootstrap", statistic_of(some), np.ones(size, int), multinomial=True)
    others = {n: one for n, one in estimates.items() if n not in of_sums}
    for size, some in by_clusters(others).items():
        add("cluster bootstrap", statistic_of(some), np.ones(size, int))
    for name, one in others.items():
        if isinstance(one, Proportion):
            found[name] = wilson(int(one.hits.sum()), len(one.hits), level)
        elif isinstance(one, GroupMean) and one.clusters is None:
            (statistic,), counts = statistics_of_kinds(name, [one])
            add("bootstrap", statistic, counts, multinomial=True)
    return {name: found[name] for name in estimates if name in found}

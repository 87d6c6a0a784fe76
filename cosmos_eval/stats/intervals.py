"""Confidence intervals of shares and means: Wilson's score interval and the bootstrap.

Wilson 1927, "Probable inference"; Efron and Tibshirani 1993, "An Introduction to the Bootstrap",
chapter 13 (percentile interval). Resampling whole clusters keeps the dependence inside them:
captions of one image are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import ndtri

from cosmos_eval.types import Interval

LEVEL = 0.95
RESAMPLES = 2_000
_RESAMPLES_AT_ONCE = 200  # bounds memory: 200 x clusters x 8 bytes


def wilson(successes: int, n: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a share; raises ValueError unless 0 <= successes <= n > 0."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"no share of {successes} in {n}")
    z2 = float(ndtri((1 + level) / 2)) ** 2
    share = successes / n
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(max(0.0, center - half), min(1.0, center + half), "wilson", level)


def cluster_bootstrap(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    seed: int = 0,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> list[Interval]:
    """Percentile intervals of the column means of (N, K) values, whole clusters resampled.

    `clusters` (N,) holds any integer label a row. One resample draws as many clusters as there
    are, with replacement, and takes the mean over all rows drawn. Raises ValueError without rows.
    """
    table = np.asarray(values, dtype=np.float64)
    labels, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    if len(labels) == 0:
        raise ValueError("no values to resample")
    sums = np.stack([np.bincount(index, weights=column) for column in table.T], axis=1)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, resamples - start)
        drawn = draw_counts(rng, len(labels), size)
        means.append((drawn @ sums) / (drawn @ sizes)[:, None])
    return [_percentile(column, "cluster bootstrap", level) for column in np.concatenate(means).T]


def cluster_median_bootstrap(
    values: NDArray[np.integer],
    clusters: NDArray[np.integer],
    *,
    seed: int = 0,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Interval:
    """Percentile interval of the median of (N,) values, whole clusters resampled.

    Draws are those of `cluster_bootstrap`. The median of an even number of values is the mean of
    the two in the middle. Raises ValueError without values.
    """
    if len(values) == 0:
        raise ValueError("no values to resample")
    steps, step = np.unique(values, return_inverse=True)
    labels, cluster = np.unique(clusters, return_inverse=True)
    table = csr_array((np.ones(len(values)), (step, cluster)), shape=(len(steps), len(labels)))
    rng = np.random.default_rng(seed)
    medians = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        drawn = draw_counts(rng, len(labels), min(_RESAMPLES_AT_ONCE, resamples - start))
        up_to = (table @ drawn.T).cumsum(axis=0)  # (steps, resamples): values drawn up to a step
        middle = [(up_to[-1] + 1) // 2, up_to[-1] // 2 + 1]
        medians.append(np.mean([steps[(up_to < place).sum(axis=0)] for place in middle], axis=0))
    return _percentile(np.concatenate(medians), "cluster bootstrap", level)


def statistic_bootstrap(
    statistic: Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]],
    clusters: int,
    *,
    seed: int = 0,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Percentile intervals of every metric, whole clusters resampled.

    `statistic` gives metrics (R,) by name, given how often each cluster is drawn, (R, C). A
    resample in which a metric has no value (NaN) does not count for it; a metric that never has one
    gets no interval.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, resamples - start)
        drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size)
        parts.append(statistic(drawn.astype(np.float64)))
    intervals = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        if not np.isnan(values).all():
            low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
            intervals[name] = Interval(float(low), float(high), "bootstrap", level)
    return intervals


def mean_class_recall_bootstrap(
    labels: NDArray[np.integer],
    hits: NDArray[np.bool_],
    *,
    seed: int = 0,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Interval:
    """Percentile interval of the mean over classes of their share of hits, images resampled.

    `labels` and `hits` are (N,). Only how many images of a class hit and miss matters, so a
    resample of N images is one multinomial draw over (class, hit or miss). A class that a
    resample does not draw is left out of its mean. Raises ValueError without images.
    """
    if len(labels) == 0:
        raise ValueError("no values to resample")
    _, index = np.unique(labels, return_inverse=True)
    cells = np.bincount(2 * index + hits, minlength=2 * (index.max() + 1))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(labels), cells / len(labels), size=resamples)
    missed, hit = drawn[:, 0::2], drawn[:, 1::2]
    total = missed + hit
    recall = np.divide(hit, total, out=np.zeros(total.shape), where=total > 0)
    means = recall.sum(axis=1) / (total > 0).sum(axis=1)
    return _percentile(means, "bootstrap", level)


def mean_of_groups_bootstrap(
    groups: NDArray[np.integer],
    hits: NDArray[np.bool_],
    clusters: NDArray[np.integer],
    *,
    seed: int = 0,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Interval:
    """Percentile interval of the mean over groups of their share of hits, whole clusters resampled.

    `groups`, `hits` and `clusters` are (N,); a cluster may reach over several groups. A group that
    a resample does not draw is left out of its mean. Raises ValueError without values.
    """
    if len(groups) == 0:
        raise ValueError("no values to resample")
    names, group = np.unique(groups, return_inverse=True)
    labels, cluster = np.unique(clusters, return_inverse=True)
    cells, shape = cluster * len(names) + group, (len(labels), len(names))
    counts = np.bincount(cells, minlength=math.prod(shape)).reshape(shape).astype(np.float64)
    sums = np.bincount(cells, weights=hits, minlength=math.prod(shape)).reshape(shape)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        drawn = draw_counts(rng, len(labels), min(_RESAMPLES_AT_ONCE, resamples - start))
        total = drawn @ counts
        share = np.divide(drawn @ sums, total, out=np.zeros(total.shape), where=total > 0)
        means.append(share.sum(axis=1) / (total > 0).sum(axis=1))
    return _percentile(np.concatenate(means), "cluster bootstrap", level)


def draw_counts(rng: np.random.Generator, clusters: int, resamples: int) -> NDArray[np.float64]:
    """How often each cluster is drawn, (resamples, clusters): uniform multinomial counts."""
    drawn = rng.integers(clusters, size=(resamples, clusters))
    drawn += clusters * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * clusters)
    return counts.reshape(resamples, clusters).astype(np.float64)


def _percentile(means: NDArray[np.float64], method: str, level: float) -> Interval:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), method, level)

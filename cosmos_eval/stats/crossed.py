"""Standard error of the mean hits of N samples by D draws, such as few-shot classifiers.

Model: hit = mean + sample + draw + rest, where all terms but the mean are random. The variance of
the mean follows from the mean squares of a two-way table. Its degrees of freedom are by
Satterthwaite (1946, Biometrics Bulletin 2). A bootstrap of D draws would find only (D - 1) / D of
the variance between them.
Shapes: N samples, D draws.
"""

import math
from typing import NamedTuple

import numpy as np

from cosmos_eval.stats.estimates import CrossedMean

OVER_DRAWS = "wilson, t over draws"


class EffectiveSamples(NamedTuple):
    """How many independent samples have a mean of the same standard error as a crossed mean."""

    # The number of independent samples, which may be a fraction.
    n: float
    # The degrees of freedom of the standard error.
    dof: float


def effective_samples(mean: CrossedMean) -> EffectiveSamples:
    """Return how many independent samples the hits (N, D) of N samples by D draws are worth.

    A draw is one of several random versions of a classifier, such as a few-shot classifier. With
    the mean squares of a two-way table, the variance of the share p of hits is
        (by_samples + by_draws - by_rest) / (N * D).
    The number of independent samples with this variance is p * (1 - p) / variance. It is at most
    N * D. The mean square of draws is at least the mean square of the rest. For example, if all
    draws have the same hits, the number is N - 1.

    The hits are worth N samples if all of them are 1, or all are 0, or if there is a single draw or
    sample: then they do not show how much draws vary.
    """
    hits = mean.hits.astype(np.float64)
    n_samples, n_draws = hits.shape
    share = float(hits.mean())
    shows_no_variance = min(hits.shape) == 1 or share in (0, 1)
    if shows_no_variance:
        return EffectiveSamples(n_samples, math.inf)

    # The mean squares of the table's rows (samples), its residuals and its columns (draws).
    sample_means = hits.mean(axis=1)
    draw_means = hits.mean(axis=0)
    residuals = hits - sample_means[:, None] - draw_means + share
    dof_samples = n_samples - 1
    dof_draws = n_draws - 1
    dof_rest = dof_samples * dof_draws
    by_samples = n_draws * float(sample_means.var(ddof=1))
    by_rest = float(np.square(residuals).sum()) / dof_rest
    by_draws = max(n_samples * float(draw_means.var(ddof=1)), by_rest)

    total = by_samples + by_draws - by_rest  # N x D times the variance of the mean
    if total <= 0:
        return EffectiveSamples(n_samples, math.inf)
    # Satterthwaite's degrees of freedom are total^2 / spread.
    spread = by_samples**2 / dof_samples + by_draws**2 / dof_draws
    spread += by_rest**2 / dof_rest
    n = min(share * (1 - share) * hits.size / total, hits.size)
    return EffectiveSamples(n, total**2 / spread)

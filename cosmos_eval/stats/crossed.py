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
    """The independent samples that would have the same standard error as a mean."""

    # The number of samples.
    n: float
    # The degrees of freedom of the standard error.
    dof: float


def effective_samples(mean: CrossedMean) -> EffectiveSamples:
    """Return how many independent samples the hits (N, D) of D draws are worth.

    The variance by draws counts as at least the variance that the rest adds to it. If all samples
    are hits, or none, the hits are worth N samples. So are the hits of a single draw, which does
    not show how much draws vary.
    """
    hits = mean.hits.astype(np.float64)
    n_samples, n_draws = hits.shape
    share = float(hits.mean())
    if min(hits.shape) == 1 or share in (0, 1):
        return EffectiveSamples(n_samples, math.inf)
    of_samples, of_draws = hits.mean(axis=1), hits.mean(axis=0)
    residuals = hits - of_samples[:, None] - of_draws + share
    dof_samples, dof_draws = n_samples - 1, n_draws - 1
    by_samples = n_draws * float(of_samples.var(ddof=1))
    by_rest = float(np.square(residuals).sum()) / (dof_samples * dof_draws)
    by_draws = max(n_samples * float(of_draws.var(ddof=1)), by_rest)
    total = by_samples + by_draws - by_rest  # N x D times the variance of the mean
    spread = by_samples**2 / dof_samples + by_draws**2 / dof_draws
    spread += by_rest**2 / (dof_samples * dof_draws)
    if total <= 0:
        return EffectiveSamples(n_samples, math.inf)
    n = min(share * (1 - share) * hits.size / total, hits.size)
    return EffectiveSamples(n, total**2 / spread)

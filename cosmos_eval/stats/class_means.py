"""The interval of a mean over classes of figures in [0, 1] that are shares of few samples each.

The jackknife (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11) is for the
expected value at this number of samples. Unlike a resample, what remains without one sample hardly
ever lacks a class, and has no sample twice. Where nearly everything is right the jackknife sees too
little, so that the interval also holds the means under which the counts are likely.
Shapes: N samples, C classes.
"""

import math
from typing import NamedTuple

import numpy as np

from cosmos_eval.stats.estimates import Values
from cosmos_eval.types import Interval

JACKKNIFE_OR_LIKELIHOOD = "jackknife or likelihood"


class LeftOut(NamedTuple):
    """A mean over classes (C,), and what it is without each of N samples, NaN if there is none."""

    value: float
    without_sample: Values  # (N,)
    right: Values  # (C,) of the samples of a class, how many are right, fractions included
    samples: Values  # (C,)


def jackknife_ends(value: float, without_sample: Values, level: float) -> tuple[float, float]:
    """Return value -+ t x the standard error by what the value is without each sample (N,), within
    [0, 1]."""
    from scipy.special import stdtrit  # which commands that compute nothing need not wait for

    n = len(without_sample)
    error = math.sqrt((n - 1) * without_sample.var())
    half = float(stdtrit(n - 1, (1 + level) / 2)) * error
    return max(0.0, value - half), min(1.0, value + half)


def jackknife_or_likelihood(mean: LeftOut, level: float) -> Interval:
    """Return the wider interval, at each end, of the jackknife and of the profile likelihood."""
    from cosmos_eval.stats.shares import likely_means  # which imports SciPy

    usable = mean.without_sample[~np.isnan(mean.without_sample)]
    low, high = likely_means(mean.right, mean.samples, level)
    if len(usable) > 1:
        ends = jackknife_ends(mean.value, usable, level)
        low, high = min(low, ends[0]), max(high, ends[1])
    return Interval(low, high, JACKKNIFE_OR_LIKELIHOOD, level)

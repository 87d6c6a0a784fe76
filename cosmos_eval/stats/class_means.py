"""The interval of a mean over classes of scores in [0, 1], each a share of few samples.

The jackknife (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11) is for the
expected value at this number of samples. Unlike a resample, N - 1 of N samples hardly ever lack a
class, and hold no sample twice. If nearly everything is right, the jackknife sees too little of the
error. Therefore, the interval also contains all means under which the counts are likely.
Shapes: N samples, C classes.
"""

import math
from typing import NamedTuple

import numpy as np

from cosmos_eval.stats.estimates import Values
from cosmos_eval.types import Interval

JACKKNIFE_OR_LIKELIHOOD = "jackknife or likelihood"


class MeanWithoutEach(NamedTuple):
    """A mean over classes of scores in [0, 1], and the same mean without each sample in turn."""

    # The mean of all samples.
    value: float
    # (N,): the mean without each sample. It is NaN if no class is left.
    without_sample: Values
    # (C,): the number of hits of each class, which may be a fraction: score * samples.
    right: Values
    # (C,): the number of samples of each class.
    samples: Values


def jackknife_ends(value: float, without_sample: Values, level: float) -> tuple[float, float]:
    """Return the ends of the jackknife interval, value -+ t x standard error, within [0, 1].

    The standard error is sqrt((N - 1) / N * sum of (value without sample - their mean)^2). For
    example, the values [0.5, 0.5, 1] without each of three samples have the standard error
    sqrt(2 / 3 * 1 / 6) = 1 / 3.

    Args:
        value: The value for all samples.
        without_sample: (N,), the value without each of N samples in turn.
        level: The probability that the interval contains the true value.
    """
    from scipy.special import stdtrit  # loading it takes long, and few commands need it

    n = len(without_sample)
    error = math.sqrt((n - 1) * without_sample.var())
    half_width = float(stdtrit(n - 1, (1 + level) / 2)) * error
    return max(0.0, value - half_width), min(1.0, value + half_width)


def jackknife_or_likelihood(mean: MeanWithoutEach, level: float) -> Interval:
    """Return the shortest interval that contains two: the jackknife's and the likelihood's.

    For example, 0.61 to 0.80 by the jackknife and 0.55 to 0.78 by the profile likelihood give 0.55
    to 0.80. The jackknife needs two values without a sample that are not NaN. If there are fewer,
    the interval is the profile likelihood's.

    Args:
        mean: A mean over classes, also without each sample in turn.
        level: The probability that the interval contains the true mean.
    """
    from cosmos_eval.stats.shares import likely_means  # which imports SciPy

    low, high = likely_means(mean.right, mean.samples, level)
    defined_values = mean.without_sample[~np.isnan(mean.without_sample)]
    if len(defined_values) > 1:
        jackknife_low, jackknife_high = jackknife_ends(mean.value, defined_values, level)
        low, high = min(low, jackknife_low), max(high, jackknife_high)
    return Interval(low, high, JACKKNIFE_OR_LIKELIHOOD, level)

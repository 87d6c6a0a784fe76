"""The expected calibration error and its interval.

Noise makes gaps between accuracy and confidence even if a model is calibrated. So the error of
samples lies above the error of their population, and the error of resamples is higher still: the
percentile bootstrap interval of a calibrated model never contains 0. The interval here is for the
population's error: it holds all errors that a test does not reject. Shapes: N samples, B bins, R
draws.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import FunctionOfSums, Values
from cosmos_eval.types import Interval

BINS = 15  # of Guo et al. 2017, section 4
INVERTED_TEST = "inverted test of calibration"
_DRAWS = 2_000
_PRECISION = 1e-5  # of the ends, as a share of the range that is searched
_RARE = 0.01  # draws are too few to estimate a probability below this one


class CalibrationSums(NamedTuple):
    """The terms of the calibration error, whose sums over N samples decide it."""

    # (N,) ones.
    samples: Values
    # (N, B): 1 or 0 for a hit or a miss, minus the confidence, in the column of the sample's bin.
    gaps: Values


def calibration_error(
    confidences: NDArray[np.float32], hits: NDArray[np.bool_], bins: int = BINS
) -> FunctionOfSums:
    """Return the expected calibration error of confidences (N,) in (0, 1] and hits (N,).

    It is the mean of |accuracy - mean confidence| over the bins ((m - 1) / bins, m / bins], each
    weighted by its number of samples (Guo et al. 2017, arXiv:1706.04599, equation 3). Raises
    ValueError for other confidences.
    """
    if not ((confidences > 0) & (confidences <= 1)).all():
        raise ValueError("confidences must lie in (0, 1]")
    gaps = np.zeros((len(hits), bins))
    bin_of = np.ceil(confidences.astype(np.float64) * bins).astype(int) - 1
    gaps[np.arange(len(hits)), bin_of] = hits - confidences.astype(np.float64)
    sums = CalibrationSums(np.ones(len(hits)), gaps)
    return FunctionOfSums(sums, _mean_gap, one_by_one=True, interval=calibration_interval)


def _mean_gap(sums: CalibrationSums) -> Values:
    """Return the calibration error (...,) from sums (...,) and (..., B)."""
    gap: Values = np.abs(sums.gaps).sum(axis=-1) / sums.samples
    return gap


def calibration_interval(sums: CalibrationSums, level: float) -> Interval:
    """Return the calibration errors of populations that could well show these samples.

    An error is too low if a population with that error shows the error of the samples, or a larger
    one, with a probability below (1 - level) / 2. An error is too high if a population with that
    error shows the error of the samples, or a smaller one, with a probability below (1 - level) / 2
    times the same probability for a calibrated population. The factor keeps good luck from making
    the interval narrow. The interval also contains the error of the samples.
    """
    test = _ErrorTest(sums, (1 - level) / 2)
    low, high = test.lowest(), test.highest()
    sample_error = test.sample_error
    return Interval(min(low, sample_error), min(1.0, max(high, sample_error)), INVERTED_TEST, level)


class _ErrorTest:
    """A test of the calibration error of a population.

    If the gaps of a population's bins are d (B,), its samples show an error of sum(|d + noise|).
    """

    def __init__(self, sums: CalibrationSums, significance: float) -> None:
        self.significance = significance  # of the test, on one side
        # The absolute gaps of the samples (B,), their standard errors (B,), and draws of noise with
        # these standard errors (R, B).
        self.gaps, self.noise = _gaps_of_bins(sums)
        normal_draws = np.random.default_rng(0).standard_normal((_DRAWS, len(self.noise)))
        self.draws = self.noise * normal_draws
        self.sample_error = float(self.gaps.sum())

    def lowest(self) -> float:
        """Return the least error of a population that the test does not reject.

        For each error, the likeliest gaps are tested. These are the gaps of the samples, shrunk by
        a multiple of their variances (Lagrange).
        """
        from scipy.optimize import bisect  # loading it takes long, and few commands need it

        all_shrunk = float((self.gaps / np.square(self.noise)).max())
        if self._too_low(all_shrunk) <= 0:
            return 0.0
        shrinkage = bisect(self._too_low, 0.0, all_shrunk, xtol=_PRECISION * all_shrunk)
        return float(self._shrunk(shrinkage).sum())

    def highest(self) -> float:
        """Return the largest error of a population that the test does not reject.

        For each error, gaps that are proportional to the noise are tested, because noise adds least
        to them.
        """
        from scipy.optimize import bisect

        if self._share_below(np.zeros(len(self.noise))) > _RARE:
            most = self.sample_error + 40 * float(self.noise.sum())
            return float(bisect(self._too_high, 0.0, most, xtol=_PRECISION * most))
        # The draws are too few to tell how improbable such a small error is. This is the limit for
        # samples that show no error at all: a ratio of normal densities.
        factor = math.sqrt(-2 * math.log(self.significance) / len(self.noise))
        return float(self.noise.sum()) * factor

    def _too_low(self, shrinkage: float) -> float:
        """Return a number above 0 if shrunk gaps are rejected because their error is too low."""
        return self._share_below(self._shrunk(shrinkage)) - (1 - self.significance)

    def _too_high(self, population_error: float) -> float:
        """Return a number below 0 if an error is rejected because it is too high."""
        calibrated = self._share_below(np.zeros(len(self.noise)))
        gaps = population_error * self.noise / self.noise.sum()
        return self._share_below(gaps) - self.significance * calibrated

    def _shrunk(self, shrinkage: float) -> Values:
        """Return the gaps of the samples (B,), shrunk by a multiple of their variances."""
        gaps: Values = np.maximum(0, self.gaps - shrinkage * np.square(self.noise))
        return gaps

    def _share_below(self, gaps: Values) -> float:
        """Return how often a population with gaps (B,) shows at most the error of the samples."""
        errors = np.abs(gaps + self.draws).sum(axis=1)
        return float((errors <= self.sample_error).mean())


def _gaps_of_bins(sums: CalibrationSums) -> tuple[Values, Values]:
    """Return the absolute gap of each bin that has samples, and its standard error, (B,) each.

    Gaps are divided by the number of all samples. Two more hits and two more misses are added to
    each bin (Agresti and Coull 1998, The American Statistician 52), so that the standard error is
    not 0 if all samples of a bin are right.
    """
    gap = sums.gaps.sum(axis=1)
    hits = gap >= 0  # confidences are above 0, so that a miss has a gap below 0
    confidences = np.abs(hits - gap)
    last = sums.gaps.shape[1] - 1
    bin_of = np.where(gap == 0, last, (sums.gaps != 0).argmax(axis=1))  # a hit of confidence 1
    _, bin_of, n = np.unique(bin_of, return_inverse=True, return_counts=True)
    right = np.bincount(bin_of, hits)
    sum_of_confidences = np.bincount(bin_of, confidences)
    sum_of_squares = np.bincount(bin_of, confidences**2)
    accuracy = (right + 2) / (n + 4)
    second_moments = (accuracy * (n - 2 * sum_of_confidences) + sum_of_squares) / len(gap)
    mean_gaps = (accuracy * n - sum_of_confidences) / len(gap)
    variances = (second_moments - np.square(mean_gaps)) / len(gap)
    return np.abs(right - sum_of_confidences) / len(gap), np.sqrt(variances)

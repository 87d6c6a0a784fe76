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
_N_DRAWS = 2_000
_PRECISION = 1e-5  # of the ends of the interval, as a share of the range that is searched
_LEAST_PROBABILITY = 0.01  # the draws are too few to estimate a lower probability
_NOISE_MULTIPLE = 40  # errors are searched up to so many sums of noise above the sample's error


class CalibrationSums(NamedTuple):
    """The terms of the calibration error, whose sums over N samples decide it."""

    # (N,) ones.
    samples: Values
    # (N, B): 0, except in the column of the sample's bin: 1 (hit) or 0 (miss) minus its confidence.
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
    bin_of_sample = np.ceil(confidences.astype(np.float64) * bins).astype(int) - 1
    gaps[np.arange(len(hits)), bin_of_sample] = hits - confidences.astype(np.float64)
    sums = CalibrationSums(np.ones(len(hits)), gaps)
    return FunctionOfSums(sums, _mean_gap, one_by_one=True, interval=calibration_interval)


def _mean_gap(sums: CalibrationSums) -> Values:
    """Return the calibration error (...,) from sums of samples (...,) and of gaps (..., B)."""
    gap: Values = np.abs(sums.gaps).sum(axis=-1) / sums.samples
    return gap


def calibration_interval(sums: CalibrationSums, level: float) -> Interval:
    """Return the interval of the population's calibration error.

    It contains all errors that are neither too low nor too high. An error is too low if samples of
    a population with that error have the observed error, or a larger one, with a probability below
    (1 - level) / 2. An error is too high if they have the observed error, or a smaller one, with a
    probability below (1 - level) / 2 times the same probability for a calibrated population.
    Because of that factor, the interval of samples with a lucky, small error is not narrow. The
    interval also contains the observed error.
    """
    test = _ErrorTest(sums, (1 - level) / 2)
    low, high = test.lowest(), test.highest()
    sample_error = test.sample_error
    return Interval(min(low, sample_error), min(1.0, max(high, sample_error)), INVERTED_TEST, level)


class _ErrorTest:
    """A one-sided test of the calibration error of a population.

    If the gaps of a population's bins are d (B,), its samples have an error of sum(|d + noise|).
    """

    def __init__(self, sums: CalibrationSums, significance: float) -> None:
        self.significance = significance
        # The absolute gaps of the samples and their standard errors, (B,) each.
        self.gaps, self.noise = _gaps_of_bins(sums)
        # (R, B): draws of noise with these standard errors.
        normal_draws = np.random.default_rng(0).standard_normal((_N_DRAWS, len(self.noise)))
        self.draws = self.noise * normal_draws
        self.sample_error = float(self.gaps.sum())

    def lowest(self) -> float:
        """Return the least error of a population that the test does not reject.

        Of all gaps of a population with an error, the likeliest are tested. These are the gaps of
        the samples, each shrunk by the same multiple of its variance (Lagrange).
        """
        from scipy.optimize import bisect  # loading it takes long, and few commands need it

        # The multiple that shrinks all gaps to 0.
        largest = float((self.gaps / np.square(self.noise)).max())
        if self._too_low(largest) <= 0:
            return 0.0
        shrinkage = bisect(self._too_low, 0.0, largest, xtol=_PRECISION * largest)
        return float(self._shrunk(shrinkage).sum())

    def highest(self) -> float:
        """Return the largest error of a population that the test does not reject.

        Of all gaps of a population with an error, gaps in proportion to the noise are tested,
        because noise adds least to these.
        """
        from scipy.optimize import bisect

        if self._share_below(np.zeros(len(self.noise))) > _LEAST_PROBABILITY:
            largest = self.sample_error + _NOISE_MULTIPLE * float(self.noise.sum())
            return float(bisect(self._too_high, 0.0, largest, xtol=_PRECISION * largest))
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
        """Return the probability that samples of a population have at most the observed error.

        `gaps` (B,) are the gaps of the population's bins.
        """
        errors = np.abs(gaps + self.draws).sum(axis=1)
        return float((errors <= self.sample_error).mean())


def _gaps_of_bins(sums: CalibrationSums) -> tuple[Values, Values]:
    """Return the absolute gap of each bin that has samples, and its standard error, (B,) each.

    Gaps are sums over a bin, divided by the number of all samples. For the standard error, the
    accuracy of a bin has two more hits and two more misses (Agresti and Coull 1998, The American
    Statistician 52). Otherwise, the standard error would be too small if all samples of a bin are
    hits.
    """
    # The hits and confidences of samples follow from their gaps. A miss has a gap below 0, because
    # confidences are above 0.
    gap_of_sample = sums.gaps.sum(axis=1)
    n_samples = len(gap_of_sample)
    hits = gap_of_sample >= 0
    confidences = np.abs(hits - gap_of_sample)
    # A gap of 0 belongs to a hit of confidence 1, which is in the last bin.
    last_bin = sums.gaps.shape[1] - 1
    first_nonzero = (sums.gaps != 0).argmax(axis=1)
    bin_of_sample = np.where(gap_of_sample == 0, last_bin, first_nonzero)
    # From here on, bins are those that have samples.
    _, bin_of_sample, n = np.unique(bin_of_sample, return_inverse=True, return_counts=True)
    n_hits = np.bincount(bin_of_sample, hits)
    sum_of_confidences = np.bincount(bin_of_sample, confidences)
    sum_of_squares = np.bincount(bin_of_sample, confidences**2)
    accuracy = (n_hits + 2) / (n + 4)
    # The moments, over all samples, of a sample's gap in each bin.
    second_moments = (accuracy * (n - 2 * sum_of_confidences) + sum_of_squares) / n_samples
    mean_gaps = (accuracy * n - sum_of_confidences) / n_samples
    variances = (second_moments - np.square(mean_gaps)) / n_samples
    return np.abs(n_hits - sum_of_confidences) / n_samples, np.sqrt(variances)

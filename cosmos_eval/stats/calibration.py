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
    """Return the expected calibration error of the confidences of a classifier.

    Samples are put into bins of confidence, such as from above 0.6 up to 0.8 for bin 4 of 5. The
    error is the mean of |accuracy - mean confidence| over the bins, each weighted by its number of
    samples (Guo et al. 2017, arXiv:1706.04599, equation 3).

    Args:
        confidences: (N,), the probability of the predicted class of each sample.
        hits: (N,), whether the prediction is right.
        bins: The number of bins, which divide (0, 1] evenly.

    Returns:
        An estimate: the arrays that the value, its interval and paired tests are computed from.

    Raises:
        ValueError: Confidences are not in (0, 1].

    Example:
        A hit has the confidence 0.9, and a miss has the confidence 0.5. With two bins, they are in
        different bins. The error is (|1 - 0.9| + |0 - 0.5|) / 2 = 0.3.
    """
    if not ((confidences > 0) & (confidences <= 1)).all():
        raise ValueError("confidences must lie in (0, 1]")
    n_samples = len(hits)
    float_confidences = confidences.astype(np.float64)
    bin_of_sample = np.ceil(float_confidences * bins).astype(int) - 1
    gaps = np.zeros((n_samples, bins))
    gaps[np.arange(n_samples), bin_of_sample] = hits - float_confidences
    terms = CalibrationSums(samples=np.ones(n_samples), gaps=gaps)
    return FunctionOfSums(terms, _error_of_sums, one_by_one=True, interval=calibration_interval)


def _error_of_sums(sums: CalibrationSums) -> Values:
    """Return the calibration error (...,) from sums over samples.

    It is the sum of |gap| over the B bins, divided by the number of samples. For example, the sums
    of gaps [0.1, -0.5] of two samples give 0.3. `sums` holds the numbers of samples (...,), and the
    gaps of the bins (..., B).
    """
    error: Values = np.abs(sums.gaps).sum(axis=-1) / sums.samples
    return error


def calibration_interval(sums: CalibrationSums, level: float) -> Interval:
    """Return the interval of the population's calibration error.

    The interval contains all errors that are neither too low nor too high. An error is too low if
    samples of a population with that error have the observed error, or a larger one, with a
    probability below (1 - level) / 2. An error is too high if they have the observed error, or a
    smaller one, with a probability below (1 - level) / 2 times the same probability for a
    calibrated population. Because of that factor, the interval of samples with a lucky, small error
    is not narrow. The interval also contains the observed error.

    Args:
        sums: The terms of N samples, before they are summed up.
        level: The probability that the interval contains the population's error.
    """
    test = _ErrorTest(sums, significance=(1 - level) / 2)
    sample_error = test.sample_error
    low = min(test.lowest_error(), sample_error)
    high = min(1.0, max(test.highest_error(), sample_error))
    return Interval(low, high, INVERTED_TEST, level)


class _ErrorTest:
    """A one-sided test of the calibration error of a population.

    The gap of a bin is the difference of its accuracy and its mean confidence, times its share of
    all samples. If the gaps of a population's bins are d (B,), its samples have an error of
    sum(|d + noise|), where the noise of each bin is normal.
    """

    def __init__(self, sums: CalibrationSums, significance: float) -> None:
        """Measure the gaps of the samples, and draw noise for the test.

        Args:
            sums: The terms of N samples, before they are summed up.
            significance: The probability below which an error is rejected, such as 0.025.
        """
        self.significance = significance
        # The absolute gaps of the samples and their standard errors, (B,) each.
        self.gaps, self.standard_errors = _gaps_of_bins(sums)
        # (R, B): draws of noise with these standard errors.
        n_bins = len(self.standard_errors)
        normal_draws = np.random.default_rng(0).standard_normal((_N_DRAWS, n_bins))
        self.noise_draws = self.standard_errors * normal_draws
        self.sample_error = float(self.gaps.sum())

    def lowest_error(self) -> float:
        """Return the least error of a population that the test does not reject.

        Many gaps add up to the same error. The likeliest of them are tested: the gaps of the
        samples, each reduced by the same multiple of its variance (by Lagrange multipliers).
        """
        from scipy.optimize import bisect  # loading it takes long, and few commands need it

        # The multiple of the variances that shrinks all gaps to 0.
        largest = float((self.gaps / np.square(self.standard_errors)).max())
        zero_is_rejected = self._excess_if_too_low(largest) > 0
        if not zero_is_rejected:
            return 0.0
        shrinkage = bisect(self._excess_if_too_low, 0.0, largest, xtol=_PRECISION * largest)
        return float(self._shrink_gaps(shrinkage).sum())

    def highest_error(self) -> float:
        """Return the largest error of a population that the test does not reject.

        Many gaps add up to the same error. Gaps in proportion to their standard errors are tested,
        because noise adds least to their error.
        """
        from scipy.optimize import bisect

        no_gaps = np.zeros(len(self.standard_errors))
        sum_of_noise = float(self.standard_errors.sum())
        probability_if_calibrated = self._probability_at_most_observed(no_gaps)
        if probability_if_calibrated > _LEAST_PROBABILITY:
            largest = self.sample_error + _NOISE_MULTIPLE * sum_of_noise
            return float(
                bisect(self._excess_if_not_too_high, 0.0, largest, xtol=_PRECISION * largest)
            )
        # The draws are too few to tell how improbable such a small error is. This is the limit for
        # samples that show no error at all: a ratio of normal densities.
        factor = math.sqrt(-2 * math.log(self.significance) / len(self.standard_errors))
        return sum_of_noise * factor

    def _excess_if_too_low(self, shrinkage: float) -> float:
        """Return a number above 0 if the test rejects the error of shrunk gaps as too low.

        It is the probability of at most the observed error, minus (1 - significance). The gaps are
        the observed gaps, reduced by `shrinkage` times their variances.
        """
        gaps = self._shrink_gaps(shrinkage)
        return self._probability_at_most_observed(gaps) - (1 - self.significance)

    def _excess_if_not_too_high(self, population_error: float) -> float:
        """Return a number below 0 if the test rejects an error of the population as too high.

        It is the probability of at most the observed error, minus the significance times the same
        probability for a calibrated population, which has no gaps.
        """
        no_gaps = np.zeros(len(self.standard_errors))
        probability_if_calibrated = self._probability_at_most_observed(no_gaps)
        gaps = population_error * self.standard_errors / self.standard_errors.sum()
        threshold = self.significance * probability_if_calibrated
        return self._probability_at_most_observed(gaps) - threshold

    def _shrink_gaps(self, shrinkage: float) -> Values:
        """Return the gaps of the samples (B,), each reduced by `shrinkage` times its variance.

        A gap that would fall below 0 becomes 0.
        """
        gaps: Values = np.maximum(0, self.gaps - shrinkage * np.square(self.standard_errors))
        return gaps

    def _probability_at_most_observed(self, gaps: Values) -> float:
        """Return the probability that samples have at most the observed calibration error.

        `gaps` (B,) are the gaps of the bins of the population that the samples are from. The
        probability is a share of the draws of noise.
        """
        errors = np.abs(gaps + self.noise_draws).sum(axis=1)  # (R,)
        return float((errors <= self.sample_error).mean())


def _gaps_of_bins(sums: CalibrationSums) -> tuple[Values, Values]:
    """Return the absolute gap of each bin that has samples, and its standard error, (B,) each.

    The gap of a bin is |sum over its samples of (hit - confidence)| / N, where N is the number of
    all samples. For example, two of four samples are in a bin, a hit and a miss, both of confidence
    0.8. The gap is |0.2 - 0.8| / 4 = 0.15.

    For the standard error, the accuracy of a bin of n samples with h hits is taken to be
    (h + 2) / (n + 4) (Agresti and Coull 1998, The American Statistician 52). Otherwise, the
    standard error would be too small if all samples of a bin are hits.

    Args:
        sums: The terms of N samples, before they are summed up. They do not hold hits and
            confidences, which are found from the gaps of single samples.
    """
    # Each row of `sums.gaps` has one entry: 1 - confidence of a hit, or -confidence of a miss.
    # Hits and confidences follow from it, because confidences are above 0.
    gap_of_sample = sums.gaps.sum(axis=1)
    n_samples = len(gap_of_sample)
    hits = gap_of_sample >= 0
    confidences = np.abs(hits - gap_of_sample)

    # The bin is the column of the entry. An entry of 0 belongs to a hit of confidence 1, which is
    # in the last bin.
    last_bin = sums.gaps.shape[1] - 1
    column_of_entry = (sums.gaps != 0).argmax(axis=1)
    bin_of_sample = np.where(gap_of_sample == 0, last_bin, column_of_entry)

    # From here on, bins without samples are left out.
    _, bin_of_sample, n_in_bin = np.unique(bin_of_sample, return_inverse=True, return_counts=True)
    n_hits = np.bincount(bin_of_sample, hits)
    sum_of_confidences = np.bincount(bin_of_sample, confidences)
    sum_of_squares = np.bincount(bin_of_sample, confidences**2)
    accuracy = (n_hits + 2) / (n_in_bin + 4)

    # For a sample in the bin, E (hit - c)^2 = accuracy (1 - 2 c) + c^2, and for all others 0. The
    # moments are means over all samples.
    second_moments = (accuracy * (n_in_bin - 2 * sum_of_confidences) + sum_of_squares) / n_samples
    mean_gaps = (accuracy * n_in_bin - sum_of_confidences) / n_samples
    variances = (second_moments - np.square(mean_gaps)) / n_samples
    absolute_gaps = np.abs(n_hits - sum_of_confidences) / n_samples
    return absolute_gaps, np.sqrt(variances)

"""The expected calibration error and its interval.

Noise makes gaps between accuracy and confidence where there are none, so that the error of samples
lies above that of their population, and that of resamples higher still: a percentile bootstrap of a
calibrated model never holds 0. The interval here is of the population's error, by tests of what it
may be. Shapes: N samples, B bins.
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
_PRECISION = 1e-5  # of the ends, as a share of what is searched
_RARE = 0.01  # below it, draws are too few to tell how improbable so small an error is


class CalibrationSums(NamedTuple):
    """Of N samples: 1 (N,), and in the column of its bin whether it is a hit, minus its confidence
    (N, bins)."""

    samples: Values
    gaps: Values


def calibration_error(
    confidences: NDArray[np.float32], hits: NDArray[np.bool_], bins: int = BINS
) -> FunctionOfSums:
    """Return the expected calibration error of confidences (N,) in (0, 1] and hits (N,).

    |accuracy - mean confidence| of every bin ((m - 1) / bins, m / bins], weighted by its number of
    samples (Guo et al. 2017, arXiv:1706.04599, equation 3). Raises ValueError for others."""
    if not ((confidences > 0) & (confidences <= 1)).all():
        raise ValueError("confidences must lie in (0, 1]")
    gaps = np.zeros((len(hits), bins))
    bin_of = np.ceil(confidences.astype(np.float64) * bins).astype(int) - 1
    gaps[np.arange(len(hits)), bin_of] = hits - confidences.astype(np.float64)
    sums = CalibrationSums(np.ones(len(hits)), gaps)
    return FunctionOfSums(sums, _mean_gap, one_by_one=True, interval=calibration_interval)


def _mean_gap(sums: CalibrationSums) -> Values:
    gap: Values = np.abs(sums.gaps).sum(axis=-1) / sums.samples
    return gap


def calibration_interval(sums: CalibrationSums, level: float) -> Interval:
    """Return the calibration errors of a population that could well show these samples.

    An error is too high if the probability of showing so little is below (1 - level) / 2 times that
    of a calibrated model, so that good luck does not make the interval narrow. It is too low if the
    probability of showing so much is below (1 - level) / 2. The interval holds the error of the
    samples, too.
    """
    test = _ErrorTest.of(sums, (1 - level) / 2)
    low, high = test.lowest(), test.highest()
    return Interval(min(low, test.shown), min(1.0, max(high, test.shown)), INVERTED_TEST, level)


class _ErrorTest(NamedTuple):
    """What samples show of a population: if the gaps of its bins are d, the sum of |d + noise|."""

    gaps: Values  # (B,) of the samples
    noise: Values  # (B,) their standard errors
    draws: Values  # (R, B) of the noise
    shown: float  # the error of the samples
    error: float  # of the test, on one side

    @classmethod
    def of(cls, sums: CalibrationSums, error: float) -> _ErrorTest:
        gaps, noise = _gaps_of_bins(sums)
        draws = noise * np.random.default_rng(0).standard_normal((_DRAWS, len(noise)))
        return cls(gaps, noise, draws, float(gaps.sum()), error)

    def lowest(self) -> float:
        """Return the least error that may be, of the likeliest gaps with this error: those of the
        samples, shrunk by a multiple of their variances (Lagrange)."""
        from scipy.optimize import bisect  # which commands that compute nothing need not wait for

        all_shrunk = float((self.gaps / np.square(self.noise)).max())
        if self._too_low(all_shrunk) <= 0:
            return 0.0
        shrinkage = bisect(self._too_low, 0.0, all_shrunk, xtol=_PRECISION * all_shrunk)
        return float(self._shrunk(shrinkage).sum())

    def highest(self) -> float:
        """Return the largest error that may be, of gaps that are spread over the bins like the
        noise, which adds least to them."""
        from scipy.optimize import bisect

        if self._share_below(np.zeros(len(self.noise))) > _RARE:
            most = self.shown + 40 * float(self.noise.sum())
            return float(bisect(self._too_high, 0.0, most, xtol=_PRECISION * most))
        # The limit for samples that show no error at all: a ratio of normal densities.
        return float(self.noise.sum()) * math.sqrt(-2 * math.log(self.error) / len(self.noise))

    def _too_low(self, shrinkage: float) -> float:
        return self._share_below(self._shrunk(shrinkage)) - (1 - self.error)

    def _too_high(self, population_error: float) -> float:
        calibrated = self._share_below(np.zeros(len(self.noise)))
        spread = population_error * self.noise / self.noise.sum()
        return self._share_below(spread) - self.error * calibrated

    def _shrunk(self, shrinkage: float) -> Values:
        gaps: Values = np.maximum(0, self.gaps - shrinkage * np.square(self.noise))
        return gaps

    def _share_below(self, gaps: Values) -> float:
        return float((np.abs(gaps + self.draws).sum(axis=1) <= self.shown).mean())


def _gaps_of_bins(sums: CalibrationSums) -> tuple[Values, Values]:
    """Return the absolute mean gap of every bin that has samples, and its standard error, (B,)
    each. Two more hits and two more misses a bin (Agresti and Coull 1998, The American Statistician
    52) make an error where all samples are right."""
    gap = sums.gaps.sum(axis=1)
    hits = gap >= 0  # confidences are above 0, so that a miss has a gap below 0
    confidences = np.abs(hits - gap)
    last = sums.gaps.shape[1] - 1
    bin_of = np.where(gap == 0, last, (sums.gaps != 0).argmax(axis=1))  # a hit of confidence 1
    _, bin_of, n = np.unique(bin_of, return_inverse=True, return_counts=True)
    right, sure, squares = (np.bincount(bin_of, x) for x in (hits, confidences, confidences**2))
    accuracy = (right + 2) / (n + 4)
    second_moments = (accuracy * (n - 2 * sure) + squares) / len(gap)
    variances = (second_moments - np.square((accuracy * n - sure) / len(gap))) / len(gap)
    return np.abs(right - sure) / len(gap), np.sqrt(variances)

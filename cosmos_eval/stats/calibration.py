"""The expected calibration error and its interval.

Noise makes gaps between accuracy and confidence where there are none, so that the error of samples
lies above that of their population, and that of resamples higher still: a percentile bootstrap of a
calibrated model never holds 0. The interval here is of the population's error, by tests of what it
may be. Shapes: N samples, B bins.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import bisect

from cosmos_eval.stats.estimates import FunctionOfSums, Values
from cosmos_eval.types import Interval

BINS = 15  # of Guo et al. 2017, section 4
INVERTED_TEST = "inverted test of calibration"
_DRAWS = 4_000
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

    If the gaps of bins are d, samples show the sum of |d + noise|. An error is too high if the
    probability of showing so little is below (1 - level) / 2 times that of a calibrated model, so
    that good luck does not make the interval narrow; the gaps are then spread over the bins like
    the noise, which adds least to them. An error is too low if the probability of showing so much
    is below (1 - level) / 2; the gaps are then the likeliest ones with this error. The interval
    holds the error of the samples, too.
    """
    gaps, noise = _gaps_of_bins(sums)
    shown, error = float(gaps.sum()), (1 - level) / 2
    draws = noise * np.random.default_rng(0).standard_normal((_DRAWS, len(noise)))

    def share_below(population: Values) -> float:
        return float((np.abs(population + draws).sum(axis=1) <= shown).mean())

    def likeliest(shrinkage: float) -> Values:
        likely: Values = np.maximum(0, gaps - shrinkage * np.square(noise))
        return likely

    def too_low(shrinkage: float) -> float:
        return share_below(likeliest(shrinkage)) - (1 - error)

    spread, calibrated = noise / noise.sum(), share_below(np.zeros(len(noise)))

    def too_high(population_error: float) -> float:
        return share_below(population_error * spread) - error * calibrated

    low, all_shrunk = 0.0, float((gaps / np.square(noise)).max())
    if too_low(all_shrunk) > 0:
        low = float(likeliest(bisect(too_low, 0.0, all_shrunk)).sum())
    if calibrated > _RARE:
        high = float(bisect(too_high, 0.0, shown + 40 * noise.sum()))
    else:  # the limit for samples that show no error at all: a ratio of normal densities
        high = float(noise.sum()) * math.sqrt(-2 * math.log(error) / len(noise))
    return Interval(min(low, shown), min(1.0, max(high, shown)), INVERTED_TEST, level)


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

"""Control variates: reduce the variance of paired differences by means of stored results.

A control is a stored result of another model on the same images, such as the hits of the baseline.
Controls predict a part of the difference of two models. Without this part, the differences vary
less, and a comparison can stop earlier:

    adjusted difference = difference - coefficients . (controls - means of the controls)

The coefficients of a shard are fitted on earlier shards only, so that an adjusted difference has
the same expectation as the difference, and a sequence of `stats.sequential` stays exact. (For a
fixed number of samples: Lavenberg and Welch 1981, Management Science 27.)

The means must be those of the population, and they are not known: the stored results of all images
of a data set give the mean of this set. Each mean is therefore known up to an interval. With
probability 1 - alpha, the intervals of all controls contain their means at once. The slack is the
most by which the adjusted differences may be wrong because of these intervals. The sequence takes
it into account and stays exact: its error probability is the sum of its own alpha and this one.

The slack is often greater than what the adjustment gains, unless the comparison stops after a small
part of the images.

Shapes: N samples, K controls.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Values
from cosmos_eval.stats.sequential import BoundedSequence

# The coefficients are 0 until there are this many samples for each control.
_SAMPLES_PER_CONTROL = 50
# The approximate half-width of a confidence sequence in standard errors. It decides only whether an
# adjustment is worth its slack. The guarantee does not depend on it.
_HALF_WIDTH = 3.4


class ControlMeans(NamedTuple):
    """The population means of controls, and how well they are known."""

    # (K,): the middle of the interval of each mean.
    centers: Values
    # (K,): half of the width of the interval of each mean. It is 0 if the mean is known exactly.
    half_widths: Values


def control_means(controls: NDArray[np.number], alpha: float) -> ControlMeans:
    """Estimate the population means of controls from the stored results of all images.

    The intervals are exact. With probability 1 - alpha, they contain all K means at once.

    Args:
        controls: (N, K), values in [0, 1], such as hits of the baseline.
        alpha: The probability that any interval does not contain its mean. It adds to the error
            probability of the sequence.

    Raises:
        ValueError: A control is not within [0, 1].
    """
    centers, half_widths = [], []
    n_controls = controls.shape[1]
    for control in controls.T:
        sequence = BoundedSequence(0, 1)
        sequence.update(control)
        low, high = sequence.interval(alpha / n_controls)
        centers.append((low + high) / 2)
        half_widths.append((high - low) / 2)
    return ControlMeans(np.array(centers), np.array(half_widths))


class Adjustment:
    """Adjusts the differences of one shard after another by controls in [0, 1].

    Example:
        >>> adjustment = Adjustment(control_means(stored_hits, alpha=0.005))
        >>> sequence = BoundedSequence(-1 - adjustment.reach, 1 + adjustment.reach)
        >>> sequence.update(*adjustment.adjust(differences[:32], stored_hits[:32]))
        >>> decide(sequence, alpha=0.045)
    """

    def __init__(self, means: ControlMeans, reach: float = 0.5) -> None:
        """Begin without samples.

        Args:
            means: The means of the controls.
            reach: The most by which the adjustment may change a difference. If coefficients would
                change it by more, they are scaled down.

        Raises:
            ValueError: `reach` is not above 0.
        """
        if not reach > 0:
            raise ValueError(f"the reach of an adjustment must be above 0, not {reach}")
        self.means = means
        self.reach = reach
        self.n_samples = 0
        # The samples so far as a matrix X with K + 2 columns: the number 1, the K centred controls,
        # and the difference. Only X^T X is kept, from which least squares and variances follow.
        n_columns = len(means.centers) + 2
        self._products = np.zeros((n_columns, n_columns))

    def adjust(
        self, differences: NDArray[np.number], controls: NDArray[np.number]
    ) -> tuple[Values, float]:
        """Return the adjusted differences (N,) of a shard, and their slack.

        The slack is the most by which the expectation of the adjusted differences may deviate from
        the mean difference, if every mean of a control is within its interval. The coefficients
        were fitted on earlier shards. This shard is used for the coefficients of later ones.

        Args:
            differences: (N,), the differences of the two models.
            controls: (N, K), the stored results of the same samples.

        Raises:
            ValueError: The shapes do not fit, or a control is not within [0, 1].
        """
        n_controls = len(self.means.centers)
        if controls.shape != (len(differences), n_controls):
            raise ValueError(
                f"controls of shape {controls.shape} do not fit {len(differences)} differences and "
                f"{n_controls} means"
            )
        if not ((controls >= 0) & (controls <= 1)).all():
            raise ValueError("a control is not within 0 to 1")
        coefficients = self.coefficients()
        centred: Values = np.asarray(controls, np.float64) - self.means.centers
        adjusted = np.asarray(differences, np.float64) - centred @ coefficients
        slack = float(np.abs(coefficients) @ self.means.half_widths)

        columns = np.column_stack([np.ones(len(centred)), centred, differences])
        self._products += columns.T @ columns
        self.n_samples += len(centred)
        return adjusted, slack

    def coefficients(self) -> Values:
        """Return the coefficients (K,) for the next shard, fitted by least squares.

        They are 0 if there are few samples, if all differences are equal, or if the adjustment
        would not make the interval narrower.
        """
        centers, half_widths = self.means
        no_adjustment = np.zeros(len(centers))
        if self.n_samples < _SAMPLES_PER_CONTROL * len(centers):
            return no_adjustment
        fitted = self._fit()
        # A control in [0, 1] is at most this far from its mean.
        farthest = np.maximum(centers, 1 - centers) + half_widths
        largest_change = float(np.abs(fitted) @ farthest)
        fitted *= min(1.0, self.reach / largest_change) if largest_change > 0 else 0.0
        slack = float(np.abs(fitted) @ half_widths)
        variance, adjusted_variance = self._variances(fitted)
        if variance == 0:
            return no_adjustment
        error = math.sqrt(variance / self.n_samples)
        if pays(adjusted_variance / variance, error, slack):
            return fitted
        return no_adjustment

    def variance_ratio(self) -> float:
        """Return the variance of the adjusted differences over the variance of the differences.

        It is corrected for the number of fitted coefficients, so that it is 1 on average for
        useless controls. It is NaN if the differences are all equal, or if there are too few
        samples.
        """
        n_fitted = len(self.means.centers) + 1  # a coefficient per control, and the intercept
        if self.n_samples <= n_fitted:
            return math.nan
        variance, adjusted_variance = self._variances(self._fit())
        if variance == 0:
            return math.nan
        ratio_of_degrees_of_freedom = (self.n_samples - 1) / (self.n_samples - n_fitted)
        return adjusted_variance / variance * ratio_of_degrees_of_freedom

    def _fit(self) -> Values:
        """Return the coefficients (K,) of a least-squares fit with a constant.

        If several coefficients fit equally well, they are those with the smallest norm.
        """
        solution = np.linalg.lstsq(self._products[:-1, :-1], self._products[:-1, -1])[0]
        return np.asarray(solution[1:], np.float64)

    def _variances(self, coefficients: Values) -> tuple[float, float]:
        """Return the variance of the differences so far, without and with the adjustment."""
        n = self.n_samples
        sums = self._products[0]
        covariance = self._products / n - np.outer(sums, sums) / n**2
        weights = np.concatenate([[0.0], -coefficients, [1.0]])
        return float(covariance[-1, -1]), max(0.0, float(weights @ covariance @ weights))


def pays(variance_ratio: float, error: float, slack: float) -> bool:
    """Return whether an adjustment is expected to make the interval of a sequence narrower.

    Args:
        variance_ratio: The variance after the adjustment over the variance before it.
        error: The standard error of the mean difference without the adjustment.
        slack: By how much the interval is widened because the means of controls are not known.

    Example:
        A variance ratio of 0.75 narrows a half-width of 2 points to sqrt(0.75) * 2 = 1.73 points.
        The adjustment pays if the slack is below 0.27 points.
    """
    half_width = _HALF_WIDTH * error
    return math.sqrt(variance_ratio) * half_width + slack < half_width

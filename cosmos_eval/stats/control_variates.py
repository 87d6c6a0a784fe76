"""Control variates: paired differences from which a prediction by stored results is subtracted.

Results of other models on the same images, such as the hits of the baseline, predict a part of the
difference of two models. Without this part, the differences vary less:

    adjusted = difference - coefficients . (controls - their means)

The coefficients of a shard are fitted on earlier shards only, so that an adjusted difference has
the same expectation as the difference, and a sequence of `stats.sequential` stays exact. (For a
fixed number of samples: Lavenberg and Welch 1981, Management Science 27.)

The means must be those of the population. Results that were stored for all images of a data set
give the mean of this set, which differs from the mean of the population. An interval of each mean,
which holds with probability 1 - alpha for all controls at once, keeps the sequence exact: adjusted
differences are moved by the `slack` that these intervals leave, and the error probability is the
sum of both. The slack is often greater than what the adjustment gains, unless the comparison stops
after a small part of the images.

Shapes: N samples, K controls.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Values
from cosmos_eval.stats.sequential import BoundedSequence

# Coefficients are 0 before this many samples for each control.
_SAMPLES_PER_CONTROL = 50
# The half-width of a confidence sequence in standard errors, about. Only what is worth adjusting
# follows from it, not the guarantee.
_HALF_WIDTH = 3.4


class ControlMeans(NamedTuple):
    """The population means of controls, and how well they are known."""

    # (K,): the middle of the interval of each mean.
    centers: Values
    # (K,): half the width of the interval. It is 0 if the mean is known exactly.
    half_widths: Values


def control_means(controls: NDArray[np.number], alpha: float) -> ControlMeans:
    """Return the population means of controls in [0, 1] from the stored results of all images.

    The intervals are exact. They contain all K means with probability 1 - alpha.

    Args:
        controls: (N, K), values in [0, 1], such as hits of the baseline.
        alpha: The probability that an interval lacks its mean, which adds to the error probability
            of the sequence.

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
            reach: The most by which a difference is changed. Greater coefficients are scaled down.

        Raises:
            ValueError: `reach` is not above 0.
        """
        if not reach > 0:
            raise ValueError(f"the reach of an adjustment must be above 0, not {reach}")
        self.means = means
        self.reach = reach
        n_columns = len(means.centers) + 2
        self.n_samples = 0
        # Sums of products of the columns: 1, centred controls, difference.
        self._products = np.zeros((n_columns, n_columns))

    def adjust(
        self, differences: NDArray[np.number], controls: NDArray[np.number]
    ) -> tuple[Values, float]:
        """Return the adjusted differences (N,) of a shard, and their slack.

        The slack is the most by which their expectation differs from the mean difference, as far
        as the means of the controls are known. The shard itself changes only later coefficients.

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

        They are 0 if there are few samples, if nothing varies, or if the adjustment would not pay.
        """
        centers, half_widths = self.means
        none = np.zeros(len(centers))
        if self.n_samples < _SAMPLES_PER_CONTROL * len(centers):
            return none
        fitted = self._fit()
        farthest = np.maximum(centers, 1 - centers) + half_widths
        change = float(np.abs(fitted) @ farthest)
        fitted *= min(1.0, self.reach / change) if change > 0 else 0.0
        slack = float(np.abs(fitted) @ half_widths)
        variance, adjusted_variance = self._variances(fitted)
        if variance == 0:
            return none
        error = math.sqrt(variance / self.n_samples)
        return fitted if pays(adjusted_variance / variance, error, slack) else none

    def variance_ratio(self) -> float:
        """Return the variance of the differences after the adjustment over the one before it.

        It is corrected for the number of fitted coefficients: for useless controls, it is 1 on
        average. It is NaN if differences do not vary, or if there are too few samples.
        """
        n_fitted = len(self.means.centers) + 1
        if self.n_samples <= n_fitted:
            return math.nan
        variance, adjusted_variance = self._variances(self._fit())
        degrees = (self.n_samples - 1) / (self.n_samples - n_fitted)
        return adjusted_variance / variance * degrees if variance > 0 else math.nan

    def _fit(self) -> Values:
        """Return the coefficients (K,) of least squares with a constant, of the least norm."""
        solution = np.linalg.lstsq(self._products[:-1, :-1], self._products[:-1, -1])[0]
        return np.asarray(solution[1:], np.float64)

    def _variances(self, coefficients: Values) -> tuple[float, float]:
        """Return the variance of the differences so far without and with an adjustment."""
        n = self.n_samples
        sums = self._products[0]
        covariance = self._products / n - np.outer(sums, sums) / n**2
        weights = np.concatenate([[0.0], -coefficients, [1.0]])
        return float(covariance[-1, -1]), max(0.0, float(weights @ covariance @ weights))


def pays(variance_ratio: float, error: float, slack: float) -> bool:
    """Return whether an adjustment makes the interval of a sequence narrower, about.

    For example, a variance ratio of 0.75 narrows a half-width of 2 points to 1.73 points, which
    pays if the slack is below 0.27 points.

    Args:
        variance_ratio: The variance after the adjustment over the variance before it.
        error: The standard error of the mean difference without the adjustment.
        slack: By how much the interval is widened since means of controls are not known.
    """
    half_width = _HALF_WIDTH * error
    return math.sqrt(variance_ratio) * half_width + slack < half_width

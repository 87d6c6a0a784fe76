"""Comparisons of two models that may stop at any look: confidence sequences and decisions.

A confidence sequence is one interval per look. All of them contain the true difference at once with
probability 1 - alpha, so that a comparison may stop whenever its answer is known. A fixed-n
interval that is looked at repeatedly does not have this property.

- Means of bounded differences: capital of bets, an exact method (Waudby-Smith and Ramdas 2024,
  "Estimating means of bounded random variables by betting", JRSS B 86; Howard et al. 2021,
  "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49).
- Other differences, such as mIoU: a time-uniform central limit theorem, an approximation that needs
  a first look with many samples (Waudby-Smith et al. 2024, "Time-uniform central limit theory and
  asymptotic confidence sequences", Annals of Statistics 52, arXiv:2103.06476).

All of this is about the population that the samples were drawn from. The samples are independent
draws, and their order is random and does not depend on the models. Any number of first samples is
then a set of independent draws, too. If the question is only which model is better on this finite
set, samples are drawn without replacement. The answer is then known with certainty after the last
sample. The sequences here do not shrink to a point, and their guarantee is not about this question.

An e-value is the capital of a player who began with 1 and bets against a hypothesis at fair odds.
If the hypothesis is true, the capital ever reaches 1 / alpha with probability alpha at most (Ville
1939). Therefore, 1 over the greatest capital so far is a p-value at all looks.

Shapes: N samples, V distinct values, B bets, L looks.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Ints, Values
from cosmos_eval.stats.paired import PairedDifference

Decision = Literal["A better", "B better", "same", "undecided"]

# The shares of the capital that are bet, as multiples of the greatest bet that cannot lose more
# than there is. The capital is divided equally among them.
BETS = np.geomspace(1 / 128, 0.98, 24)
# The number of samples before the first look of an asymptotic sequence, and the expected number of
# samples of the rarest class. Both are from the simulations of benchmarks/sequential.md.
START = 500
_START_OF_RAREST = 10
# Values with more distinct levels are rounded for intervals, in the direction that widens them.
_LEVELS = 4096
# By how much the logarithm of the capital has to exceed a threshold, against rounding errors.
_ROUNDING = 1e-9


class ConfidenceSequence(Protocol):
    """The evidence about a mean difference A - B after each look."""

    def log_e_above(self, mean: float) -> float:
        """Return the greatest log e-value so far against "the difference is at most `mean`"."""

    def log_e_below(self, mean: float) -> float:
        """Return the greatest log e-value so far against "the difference is at least `mean`"."""

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the interval of the difference at this look, for the error probability alpha."""


def log_gains(values: Values, mean: float, low: float) -> Values:
    """Return how much each bet against "the mean is at most `mean`" gains by values, (V, B).

    A bet on a share s of (value - mean) / (mean - low) multiplies the capital by
        1 + s (value - mean) / (mean - low),
    which is at least 1 - s > 0 and whose expectation is at most 1 under the hypothesis. It falls as
    `mean` rises. For example, a share of 0.5 gains log(1.5) if value, mean and low are 1, 0 and -1.

    Args:
        values: (V,), values of samples, none below `low`.
        mean: The mean of the hypothesis, above `low`.
        low: The lowest value that is possible.
    """
    return np.log1p(np.outer((values - mean) / (mean - low), BETS))


def log_mixture(log_capitals: Values) -> Values:
    """Return the log mean (...) of the capitals of B bets from their logarithms (..., B)."""
    greatest = log_capitals.max(axis=-1, keepdims=True)
    means = np.exp(log_capitals - greatest).mean(axis=-1)
    return greatest[..., 0] + np.log(means)


class BoundedSequence:
    """The confidence sequence of a mean of independent differences within [low, high].

    It is exact: it holds for every number of samples and every distribution within the bounds.

    Example:
        >>> sequence = BoundedSequence(-1, 1)
        >>> sequence.update(hits_a[:32].astype(float) - hits_b[:32])
        >>> sequence.interval(0.05)
    """

    def __init__(self, low: float, high: float) -> None:
        """Begin without samples.

        Args:
            low: The lowest difference that is possible, such as -1 for accuracy.
            high: The highest difference that is possible.

        Raises:
            ValueError: The bounds are not finite, or `low` is not below `high`.
        """
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"bounds of differences must be finite and rise, not {low} to {high}")
        self.low, self.high = float(low), float(high)
        self.n_samples = 0
        self._above = _EvidenceAbove(self.low, self.high)
        # That the mean is below m is that the mean of the negative values is above -m.
        self._below = _EvidenceAbove(-self.high, -self.low)

    def update(self, differences: NDArray[np.number], slack: float = 0.0) -> None:
        """Add the differences (N,) of a shard of samples, which count as one look.

        Args:
            differences: (N,), independent draws, such as the hits of A minus the hits of B.
            slack: By how much the expectation of these differences may be off the true mean, see
                `stats.control_variates`. They are moved by it in both unfavourable directions.

        Raises:
            ValueError: The array has other than one dimension, the slack is negative, or a value
                is NaN or, with the slack, out of bounds.
        """
        values = np.asarray(differences, np.float64)
        if values.ndim != 1:
            raise ValueError(f"differences must have one dimension, not {values.ndim}")
        if not slack >= 0:
            raise ValueError(f"the slack must be 0 or more, not {slack}")
        distinct, counts = np.unique(values, return_counts=True)
        lowered, raised = distinct - slack, distinct + slack
        is_inside = (lowered >= self.low) & (raised <= self.high)  # False for NaN
        if not is_inside.all():
            outside = distinct[~is_inside][0]
            raise ValueError(f"a difference of {outside} is not within {self.low} to {self.high}")
        self.n_samples += len(values)
        self._above.update(lowered, counts.astype(np.float64))
        self._below.update(-raised, counts.astype(np.float64))

    def log_e_above(self, mean: float) -> float:
        """Return the greatest log e-value so far against "the mean is at most `mean`".

        Looks before the first call for this mean do not count. To count all, call it before the
        first update.

        Raises:
            ValueError: `mean` is not within the bounds.
        """
        return self._above.log_e(self._checked(mean))

    def log_e_below(self, mean: float) -> float:
        """Return the greatest log e-value so far against "the mean is at least `mean`".

        Looks count, and errors are raised, as in `log_e_above`.
        """
        return self._below.log_e(-self._checked(mean))

    def log_e_value(self, mean: float) -> float:
        """Return the log e-value at this look against "the mean is equal to `mean`".

        It is the logarithm of the mean of both one-sided capitals. It falls again if the evidence
        vanishes.
        """
        mean = self._checked(mean)
        both = (self._above.log_e_now(mean), self._below.log_e_now(-mean))
        return float(np.logaddexp(*both)) - math.log(2)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the interval of the mean at this look, for the error probability alpha.

        It is within the intervals of all earlier calls with this alpha, and together they contain
        the mean with probability 1 - alpha: each end errs with alpha / 2. Ends are rounded
        outwards. If nothing is left between the ends, which has a probability of alpha at most,
        both are their mean.
        """
        low = self._above.bound(_checked_level(alpha) / 2)
        high = -self._below.bound(alpha / 2)
        return (low, high) if low <= high else ((low + high) / 2, (low + high) / 2)

    def _checked(self, mean: float) -> float:
        """Return `mean`, or raise ValueError if it is not strictly within the bounds."""
        if not self.low < mean < self.high:
            raise ValueError(f"a mean of {mean} is not between {self.low} and {self.high}")
        return float(mean)


class _EvidenceAbove:
    """The capital of bets against "the mean is at most m", for any m, and the lower bound of m."""

    def __init__(self, low: float, high: float) -> None:
        """Begin without samples, whose values will be within [low, high]."""
        self.low, self.high = low, high
        # A power of two, so that rounding to multiples of it is exact.
        self._step = 2.0 ** math.ceil(math.log2((high - low) / _LEVELS))
        # The distinct values (V,) so far, and how often each occurred.
        self._values, self._counts = np.empty(0), np.empty(0)
        # For each mean that was asked for: the log capital (B,), and the greatest log e-value.
        self._log_capitals: dict[float, Values] = {}
        self._greatest: dict[float, float] = {}
        # The lower bound of the last call by error probability.
        self._bounds: dict[float, float] = {}

    def update(self, values: Values, counts: Values) -> None:
        """Add values (V,), each of which occurred `counts` (V,) times."""
        for mean, log_capital in self._log_capitals.items():
            log_capital += counts @ log_gains(values, mean, self.low)
            self._greatest[mean] = max(self._greatest[mean], float(log_mixture(log_capital)))
        self._values, self._counts = _merge(
            np.concatenate([self._values, values]), np.concatenate([self._counts, counts])
        )
        if len(self._values) > _LEVELS:
            rounded = np.floor(self._values / self._step) * self._step
            self._values, self._counts = _merge(np.maximum(rounded, self.low), self._counts)

    def log_e(self, mean: float) -> float:
        """Return the greatest log e-value of the looks since the first call for this mean."""
        if mean not in self._log_capitals:
            log_capital = self._counts @ log_gains(self._values, mean, self.low)
            self._log_capitals[mean] = log_capital
            self._greatest[mean] = max(0.0, float(log_mixture(log_capital)))
        return self._greatest[mean]

    def log_e_now(self, mean: float) -> float:
        """Return the log e-value at this look."""
        return float(log_mixture(self._counts @ log_gains(self._values, mean, self.low)))

    def bound(self, alpha: float) -> float:
        """Return a mean that is rejected with all smaller means, or the lowest value.

        The capital falls as the mean rises, so that bisection finds the greatest such mean. The
        returned end of the last bracket is rejected itself. The bound never falls.
        """
        rejected = self._bounds.get(alpha, self.low)
        for mean, log_e in self._greatest.items():
            if is_rejected(log_e, alpha):
                rejected = max(rejected, mean)
        accepted = self.high
        resolution = (self.high - self.low) / 2**20
        middle = rejected + resolution  # most looks do not move the bound
        while accepted - rejected > resolution:
            if is_rejected(self.log_e_now(middle), alpha):
                rejected = middle
            else:
                accepted = middle
            middle = (rejected + accepted) / 2
        self._bounds[alpha] = rejected
        return rejected


def _merge(values: Values, counts: Values) -> tuple[Values, Values]:
    """Return the distinct values and the sum of the counts of each."""
    distinct, index = np.unique(values, return_inverse=True)
    merged = np.bincount(index, weights=counts, minlength=len(distinct))
    return distinct, merged.astype(np.float64)


class AsymptoticSequence:
    """The confidence sequence of a difference that is not a mean, such as a difference of mIoU.

    It is an approximation by the normal distribution, whose errors approach alpha as the number of
    samples at the first look grows. There is no interval before `start` samples. Each look brings
    the paired difference of all samples so far, as `stats.paired.differences` computes it.

    The e-value is the capital of bets on z = (difference - m) / standard error, mixed over a
    half-normal distribution: with r = n / (n + tightest_at / 8.8),
        2 sqrt(1 - r) exp(r z^2 / 2) Phi(sqrt(r) z).
    """

    def __init__(self, start: int = START, tightest_at: int | None = None) -> None:
        """Begin without looks.

        Args:
            start: The number of samples, or clusters, before the first look that counts.
            tightest_at: The number of samples at which the interval is the narrowest possible. By
                default 4 * start.

        Raises:
            ValueError: `start` is below 2.
        """
        if start < 2:
            raise ValueError(f"an asymptotic sequence starts at two samples or more, not {start}")
        self.start = start
        # -2 log(alpha) + log(-2 log(alpha)) + 1 for alpha = 0.05, as in the paper.
        self._prior_samples = (tightest_at or 4 * start) / 8.78
        self.n_samples = 0
        # For each look: the number of samples, the difference, its standard error.
        self._looks: list[tuple[float, float, float]] = []

    def update(self, paired: PairedDifference) -> None:
        """Add a look: the difference of all samples so far.

        Looks with fewer than `start` samples, and looks without a standard error above 0, are
        ignored.

        Raises:
            ValueError: There are fewer samples than at the look before.
        """
        if paired.units < self.n_samples:
            raise ValueError(f"{paired.units} samples are fewer than {self.n_samples} before")
        self.n_samples = paired.units
        if paired.units >= self.start and paired.error > 0 and math.isfinite(paired.difference):
            self._looks.append((paired.units, paired.difference, paired.error))

    def log_e_above(self, mean: float) -> float:
        """Return the greatest log e-value so far against "the difference is at most `mean`"."""
        return self._greatest_log_e(1, mean)

    def log_e_below(self, mean: float) -> float:
        """Return the greatest log e-value so far against "the difference is at least `mean`"."""
        return self._greatest_log_e(-1, mean)

    def _greatest_log_e(self, sign: int, mean: float) -> float:
        """Return the greatest log e-value so far that sign * (difference - mean) is positive."""
        if not self._looks:
            return 0.0
        n, difference, error = np.array(self._looks).T
        z = sign * (difference - mean) / error
        return max(0.0, float(self.log_e_of(z, n).max()))

    def log_e_of(self, z: Values, n: Values) -> Values:
        """Return the log e-values of standardised differences (...) of n samples (...)."""
        from scipy.special import log_ndtr

        ratio = n / (n + self._prior_samples)
        return math.log(2) + np.log1p(-ratio) / 2 + ratio * z**2 / 2 + log_ndtr(np.sqrt(ratio) * z)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the interval of the difference at this look, for the error probability alpha.

        It is the intersection over all looks, and (-inf, inf) before `start` samples. Each end errs
        with alpha / 2. If nothing is left between the ends, both are their mean.
        """
        if not self._looks:
            return -math.inf, math.inf
        n, difference, error = np.array(self._looks).T
        half_width = self.critical_z(n, _checked_level(alpha) / 2) * error
        low, high = float((difference - half_width).max()), float((difference + half_width).min())
        return (low, high) if low <= high else ((low + high) / 2, (low + high) / 2)

    def critical_z(self, n: Values, alpha: float) -> Values:
        """Return the smallest z (L,) whose e-value with n (L,) samples reaches 1 / alpha."""
        accepted, rejected = np.zeros(len(n)), np.full(len(n), 100.0)
        for _ in range(60):  # bisection: the e-value rises with z
            middle = (accepted + rejected) / 2
            reaches = self.log_e_of(middle, n) >= -math.log(alpha) + _ROUNDING
            rejected = np.where(reaches, middle, rejected)
            accepted = np.where(reaches, accepted, middle)
        return rejected


def start_for_classes(class_sizes: Ints, n_samples: int) -> int:
    """Return the number of samples before the first look at a mean over classes, such as mIoU.

    Until the rarest class has occurred a few times, the first samples say nothing about it, and a
    mean over classes looks more certain than it is. Therefore, 10 samples of the rarest class are
    expected at the first look, and there are 500 samples or more. For example, classes in 20 and
    990 of 1,000 images give 500. Classes in 5 and 990 images give 2,000, more than there are, so
    that the comparison cannot stop early.

    Args:
        class_sizes: (C,), the number of samples in which each class occurs. Classes without any do
            not count.
        n_samples: The number of all samples of the data set, such as images.

    Raises:
        ValueError: No class has samples.
    """
    sizes = class_sizes[class_sizes > 0]
    if not len(sizes):
        raise ValueError("no class has samples")
    return max(START, math.ceil(_START_OF_RAREST * n_samples / int(sizes.min())))


def is_rejected(log_e: float, alpha: float) -> bool:
    """Return whether a log e-value rejects its hypothesis at the error probability alpha."""
    return log_e >= -math.log(alpha) + _ROUNDING


def decide(
    sequence: ConfidenceSequence, alpha: float = 0.05, margin: float | None = None
) -> Decision:
    """Return what is known about the difference of A and B at this look.

    - "A better": the difference is above 0, rejecting "at most 0" at alpha / 2.
    - "B better": the difference is below 0, rejecting "at least 0" at alpha / 2.
    - "same": it is above -margin and below margin, rejecting both opposites at alpha / 2 each.

    If the difference is both above 0 and within the margin, the answer is "A better".

    The probability that this function returns a wrong answer at any look is alpha at most. Wrong
    answers are "A better" for a true difference of 0 or less, "B better" for one of 0 or more, and
    "same" for one of `margin` or more in size. If the true difference is 0, the first two are
    wrong, with alpha / 2 each. If it is positive, "B better" is wrong, and "same" if it is as great
    as the margin. Both of these reject "at least the true difference", which has a probability of
    alpha / 2 at most. The interval of `sequence.interval(alpha)` shows the answer: it is above 0,
    below 0, or within the margin.

    Args:
        sequence: The sequence after any number of looks.
        alpha: The probability of a wrong answer.
        margin: The difference from which on models are not the same, in the metric's unit. Without
            a margin, "same" is never the answer.

    Raises:
        ValueError: alpha is not between 0 and 1, or the margin is not above 0.
    """
    one_sided_alpha = _checked_level(alpha) / 2
    log_e_above, log_e_below = sequence.log_e_above(0.0), sequence.log_e_below(0.0)
    if is_rejected(max(log_e_above, log_e_below), one_sided_alpha):
        return "A better" if log_e_above > log_e_below else "B better"
    if margin is not None and is_rejected(_log_e_same(sequence, margin), one_sided_alpha):
        return "same"
    return "undecided"


def _log_e_same(sequence: ConfidenceSequence, margin: float) -> float:
    """Return the smaller of the log e-values that the difference is above -margin and below margin.

    Raises:
        ValueError: The margin is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"the margin must be above 0, not {margin}")
    return min(sequence.log_e_above(-margin), sequence.log_e_below(margin))


class SetDecision(NamedTuple):
    """The answer for one of several data sets."""

    decision: Decision
    # The corrected error probability of this set. `sequence.interval(alpha)` shows the answer.
    alpha: float


def correct_over_sets(
    sequences: Mapping[str, ConfidenceSequence],
    alpha: float = 0.05,
    margins: Mapping[str, float] | None = None,
) -> dict[str, SetDecision]:
    """Return the answers for several data sets. The probability that any is wrong is alpha at most.

    It is Holm's method on the two sides of every set. With K sets there are 2 K sides, and each is
    tested at alpha / (2 K). If a side rejects a difference of 0, its set is decided, and the sides
    that remain are tested at alpha over their number, until no more sides are rejected. "same"
    leaves both sides of its set, since 0 is not rejected.

    This is valid for any dependence of the sets, and each set may stop at its own time, for any
    reason. The e-values are the greatest so far. Therefore, the probability that a side with a true
    hypothesis ever has a p-value of a or less is a at most, however its last look was chosen. Sides
    with true hypotheses never leave the count before the first wrong answer. If there are T of
    them, the first wrong answer needs a p-value of alpha / T at most from one of them, which has
    the probability T * alpha / T. A set must not be left out because of its results.

    Args:
        sequences: The sequence of each data set by name, stopped or not.
        alpha: The probability of any wrong answer, at any look.
        margins: The margins of the data sets by name, see `decide`. Sets without one are never
            "same".

    Raises:
        ValueError: alpha is not between 0 and 1, or a margin is not above 0.
    """
    n_sides = 2 * len(sequences)
    log_e_values = []
    for sequence in sequences.values():
        log_e_values += [sequence.log_e_above(0.0), sequence.log_e_below(0.0)]
    n_rejected = 0
    for log_e in sorted(log_e_values, reverse=True):
        if not is_rejected(log_e, _checked_level(alpha) / (n_sides - n_rejected)):
            break
        n_rejected += 1
    set_alpha = min(alpha, 2 * alpha / max(1, n_sides - n_rejected))
    decisions = {}
    for name, sequence in sequences.items():
        margin = None if margins is None else margins.get(name)
        decisions[name] = SetDecision(decide(sequence, set_alpha, margin), set_alpha)
    return decisions


def _checked_level(alpha: float) -> float:
    """Return alpha, or raise ValueError if it is not between 0 and 1."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, not {alpha}")
    return alpha

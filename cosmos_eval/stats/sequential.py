"""Comparisons of two models that may stop at any look: confidence sequences and decisions.

Samples are measured in shards. A look is made after each shard: the difference of all samples so
far is judged, and the comparison may stop. A confidence sequence gives an interval at each look.
With probability 1 - alpha, all these intervals contain the true difference at once. The usual
interval for a fixed number of samples does not have this property if it is looked at repeatedly.

- Means of bounded differences: capital of bets, an exact method (Waudby-Smith and Ramdas 2024,
  "Estimating means of bounded random variables by betting", JRSS B 86; Howard et al. 2021,
  "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49).
- Other differences, such as mIoU: a time-uniform central limit theorem, an approximation that needs
  a first look with many samples (Waudby-Smith et al. 2024, "Time-uniform central limit theory and
  asymptotic confidence sequences", Annals of Statistics 52, arXiv:2103.06476).

The intervals are about the population that the samples were drawn from. The samples are independent
draws, and their order is random and does not depend on the models. The first n samples are then
independent draws, too, for any n. The intervals are not about the question which model is better on
exactly this finite set of samples. That answer would be certain after the last sample, and these
intervals do not shrink to a point.

An e-value is the capital of a player who began with 1 and bets against a hypothesis at fair odds.
If the hypothesis is true, the probability that the capital ever reaches 1 / alpha is at most alpha
(Ville 1939). Therefore, 1 over the greatest capital so far is a p-value that holds at all looks.

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

# The bets, as multiples of the greatest bet that cannot lose more than the whole capital. The
# capital is divided equally among them.
BETS = np.geomspace(1 / 128, 0.98, 24)
# The number of samples before the first look of an asymptotic sequence, and the expected number of
# samples of the rarest class. Both are from the simulations of benchmarks/sequential.md.
START = 500
_START_OF_RAREST = 10
# If there are more distinct values, they are rounded in the direction that widens the interval.
_LEVELS = 4096
# The log capital must exceed a threshold by this much, so that rounding errors do not decide.
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
    """Return the log gains (V, B) of each bet against "the mean is at most `mean`" by each value.

    A bet s multiplies the capital by

        1 + s (value - mean) / (mean - low)

    This factor is at least 1 - s > 0, and falls as `mean` rises. If the hypothesis is true, its
    expectation is at most 1. For example, a bet of 0.5 gains log(1.5) if value, mean and low are 1,
    0 and -1.

    Args:
        values: (V,), values of samples, none below `low`.
        mean: The mean of the hypothesis, above `low`.
        low: The lowest value that is possible.
    """
    return np.log1p(np.outer((values - mean) / (mean - low), BETS))


def log_mixture(log_capitals: Values) -> Values:
    """Return the logarithm (...) of the mean capital of B bets with log capitals (..., B)."""
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
        # The mean is below m if the mean of the negative values is above -m.
        self._below = _EvidenceAbove(-self.high, -self.low)

    def update(self, differences: NDArray[np.number], slack: float = 0.0) -> None:
        """Add the differences (N,) of a shard of samples, and make a look.

        Args:
            differences: (N,), independent draws, such as the hits of A minus the hits of B.
            slack: The most by which the expectation of these differences may deviate from the true
                mean, see `stats.control_variates`. To stay on the safe side, the slack is
                subtracted for the lower end of the interval and added for the upper end.

        Raises:
            ValueError: The array does not have one dimension, the slack is negative, or a value is
                NaN or is out of bounds after the slack was subtracted or added.
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

        It is the logarithm of the mean of both one-sided capitals. It is not the greatest one so
        far, and may fall from look to look.
        """
        mean = self._checked(mean)
        log_e_above = self._above.log_e_now(mean)
        log_e_below = self._below.log_e_now(-mean)
        return float(np.logaddexp(log_e_above, log_e_below)) - math.log(2)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the interval of the mean at this look, for the error probability alpha.

        It lies within the intervals of all earlier calls with this alpha. With probability
        1 - alpha, all of them contain the mean: each end is wrong with probability alpha / 2. Ends
        are rounded outwards. If the lower end is above the upper end, which has a probability of
        alpha at most, both ends are set to their middle.
        """
        low = self._above.bound(_checked_level(alpha) / 2)
        high = -self._below.bound(alpha / 2)
        return _ordered_ends(low, high)

    def _checked(self, mean: float) -> float:
        """Return `mean`, or raise ValueError if it is not strictly within the bounds."""
        if not self.low < mean < self.high:
            raise ValueError(f"a mean of {mean} is not between {self.low} and {self.high}")
        return float(mean)


def _ordered_ends(low: float, high: float) -> tuple[float, float]:
    """Return the ends of an interval. If the lower one is above the upper, return their middle."""
    if low <= high:
        return low, high
    middle = (low + high) / 2
    return middle, middle


class _EvidenceAbove:
    """The evidence that the mean is above m, for any m: the capital of bets against "at most m"."""

    def __init__(self, low: float, high: float) -> None:
        """Begin without samples. All values that are added must be within [low, high]."""
        self.low, self.high = low, high
        # A power of two, so that rounding to multiples of it is exact.
        self._step = 2.0 ** math.ceil(math.log2((high - low) / _LEVELS))
        # The distinct values (V,) so far, and how often each occurred.
        self._values, self._counts = np.empty(0), np.empty(0)
        # For each mean that `log_e` was called with: the log capital of each bet, (B,).
        self._log_capitals: dict[float, Values] = {}
        # For each of these means: the greatest log e-value so far.
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
        """Return the greatest mean that is rejected, or the lowest possible value if none is.

        All smaller means are rejected, too, since the capital falls as the mean rises. Bisection
        finds the mean up to a small error, by which it may be too low. The bound never falls from
        call to call.
        """
        rejected = self._bounds.get(alpha, self.low)
        for mean, log_e in self._greatest.items():
            if is_rejected(log_e, alpha):
                rejected = max(rejected, mean)
        accepted = self.high
        resolution = (self.high - self.low) / 2**20
        # The first try is next to the old bound, since most looks do not move the bound.
        middle = rejected + resolution
        while accepted - rejected > resolution:
            if is_rejected(self.log_e_now(middle), alpha):
                rejected = middle
            else:
                accepted = middle
            middle = (rejected + accepted) / 2
        self._bounds[alpha] = rejected
        return rejected


def _merge(values: Values, counts: Values) -> tuple[Values, Values]:
    """Return the distinct values, and the sum of the counts of each of them."""
    distinct, index = np.unique(values, return_inverse=True)
    merged = np.bincount(index, weights=counts, minlength=len(distinct))
    return distinct, merged.astype(np.float64)


class AsymptoticSequence:
    """The confidence sequence of a difference that is not a mean, such as a difference of mIoU.

    It is an approximation by the normal distribution, whose errors approach alpha as the number of
    samples at the first look grows. There is no interval before `start` samples. At each look, the
    paired difference of all samples so far is added, as `stats.paired.differences` computes it.

    The e-value against "the difference is at most m" after n samples is the capital of bets on the
    standardised difference z, mixed over a half-normal distribution:

        z = (difference - m) / standard error
        r = n / (n + tightest_at / 8.78)
        e-value = 2 sqrt(1 - r) exp(r z^2 / 2) Phi(sqrt(r) z)
    """

    def __init__(self, start: int = START, tightest_at: int | None = None) -> None:
        """Begin without looks.

        Args:
            start: The number of samples, or of clusters of dependent samples, before the first look
                that counts.
            tightest_at: The number of samples for which the interval is made as narrow as possible.
                By default 4 * start.

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
            ValueError: There are fewer samples than at the previous look.
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
        """Return the greatest log e-value so far in favour of sign * (difference - mean) > 0."""
        if not self._looks:
            return 0.0
        n, difference, error = np.array(self._looks).T
        z = sign * (difference - mean) / error
        return max(0.0, float(self.log_e_of(z, n).max()))

    def log_e_of(self, z: Values, n: Values) -> Values:
        """Return the log e-values (...) of standardised differences (...) of n samples (...)."""
        from scipy.special import log_ndtr

        ratio = n / (n + self._prior_samples)
        return math.log(2) + np.log1p(-ratio) / 2 + ratio * z**2 / 2 + log_ndtr(np.sqrt(ratio) * z)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the interval of the difference at this look, for the error probability alpha.

        It is the intersection of the intervals of all looks, and (-inf, inf) before `start`
        samples. Each end is wrong with probability alpha / 2. If the lower end is above the upper
        end, both are set to their middle.
        """
        if not self._looks:
            return -math.inf, math.inf
        n, difference, error = np.array(self._looks).T
        half_width = self.critical_z(n, _checked_level(alpha) / 2) * error
        low, high = float((difference - half_width).max()), float((difference + half_width).min())
        return _ordered_ends(low, high)

    def critical_z(self, n: Values, alpha: float) -> Values:
        """Return the smallest z (L,) whose e-value after n (L,) samples reaches 1 / alpha."""
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
    mean over classes looks more certain than it is. The first look is therefore made when 10
    samples of the rarest class are expected, and not before 500 samples.

    Args:
        class_sizes: (C,), the number of samples in which each class occurs. Classes that occur in
            no sample are ignored.
        n_samples: The number of all samples of the data set, such as images.

    Raises:
        ValueError: No class has samples.

    Example:
        There are 1,000 images. If one class occurs in 20 of them and the other in 990, the result
        is 500. If the rarer one occurs in 5, it is 2,000: the comparison cannot stop early.
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
    """Return the answer at this look: which of A and B is better, or whether they are the same.

    - "A better": the difference is above 0, rejecting "at most 0" at alpha / 2.
    - "B better": the difference is below 0, rejecting "at least 0" at alpha / 2.
    - "same": the difference is above -margin and below margin, rejecting "at most -margin" and "at
      least margin" at alpha / 2 each.

    If the difference is both above 0 and within the margin, the answer is "A better".

    The interval of `sequence.interval(alpha)` shows the answer: it is above 0, below 0, or within
    the margin.

    The probability that this function returns a wrong answer at any look is alpha at most. Wrong
    answers are "A better" if the true difference is 0 or less, "B better" if it is 0 or more, and
    "same" if its size is `margin` or more.

    - If the true difference is 0, "A better" and "B better" are wrong. Each has a probability of
      alpha / 2 at most.
    - If it is positive, "B better" is wrong. "same" is wrong, too, if it is as great as the margin.
      Both answers reject "at least the true difference", so that the probability of either is
      alpha / 2 at most. The same holds with A and B exchanged if it is negative.

    Args:
        sequence: The sequence after any number of looks.
        alpha: The probability of a wrong answer.
        margin: Models whose difference is smaller count as the same, in the metric's unit. Without
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
    """Return the log e-value that the difference is within the margin.

    It is the smaller one of the log e-values against "at most -margin" and "at least margin".

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

    It is Holm's method. Each set has two sides, the hypotheses that its difference is at most 0 and
    that it is at least 0. With K sets there are 2 K sides, and each is tested at alpha / (2 K). If
    a side is rejected, its set is decided. The remaining sides are then tested at alpha over their
    number, until no other side is rejected. The answer "same" rejects neither side of its set.

    This is valid for any dependence of the sets, and each set may stop at its own time, for any
    reason. The reason is that e-values are the greatest so far: if a hypothesis is true, the
    probability that its p-value is p or less at any look is p at most.
    If T sides are true, all of them are still counted at the first wrong answer. One of them must
    then have a p-value of alpha / T or less. This has a probability of T * alpha / T at most.

    A set must not be left out because of its results.

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

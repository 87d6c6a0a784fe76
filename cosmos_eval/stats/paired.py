"""Paired comparisons of two models on the same samples: tests, intervals, detectable differences.

- Proportions of independent samples: McNemar's exact test (McNemar 1947, Psychometrika 12) and the
  interval of Agresti and Min 2005, Statistics in Medicine 24.
- Means over classes, such as mIoU: the jackknife of the difference, because a resample lacks
  classes that occur in few images.
- Means of proportions per class: the variance of weighted signs, `by_class`.
- Everything else: a bootstrap that draws whole clusters for both models at once, so that the
  difficulty of a sample, which both models share, cancels out (Efron and Tibshirani 1993, "An
  Introduction to the Bootstrap", sections 6.2, 11 and 12.2). Its interval uses Student's t. Unlike
  the percentile interval, it holds its level if the models differ on a handful of samples only.
- Several tests: Holm 1979, Scandinavian Journal of Statistics 6.

Shapes: N samples, C clusters or kinds of clusters, R resamples, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtr, stdtrit

from cosmos_eval.stats import intervals
from cosmos_eval.stats.estimates import (
    Estimate,
    FunctionOfSums,
    GroupMean,
    Ints,
    Mean,
    Median,
    Proportion,
    Values,
)
from cosmos_eval.stats.jackknife import sums_without_each
from cosmos_eval.types import Interval

POWER = 0.8
MCNEMAR = "exact McNemar"
AGRESTI_MIN = "Agresti and Min"
BOOTSTRAP = "paired cluster bootstrap"
JACKKNIFE = "paired jackknife"
BY_CLASS = "paired t by class"
INDEPENDENT = "independent intervals"
_NORMAL = math.inf  # the degrees of freedom for which Student's t is the normal distribution


class PairedDifference(NamedTuple):
    """A metric of model A minus the same metric of model B, in the metric's unit."""

    # The value of model A.
    a: float
    # The value of model B.
    b: float
    # The middle of the interval.
    center: float
    # The standard error of the difference.
    error: float
    # The degrees of freedom of the standard error.
    dof: float
    # The two-sided p-value for no difference.
    p_value: float
    # The number of independent samples or clusters.
    units: int
    # The name of the statistical method.
    method: str
    # The number of samples that only A gets right, and the number that only B gets right. None if
    # samples are not simply right or wrong.
    changed: tuple[int, int] | None = None

    @property
    def difference(self) -> float:
        """The value of A minus the value of B."""
        return self.a - self.b

    def interval(self, level: float = intervals.LEVEL) -> Interval:
        """Return the confidence interval of the difference: center -+ t x standard error.

        t is the quantile (1 + level) / 2 of Student's t with `dof` degrees of freedom.
        """
        half_width = float(stdtrit(self.dof, (1 + level) / 2)) * self.error
        # McNemar's is the name of the test. Its interval has a method of its own.
        method = AGRESTI_MIN if self.method == MCNEMAR else self.method
        return Interval(self.center - half_width, self.center + half_width, method, level)

    def p_below(self, bound: float) -> float:
        """Return the one-sided p-value against a true difference of `bound` or more.

        A small p-value says that the true difference is below the bound. It is below
        (1 - level) / 2 exactly if the interval of that level lies below `bound`. For example, an
        interval from -0.3 to -0.1 of the level 0.95 has a p-value below 0.025 for the bound 0.
        """
        if self.error == 0:  # all samples point the same way, as in a sign test
            return 1.0 if self.center >= bound else 0.5**self.units
        return float(stdtr(self.dof, (self.center - bound) / self.error))

    def detectable(self, alpha: float = 1 - intervals.LEVEL, power: float = POWER) -> float | None:
        """Return the true difference that a two-sided test finds with probability `power`.

        It is (t(1 - alpha / 2) + t(power)) x standard error, with quantiles of Student's t, for
        models that differ on as many samples as these two. At the default alpha and power and many
        samples, the factor is 1.96 + 0.84 = 2.8. For McNemar's test, the result is at least
        factor^2 / n, because the share of samples on which two models differ is at least their
        difference.

        Args:
            alpha: The significance of the test: the probability of a p-value that is significant
                although there is no difference.
            power: The probability of a significant p-value if there is the returned difference.

        Returns:
            The difference in the metric's unit, or None if the standard error is 0.
        """
        factor = float(stdtrit(self.dof, [1 - alpha / 2, power]).sum())
        least_detectable = factor**2 / self.units if self.method == MCNEMAR else 0.0
        detectable = max(factor * self.error, least_detectable)
        return detectable if detectable else None

    def flipped(self) -> PairedDifference:
        """Return the difference of the same models with A and B exchanged: B minus A."""
        changed: tuple[int, int] | None = None
        if self.changed is not None:
            only_a, only_b = self.changed
            changed = (only_b, only_a)
        return self._replace(a=self.b, b=self.a, center=-self.center, changed=changed)


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> PairedDifference:
    """Return the difference of the proportions of hits of two models by McNemar's test.

    The test depends on the samples that only one of the models gets right, see `matched_shares`.

    Args:
        a: (N,), whether model A gets each of N independent samples right.
        b: (N,), whether model B gets the same samples right.
    """
    both_right = int((a & b).sum())
    only_a, only_b = _count_changed(a, b)
    return matched_shares(both_right, only_a, only_b, len(a))


def _count_changed(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the number of samples that only A gets right, and the number that only B gets right.

    Args:
        a: (N,), whether model A gets each of N samples right.
        b: (N,), whether model B gets the same samples right.
    """
    return int((a & ~b).sum()), int((b & ~a).sum())


def matched_shares(both: int, only_a: int, only_b: int, n: int) -> PairedDifference:
    """Return the difference of two models from the numbers of samples that they get right.

    The p-value is McNemar's exact one, the two-sided binomial p-value of (only_a, only_b) at a
    probability of a half. For example, 1 and 5 give 2 * (1 + 6) / 2^6 = 0.22. The interval is
    Wald's after half a sample is added to each of the four cells of the table of right and wrong
    (Agresti and Min):
        center = (only_a - only_b) / (n + 2)
        error^2 = ((only_a + only_b + 1) / (n + 2) - center^2) / (n + 2).

    Args:
        both: The number of samples that both models get right.
        only_a: The number of samples that only model A gets right.
        only_b: The number of samples that only model B gets right.
        n: The number of all samples, which are independent.

    Raises:
        ValueError: n is 0.
    """
    if n < 1:
        raise ValueError("no samples to compare")
    # The probability of at most so few samples for the model that has fewer of them.
    one_sided = float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))
    p_value = min(1.0, 2 * one_sided)
    center = (only_a - only_b) / (n + 2)
    error = math.sqrt((only_a + only_b + 1) / (n + 2) - center**2) / math.sqrt(n + 2)
    return PairedDifference(
        a=(both + only_a) / n,
        b=(both + only_b) / n,
        center=center,
        error=error,
        dof=_NORMAL,
        p_value=p_value,
        units=n,
        method=MCNEMAR,
        changed=(only_a, only_b),
    )


Compare = Callable[[int, int], Mapping[str, PairedDifference]]
"""A function that compares two models, which are given by their indices.

It returns the differences of all estimates that both models have, by name."""


def is_slow(estimate: Estimate) -> bool:
    """Return whether it takes much longer to compare this estimate of two models than others.

    Medians are slow, and so is the lowest share of several groups of independent samples.
    """
    if isinstance(estimate, GroupMean):
        return estimate.clusters is None and estimate.lowest
    return isinstance(estimate, Median)


def differences(
    models: Sequence[intervals.Estimates],
    *,
    without_slow: bool = False,
    seed: int = 0,
    resamples: int = intervals.RESAMPLES,
) -> Compare:
    """Return a function that compares any two of several models on the same samples.

    Samples are drawn once for all models, so that each comparison is fast.

    Args:
        models: The estimates of each model by name. All models have the same samples.
        without_slow: True if to leave out estimates that take long to compare, see `is_slow`.
        seed: The seed of the bootstrap.
        resamples: The number of resamples of the bootstrap.

    Returns:
        A function of the indices of two models. It returns the value of the first model minus the
        value of the second one, with its standard error and p-value, by name of the estimate.

    Raises:
        ValueError: There are fewer than two clusters to draw.

    Example:
        >>> compare = differences([{"accuracy": Proportion(hits_a)},
        ...                        {"accuracy": Proportion(hits_b)}])
        >>> compare(0, 1)["accuracy"].difference  # if A has 8 hits of 10, and B has 6
        0.2
    """
    if without_slow:
        models = [
            {name: estimate for name, estimate in estimates.items() if not is_slow(estimate)}
            for estimates in models
        ]
    return _Comparisons(models, seed, resamples).compare


class _Comparisons:
    """Compares any two of several models by their resampled values and their jackknife values."""

    def __init__(self, models: Sequence[intervals.Estimates], seed: int, resamples: int) -> None:
        """Compute the values of all models that the comparisons need.

        There is one bootstrap for each number of clusters that the estimates have. (A cluster is a
        set of samples that depend on each other.) Estimates with the same number of clusters are
        computed from the same draws, for all models. Means over classes, such as mIoU, are
        jackknifed instead: their values are computed without each sample in turn.

        Args:
            models: The estimates of each model by name.
            seed: The seed of each bootstrap.
            resamples: The number of resamples.
        """
        self.models = models
        self.seed = seed
        self.resamples = resamples
        # For each model: the values (N,) without each of N samples, by name of the estimate.
        self.jackknife_values: list[dict[str, Values]] = []
        # For each model: the estimates to resample, by the sizes that are drawn, then by name.
        models_by_sizes: list[dict[tuple[int, ...], dict[str, Estimate]]] = []
        for estimates in models:
            jackknife_values = {}
            resampled_estimates = {}
            for name, estimate in estimates.items():
                if isinstance(estimate, FunctionOfSums) and estimate.jackknife:
                    jackknife_values[name] = sums_without_each(estimate)
                else:
                    resampled_estimates[name] = estimate
            self.jackknife_values.append(jackknife_values)
            models_by_sizes.append(intervals.group_by_drawn_sizes(resampled_estimates))

        self.bootstraps: list[_Bootstrap] = []
        for sizes in sorted(set().union(*models_by_sizes)):
            shared_products: dict[int, intervals.Product] = {}
            statistics = []
            for estimates_by_sizes in models_by_sizes:
                estimates_of_sizes = estimates_by_sizes.get(sizes, {})
                statistics.append(intervals.statistic_of(estimates_of_sizes, shared_products))
            counts = np.ones(sum(sizes), int)
            resampled_values = intervals.resample(
                statistics, counts, seed=seed, resamples=resamples, sizes=sizes
            )
            # sizes[1], if there is one, is a number of draws of a classifier.
            n_clusters = sizes[0]
            self.bootstraps.append(_Bootstrap(statistics, counts, resampled_values, n_clusters))

    def compare(self, a: int, b: int) -> dict[str, PairedDifference]:
        """Return the differences of all estimates that models A and B both have, by name.

        Names are in the order of model A. Estimates without a value in one of the models are left
        out.

        Args:
            a: The index of model A.
            b: The index of model B, whose values are subtracted from model A's.
        """
        differences_by_name: dict[str, PairedDifference] = {}
        for bootstrap in self.bootstraps:
            differences_by_name.update(bootstrap.compare(a, b))
        # Add the estimates that have tests of their own, and count samples that are right or wrong.
        for name, estimate_a in self.models[a].items():
            match estimate_a, self.models[b].get(name):
                case Proportion(hits_a), Proportion(hits_b):
                    differences_by_name[name] = mcnemar(hits_a, hits_b)
                case Mean(values_a), Mean(values_b) if name in differences_by_name:
                    if values_a.dtype == values_b.dtype == np.bool_:
                        changed = _count_changed(values_a, values_b)
                        by_bootstrap = differences_by_name[name]
                        differences_by_name[name] = by_bootstrap._replace(changed=changed)
                case FunctionOfSums(jackknife=True), FunctionOfSums(jackknife=True) as estimate_b:
                    changes = self.jackknife_values[a][name] - self.jackknife_values[b][name]
                    difference = _compare_by_jackknife(estimate_a.value, estimate_b.value, changes)
                    if difference is not None:
                        differences_by_name[name] = difference
                case GroupMean(clusters=None), GroupMean(clusters=None) as estimate_b:
                    difference = self._compare_group_means(name, estimate_a, estimate_b)
                    if difference is not None:
                        differences_by_name[name] = difference
        return {
            name: differences_by_name[name]
            for name in self.models[a]
            if name in differences_by_name
        }

    def _compare_group_means(
        self, name: str, a: GroupMean, b: GroupMean
    ) -> PairedDifference | None:
        """Return the difference of two means over groups of independent samples, such as classes.

        Means over the same groups are compared `by_class`, and all others by the bootstrap. Groups
        differ, for example, for precision per class, whose groups are the predicted classes of each
        model. Return None if a model has no value.

        Args:
            name: The name of the estimate.
            a: The mean, or the lowest, of the groups' shares of hits of model A.
            b: The same estimate of model B, on the same samples.
        """
        have_same_groups = np.array_equal(a.groups, b.groups)
        if have_same_groups and not a.lowest:
            return by_class(a, b)
        statistics, counts = intervals.statistics_of_kinds(name, [a, b])
        resampled_values = intervals.resample(
            statistics, counts, seed=self.seed, resamples=self.resamples
        )
        bootstrap = _Bootstrap(statistics, counts, resampled_values, int(counts.sum()))
        return bootstrap.compare(0, 1).get(name)


def by_class(a: GroupMean, b: GroupMean) -> PairedDifference:
    """Return the difference of the mean proportions of hits per class of two models.

    The difference is sum(weight * sign) over the N samples. The sign is 1 if only A gets the sample
    right, -1 if only B does, and 0 otherwise. The weight is
    1 / (number of classes * size of the sample's class). For example, with two classes of 1 and 4
    samples, the weights are 1/2 and 1/8.

    The variance is sum((weight * (sign - difference))^2) + mean(weight^2). The first term holds for
    classes of a single sample, too. The second term counts as one more sample, so that the variance
    is above 0. Degrees of freedom are Satterthwaite's: about the number of samples on which the
    models differ.

    Args:
        a: The hits of model A, with the class of each sample.
        b: The hits of model B on the same samples.

    Raises:
        ValueError: There are fewer than two samples.
    """
    n = len(a.hits)
    if n < 2:
        raise ValueError("two images or more are needed to tell models apart")
    _, class_index, class_sizes = np.unique(a.groups, return_inverse=True, return_counts=True)
    n_classes = len(class_sizes)
    weights = 1 / (n_classes * class_sizes[class_index])
    signs = a.hits.astype(np.float64) - b.hits
    difference = weights @ signs
    squares = np.square(weights * (signs - difference))
    variance = float(squares.sum() + np.square(weights).mean())

    # Satterthwaite: variance^2 / sum of the squares of its terms.
    sum_of_fourth_powers = float(np.square(squares).sum())
    dof = variance**2 / sum_of_fourth_powers if sum_of_fourth_powers > 0 else _NORMAL
    return _compare_by_t_test(a.value, b.value, math.sqrt(variance), n, dof, BY_CLASS)


def _compare_by_jackknife(
    value_a: float, value_b: float, changes: Values
) -> PairedDifference | None:
    """Return the difference of two models' values by the jackknife.

    The standard error is sqrt((N - 1) / N * sum of (change - mean change)^2). For example, the
    changes [0.1, 0.2, 0.3] have the standard error sqrt(2 / 3 * 0.02) = 0.115.

    Args:
        value_a: The value of model A for all samples.
        value_b: The value of model B for all samples.
        changes: (N,), the value of model A minus the value of model B without each of N samples.
            It is NaN if a model has no value.

    Returns:
        The difference, or None if fewer than two changes are not NaN.

    Raises:
        ValueError: There are fewer than two samples.
    """
    if len(changes) < 2:
        raise ValueError("two images or more are needed to tell models apart")
    changes = changes[~np.isnan(changes)]
    n = len(changes)
    if n < 2 or math.isnan(value_a - value_b):
        return None
    error = math.sqrt((n - 1) * changes.var())
    return _compare_by_t_test(value_a, value_b, error, n, n - 1, JACKKNIFE)


class _Bootstrap:
    """The values of several models, observed and resampled from the same draws."""

    def __init__(
        self,
        statistics: Sequence[intervals.Statistic],
        counts: Ints,
        resampled_values: Sequence[Mapping[str, Values]],
        n_clusters: int,
    ) -> None:
        """Keep the resampled values of each model, and compute its values for all samples.

        Args:
            statistics: For each model, the function that computes its values from weights.
            counts: (C,), the number of clusters of each kind, which are their weights if each
                cluster is drawn once.
            resampled_values: For each model, the resampled values (R,) by name of the estimate.
            n_clusters: The number of independent samples or clusters.

        Raises:
            ValueError: There are fewer than two clusters.
        """
        if n_clusters < 2:
            raise ValueError("two images or more are needed to tell models apart")
        self.resampled_values = resampled_values
        self.n_clusters = n_clusters
        # For each model: its value (1,) by name, if each cluster is drawn once.
        each_once = counts[None].astype(np.float64)
        self.observed_values = [statistic(each_once) for statistic in statistics]

    def compare(self, a: int, b: int) -> dict[str, PairedDifference]:
        """Return the differences of all estimates that models A and B both have, by name.

        Resamples in which an estimate has no value do not count for that estimate. An estimate
        without a value in one of the models, or in all but one of the resamples, is left out.

        Args:
            a: The index of model A.
            b: The index of model B, whose values are subtracted from model A's.
        """
        differences_by_name = {}
        for name in self.observed_values[a]:
            if name not in self.observed_values[b]:
                continue
            value_a = float(self.observed_values[a][name][0])
            value_b = float(self.observed_values[b][name][0])
            changes = self.resampled_values[a][name] - self.resampled_values[b][name]
            changes = changes[~np.isnan(changes)]
            have_values = not math.isnan(value_a) and not math.isnan(value_b)
            if have_values and len(changes) > 1:
                differences_by_name[name] = difference_of_draws(
                    value_a, value_b, changes, self.n_clusters
                )
        return differences_by_name


def difference_of_draws(a: float, b: float, changes: Values, n: int) -> PairedDifference:
    """Return the difference of two models' values by the bootstrap.

    The standard error is the standard deviation of `changes`, times sqrt(n / (n - 1)).

    Args:
        a: The value of model A for all samples.
        b: The value of model B for all samples.
        changes: (R,), the value of model A minus the value of model B in each of R resamples.
        n: The number of clusters. For a mean over several data sets, it is the number of the data
            set with the fewest clusters.
    """
    # The variance of resampled values of n clusters is too small by a factor (n - 1) / n.
    error = float(changes.std(ddof=1)) * math.sqrt(n / (n - 1))
    return _compare_by_t_test(a, b, error, n, n - 1, BOOTSTRAP)


def independent_difference(a: float, b: float, error: float, units: int) -> PairedDifference:
    """Return the difference of two results that have no samples in common.

    The p-value is by the normal distribution.

    Args:
        a: The value of result A.
        b: The value of result B.
        error: The standard error of the difference.
        units: The number of samples.
    """
    p_value = 2 * float(stdtr(_NORMAL, -abs(a - b) / error)) if error > 0 else 1.0
    return PairedDifference(
        a=a,
        b=b,
        center=a - b,
        error=error,
        dof=_NORMAL,
        p_value=p_value,
        units=units,
        method=INDEPENDENT,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of several tests, adjusted by Holm's method, in the same order.

    The smallest of n p-values is multiplied by n, the next one by n - 1, and so on. No adjusted
    p-value is smaller than the one before it, or greater than 1. For example, [0.01, 0.04, 0.03]
    becomes [0.03, 0.06, 0.06]. If all hypotheses with adjusted p-values of at most alpha are
    rejected, the probability that a true one is among them is at most alpha, also if the tests
    depend on each other.
    """
    order = np.argsort(p_values, kind="stable")
    sorted_p_values = np.asarray(p_values, np.float64)[order]
    factors = np.arange(len(p_values), 0, -1)  # n, n - 1, ..., 1
    sorted_adjusted = np.minimum(np.maximum.accumulate(factors * sorted_p_values), 1.0)
    original_order = np.argsort(order)
    adjusted: list[float] = sorted_adjusted[original_order].tolist()
    return adjusted


def _compare_by_t_test(
    a: float, b: float, error: float, n: int, dof: float, method: str
) -> PairedDifference:
    """Return the difference of two models' values by Student's t test.

    Args:
        a: The value of model A.
        b: The value of model B.
        error: The standard error of the difference.
        n: The number of independent samples or clusters.
        dof: The degrees of freedom of the standard error.
        method: The name of the method in results, such as "paired jackknife".
    """
    if error > 0:
        p_value = 2 * float(stdtr(dof, -abs(a - b) / error))
    elif a == b:
        p_value = 1.0
    else:
        # All clusters point the same way, as in a sign test.
        p_value = 2 * 0.5**n
    return PairedDifference(
        a=a, b=b, center=a - b, error=error, dof=dof, p_value=p_value, units=n, method=method
    )

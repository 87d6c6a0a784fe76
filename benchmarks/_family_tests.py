"""The tests of a family over the stored results of a study.

- Exact permutation test (Fisher 1935, "The Design of Experiments"; Pitman 1937, Supplement to the
  Journal of the Royal Statistical Society 4): all ways to divide the trainings among two methods.
  With as many trainings of each, it also holds its level for means if the methods' seeds vary
  differently, in the limit of many trainings (Romano 1990, Journal of the American Statistical
  Association 85).
- Test over seeds and images: `cosmos_eval.stats.groups`, which is Welch's if images do not vary.
- Equivalence: two one-sided tests (Schuirmann 1987, Journal of Pharmacokinetics and
  Biopharmaceutics 15). The p-value is the larger one.
- All tests together: Holm 1979.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
from _family import Family, Metric, PlannedTest, Side, least_p_value, seeds_text
from numpy.typing import ArrayLike, NDArray
from scipy.stats import permutation_test

from cosmos_eval.results import groups
from cosmos_eval.results.compare import (
    Measurement,
    measurement_of,
    require_comparable,
    require_unedited,
)
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.store import read_samples
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.stats.paired import holm
from cosmos_eval.tasks import metric_of
from cosmos_eval.types import UsageError

_FEWEST_TRAININGS = 2  # of a side of a test

SideResults = dict[Side, dict[int, StoredResult]]
"""The results of each method in each metric, by the seeds of the trainings in increasing order."""


class Outcome(NamedTuple):
    """A test of a family, and its outcome. Differences are in percent, or in the metric's unit."""

    test: PlannedTest
    # The means of the sides.
    a: float
    b: float
    # The numbers of trainings of the sides.
    n_a: int
    n_b: int
    # The interval of the difference: of 95% for a difference, of 90% for an equivalence.
    low: float
    high: float
    # The p-value over seeds and images.
    p_model: float
    # The p-value of the exact permutation test over trainings.
    p_exact: float
    # The p-value that decides, with Holm's correction over the family.
    p_holm: float

    @property
    def difference(self) -> float:
        """The mean of A minus the mean of B."""
        return self.a - self.b

    @property
    def least_p_exact(self) -> float:
        """The least p-value that the permutation test can have."""
        return least_p_value(self.test, self.n_a, self.n_b)


def results_by_side(family: Family, stored: Sequence[StoredResult]) -> SideResults:
    """Return the results of each method in each metric that the family tests.

    Trainings with other seeds, and those that the family lists as failed, are left out.

    Raises:
        UsageError: For a method whose results belong to several groups, for a training that occurs
            twice, for results that were edited or measured by different settings, and for trainings
            on different data.
    """
    sides = dict.fromkeys(side for test in family.planned_tests() for side in (test.a, test.b))
    return _select_results(family, [*sides], family.metrics, stored)


def results_in_metrics(
    family: Family, metrics: Mapping[str, Metric], stored: Sequence[StoredResult]
) -> SideResults:
    """Return the results of each method of a family in metrics that it need not test.

    They are selected as by `results_by_side`, which says what raises UsageError.

    Args:
        family: The family.
        metrics: The metrics by their titles, which the sides have.
        stored: All stored results.
    """
    sides = [Side(method, title) for method in family.methods for title in metrics]
    return _select_results(family, sides, metrics, stored)


def _select_results(
    family: Family,
    sides: Sequence[Side],
    metrics: Mapping[str, Metric],
    stored: Sequence[StoredResult],
) -> SideResults:
    """Return the results of each side, see `results_by_side`.

    Args:
        family: The family, which has the methods of the sides.
        sides: The methods and metrics.
        metrics: The metrics of the sides by their titles.
        stored: All stored results.
    """
    groups_of_methods = {title: _group_name(family, title, stored) for title in family.methods}
    results: SideResults = {}
    for side in sides:
        metric = metrics[side.metric]
        seeds = family.seeds_of(side.method)
        results_of_side = []
        for result in stored:
            training = training_of(result.row)
            is_of_method = training.get("group") == groups_of_methods[side.method]
            if is_of_method and training.get("seed") in seeds and _has_metric(result, metric):
                results_of_side.append(result)
        groups.require_distinct(results_of_side)
        results_by_seed = {training_of(result.row)["seed"]: result for result in results_of_side}
        results[side] = dict(sorted(results_by_seed.items()))
    for metric_title in metrics:
        _require_same_settings(metric_title, results)
    _require_same_training_data(results)
    return results


def _group_name(family: Family, method: str, stored: Sequence[StoredResult]) -> str | None:
    """Return the name of a method's group of trainings in results, or None if it has no result.

    Raises UsageError if there are results of several recipes.
    """
    name = family.methods[method].group
    pattern = re.compile(rf"{re.escape(name)}(-[0-9a-f]{{8}})?")  # perhaps the recipe's hash
    group_names = {str(training_of(result.row).get("group")) for result in stored}
    names_of_method = sorted(filter(pattern.fullmatch, group_names))
    if len(names_of_method) > 1:
        raise UsageError(f"{method} has trainings of several recipes: {', '.join(names_of_method)}")
    return names_of_method[0] if names_of_method else None


def _has_metric(result: StoredResult, metric: Metric) -> bool:
    """Return whether a result is measured on the data set and by the settings of a metric."""
    row = result.row
    protocol = re.sub("-[0-9a-f]{12}$", "", row.protocol)  # without the hash of a search
    return (
        row.dataset == metric.dataset
        and protocol == metric.protocol
        and list(result.identity.variants) == metric.variants
        and metric.metric in row.metrics
    )


def _require_same_settings(metric_title: str, results: SideResults) -> None:
    """Raise UsageError if results in a metric were edited or have different settings."""
    results_in_metric: list[StoredResult] = []
    for side, results_by_seed in results.items():
        if side.metric == metric_title:
            results_in_metric += results_by_seed.values()
    for result in results_in_metric:
        require_unedited(result)
        require_comparable(results_in_metric[0], result)


def _require_same_training_data(results: SideResults) -> None:
    """Raise UsageError if trainings state different training data."""
    first_method_by_data: dict[str, str] = {}
    for side, results_by_seed in results.items():
        for result in results_by_seed.values():
            data_sha256 = training_of(result.row).get("data_sha256")
            if data_sha256 is not None:
                first_method_by_data.setdefault(data_sha256, side.method)
    if len(first_method_by_data) > 1:
        methods = " and ".join(first_method_by_data.values())
        raise UsageError(f"trainings of {methods} saw different training data")


def metric_values(results: Mapping[int, StoredResult], metric: Metric) -> list[float]:
    """Return a metric of each training, in percent or in the metric's unit.

    Args:
        results: The results in this metric by the seeds of the trainings.
        metric: The metric.
    """
    values = []
    for result in results.values():
        factor = metric_of(result.row.task, metric.metric).factor
        values.append(factor * result.row.metrics[metric.metric])
    return values


def missing_results(family: Family, results: SideResults) -> list[str]:
    """Return a text for each method and metric that lacks trainings.

    Example:
        ["CLIP lacks seeds 3 and 5 in mIoU, tuned"]
    """
    texts = []
    for side, results_by_seed in results.items():
        missing_seeds = set(family.seeds_of(side.method)) - set(results_by_seed)
        if missing_seeds:
            texts.append(f"{side.method} lacks {seeds_text(missing_seeds)} in {side.metric}")
    return texts


def extra_seeds(family: Family, stored: Sequence[StoredResult]) -> dict[str, set[int]]:
    """Return the seeds of stored trainings of the methods that the family does not plan.

    Example:
        {"CLIP": {100}}
    """
    seeds_by_method: dict[str, set[int]] = {}
    for title, trainings in family.methods.items():
        group_name = _group_name(family, title, stored)
        trainings_of_results = [training_of(result.row) for result in stored]
        seeds = {
            training["seed"]
            for training in trainings_of_results
            if training.get("group") == group_name and training.get("seed") is not None
        }
        if seeds - set(trainings.seeds):
            seeds_by_method[title] = seeds - set(trainings.seeds)
    return seeds_by_method


def first_result_time(results: SideResults) -> datetime:
    """Return the time at which the first of all results was measured."""
    times = []
    for results_by_seed in results.values():
        times += [result.row.provenance["utc"] for result in results_by_seed.values()]
    return datetime.fromisoformat(min(times))


class TrainingMoments(NamedTuple):
    """The values of a metric of all trainings, and their covariance over images."""

    # The index of each training among the values, by its side of tests and its seed.
    positions: dict[tuple[Side, int], int]
    moments: groups.Moments


class StudyTests:
    """The values of all metrics of a study, and the tests on them."""

    def __init__(self, family: Family, results: SideResults) -> None:
        """Check that no training is missing.

        Raises:
            UsageError: If a training is missing that the family does not list as failed.
        """
        missing = missing_results(family, results)
        if missing:
            more = f" ({len(missing) - 1} more such gaps)" if len(missing) > 1 else ""
            raise UsageError(f"{missing[0]}{more}: --interim prints means and counts of the others")
        self.family = family
        self.results = results
        self._moments: dict[tuple[str, ...], TrainingMoments] = {}  # by the titles of the metrics

    def outcomes(self, without_seeds: Collection[int] = ()) -> list[Outcome]:
        """Return the outcomes of all tests, in the order of the family.

        Args:
            without_seeds: The seeds of trainings that are left out.

        Raises:
            UsageError: If a side has fewer than two trainings, and for stored metrics that the
                samples do not give.
        """
        outcomes = [self._outcome(test, without_seeds) for test in self.family.planned_tests()]
        decides_by_permutation = self.family.tests.decides == "permutation"
        p_values = []
        for outcome in outcomes:
            p_values.append(outcome.p_exact if decides_by_permutation else outcome.p_model)
        corrected = holm(p_values)
        return [
            outcome._replace(p_holm=p_holm)
            for outcome, p_holm in zip(outcomes, corrected, strict=True)
        ]

    def _outcome(self, test: PlannedTest, without_seeds: Collection[int]) -> Outcome:
        """Return the outcome of a test, without Holm's correction."""
        training_moments = self._moments_of(test)
        positions, moments = training_moments.positions, training_moments.moments
        indices = []
        for side in (test.a, test.b):
            seeds = [seed for seed in self.results[side] if seed not in without_seeds]
            if len(seeds) < _FEWEST_TRAININGS:
                raise UsageError(f"{side.method} has {len(seeds)} trainings: two are needed")
            indices.append(np.array([positions[side, seed] for seed in seeds]))
        difference = moments.difference(*indices, by_seed=test.is_paired)
        values_a, values_b = (moments.values[side_indices] for side_indices in indices)

        factor = self.factor(test.a)
        if test.is_equivalence:
            margin = self.family.require_margin().points / factor
            p_model = p_equivalent(difference, margin)
            p_exact = exact_p_equivalent(values_a, values_b, margin)
            interval = difference.interval(1 - 2 * self.family.tests.level)
        else:
            p_model = difference.p_value
            p_exact = exact_p_value(values_a, values_b, is_paired=test.is_paired)
            interval = difference.interval(1 - self.family.tests.level)
        return Outcome(
            test=test,
            a=factor * difference.a,
            b=factor * difference.b,
            n_a=len(values_a),
            n_b=len(values_b),
            low=factor * interval.low,
            high=factor * interval.high,
            p_model=p_model,
            p_exact=p_exact,
            p_holm=1.0,
        )

    def factor(self, side: Side) -> float:
        """Return the factor from a metric's unit to percent: 100 for fractions, else 1."""
        metric = self.family.metrics[side.metric]
        results = list(self.results[side].values())
        return metric_of(results[0].row.task, metric.metric).factor

    def _moments_of(self, test: PlannedTest) -> TrainingMoments:
        """Return the values of a test's metrics of all trainings, and their covariance by images.

        They are computed for all methods at once, and once for each metric.
        """
        titles = tuple(dict.fromkeys([test.a.metric, test.b.metric]))
        if titles not in self._moments:
            positions: dict[tuple[Side, int], int] = {}
            measurements: list[Measurement] = []
            for side, results_by_seed in self.results.items():
                if side.metric not in titles:
                    continue
                for seed, result in results_by_seed.items():
                    positions[side, seed] = len(measurements)
                    measurements.append(measurement_of(result.row, read_samples(result.path)))
            name = self.family.metrics[test.a.metric].metric
            moments = _estimate_moments(measurements, name, titles[0])
            self._moments[titles] = TrainingMoments(positions, moments)
        return self._moments[titles]


def _estimate_moments(measurements: Sequence[Measurement], name: str, title: str) -> groups.Moments:
    """Return the values of a metric and their covariance by images.

    Raises UsageError if the samples differ or do not give the metric.
    """
    try:
        moments = groups.estimate_moments(measurements, [name]).get(name)
    except ValueError as error:
        raise UsageError(f"{title}: {error}") from error
    if moments is None:
        raise UsageError(f"{title}: the samples do not tell how much it varies by images")
    return moments


def exact_p_value(a: ArrayLike, b: ArrayLike, *, is_paired: bool = False) -> float:
    """Return the two-sided p-value of the exact permutation test for a difference of means.

    It is twice the share of all divisions in which the difference of the means is at least as large
    as the observed one, on the side of the observed one; at most 1.

    Args:
        a: (k_A,), the value of each training of method A.
        b: (k_B,), the value of each training of method B.
        is_paired: True if values of the same index are exchanged, in place of all divisions.

    Example:
        [3, 4] and [1, 2]: the observed division is the most extreme of six, so 2 / 6.
    """
    return _permute(a, b, "two-sided", is_paired=is_paired)


def exact_p_equivalent(a: ArrayLike, b: ArrayLike, margin: float) -> float:
    """Return the p-value of the exact test that two means differ by less than a margin.

    It is the larger p-value of two one-sided permutation tests: of a - margin against b, and of
    a + margin against b. They are exact if the distributions of A and B differ by a shift only.

    Args:
        a: (k_A,), the value of each training of method A.
        b: (k_B,), the value of each training of method B.
        margin: The margin in the unit of the values.
    """
    values = np.asarray(a, np.float64)
    p_below = _permute(values - margin, b, "less", is_paired=False)
    p_above = _permute(values + margin, b, "greater", is_paired=False)
    return max(p_below, p_above)


def p_equivalent(difference: GroupDifference, margin: float) -> float:
    """Return the p-value over seeds and images that two means differ by less than a margin.

    It is the larger p-value of two one-sided tests. It is at most 0.05 exactly if the 90% interval
    of the difference lies within -margin and margin.
    """
    return max(difference.p_below(margin), difference.flipped().p_below(margin))


def _permute(a: ArrayLike, b: ArrayLike, alternative: str, *, is_paired: bool) -> float:
    """Return the p-value of SciPy's exact permutation test of the difference of means."""
    result = permutation_test(
        (np.asarray(a, np.float64), np.asarray(b, np.float64)),
        _difference_of_means,
        permutation_type="samples" if is_paired else "independent",
        vectorized=True,
        n_resamples=np.inf,  # all divisions
        alternative=alternative,
    )
    return float(result.pvalue)


def _difference_of_means(
    a: NDArray[np.float64], b: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    """Return the mean of A minus the mean of B along an axis, rounded to 12 decimals.

    The rounding makes divisions with the same difference equal. Without it, the means of fractions
    such as 1025 / 1200 differ by their rounding errors. SciPy's tolerance is too small for them: it
    is relative to the observed difference, which may be much smaller than the means.
    """
    difference: NDArray[np.float64] = a.mean(axis=axis) - b.mean(axis=axis)
    return np.round(difference, 12)

"""Compare two methods by all their trainings, and plan how many trainings a comparison needs.

The trainings of a group follow one recipe and differ only in their seeds.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.results import compare as comparisons
from cosmos_eval.results.compare import Comparison, Measurement, MetricTest, measurement_of
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.stats.estimates import Ints, Values
from cosmos_eval.stats.groups import GroupDifference, group_difference, image_covariance
from cosmos_eval.stats.planning import MOST_TRAININGS, range_of_trainings
from cosmos_eval.tasks import task_named
from cosmos_eval.types import Samples, UsageError, nearest

# The numbers of images of a plan, relative to the measured ones, with their names.
_IMAGE_FACTORS = {"these": 1.0, "4 x as many": 4.0, "unlimited": inf}
_PLANNED_TRAININGS = range(2, 11)  # of each method

ResultsByDataset = dict[tuple[str, str], list[StoredResult]]
"""The results of a group's trainings by data set and protocol, in the order of seeds."""

ReadSamples = Callable[[Path], Samples]
"""A function that returns the per-sample arrays of a result file. It raises UsageError if there are
none."""


class Moments(NamedTuple):
    """The values of a metric of S trainings on the same images, and their covariance."""

    # The values of the metric, (S,).
    values: Values
    # The covariance of the values over other draws of the images, (S, S).
    covariance: Values
    # The number of images.
    units: int

    def difference(
        self, a: Ints, b: Ints, *, by_seed: bool = False, pooled: bool = False
    ) -> GroupDifference:
        """Return the mean of the trainings of group A minus the mean of the trainings of group B.

        Args:
            a: The indices of the trainings of group A.
            b: The indices of the trainings of group B.
            by_seed: True if to pair trainings of the same seed, which are then in the same order.
            pooled: True if the variance between seeds is taken to be the same in both groups, see
                `group_difference`.
        """
        indices = np.concatenate([a, b])
        covariance = self.covariance[np.ix_(indices, indices)]  # of A's trainings, then B's
        return group_difference(
            self.values[a],
            self.values[b],
            covariance,
            self.units,
            by_seed=by_seed,
            pooled=pooled,
        )

    def mean(self, indices: Ints) -> GroupDifference:
        """Return the mean of the trainings with these indices, as a difference from 0.

        The 0 counts as another group with a single training, whose value has no variance.
        """
        training_covariance = self.covariance[np.ix_(indices, indices)]
        covariance = np.pad(training_covariance, (0, 1))  # a row and a column of zeros
        return group_difference(self.values[indices], np.zeros(1), covariance, self.units)


def select_group_results(results: Sequence[StoredResult], name: str) -> list[StoredResult]:
    """Return all results of a group of trainings.

    A model that states no group is a group with a single training.

    Args:
        results: The results of several groups.
        name: The name of the group, or the name of a model in it.

    Raises:
        UsageError: If no group or several groups are called so.
    """
    named_results = []
    for result in results:
        if _group_name(result) == name or result.is_called(name):
            named_results.append(result)

    group_names = {_group_name(result) for result in named_results}
    if group_names == {None}:
        # Only models without a group are called so.
        return named_results
    if len(group_names) == 1:
        return [result for result in results if _group_name(result) in group_names]
    all_names = sorted({_group_name(result) or result.model for result in results})
    raise UsageError(
        f"no group, and no model of one group, is called '{name}'; "
        f"nearest: {nearest(name, all_names)}"
    )


def compare(
    a: Sequence[StoredResult],
    b: Sequence[StoredResult],
    read_samples: ReadSamples,
    *,
    by_seed: bool = False,
) -> Comparison:
    """Compare group A with group B on every data set on which all their trainings were measured.

    Args:
        a: The results of all trainings of group A.
        b: The results of all trainings of group B.
        read_samples: A function that returns the per-sample arrays of a result file.
        by_seed: True if to pair trainings of the same seed.

    Raises:
        UsageError: For a training that occurs twice, for edited results, for different settings,
            and for stored metrics that the samples do not give.
    """
    # Find the data sets that both groups have.
    sets_a, notes_a = common_sets(a, "A")
    sets_b, notes_b = common_sets(b, "B")
    keys, key_notes = comparisons.common_keys(sets_a, sets_b)
    notes = [*notes_a, *notes_b, *key_notes]

    tests: list[MetricTest] = []
    for key in keys:
        dataset, _ = key
        results_a, results_b = sets_a[key], sets_b[key]
        results = [*results_a, *results_b]
        for result in results[1:]:
            notes += comparisons.differing_settings(results[0], result)
        if by_seed:
            _require_same_seeds(dataset, results_a, results_b)

        # Estimate how much images and seeds change each metric.
        moments_by_metric = estimate_moments_of_results(results, read_samples)
        undecided_metrics = [name for name, moments in moments_by_metric.items() if moments is None]
        if undecided_metrics:
            names = ", ".join(undecided_metrics)
            notes.append(f"{dataset}: not compared, since one image decides whether it is: {names}")

        # Test the metrics. The trainings of A come first in `results`.
        indices_a = np.arange(len(results_a))
        indices_b = np.arange(len(results_a), len(results))
        task = results[0].row.task
        tests += metric_tests(key, task, moments_by_metric, indices_a, indices_b, by_seed=by_seed)

    results_a, results_b = sets_a[keys[0]], sets_b[keys[0]]
    return Comparison(
        a=_group_name(results_a[0]) or results_a[0].model,
        b=_group_name(results_b[0]) or results_b[0].model,
        tests=comparisons.adjust_p_values(tests),
        notes=tuple(dict.fromkeys(notes)),
        trainings=(training_labels(results_a), training_labels(results_b)),
        seeds=(training_seeds(results_a), training_seeds(results_b)),
    )


def _group_name(result: StoredResult) -> str | None:
    """Return the name of the group of trainings that a result's model states, or None."""
    return training_of(result.row).get("group")


def training_key(result: StoredResult) -> str:
    """Return a text that differs between the trainings of a group, and sorts them by seed.

    It is "seed 0000000003", or the name of the model if the seed is unknown.
    """
    seed = training_of(result.row).get("seed")
    if seed is None:
        return result.identity.name
    return f"seed {seed:010}"


def _require_same_seeds(dataset: str, a: Sequence[StoredResult], b: Sequence[StoredResult]) -> None:
    """Raise UsageError unless groups A and B, which are sorted by seed, have the same seeds."""
    keys_a = [training_key(result) for result in a]
    keys_b = [training_key(result) for result in b]
    if keys_a != keys_b:
        raise UsageError(f"{dataset}: the trainings of A and B are not of the same seeds")


def training_labels(results: Sequence[StoredResult]) -> tuple[str, ...]:
    """Return the label of each training with its seed, such as "ours, seed 3"."""
    labels = []
    for result in results:
        seed = training_of(result.row).get("seed")
        labels.append(result.model if seed is None else f"{result.model}, seed {seed}")
    return tuple(labels)


def training_seeds(results: Sequence[StoredResult]) -> tuple[int | None, ...]:
    """Return the seed of each training, or None for an unknown seed."""
    return tuple(training_of(result.row).get("seed") for result in results)


def common_sets(results: Sequence[StoredResult], side: str) -> tuple[ResultsByDataset, list[str]]:
    """Return the results on each data set on which all trainings of a group were measured.

    Args:
        results: The results of all trainings of the group.
        side: "A" or "B", by which notes call the group.

    Returns:
        The results by data set and protocol, in the order of seeds. Behind the name of the protocol
        are the settings that differ from the defaults, as in ("coco", "karpathy, bf16").
        Also a list of notes on the trainings, and on data sets that some of them lack.

    Raises:
        UsageError: For a training that occurs twice, and if the trainings have no data set in
            common.
    """
    # Settings that differ from the defaults, and the kind of attention map, also tell sets apart.
    sets: ResultsByDataset = {}
    for result in sorted(results, key=training_key):
        protocol_words = [result.row.protocol, *result.identity.variants]
        map_kind = result.row.provenance.get("map")
        if map_kind:
            protocol_words.append(map_kind)
        key = (result.row.dataset, ", ".join(protocol_words))
        sets.setdefault(key, []).append(result)

    # Keep the sets that all trainings have.
    n_trainings = len({training_key(result) for result in results})
    notes = list(_training_notes(side, results, n_trainings))
    complete_sets: ResultsByDataset = {}
    for key, set_results in sets.items():
        require_distinct(set_results)
        if len(set_results) == n_trainings:
            complete_sets[key] = set_results
        else:
            dataset, protocol = key
            notes.append(
                f"not compared: {dataset} ({protocol}) has {len(set_results)} of {n_trainings} "
                f"trainings of {side}"
            )
    if not complete_sets:
        raise UsageError("; ".join(notes))
    return complete_sets, notes


def require_distinct(results: Sequence[StoredResult]) -> None:
    """Raise UsageError if two results belong to one training, which has the same seed or weights.

    Args:
        results: The results of a group of trainings on one data set.
    """
    # The first result with each seed, and with each hash of weights.
    first_results: dict[str, StoredResult] = {}
    for result in results:
        # Random weights have no hash, and the path stands for them.
        weights = result.row.model["weights_sha256"] or str(result.path)
        for key in (training_key(result), weights):
            first = first_results.setdefault(key, result)
            is_repeated = first is not result
            if is_repeated:
                raise UsageError(
                    f"{first.path} and {result.path} belong to one training, by its seed or "
                    "weights, which counts once: leave one of them out"
                )


def _training_notes(side: str, results: Sequence[StoredResult], n_trainings: int) -> Iterator[str]:
    """Yield notes on a group with few trainings, and on trainings that may follow other recipes.

    Args:
        side: "A" or "B", by which notes call the group.
        results: The results of all trainings of the group.
        n_trainings: The number of trainings of the group.
    """
    if n_trainings == 1:
        yield (
            f"{side} has one training: the result of another seed is unknown, and differences are "
            "between trainings, not between methods"
        )
    if n_trainings == 2:
        yield f"{side} has two trainings, which hardly show how much seeds vary: five do"
    for name in ("recipe_sha256", "data_sha256", "samples"):
        values = {training_of(result.row).get(name) for result in results}  # None if unknown
        known_values = values - {None}
        if len(known_values) > 1:
            yield f"the trainings of {side} differ in {name}"
        elif len(values) > 1:
            yield f"not all trainings of {side} state their {name}"


def estimate_moments_of_results(
    results: Sequence[StoredResult], read_samples: ReadSamples, only: Collection[str] | None = None
) -> dict[str, Moments | None]:
    """Return the moments of the metrics that trainings on one data set have in common, by name.

    Moments are the values of a metric and their covariance, see `estimate_moments`.

    Args:
        results: The results of the trainings on the data set.
        read_samples: A function that returns the per-sample arrays of a result file.
        only: The names of the metrics; None for all.

    Raises:
        UsageError: For edited results, for different settings, and for stored metrics that the
            samples do not give.
    """
    comparisons.require_comparable(*results)
    try:
        measurements = [measurement_of(result.row, read_samples(result.path)) for result in results]
        return estimate_moments(measurements, only)
    except ValueError as error:
        raise UsageError(f"{results[0].row.dataset}: {error}") from error


def estimate_moments(
    measurements: Sequence[Measurement], only: Collection[str] | None = None
) -> dict[str, Moments | None]:
    """Return the values and the covariance of each metric that several results have, by name.

    Args:
        measurements: The results, as comparisons need them. All belong to the same samples.
        only: The names of the metrics; None for all.

    Returns:
        The moments of each metric. They are None for a metric of which a single image decides
        whether it has a value, since its covariance is then unknown.

    Raises:
        ValueError: If the samples are not of the same images, and for a stored metric that the
            samples do not give.
    """
    task = task_named(measurements[0].task)
    samples = [measurement.samples for measurement in measurements]
    estimates_by_result = task.compared_estimates(samples, only)
    moments_by_metric: dict[str, Moments | None] = {}
    for name in estimates_by_result[0]:
        is_measured = all(name in measurement.metrics for measurement in measurements)
        is_estimated = all(name in estimates for estimates in estimates_by_result)
        if not (is_measured and is_estimated):
            continue
        metric_estimates = [estimates[name] for estimates in estimates_by_result]
        values = np.array([measurement.metrics[name] for measurement in measurements])
        for value, estimate in zip(values, metric_estimates, strict=True):
            comparisons.require_metric_of_samples(name, value, estimate.value)
        covariance, units = image_covariance(metric_estimates)
        is_known = np.isfinite(covariance).all()
        moments_by_metric[name] = Moments(values, covariance, units) if is_known else None
    return moments_by_metric


def metric_tests(
    key: tuple[str, str],
    task: str,
    metrics: Mapping[str, Moments | None],
    a: Ints,
    b: Ints,
    *,
    by_seed: bool = False,
) -> list[MetricTest]:
    """Return the tests of group A of trainings against group B on one data set.

    Args:
        key: The data set and the protocol.
        task: The name of the task.
        metrics: The moments of each metric, by name. A metric whose moments are None has no test.
        a: The indices of the trainings of group A in the moments.
        b: The indices of the trainings of group B in the moments.
        by_seed: True if to pair trainings of the same seed.

    Returns:
        One test per metric, primary metrics first.
    """
    dataset, protocol = key
    primary_tests, other_tests = [], []
    for name, moments in metrics.items():
        if moments is None:
            continue
        difference = moments.difference(a, b, by_seed=by_seed)
        test = MetricTest(dataset, protocol, task, name, difference)
        if test.metric_record.primary:
            primary_tests.append(test)
        else:
            other_tests.append(test)
    return primary_tests + other_tests


def plan_trainings(comparison: Comparison, points: float, power: float) -> list[dict[str, Any]]:
    """Return how many trainings a comparison needs, as rows of a table.

    There is a row for each primary metric and for each of three numbers of images: as many as
    measured, four times as many, and unlimited.
    - The column `k = 5` has the least difference that five trainings of each method find with a
      probability of `power`.
    - The column `k for 0.5` has the number of trainings that find a difference of 0.5 `points`, as
      a range by the 5% and 95% quantiles of the variance between trainings: "4 to 9".

    Args:
        comparison: A comparison of two groups of trainings.
        points: The difference to find, in percent, ranks or ratios.
        power: The probability with which it is to be found, such as 0.8.

    Returns:
        The rows, by column title. Differences are in percent, ranks or ratios.

    Raises:
        UsageError: Unless both methods have at least two trainings.
    """
    rows = []
    for test in comparison.tests:
        if not test.metric_record.primary:
            continue
        for images_name, image_factor in _IMAGE_FACTORS.items():
            row: dict[str, Any] = {
                "dataset": test.dataset,
                "protocol": test.protocol,
                "metric": test.metric,
                "images": images_name,
            }
            row.update(_plan_columns(test, image_factor, points, power))
            rows.append(row)
    return rows


def _plan_columns(
    test: MetricTest, image_factor: float, points: float, power: float
) -> dict[str, Any]:
    """Return the columns of the plan for one metric and one number of images.

    Args:
        test: The test of the metric.
        image_factor: The number of images, relative to the number of measured images.
        points: The difference to find, in percent, ranks or ratios.
        power: The probability with which it is to be found.

    Example:
        {"k = 2": 1.9, ..., "k = 10": 0.4, "k for 0.5": "4 to 9"}
    """
    difference = test.difference
    factor = test.metric_record.factor  # 100 for fractions, else 1
    if not isinstance(difference, GroupDifference) or not difference.compares_methods:
        raise UsageError("a plan needs two trainings of each method, to see how much seeds vary")

    # The least difference that k trainings of each method find.
    columns: dict[str, Any] = {}
    for k in _PLANNED_TRAININGS:
        detectable = difference.detectable(power=power, k=k, images=image_factor)
        columns[f"k = {k}"] = factor * (detectable or 0.0)

    # The range of the number of trainings that find the difference.
    range_ends = []
    for k in range_of_trainings(difference, points / factor, power, image_factor):
        range_ends.append(f"over {MOST_TRAININGS}" if k > MOST_TRAININGS else f"{k}")
    distinct_ends = dict.fromkeys(range_ends)  # one end if both are equal
    columns[f"k for {points:g}"] = " to ".join(distinct_ends)
    return columns

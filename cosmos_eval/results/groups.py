"""Two methods by the results of all their trainings, and how many trainings would show more."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.results import compare as comparisons
from cosmos_eval.results.compare import Comparison, Measurement, MetricTest, measurement_of
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.labels import Stored
from cosmos_eval.stats.estimates import Ints, Values
from cosmos_eval.stats.groups import GroupDifference, group_difference, image_covariance
from cosmos_eval.stats.planning import MOST_TRAININGS, range_of_trainings
from cosmos_eval.tasks import task_named
from cosmos_eval.types import Samples, UsageError

# The numbers of images of a plan, relative to the measured ones, with their names.
_IMAGE_FACTORS = {"these": 1.0, "4 x as many": 4.0, "unlimited": inf}
_PLANNED_TRAININGS = range(2, 11)  # of each method

Sets = dict[tuple[str, str], list[Stored]]
"""Results by data set and protocol, in the order of seeds."""

Read = Callable[[Path], Samples]
"""Returns the per-sample arrays of a result file; raises UsageError if there are none."""


class Moments(NamedTuple):
    """A metric of S trainings on the same images."""

    # The values of the metric, (S,).
    values: Values
    # Their covariance by the draw of the images, (S, S).
    covariance: Values
    # The number of images.
    units: int

    def difference(
        self, a: Ints, b: Ints, *, by_seed: bool = False, pooled: bool = False
    ) -> GroupDifference:
        """Return the mean of trainings `a`, by index, minus the mean of trainings `b`.

        `by_seed` and `pooled` have the same meaning as for `group_difference`.
        """
        indices = np.concatenate([a, b])
        covariance = self.covariance[np.ix_(indices, indices)]
        values_a, values_b = self.values[a], self.values[b]
        return group_difference(
            values_a, values_b, covariance, self.units, by_seed=by_seed, pooled=pooled
        )

    def mean(self, indices: Ints) -> GroupDifference:
        """Return the mean of some trainings as a difference from 0, which has no variance."""
        covariance = np.pad(self.covariance[np.ix_(indices, indices)], (0, 1))
        return group_difference(self.values[indices], np.zeros(1), covariance, self.units)


def choose(results: Sequence[Stored], name: str) -> list[Stored]:
    """Return all results of a group of trainings.

    `name` is the name of the group, or of a model in it. A model that states no group is a group of
    one training. Raises UsageError if no group or several groups are called so.
    """
    named = [result for result in results if _group_name(result) == name or result.is_called(name)]
    groups = {_group_name(result) for result in named}
    if groups == {None}:
        return named
    if len(groups) == 1:
        return [result for result in results if _group_name(result) in groups]
    names = ", ".join(sorted({_group_name(result) or result.model for result in results}))
    raise UsageError(f"no group, and no model of one group, is called '{name}'; there are {names}")


def compare(
    a: Sequence[Stored],
    b: Sequence[Stored],
    read_samples: Read,
    *,
    by_seed: bool = False,
) -> Comparison:
    """Compare two groups on every data set on which all trainings of both were measured.

    `by_seed` pairs trainings of the same seed. Raises UsageError for a training that occurs twice,
    for edited results, different settings, and metrics that do not follow from their samples.
    """
    (sets_a, notes_a), (sets_b, notes_b) = sets_of(a, "A"), sets_of(b, "B")
    keys, notes_of_keys = comparisons.common_keys(sets_a, sets_b)
    tests: list[MetricTest] = []
    notes = [*notes_a, *notes_b, *notes_of_keys]
    for key in keys:
        dataset, results = key[0], [*sets_a[key], *sets_b[key]]
        for result in results[1:]:
            notes += comparisons.differing_settings(results[0], result)
        if by_seed:
            _require_same_seeds(dataset, sets_a[key], sets_b[key])
        metrics = moments_of(results, read_samples)
        unknown = [name for name, moments in metrics.items() if moments is None]
        if unknown:
            names = ", ".join(unknown)
            notes.append(f"{dataset}: not compared, since one image decides whether it is: {names}")
        indices = np.arange(len(results))
        indices_a, indices_b = np.split(indices, [len(sets_a[key])])
        task = results[0].row.task
        tests += metric_tests(key, task, metrics, indices_a, indices_b, by_seed=by_seed)
    results_a, results_b = sets_a[keys[0]], sets_b[keys[0]]
    return Comparison(
        a=_group_name(results_a[0]) or results_a[0].model,
        b=_group_name(results_b[0]) or results_b[0].model,
        tests=comparisons.adjust(tests),
        notes=tuple(dict.fromkeys(notes)),
        trainings=(labels_of(results_a), labels_of(results_b)),
    )


def _group_name(result: Stored) -> str | None:
    """Return the name of the group of trainings that a result's model states, or None."""
    return training_of(result.row).get("group")


def _training_key(result: Stored) -> str:
    """Return a text that differs between the trainings of a group, and sorts them by seed."""
    seed = training_of(result.row).get("seed")
    return result.identity.name if seed is None else f"seed {seed:010}"


def _require_same_seeds(dataset: str, a: Sequence[Stored], b: Sequence[Stored]) -> None:
    """Raise UsageError if two groups, sorted by seed, do not have the same seeds."""
    if [_training_key(result) for result in a] != [_training_key(result) for result in b]:
        raise UsageError(f"{dataset}: the trainings of A and B are not of the same seeds")


def labels_of(results: Sequence[Stored]) -> tuple[str, ...]:
    """Return the labels of trainings, with their seeds."""
    labels = []
    for result in results:
        seed = training_of(result.row).get("seed")
        labels.append(result.model if seed is None else f"{result.model}, seed {seed}")
    return tuple(labels)


def sets_of(results: Sequence[Stored], side: str) -> tuple[Sets, list[str]]:
    """Return the data sets and protocols that all trainings of a group were measured on.

    Also returns notes on the trainings, and on data sets that some of them lack; `side` is what the
    notes call the group. Raises UsageError for a training that occurs twice, and if the trainings
    have no data set in common.
    """
    sets: Sets = {}
    for result in sorted(results, key=_training_key):
        words = [result.row.protocol, *result.identity.variants]
        map_kind = result.row.provenance.get("map")
        if map_kind:
            words.append(map_kind)
        sets.setdefault((result.row.dataset, ", ".join(words)), []).append(result)
    n_trainings = len({_training_key(result) for result in results})
    notes = list(_training_notes(side, results, n_trainings))
    complete_sets: Sets = {}
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


def require_distinct(results: Sequence[Stored]) -> None:
    """Raise UsageError for two results of one training, by its seed or weights."""
    first_results: dict[str, Stored] = {}
    for result in results:
        weights = result.row.model["weights_sha256"] or str(result.path)
        for training in (_training_key(result), weights):
            first = first_results.setdefault(training, result)
            if first is not result:
                raise UsageError(
                    f"{first.path} and {result.path} belong to one training, by its seed or "
                    "weights, which counts once: leave one of them out"
                )


def _training_notes(side: str, results: Sequence[Stored], n_trainings: int) -> Iterator[str]:
    """Yield notes on few trainings in a group, and on trainings that may differ in their recipe."""
    if n_trainings == 1:
        yield (
            f"{side} has one training: the result of another seed is unknown, and differences are "
            "between trainings, not between methods"
        )
    if n_trainings == 2:
        yield f"{side} has two trainings, which hardly show how much seeds vary: five do"
    for name in ("recipe_sha256", "data_sha256", "samples"):
        values = {training_of(result.row).get(name) for result in results}
        if len(values - {None}) > 1:
            yield f"the trainings of {side} differ in {name}"
        elif len(values) > 1:
            yield f"not all trainings of {side} state their {name}"


def moments_of(
    results: Sequence[Stored], read_samples: Read, only: Collection[str] | None = None
) -> dict[str, Moments | None]:
    """Return the metrics that results on one data set have in common, as `moments` does.

    Raises UsageError for edited results, different settings, and metrics that do not follow from
    their samples.
    """
    comparisons.require_comparable(*results)
    try:
        measurements = [measurement_of(result.row, read_samples(result.path)) for result in results]
        return moments(measurements, only)
    except ValueError as error:
        raise UsageError(f"{results[0].row.dataset}: {error}") from error


def moments(
    measurements: Sequence[Measurement], only: Collection[str] | None = None
) -> dict[str, Moments | None]:
    """Return the metrics that several results have in common, by name.

    `only` selects metrics. A metric is None if one image decides whether it has a value. Raises
    ValueError if the samples are not of the same images, and for a metric that does not follow from
    its samples.
    """
    task = task_named(measurements[0].task)
    samples = [measurement.samples for measurement in measurements]
    estimates = task.compared_estimates(samples, only)  # by metric, for each result
    metrics: dict[str, Moments | None] = {}
    for name in estimates[0]:
        is_measured = all(name in measurement.metrics for measurement in measurements)
        is_estimated = all(name in result_estimates for result_estimates in estimates)
        if not (is_measured and is_estimated):
            continue
        metric_estimates = [result_estimates[name] for result_estimates in estimates]
        values = np.array([measurement.metrics[name] for measurement in measurements])
        for value, estimate in zip(values, metric_estimates, strict=True):
            comparisons.require_metric_of_samples(name, value, estimate.value)
        covariance, units = image_covariance(metric_estimates)
        is_known = np.isfinite(covariance).all()
        metrics[name] = Moments(values, covariance, units) if is_known else None
    return metrics


def metric_tests(
    key: tuple[str, str],
    task: str,
    metrics: Mapping[str, Moments | None],
    a: Ints,
    b: Ints,
    *,
    by_seed: bool = False,
) -> list[MetricTest]:
    """Return the tests of trainings `a`, by index, against trainings `b`; primary ones first.

    `key` is the data set and protocol. A metric that is None has no test.
    """
    dataset, protocol = key
    tests = []
    for name, moments in metrics.items():
        if moments is not None:
            difference = moments.difference(a, b, by_seed=by_seed)
            tests.append(MetricTest(dataset, protocol, task, name, difference))
    return sorted(tests, key=lambda test: not test.record.primary)


def plan(comparison: Comparison, points: float, power: float) -> list[dict[str, Any]]:
    """Return how many trainings a comparison needs, by primary metric and number of images.

    The column `k = 5` has the difference that five trainings of each method find with a probability
    of `power`. The column `k for 0.5` has the range of k that find a difference of 0.5 `points`, by
    the 5% and 95% quantiles of the variance between trainings. Differences are in percent, ranks or
    ratios. Raises UsageError unless both methods have two trainings or more.
    """
    rows = []
    for test in comparison.tests:
        if test.record.primary:
            for images_name, images in _IMAGE_FACTORS.items():
                row = {"dataset": test.dataset, "protocol": test.protocol, "metric": test.metric}
                row["images"] = images_name
                rows.append(row | _plan_columns(test, images, points, power))
    return rows


def _plan_columns(test: MetricTest, images: float, points: float, power: float) -> dict[str, Any]:
    """Return the planned columns of a metric, if there are `images` times as many images."""
    difference, factor = test.difference, test.record.factor
    if not isinstance(difference, GroupDifference) or not difference.compares_methods:
        raise UsageError("a plan needs two trainings of each method, to see how much seeds vary")
    columns: dict[str, Any] = {}
    for k in _PLANNED_TRAININGS:
        detectable = difference.detectable(power=power, k=k, images=images)
        columns[f"k = {k}"] = factor * (detectable or 0.0)
    ends = []
    for k in range_of_trainings(difference, points / factor, power, images):
        ends.append(f"over {MOST_TRAININGS}" if k > MOST_TRAININGS else f"{k}")
    columns[f"k for {points:g}"] = " to ".join(dict.fromkeys(ends))
    return columns

"""Summarize groups of trainings: their means over seeds, and comparisons of every two groups."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.results import groups
from cosmos_eval.results.compare import Comparison, MetricTest, adjust_p_values, to_cells
from cosmos_eval.results.groups import Moments, ReadSamples
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.leaderboard.groups import GroupMean, group_table
from cosmos_eval.results.settings import describe_mismatches, setting_of_result
from cosmos_eval.stats.estimates import Ints
from cosmos_eval.tasks import task_named
from cosmos_eval.types import CosmosEvalError, UsageError

_MARGIN = 4  # percent of a scale, left and right of its ends

_SetKey = tuple[str, str]
"""A data set and its protocol."""

_ResultsByGroup = Mapping[str, Sequence[StoredResult]]
"""The results of each group's trainings on one data set. A group is one recipe, with seeds."""


class TrainingGroups(NamedTuple):
    """Everything that a page states about groups; empty if no group has two trainings.

    A group is several trainings of one recipe, which differ in their seeds.
    """

    means: tuple[GroupMean, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    # What a reader should know about the groups.
    remarks: tuple[str, ...] = ()
    # One line for each thing that the page does not show.
    notes: tuple[str, ...] = ()


def summarize_groups(results: Iterable[StoredResult], read_samples: ReadSamples) -> TrainingGroups:
    """Return the means of all groups of trainings, and compare every two groups.

    A group is several trainings of one recipe, which differ in their seeds. Its name is recorded by
    the trainings. Metrics are those that leaderboards show. Two groups of one training each are not
    compared. A note names each group that cannot be read or compared.

    Args:
        results: The results of all models. Models without a group are left out.
        read_samples: Reads the samples of a result, the stored arrays that its metrics are computed
            from, by the path of the result.
    """
    results_by_group: dict[str, list[StoredResult]] = {}
    for result in results:
        group = training_of(result.row).get("group")
        if group:
            results_by_group.setdefault(group, []).append(result)
    summary = _GroupSummary(read_samples)
    for group in sorted(results_by_group):
        summary.add_group(group, results_by_group[group])
    if summary.most_trainings() < 2:
        return TrainingGroups(notes=tuple(summary.notes))
    summary.compare_groups()
    return TrainingGroups(
        means=tuple(summary.means),
        comparisons=tuple(summary.comparisons()),
        remarks=tuple(summary.remarks),
        notes=tuple(summary.notes),
    )


class _GroupSummary:
    """Collects the means and tests of groups of trainings, data set by data set."""

    def __init__(self, read_samples: ReadSamples) -> None:
        """Start without any group. `read_samples` reads the samples of a result by its path."""
        self.means: list[GroupMean] = []
        self.remarks: list[str] = []
        self.notes: list[str] = []
        self._read_samples = read_samples
        # For each group: the results of its trainings, by data set and protocol.
        self._sets_by_group: dict[str, groups.ResultsByDataset] = {}
        # The tests of every two groups, by the names of both.
        self._tests: dict[tuple[str, str], list[MetricTest]] = {}

    def add_group(self, group: str, results: Sequence[StoredResult]) -> None:
        """Add the results of a group's trainings. If they cannot be used, a note states why.

        Args:
            group: The name of the group.
            results: The results of all its trainings on all data sets.
        """
        try:
            sets, remarks = groups.common_sets(results, group)
        except UsageError as error:
            self.notes.append(f"{group}: {error}")
        else:
            self._sets_by_group[group] = sets
            self.remarks += remarks

    def most_trainings(self) -> int:
        """Return the largest number of trainings that any group has on a data set."""
        n_trainings = [0]
        for sets in self._sets_by_group.values():
            for results in sets.values():
                n_trainings.append(len(results))
        return max(n_trainings)

    def compare_groups(self) -> None:
        """Compute the means of all groups, and the tests of every two groups, on all data sets."""
        # A key is a data set and its protocol.
        keys = {key for sets in self._sets_by_group.values() for key in sets}
        for key in sorted(keys):
            results_by_group = {}
            for group, sets in self._sets_by_group.items():
                if key in sets:
                    results_by_group[group] = sets[key]
            for comparable_groups in _split_by_settings(results_by_group):
                self._add_data_set(key, comparable_groups)

    def _add_data_set(self, key: _SetKey, results_by_group: _ResultsByGroup) -> None:
        """Add the means and tests of groups that were measured with the same settings.

        If the samples of a group cannot be used, each group is added without the others, and no two
        groups are compared.

        Args:
            key: The data set and its protocol.
            results_by_group: The results of each group's trainings on the data set.
        """
        all_results = [result for results in results_by_group.values() for result in results]
        task = all_results[0].row.task
        try:
            headlines = task_named(task).headlines
            moments = groups.estimate_moments_of_results(all_results, self._read_samples, headlines)
        except CosmosEvalError as error:
            self.notes.append(f"{', '.join(results_by_group)}: not compared: {error}")
            has_several_groups = len(results_by_group) > 1
            if has_several_groups:
                for group, results in results_by_group.items():
                    self._add_data_set(key, {group: results})
            return

        # The indices of each group's results in `all_results`, such as [0, 1, 2] and [3, 4].
        indices: dict[str, Ints] = {}
        start = 0
        for group, results in results_by_group.items():
            stop = start + len(results)
            indices[group] = np.arange(start, stop)
            start = stop

        self.means += _group_means(key, results_by_group, moments, indices)
        for a, b in combinations(results_by_group, 2):
            has_several_trainings = len(results_by_group[a]) > 1 or len(results_by_group[b]) > 1
            if has_several_trainings:
                tests = groups.metric_tests(key, task, moments, indices[a], indices[b])
                self._tests.setdefault((a, b), []).extend(tests)

    def comparisons(self) -> Iterator[Comparison]:
        """Yield the comparisons of every two groups that have tests, sorted by their names."""
        for (a, b), tests in sorted(self._tests.items()):
            if tests:
                # The names of the trainings of both groups, with their seeds. All data sets of a
                # group have the same trainings.
                training_names = []
                for group in (a, b):
                    results_on_first_set = next(iter(self._sets_by_group[group].values()))
                    training_names.append(groups.training_labels(results_on_first_set))
                yield Comparison(
                    a=a,
                    b=b,
                    tests=adjust_p_values(tests),
                    notes=(),
                    trainings=tuple(training_names),
                )


def _split_by_settings(
    results_by_group: _ResultsByGroup,
) -> list[dict[str, Sequence[StoredResult]]]:
    """Split groups so that all groups of a dictionary were measured with the same settings.

    `results_by_group` holds the results of each group's trainings on one data set. All results of a
    group have the same settings.

    Example:
        Group b was measured on fewer images than the groups a and c. Then {"a": ..., "b": ...,
        "c": ...} becomes [{"a": ..., "c": ...}, {"b": ...}].
    """
    comparable_groups: list[dict[str, Sequence[StoredResult]]] = []
    for group, results in results_by_group.items():
        for same_settings in comparable_groups:
            if _have_same_settings(same_settings, results[0]):
                same_settings[group] = results
                break
        else:
            comparable_groups.append({group: results})
    return comparable_groups


def _have_same_settings(results_by_group: _ResultsByGroup, result: StoredResult) -> bool:
    """Return whether a result was measured with the settings of every group."""
    result_setting = setting_of_result(result.row)
    for group_results in results_by_group.values():
        group_setting = setting_of_result(group_results[0].row)
        if describe_mismatches(group_setting, result_setting):
            return False
    return True


def _group_means(
    key: _SetKey,
    results_by_group: _ResultsByGroup,
    moments_by_metric: Mapping[str, Moments | None],
    indices: Mapping[str, Ints],
) -> Iterator[GroupMean]:
    """Yield the mean of every metric and group on a data set.

    Args:
        key: The data set and its protocol.
        results_by_group: The results of each group's trainings on the data set.
        moments_by_metric: For each metric, the values of the results of all groups, and their
            covariance. Metrics for which they are None are left out.
        indices: For each group, the indices of its results among the results of all groups.
    """
    dataset, protocol = key
    for metric, moments in moments_by_metric.items():
        if moments is None:
            continue
        for group, results in results_by_group.items():
            yield GroupMean(
                group=group,
                task=results[0].row.task,
                dataset=dataset,
                protocol=protocol,
                metric=metric,
                seeds=tuple(training_of(result.row).get("seed") for result in results),
                values=tuple(moments.values[indices[group]].tolist()),
                estimate=moments.mean(indices[group]),
            )


class Line(NamedTuple):
    """The places of a value, the ends of its interval and the values of single trainings.

    All are in percent of the length of a scale.
    """

    value: float
    low: float
    high: float
    trainings: tuple[float, ...] = ()


class _Scale:
    """A scale from its lowest to its highest number, with a margin at both ends."""

    def __init__(self, low: float, high: float) -> None:
        """Create the scale from `low` to `high`. If they are equal, its length is 1."""
        self._low = low
        self._length = (high - low) or 1

    def place(self, number: float) -> float:
        """Return the place of a number in percent of the scale, margins included.

        For example, the places of 0, 5 and 10 on a scale from 0 to 10 are 4, 50 and 96, because the
        margin at each end is 4%.
        """
        return round(_MARGIN + (100 - 2 * _MARGIN) * (number - self._low) / self._length, 2)


def template_values(training_groups: TrainingGroups) -> dict[str, Any]:
    """Return the variables of the template of the page's section on groups of trainings.

    - `groups`, `group_table`: the means and comparisons of all groups, and a table of the means.
    - `mean_lines`: for each mean, the places of its numbers on a scale.
    - `difference_lines`, `test_cells`: functions that return the same for tests, and table cells.
    """
    means = training_groups.means
    return {
        "groups": training_groups,
        "group_table": group_table(means) if means else None,
        "mean_lines": mean_lines(means),
        "difference_lines": difference_lines,
        "test_cells": _test_cells,
    }


def _test_cells(test: MetricTest) -> dict[str, str | None]:
    """Return a test as a row of a table: the text of each cell by column title.

    For example, {"data set": "coco", "metric": "R@1", "A": "62.1", ...}. The metric has its label
    instead of its name. The table has no column for the name of the statistical test.
    """
    cells = to_cells(test)
    cells["metric"] = test.metric_record.label or test.metric
    del cells["test"]
    return cells


def mean_lines(means: Sequence[GroupMean]) -> list[Line]:
    """Return one line for each mean, with the places of the mean, its interval and its trainings.

    Means of one data set, protocol and metric share a scale.
    """
    # Collect the numbers on each scale, by data set, protocol and metric.
    numbers_by_scale: dict[tuple[str, str, str], list[float]] = {}
    for mean in means:
        numbers = numbers_by_scale.setdefault((mean.dataset, mean.protocol, mean.metric), [])
        numbers += [mean.interval.low, mean.interval.high, *mean.values]

    # Place each mean on its scale.
    lines = []
    for mean in means:
        numbers = numbers_by_scale[mean.dataset, mean.protocol, mean.metric]
        scale = _Scale(min(numbers), max(numbers))
        line = Line(
            value=scale.place(mean.estimate.a),
            low=scale.place(mean.interval.low),
            high=scale.place(mean.interval.high),
            trainings=tuple(scale.place(value) for value in mean.values),
        )
        lines.append(line)
    return lines


def difference_lines(tests: Sequence[MetricTest]) -> list[Line]:
    """Return one line for each test, with the places of the difference and its interval.

    Differences of one unit, such as fractions, share a scale with zero in its middle.
    """
    intervals = [test.difference.interval() for test in tests]
    # Find the largest absolute number of each unit, the end of its scale.
    largest_by_unit: dict[str, float] = {}
    for test, interval in zip(tests, intervals, strict=True):
        unit = test.metric_record.unit
        largest = largest_by_unit.get(unit, 0)
        largest_by_unit[unit] = max(largest, abs(interval.low), abs(interval.high))

    # Place each difference on its scale.
    lines = []
    for test, interval in zip(tests, intervals, strict=True):
        largest = largest_by_unit[test.metric_record.unit]
        scale = _Scale(-largest, largest)
        line = Line(
            value=scale.place(test.difference.difference),
            low=scale.place(interval.low),
            high=scale.place(interval.high),
        )
        lines.append(line)
    return lines

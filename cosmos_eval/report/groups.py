"""Summarize groups of trainings: their means over seeds, and comparisons of every two groups."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.results import groups
from cosmos_eval.results.compare import (
    Comparison,
    MetricTest,
    adjust_p_values,
    describe_mismatches,
    setting_of_result,
    to_cells,
)
from cosmos_eval.results.groups import Moments, ReadSamples
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.leaderboard.groups import GroupMean, group_table
from cosmos_eval.stats.estimates import Ints
from cosmos_eval.tasks import task_named
from cosmos_eval.types import CosmosEvalError, UsageError

_MARGIN = 4  # percent of a scale, left and right of its ends

_SetKey = tuple[str, str]
"""A data set and its protocol."""

_Trainings = Mapping[str, Sequence[StoredResult]]
"""The results of trainings on one data set by group."""


class TrainingGroups(NamedTuple):
    """Everything that a page states about groups; empty if no group has two trainings."""

    means: tuple[GroupMean, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    # What a reader should know about the groups.
    remarks: tuple[str, ...] = ()
    # One line for each thing that the page does not show.
    notes: tuple[str, ...] = ()


def summarize_groups(results: Iterable[StoredResult], read_samples: ReadSamples) -> TrainingGroups:
    """Return the means of all groups of trainings, and compare every two groups.

    Metrics are those that leaderboards show. Two groups of one training each are not compared.
    Results that cannot be read or compared have a note.
    """
    results_by_group: dict[str, list[StoredResult]] = {}
    for result in results:
        group = training_of(result.row).get("group")
        if group:
            results_by_group.setdefault(group, []).append(result)
    summary = _GroupSummary(read_samples)
    for group in sorted(results_by_group):
        summary.add_group(group, results_by_group[group])
    if not summary.has_several_trainings():
        return TrainingGroups(notes=tuple(summary.notes))
    summary.compare_groups()
    return TrainingGroups(
        means=tuple(summary.means),
        comparisons=tuple(summary.comparisons()),
        remarks=tuple(summary.remarks),
        notes=tuple(summary.notes),
    )


class _GroupSummary:
    """Collects the means and tests of groups, data set by data set."""

    def __init__(self, read_samples: ReadSamples) -> None:
        self.means: list[GroupMean] = []
        self.remarks: list[str] = []
        self.notes: list[str] = []
        self._read_samples = read_samples
        self._sets_by_group: dict[str, groups.ResultsByDataset] = {}
        self._tests: dict[tuple[str, str], list[MetricTest]] = {}  # by the names of both groups

    def add_group(self, group: str, results: Sequence[StoredResult]) -> None:
        """Add all results of a group; a note states why a group cannot be used."""
        try:
            sets, remarks = groups.common_sets(results, group)
        except UsageError as error:
            self.notes.append(f"{group}: {error}")
        else:
            self._sets_by_group[group] = sets
            self.remarks += remarks

    def has_several_trainings(self) -> bool:
        """Return whether any group has two trainings or more."""
        return any(
            len(trainings) > 1
            for sets in self._sets_by_group.values()
            for trainings in sets.values()
        )

    def compare_groups(self) -> None:
        """Compute the means and tests of all data sets."""
        keys = {key for sets in self._sets_by_group.values() for key in sets}
        for key in sorted(keys):
            trainings = {
                group: sets[key] for group, sets in self._sets_by_group.items() if key in sets
            }
            for comparable_trainings in _split_by_settings(trainings):
                self._add_data_set(key, comparable_trainings)

    def _add_data_set(self, key: _SetKey, trainings: _Trainings) -> None:
        """Add the means and tests of groups that were measured with the same settings.

        If the samples of a group cannot be used, each group is added without the others.
        """
        results = [result for group_results in trainings.values() for result in group_results]
        task = results[0].row.task
        try:
            moments = groups.estimate_moments_of_results(
                results, self._read_samples, task_named(task).headlines
            )
        except CosmosEvalError as error:
            self.notes.append(f"{', '.join(trainings)}: not compared: {error}")
            if len(trainings) > 1:
                for group, group_results in trainings.items():
                    self._add_data_set(key, {group: group_results})
            return
        indices = _training_indices(trainings)
        self.means += _group_means(key, trainings, moments, indices)
        for a, b in combinations(trainings, 2):
            if len(trainings[a]) > 1 or len(trainings[b]) > 1:
                tests = groups.metric_tests(key, task, moments, indices[a], indices[b])
                self._tests.setdefault((a, b), []).extend(tests)

    def comparisons(self) -> Iterator[Comparison]:
        """Yield the comparisons of every two groups that have tests, sorted by their names."""
        for (a, b), tests in sorted(self._tests.items()):
            if tests:
                training_names = (self._training_names(a), self._training_names(b))
                yield Comparison(a, b, adjust_p_values(tests), (), training_names)

    def _training_names(self, group: str) -> tuple[str, ...]:
        """Return the names of a group's trainings, with their seeds."""
        # All data sets of a group have the same trainings.
        first_set = next(iter(self._sets_by_group[group].values()))
        return groups.training_labels(first_set)


def _split_by_settings(trainings: _Trainings) -> list[dict[str, Sequence[StoredResult]]]:
    """Split groups into those whose trainings were measured with the same settings."""
    comparable: list[dict[str, Sequence[StoredResult]]] = []
    for group, group_results in trainings.items():
        for comparable_trainings in comparable:
            if _have_same_settings(comparable_trainings, group_results[0]):
                comparable_trainings[group] = group_results
                break
        else:
            comparable.append({group: group_results})
    return comparable


def _have_same_settings(trainings: _Trainings, result: StoredResult) -> bool:
    """Return whether a result was measured with the settings of every group."""
    result_setting = setting_of_result(result.row)
    return not any(
        describe_mismatches(setting_of_result(group_results[0].row), result_setting)
        for group_results in trainings.values()
    )


def _training_indices(trainings: _Trainings) -> dict[str, Ints]:
    """Return the indices of each group's trainings in the list of all trainings."""
    indices: dict[str, Ints] = {}
    start = 0
    for group, group_results in trainings.items():
        stop = start + len(group_results)
        indices[group] = np.arange(start, stop)
        start = stop
    return indices


def _group_means(
    key: _SetKey,
    trainings: _Trainings,
    moments_by_metric: Mapping[str, Moments | None],
    indices: Mapping[str, Ints],
) -> Iterator[GroupMean]:
    """Yield the mean of every metric and group on a data set; metrics without moments have none."""
    dataset, protocol = key
    for metric, moments in moments_by_metric.items():
        if moments is None:
            continue
        for group, group_results in trainings.items():
            yield GroupMean(
                group=group,
                task=group_results[0].row.task,
                dataset=dataset,
                protocol=protocol,
                metric=metric,
                seeds=tuple(training_of(result.row).get("seed") for result in group_results),
                values=tuple(moments.values[indices[group]].tolist()),
                estimate=moments.mean(indices[group]),
            )


class Line(NamedTuple):
    """The places of a value, its interval and single trainings, in percent of a scale."""

    value: float
    low: float
    high: float
    trainings: tuple[float, ...] = ()


class _Scale:
    """A scale from its lowest to its highest number, with a margin at both ends."""

    def __init__(self, low: float, high: float) -> None:
        self._low = low
        self._length = (high - low) or 1

    def place(self, number: float) -> float:
        """Return the place of a number in percent of the scale, margins included."""
        return round(_MARGIN + (100 - 2 * _MARGIN) * (number - self._low) / self._length, 2)


def template_values(training_groups: TrainingGroups) -> dict[str, Any]:
    """Return the variables of the section's template."""
    means = training_groups.means
    return {
        "groups": training_groups,
        "group_table": group_table(means) if means else None,
        "mean_lines": mean_lines(means),
        "difference_lines": difference_lines,
        "test_cells": _test_cells,
    }


def _test_cells(test: MetricTest) -> dict[str, str | None]:
    """Return a test as a row of a table by column title, without the name of the test."""
    cells = to_cells(test)
    cells["metric"] = test.metric_record.label or test.metric
    del cells["test"]
    return cells


def mean_lines(means: Sequence[GroupMean]) -> list[Line]:
    """Return the lines of means. Means of one data set, protocol and metric share a scale."""
    numbers_on_scale: dict[tuple[str, str, str], list[float]] = {}
    for mean in means:
        numbers = numbers_on_scale.setdefault((mean.dataset, mean.protocol, mean.metric), [])
        interval = mean.interval
        numbers += [interval.low, interval.high, *mean.values]
    lines = []
    for mean in means:
        numbers = numbers_on_scale[mean.dataset, mean.protocol, mean.metric]
        scale = _Scale(min(numbers), max(numbers))
        interval = mean.interval
        trainings = tuple(scale.place(value) for value in mean.values)
        low, high = scale.place(interval.low), scale.place(interval.high)
        lines.append(Line(scale.place(mean.estimate.a), low, high, trainings))
    return lines


def difference_lines(tests: Sequence[MetricTest]) -> list[Line]:
    """Return the lines of differences. Each unit has one scale, with zero in its middle."""
    intervals = [test.difference.interval() for test in tests]
    largest: dict[str, float] = {}  # by unit
    for test, interval in zip(tests, intervals, strict=True):
        unit = test.metric_record.unit
        largest[unit] = max(largest.get(unit, 0), abs(interval.low), abs(interval.high))
    lines = []
    for test, interval in zip(tests, intervals, strict=True):
        end = largest[test.metric_record.unit]
        scale = _Scale(-end, end)
        value = scale.place(test.difference.difference)
        lines.append(Line(value, scale.place(interval.low), scale.place(interval.high)))
    return lines

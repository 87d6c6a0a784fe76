"""Groups of trainings on a page: their means over seeds, and every two groups of which one has
several trainings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.results import groups
from cosmos_eval.results.compare import (
    Comparison,
    MetricTest,
    adjust,
    mismatches,
    setting,
    to_cells,
)
from cosmos_eval.results.groups import Moments, Read
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.labels import Stored
from cosmos_eval.results.leaderboard.groups import GroupMean, group_table
from cosmos_eval.stats.estimates import Ints
from cosmos_eval.tasks import task_named
from cosmos_eval.types import CosmosEvalError, UsageError

_MARGIN = 4  # percent of a scale, left and right of its ends

_Key = tuple[str, str]
_Part = dict[str, list[Stored]]
"""The trainings of groups that can be compared with each other on one data set."""


class GroupView(NamedTuple):
    """What a page states of groups, nothing where none has two trainings; remarks on these; and
    notes on what is not shown."""

    means: tuple[GroupMean, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def view_of(results: Iterable[Stored], read: Read) -> GroupView:
    """Return the means of all groups that results state, and their comparisons by metrics that
    leaderboards show. What cannot be read or compared has a note."""
    members: dict[str, list[Stored]] = {}
    for one in results:
        if group := training_of(one.row).get("group"):
            members.setdefault(group, []).append(one)
    sets: dict[str, groups.Sets] = {}
    remarks: list[str] = []
    notes: list[str] = []
    for group, some in sorted(members.items()):
        try:
            sets[group], found = groups.sets_of(some, group)
            remarks += found
        except UsageError as error:
            notes.append(f"{group}: {error}")
    if max((len(some) for own in sets.values() for some in own.values()), default=1) < 2:
        return GroupView(notes=tuple(notes))
    means: list[GroupMean] = []
    tests: dict[tuple[str, str], list[MetricTest]] = {}
    for key in sorted({key for own in sets.values() for key in own}):
        of_key = {group: own[key] for group, own in sets.items() if key in own}
        for part, moments in _measured(_alike(of_key), read, notes):
            where = _indices(part)
            means += _means(key, part, moments, where)
            for a, b in combinations(part, 2):
                if len(part[a]) + len(part[b]) > 2:
                    task = part[a][0].row.task
                    new = groups.metric_tests(key, task, moments, where[a], where[b])
                    tests.setdefault((a, b), []).extend(new)
    compared = tuple(
        Comparison(a, b, adjust(some), (), tuple(_labels(sets[group]) for group in (a, b)))
        for (a, b), some in sorted(tests.items())
        if some
    )
    return GroupView(tuple(means), compared, tuple(remarks), tuple(notes))


def _alike(of_key: Mapping[str, list[Stored]]) -> list[_Part]:
    """Divide groups by the settings that their trainings were measured by."""
    parts: list[_Part] = []
    for group, some in of_key.items():
        own = setting(some[0].row)
        fitting = (
            part
            for part in parts
            if not any(mismatches(setting(other[0].row), own) for other in part.values())
        )
        part = next(fitting, None)
        if part is None:
            parts.append(part := {})
        part[group] = some
    return parts


def _measured(
    parts: Iterable[_Part], read: Read, notes: list[str]
) -> Iterator[tuple[_Part, Mapping[str, Moments | None]]]:
    """Yield the metrics of groups by data set; groups of which one cannot be read each alone."""
    for part in parts:
        several = [one for some in part.values() for one in some]
        try:
            shown = task_named(several[0].row.task).headlines
            yield part, groups.moments_of(several, read, shown)
        except CosmosEvalError as error:
            notes.append(f"{', '.join(part)}: not compared: {error}")
            if len(part) > 1:
                yield from _measured(({group: some} for group, some in part.items()), read, notes)


def _indices(part: _Part) -> dict[str, Ints]:
    sizes = np.cumsum([len(some) for some in part.values()])
    return dict(zip(part, np.split(np.arange(sizes[-1]), sizes[:-1]), strict=True))


def _means(
    key: _Key, part: _Part, found: Mapping[str, Moments | None], where: Mapping[str, Ints]
) -> Iterator[GroupMean]:
    known = {name: moments for name, moments in found.items() if moments}
    for name, moments in known.items():
        for group, some in part.items():
            seeds = tuple(training_of(one.row).get("seed") for one in some)
            values = tuple(moments.values[where[group]].tolist())
            mean = moments.mean(where[group])
            yield GroupMean(group, some[0].row.task, *key, name, seeds, values, mean)


def _labels(sets: groups.Sets) -> tuple[str, ...]:
    return groups.labels_of(next(iter(sets.values())))


class Line(NamedTuple):
    """A value, its interval and single trainings, in percent of a scale."""

    value: float
    low: float
    high: float
    trainings: tuple[float, ...] = ()


def template_values(view: GroupView) -> dict[str, Any]:
    """Return what the section's template needs."""
    table = group_table(view.means) if view.means else None
    lines = {"mean_lines": mean_lines(view.means), "difference_lines": difference_lines}
    return {"groups": view, "group_table": table, "test_cells": _cells, **lines}


def _cells(test: MetricTest) -> dict[str, str | None]:
    named = {"metric": test.record.label or test.metric}
    return {title: cell for title, cell in (to_cells(test) | named).items() if title != "test"}


def mean_lines(means: Sequence[GroupMean]) -> list[Line]:
    """Return lines of means, on one scale per data set, protocol and metric."""
    ends = [(*mean.interval[:2], *mean.values) for mean in means]
    where = [*map(attrgetter("dataset", "protocol", "metric"), means)]
    scales = {
        one: [
            n for numbers, other in zip(ends, where, strict=True) if other == one for n in numbers
        ]
        for one in set(where)
    }
    return [
        _line(mean.found.a, numbers, min(scales[one]), max(scales[one]))
        for mean, numbers, one in zip(means, ends, where, strict=True)
    ]


def difference_lines(tests: Sequence[MetricTest]) -> list[Line]:
    """Return lines of differences around zero, on one scale per unit."""
    ends = [test.difference.interval()[:2] for test in tests]
    reach: dict[str, float] = {}
    for test, both in zip(tests, ends, strict=True):
        reach[test.record.unit] = max(reach.get(test.record.unit, 0), *map(abs, both))
    return [
        _line(test.difference.difference, both, -reach[test.record.unit], reach[test.record.unit])
        for test, both in zip(tests, ends, strict=True)
    ]


def _line(value: float, numbers: Sequence[float], low: float, high: float) -> Line:
    """`numbers` are the ends of an interval, then the values of trainings."""
    length = (high - low) or 1

    def at(number: float) -> float:
        return round(_MARGIN + (100 - 2 * _MARGIN) * (number - low) / length, 2)

    first, last, *trainings = map(at, numbers)
    return Line(at(value), first, last, tuple(trainings))

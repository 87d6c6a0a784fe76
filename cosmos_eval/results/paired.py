"""Stored samples of results -> the difference of every metric. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, starmap
from typing import NamedTuple

import numpy as np

from cosmos_eval.stats.paired import Compare, PairedDifference
from cosmos_eval.tasks import evaluator_named
from cosmos_eval.types import Interval, ResultRow, Samples, UsageError

# How far metrics may lie from those of their samples: sums in another order differ in last bits.
_ROUNDING = 1e-9


class Places(NamedTuple):
    """Where two results stand in a list, the first before the second."""

    a: int
    b: int


class Sampled(NamedTuple):
    """The metrics of a result and the samples that they follow from."""

    metrics: Mapping[str, float]
    samples: Samples


def paired_interval(
    row_a: ResultRow, samples_a: Samples, row_b: ResultRow, samples_b: Samples, metric: str
) -> Interval:
    """The 95% interval of a metric of A minus that of B, two results of the same samples.

    Whether two results are of the same samples and protocol, `results.matching.mismatches`
    says. Raises UsageError as `paired_differences` does, and where the samples give no such metric.
    """
    found = paired_differences(row_a, samples_a, row_b, samples_b)
    if metric not in found:
        raise UsageError(f"{row_a.dataset}: the samples do not give {metric}")
    return found[metric].interval()


def paired_differences(
    row_a: ResultRow, samples_a: Samples, row_b: ResultRow, samples_b: Samples
) -> dict[str, PairedDifference]:
    """Every metric of A minus that of B, by name.

    Raises UsageError where the samples are not of the same images and labels, and where a metric
    is not what its samples give.
    """
    try:
        return differences_of(
            row_a.task, Sampled(row_a.metrics, samples_a), Sampled(row_b.metrics, samples_b)
        )
    except ValueError as error:
        raise UsageError(f"{row_a.dataset}: {error}") from error


def differences_of(task: str, a: Sampled, b: Sampled) -> dict[str, PairedDifference]:
    """The same of metrics and samples alone; raises ValueError, which does not say where."""
    (found,) = all_differences(task, [a.samples, b.samples]).values()
    for metrics, side in ((a.metrics, "a"), (b.metrics, "b")):
        for name, value in metrics.items():
            require_own(name, value, getattr(found[name], side) if name in found else None)
    return found


def all_differences(
    task: str, several: Sequence[Samples], without: Collection[str] = ()
) -> dict[Places, dict[str, PairedDifference]]:
    """Every metric of each of several results minus that of each later one, by their places.

    Many results take little longer than two, but for the metrics that
    `cosmos_eval.stats.paired.SLOW` names and `without` can leave out. Raises ValueError where the
    samples are not of the same images and labels.
    """
    try:
        for some in several[1:]:
            require_same_truth(task, several[0], some)
        compare = _together(task, several, without)
        places = starmap(Places, combinations(range(len(several)), 2))
        return {place: dict(compare(*place)) for place in places}
    except (KeyError, IndexError) as error:
        raise ValueError(f"samples that lack {error} are not of this task") from error


def _together(task: str, several: Sequence[Samples], without: Collection[str]) -> Compare:
    evaluator = evaluator_named(task)
    if evaluator.together is not None:
        return evaluator.together(several, without)
    return lambda a, b: evaluator.differences(several[a], several[b])


def require_same_truth(task: str, a: Samples, b: Samples) -> None:
    """Raise ValueError where two results are not of the same images and labels."""
    for name in evaluator_named(task).truth:
        if not np.array_equal(a[name], b[name]):
            raise ValueError(f"`{name}` of the samples differs")


def require_own(name: str, value: float, computed: float | None) -> None:
    """Raise ValueError where a stored metric is not what its samples give (None: nothing)."""
    if computed is None:
        raise ValueError(f"the samples do not give {name}")
    # Not the other way round: nothing is close to NaN.
    if not math.isclose(value, computed, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        raise ValueError(f"{name} is {value}, but its samples give {computed}")

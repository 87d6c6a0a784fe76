"""Comparisons of a model with a stored result on a growing number of samples.

Model A is the one that is measured, and B is the stored baseline. The words used here:

- A unit is drawn at random as a whole. It is a single sample, or all samples that depend on each
  other, such as the items of one image. The units of a data set are taken in a random order.
- A look is a point at which the paired difference A - B of all samples so far is judged. There is
  one after every 32 units.
- A shard is the samples between two looks.

All intervals are confidence sequences (`stats.sequential`), so that a run may stop at any look.

Shapes: N samples of the whole data set, n samples of a shard or of a run that stopped.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from cosmos_eval.results.identity import STOPPED
from cosmos_eval.results.record import ResultRow
from cosmos_eval.stats.estimates import Estimate, Ints, Mean, Proportion, Values
from cosmos_eval.stats.sampling import SEED, cut_into_looks, random_order
from cosmos_eval.stats.sequential import (
    START,
    AsymptoticSequence,
    BoundedSequence,
    Decision,
    decide,
    start_for_classes,
)
from cosmos_eval.tasks import Task, task_named
from cosmos_eval.types import Interval, Samples

ALPHA = 0.05
"""The probability that any answer of a comparison is wrong."""
BASELINE_PREFIX = "baseline."
"""The prefix of the names of the baseline's arrays, in the samples of a run that stopped."""
UNIT = "unit"
"""The name of the array (n,) that holds the unit of each sample, for a run that stopped."""
# Slow metrics are looked at again when there are this many times the samples of the last look.
_GROWTH = 1.1
_ROUNDING = 1e-9  # the tolerated rounding error of sums of values
# The kinds of intervals: for a mean of bounded values, and for any other metric.
BOUNDED, ASYMPTOTIC = "bounded", "asymptotic"


Shards: TypeAlias = tuple[Samples, Samples, Ints]
"""The samples of a shard: the arrays of A, the arrays of the baseline, the unit of each sample."""


class Look(NamedTuple):
    """The interval of A - B after a number of samples."""

    n_samples: int
    low: float
    high: float


@dataclass(frozen=True)
class SequentialDifference:
    """A metric of model A minus the same metric of model B, with a confidence sequence.

    It has those members of `stats.paired.PairedDifference` that a check against a baseline needs,
    so that it can take the place of a paired difference of a fixed number of samples.
    """

    # The values of A and of B on the samples that were measured.
    a: float
    b: float
    # The number of these samples.
    units: int
    # The name of the statistical method.
    method: str
    sequence: BoundedSequence | AsymptoticSequence
    # True if the sequence is about B - A instead of A - B.
    is_flipped: bool = False

    @property
    def difference(self) -> float:
        """The value of A minus the value of B."""
        return self.a - self.b

    def interval(self, level: float = 1 - ALPHA) -> Interval:
        """Return the interval of the difference, which holds at all looks at once."""
        low, high = self.sequence.interval(1 - level)
        low, high = max(-1.0, low), min(1.0, high)
        if self.is_flipped:
            low, high = -high, -low
        return Interval(low, high, self.method, level)

    def p_below(self, bound: float) -> float:
        """Return the one-sided p-value against a true difference of `bound` or more.

        It holds at all looks at once. The sequence begins to keep the evidence of each look when it
        is first asked for a bound. If it was not asked for this bound before the first look, only
        the last look counts.
        """
        if self.is_flipped:
            log_e = self.sequence.log_e_above(-bound)
        else:
            log_e = self.sequence.log_e_below(bound)
        return math.exp(-max(0.0, log_e))

    def detectable(self, alpha: float = ALPHA, power: float = 0.8) -> None:
        """Return None: the smallest detectable difference depends on when the sequence stops."""
        return None

    def flipped(self) -> SequentialDifference:
        """Return the difference of the same models with A and B exchanged: B minus A."""
        return replace(self, a=self.b, b=self.a, is_flipped=not self.is_flipped)


class AnsweredLook(NamedTuple):
    """A look, and the answer at this look."""

    look: Look
    answer: Decision


class Units(NamedTuple):
    """The units of a data set, which are drawn at random, and the kind of interval for them."""

    # (N,): the number of each sample's unit, from 0 to the number of units - 1.
    unit_of_sample: Ints
    # The kind of the interval, BOUNDED or ASYMPTOTIC.
    method: str
    # The number of samples before the first look of an asymptotic sequence.
    start: int = START

    @property
    def n_samples(self) -> int:
        """The number of samples of the whole data set."""
        return len(self.unit_of_sample)

    @property
    def n_units(self) -> int:
        """The number of units of the whole data set."""
        return int(self.unit_of_sample.max()) + 1

    @property
    def most(self) -> int:
        """The number of samples of the largest unit."""
        return int(np.bincount(self.unit_of_sample).max())


class Shard(NamedTuple):
    """The samples between two looks."""

    # (n,): the indices of the samples. The samples of a unit follow each other.
    samples: Ints
    # (n,): the unit of each sample.
    units: Ints


def units_of(task: Task, samples: Samples) -> Units:
    """Find the units of a data set by the stored samples of a result.

    Raises ValueError if the task cannot stop early, or if the samples lack the metric that decides.
    """
    if not task.can_stop:
        raise ValueError(f"task {task.name} needs all samples at once")
    estimate = deciding_estimate(task, samples)
    if isinstance(estimate, Proportion | Mean):
        _, unit_of_sample = np.unique(_clusters(estimate), return_inverse=True)
        return Units(unit_of_sample, BOUNDED)
    n_samples = task.count(samples)
    class_sizes = task.class_sizes(samples)
    start = START if class_sizes is None else start_for_classes(class_sizes, n_samples)
    return Units(np.arange(n_samples), ASYMPTOTIC, start)


def deciding_estimate(task: Task, samples: Samples) -> Estimate:
    """Return the estimate of the task's metric by which models are compared in a run that may stop.

    Raises ValueError if the task has no such metric, or if the samples lack it.
    """
    metric = task.deciding_metric
    estimate = None if metric is None else metric.estimate(task.derive(samples))
    if estimate is None:
        raise ValueError(f"task {task.name} has no metric that could decide")
    return estimate


def _clusters(estimate: Proportion | Mean) -> Ints:
    """Return the cluster of each sample, (N,). An independent sample is a cluster of its own."""
    if isinstance(estimate, Proportion):
        return np.arange(len(estimate.hits))
    return estimate.clusters


def _values(estimate: Estimate) -> Values:
    """Return the values (N,) of the samples, of which the estimate is the mean."""
    values = estimate.hits if isinstance(estimate, Proportion) else estimate[0]
    return np.asarray(values, np.float64)


def cut_into_shards(units: Units, seed: int = SEED) -> list[Shard]:
    """Put the units of a data set into random order, and return the samples between two looks each.

    Example:
        The samples 0 and 2 are unit 0, and sample 1 is unit 1. If the random order of the units is
        [1, 0], the only shard has the samples [1, 0, 2], which belong to the units [1, 0, 0].
    """
    samples_by_unit = np.argsort(units.unit_of_sample, kind="stable")
    ends = np.cumsum(np.bincount(units.unit_of_sample))
    samples_of_units = np.split(samples_by_unit, ends[:-1])
    shards = []
    for units_of_look in cut_into_looks(random_order(units.n_units, seed)):
        samples = np.concatenate([samples_of_units[unit] for unit in units_of_look])
        shards.append(Shard(samples, units.unit_of_sample[samples]))
    return shards


class PairedLooks(ABC):
    """The evidence about A - B. It grows by one shard of samples after another."""

    sequence: BoundedSequence | AsymptoticSequence

    def __init__(self, task: Task, n_all_samples: int) -> None:
        """Begin without samples.

        Args:
            task: The task of the data set.
            n_all_samples: The number of samples of the whole data set.
        """
        self.task = task
        self.n_all_samples = n_all_samples
        self.n_samples = 0
        # The difference A - B of the samples so far; NaN before the first look.
        self.difference = math.nan

    @abstractmethod
    def add(self, samples_a: Samples, samples_b: Samples, unit_of_sample: Ints) -> bool:
        """Add a shard of n samples, and take a look at the difference if it is time for one.

        Args:
            samples_a: The arrays of model A for the samples.
            samples_b: The arrays of the baseline for the same samples.
            unit_of_sample: (n,), the number of each sample's unit. The samples of a unit follow
                each other.

        Returns:
            True if there was a look that gave an interval. `difference` and `look` then include the
            samples of the shard, and the caller may decide whether to stop. False if the samples
            were only kept for a later look.

        Raises:
            ValueError: If A and the baseline were not measured on the same samples.
        """

    @property
    def is_complete(self) -> bool:
        """True after the last sample of the data set."""
        return self.n_samples == self.n_all_samples

    def look(self, alpha: float) -> Look:
        """Return the interval of A - B after the samples so far, within the metric's bounds."""
        low, high = self.sequence.interval(alpha)
        return Look(self.n_samples, max(-1.0, low), min(1.0, high))


class BoundedLooks(PairedLooks):
    """The evidence about a difference of means of values in [0, 1], such as accuracies.

    A confidence sequence needs one value for each unit, and units may differ in size:

        value of a unit = sum of its samples' differences / mean number of samples of all units

    The mean of these values over all units is then the difference of the means of all samples.

    Example:
        One unit has 1 sample and another has 3, so that the mean size is 2. In each unit, A is
        right and B is wrong on one sample. Both units have the value 1 / 2. Their mean is 0.5, and
        so is the difference on all samples, 2 / 4.
    """

    def __init__(self, task: Task, n_all_samples: int, n_units: int, most: int) -> None:
        """Begin without samples.

        Args:
            task: The task of the data set.
            n_all_samples: The number of samples of the whole data set.
            n_units: The number of its units.
            most: The number of samples of the largest unit.
        """
        super().__init__(task, n_all_samples)
        self._mean_size = n_all_samples / n_units
        self._bound = most / self._mean_size  # the largest possible value of a unit
        self.sequence: BoundedSequence = BoundedSequence(-self._bound, self._bound)
        # The sum of the values of all units so far, and their number.
        self._sum_of_values = 0.0
        self._n_units = 0

    def add(self, samples_a: Samples, samples_b: Samples, unit_of_sample: Ints) -> bool:
        """Add the values of a shard's units, and return True: there is a look after each shard.

        The arguments are as in `PairedLooks.add`.
        """
        self.n_samples += len(unit_of_sample)
        values_a = _values(deciding_estimate(self.task, samples_a))
        values_b = _values(deciding_estimate(self.task, samples_b))
        differences = values_a - values_b
        sums_of_units = np.add.reduceat(differences, _first_samples(unit_of_sample))
        values_of_units = sums_of_units / self._mean_size
        if (np.abs(values_of_units) > self._bound + _ROUNDING).any():
            raise ValueError("a unit has more samples than the largest one")
        values_of_units = np.clip(values_of_units, -self._bound, self._bound)

        self.sequence.update(values_of_units)
        self._sum_of_values += float(values_of_units.sum())
        self._n_units += len(values_of_units)
        self.difference = self._sum_of_values / self._n_units
        return True


def _first_samples(unit_of_sample: Ints) -> Ints:
    """Return the index of the first sample of each unit.

    Args:
        unit_of_sample: (n,), the number of each sample's unit. The samples of a unit follow each
            other.

    Example:
        The units [5, 5, 2, 7, 7] give [0, 2, 3].
    """
    is_first_of_unit = np.append(True, unit_of_sample[1:] != unit_of_sample[:-1])
    return np.flatnonzero(is_first_of_unit)


class AsymptoticLooks(PairedLooks):
    """The evidence about a difference of a metric that is not a mean, such as mIoU.

    The metric is computed from all samples so far, which takes long. There is therefore a look only
    if there are a tenth more samples than at the last look, and after the last sample.
    """

    def __init__(self, task: Task, n_all_samples: int, start: int) -> None:
        """Begin without samples.

        Args:
            task: The task of the data set.
            n_all_samples: The number of samples of the whole data set.
            start: The number of samples before the first look.
        """
        super().__init__(task, n_all_samples)
        self.sequence: AsymptoticSequence = AsymptoticSequence(start)
        # The shards of both models so far. A look joins them into one.
        self._shards_a: list[Samples] = []
        self._shards_b: list[Samples] = []
        self._n_samples_at_last_look = 0

    def add(self, samples_a: Samples, samples_b: Samples, unit_of_sample: Ints) -> bool:
        """Add the samples of a shard, and take a look at the difference if it is time for one.

        The arguments and the returned value are as in `PairedLooks.add`.
        """
        self.n_samples += len(unit_of_sample)
        self._shards_a.append(samples_a)
        self._shards_b.append(samples_b)
        if not self._is_time_for_look():
            return False

        self._n_samples_at_last_look = self.n_samples
        all_samples_a = self.task.join(self._shards_a)
        all_samples_b = self.task.join(self._shards_b)
        self._shards_a = [all_samples_a]
        self._shards_b = [all_samples_b]
        metric = self.task.deciding_metric
        assert metric is not None  # `units_of` requires it
        compare = self.task.differences([all_samples_a, all_samples_b], only=[metric.name])
        paired = compare(0, 1).get(metric.name)
        if paired is None:
            return False
        self.sequence.update(paired)
        self.difference = paired.difference
        # A sequence ignores a difference without an error, such as the one of equal models.
        low, _ = self.sequence.interval(ALPHA)
        return math.isfinite(low)

    def _is_time_for_look(self) -> bool:
        """Return whether there are enough new samples for a look, or all samples."""
        has_begun = self.n_samples >= self.sequence.start
        has_grown = self.n_samples >= _GROWTH * self._n_samples_at_last_look
        return has_begun and (has_grown or self.is_complete)


def begin_looks(task: Task, units: Units) -> PairedLooks:
    """Return the evidence about A - B on a data set with these units, before the first sample."""
    if units.method == BOUNDED:
        return BoundedLooks(task, units.n_samples, units.n_units, units.most)
    return AsymptoticLooks(task, units.n_samples, units.start)


def go_through(
    evidence: PairedLooks,
    shards: Iterable[Shards],
    alpha: float,
    margin: float | None,
) -> Iterator[AnsweredLook]:
    """Add one shard after another, and yield each look with its answer.

    It ends after the first look at which the answer is known, or after the last shard.

    Args:
        evidence: The evidence so far, to which the shards are added.
        shards: For each shard the arrays of A and of the baseline, and the units of the samples.
        alpha: The probability of a wrong answer.
        margin: Models whose difference is smaller count as the same, as a fraction; None: models
            are never the same.
    """
    for a, b, units in shards:
        if evidence.add(a, b, units):
            answer = decide(evidence.sequence, alpha, margin)
            yield AnsweredLook(evidence.look(alpha), answer)
            if answer != "undecided":
                return


def stored_shards(
    task: Task, units: Units, a: Samples, b: Samples, seed: int = SEED
) -> Iterator[Shards]:
    """Yield the samples of two whole results in random order, in the shards between two looks.

    Args:
        task: The task of both results.
        units: The units of the data set.
        a: The stored arrays of model A.
        b: The stored arrays of the baseline.
        seed: The seed of the order.
    """
    for shard in cut_into_shards(units, seed):
        yield task.take(a, shard.samples), task.take(b, shard.samples), shard.units


def stopped_samples(task: Task, shards: Sequence[Shards]) -> dict[str, Any]:
    """Return the arrays that the result of a run that stopped stores.

    They are the arrays of model A, the arrays of the baseline, whose names begin with
    BASELINE_PREFIX, and UNIT. The samples are in the order in which they were measured.
    """
    arrays = dict(task.join([a for a, _, _ in shards]))
    for name, array in task.join([b for _, b, _ in shards]).items():
        arrays[BASELINE_PREFIX + name] = array
    arrays[UNIT] = np.concatenate([units for _, _, units in shards])
    return arrays


def split_stopped_samples(samples: Samples) -> tuple[Samples, Samples, Ints]:
    """Return the arrays of model A, the arrays of the baseline, and the unit of each sample.

    It is the reverse of `stopped_samples`. Raises KeyError if there is no array UNIT.
    """
    a, b = {}, {}
    for name, array in samples.items():
        if name.startswith(BASELINE_PREFIX):
            b[name.removeprefix(BASELINE_PREFIX)] = array
        elif name != UNIT:
            a[name] = array
    return a, b, samples[UNIT]


def shards_of_stopped(task: Task, n_units: int, seed: int, samples: Samples) -> Iterator[Shards]:
    """Yield the stored samples of a run that stopped, in the shards between two looks.

    Args:
        task: The task of the result.
        n_units: The number of units of the whole data set.
        seed: The seed of the random order of the units.
        samples: The stored arrays of the result.

    Raises:
        ValueError: If the units are not the first ones of the random order.
    """
    a, b, units = split_stopped_samples(samples)
    first_samples = _first_samples(units)
    order = random_order(n_units, seed)
    if not np.array_equal(units[first_samples], order[: len(first_samples)]):
        raise ValueError(f"`{UNIT}` is not in the order of seed {seed}")
    # The end of each unit's samples is where the next unit begins.
    ends = np.append(first_samples[1:], len(units))
    start = 0
    for units_of_look in cut_into_looks(np.arange(len(first_samples))):
        end = int(ends[units_of_look[-1]])
        rows = np.arange(start, end)
        yield task.take(a, rows), task.take(b, rows), units[rows]
        start = end


class Recomputed(NamedTuple):
    """The figures of a run that stopped, computed again from its stored samples."""

    # The value of the metric that decided, by its name.
    metrics: Mapping[str, float]
    looks: list[Look]
    answer: Decision
    # The difference A - B of all stored samples.
    difference: float


def recompute(row: ResultRow, samples: Samples) -> Recomputed:
    """Compute the metric, the looks and the answer of a run that stopped from its stored samples.

    Raises:
        ValueError, KeyError, IndexError: If the run cannot have stored these samples.
    """
    record = row.provenance[STOPPED]
    task = task_named(row.task)
    a, _, _ = split_stopped_samples(samples)
    estimate = deciding_estimate(task, a)
    _require_usual_method(estimate, record)
    evidence: PairedLooks
    if record["method"] == BOUNDED:
        evidence = BoundedLooks(task, record["samples"], record["units"], record["most"])
    else:
        evidence = AsymptoticLooks(task, record["samples"], record["start"])
    shards = shards_of_stopped(task, record["units"], record["seed"], samples)
    looks = []
    answer: Decision = "undecided"
    for step in go_through(evidence, shards, record["alpha"], record["margin"]):
        looks.append(step.look)
        answer = step.answer
    metric = task.deciding_metric
    assert metric is not None  # `deciding_estimate` requires it
    return Recomputed({metric.name: estimate.value}, looks, answer, evidence.difference)


def _require_usual_method(estimate: Estimate, record: Mapping[str, Any]) -> None:
    """Raise ValueError if the recorded method is not the one that a run uses for this metric.

    Args:
        estimate: The estimate of the metric that decided.
        record: The record of the run that stopped.
    """
    method = BOUNDED if isinstance(estimate, Proportion | Mean) else ASYMPTOTIC
    if record["method"] != method:
        raise ValueError(f"the method is {method}, not {record['method']}")
    if record["alpha"] > ALPHA:
        raise ValueError(f"alpha is {ALPHA} at most, not {record['alpha']}")
    if record["start"] < START:
        raise ValueError(f"the first look is after {START} samples or later")

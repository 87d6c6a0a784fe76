"""Comparisons of a model with a stored result on a growing part of the samples.

The samples are taken in a random order, and after every 32 of them there is a look at the paired
difference A - B: model A is the one that is measured, B is the stored baseline. All intervals are
confidence sequences (`stats.sequential`), so that a run may stop at any look. Units are drawn at
random: a unit is a sample, or all samples that depend on each other, such as the items of an image.

Shapes: N samples of the whole data set, n samples so far.
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
"""The names of the baseline's arrays begin with it in the samples of a run that stopped."""
UNIT = "unit"
"""The array (n,) of a run that stopped: the unit of each sample."""
# Slow metrics are looked at again when there are this many times the samples of the last look.
_GROWTH = 1.1
_ROUNDING = 1e-9  # of sums of values
# The intervals of metrics: of a mean of bounded values, and of any other metric.
BOUNDED, ASYMPTOTIC = "bounded", "asymptotic"


Shards: TypeAlias = tuple[Samples, Samples, Ints]
"""The arrays of A and of the baseline between two looks, and the unit of each sample."""


class Look(NamedTuple):
    """The interval of A - B after a number of samples."""

    n_samples: int
    low: float
    high: float


@dataclass(frozen=True)
class SequentialDifference:
    """A metric of model A minus the same metric of model B, as a confidence sequence has it.

    It has the members of `stats.paired.PairedDifference` that a check needs.
    """

    # The values of A and of B on the samples that were measured.
    a: float
    b: float
    # The number of these samples.
    units: int
    # The name of the statistical method.
    method: str
    sequence: BoundedSequence | AsymptoticSequence
    # True if A and B are exchanged in comparison with the sequence.
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

        It holds at all looks at once. The sequence must have been asked for the bound before the
        first look, or else only the last look counts.
        """
        if self.is_flipped:
            log_e = self.sequence.log_e_above(-bound)
        else:
            log_e = self.sequence.log_e_below(bound)
        return math.exp(-max(0.0, log_e))

    def detectable(self, alpha: float = ALPHA, power: float = 0.8) -> None:
        """Return None: what a sequence finds depends on when it stops."""
        return None

    def flipped(self) -> SequentialDifference:
        """Return the difference of the same models with A and B exchanged: B minus A."""
        return replace(self, a=self.b, b=self.a, is_flipped=not self.is_flipped)


class AnsweredLook(NamedTuple):
    """A look, and the answer at this look."""

    look: Look
    answer: Decision


class Units(NamedTuple):
    """The units of a data set, which are drawn at random, and what bounds their differences."""

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
    """Return the units of a data set, from the stored samples of a result.

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
    """Return the estimate of the metric that decides.

    Raises ValueError if the task has no such metric, or if the samples lack it.
    """
    metric = task.deciding_metric
    estimate = None if metric is None else metric.estimate(task.derive(samples))
    if estimate is None:
        raise ValueError(f"task {task.name} has no metric that could decide")
    return estimate


def _clusters(estimate: Proportion | Mean) -> Ints:
    """Return the cluster of each sample (N,): its own number if samples are independent."""
    if isinstance(estimate, Proportion):
        return np.arange(len(estimate.hits))
    return estimate.clusters


def _values(estimate: Estimate) -> Values:
    """Return the values (N,) of the samples of a mean."""
    values = estimate.hits if isinstance(estimate, Proportion) else estimate[0]
    return np.asarray(values, np.float64)


def cut_into_shards(units: Units, seed: int = SEED) -> list[Shard]:
    """Return the samples of a data set in random order, cut at the looks.

    Example:
        If the samples 0 and 2 are unit 0 and sample 1 is unit 1, and the order of the units is
        [1, 0], the samples of the only shard are [1, 0, 2], and their units [1, 0, 0].
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
    """The evidence about A - B, to which the samples of one look after the other are added."""

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
    def add(self, a: Samples, b: Samples, units: Ints) -> bool:
        """Add the samples of a shard, and return whether there was a look.

        Args:
            a: The arrays of model A.
            b: The arrays of the baseline, for the same samples.
            units: (n,), the unit of each sample. The samples of a unit follow each other.

        Raises ValueError if both were not measured on the same samples.
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
    """The evidence about a difference of means of values in [0, 1].

    The sum of a unit's differences, divided by the mean size of the units, is a value of the unit.
    The mean of these values over all units is the difference of both means.

    Example:
        Units of 1 and 3 samples have the mean size 2. If A is right and B is wrong on one sample of
        each, both have the value 0.5, which is the difference on all four samples.
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
        self._bound = most / self._mean_size
        self.sequence: BoundedSequence = BoundedSequence(-self._bound, self._bound)
        self._sum = 0.0
        self._n_units = 0

    def add(self, a: Samples, b: Samples, units: Ints) -> bool:
        """Add the values of a shard's units, and return True: there is a look after each shard."""
        self.n_samples += len(units)
        values_a = _values(deciding_estimate(self.task, a))
        values_b = _values(deciding_estimate(self.task, b))
        is_first_of_unit = np.append(True, units[1:] != units[:-1])
        sums = np.add.reduceat(values_a - values_b, np.flatnonzero(is_first_of_unit))
        values = sums / self._mean_size
        if (np.abs(values) > self._bound + _ROUNDING).any():
            raise ValueError("a unit has more samples than the largest one")
        values = np.clip(values, -self._bound, self._bound)
        self.sequence.update(values)
        self._sum += float(values.sum())
        self._n_units += len(values)
        self.difference = self._sum / self._n_units
        return True


class AsymptoticLooks(PairedLooks):
    """The evidence about a difference of other metrics, such as mIoU."""

    def __init__(self, task: Task, n_all_samples: int, start: int) -> None:
        """Begin without samples.

        Args:
            task: The task of the data set.
            n_all_samples: The number of samples of the whole data set.
            start: The number of samples before the first look.
        """
        super().__init__(task, n_all_samples)
        self.sequence: AsymptoticSequence = AsymptoticSequence(start)
        self._a: list[Samples] = []
        self._b: list[Samples] = []
        self._n_at_last_look = 0

    def add(self, a: Samples, b: Samples, units: Ints) -> bool:
        """Add a shard, and look at all samples so far if there are a tenth more than last time."""
        self.n_samples += len(units)
        self._a.append(a)
        self._b.append(b)
        has_grown = self.n_samples >= _GROWTH * self._n_at_last_look
        if self.n_samples < self.sequence.start or not (has_grown or self.is_complete):
            return False
        self._n_at_last_look = self.n_samples
        self._a = [self.task.join(self._a)]
        self._b = [self.task.join(self._b)]
        metric = self.task.deciding_metric
        assert metric is not None  # otherwise there were no units
        compare = self.task.differences([*self._a, *self._b], only=[metric.name])
        paired = compare(0, 1).get(metric.name)
        if paired is None:
            return False
        self.sequence.update(paired)
        self.difference = paired.difference
        # A sequence ignores differences without an error, such as those of equal models.
        return math.isfinite(self.sequence.interval(ALPHA)[0])


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
    """Add shard after shard, and yield each look with its answer, until the answer is known.

    Args:
        evidence: The evidence so far, to which the shards are added.
        shards: For each shard the arrays of A and of the baseline, and the units of the samples.
        alpha: The probability of a wrong answer.
        margin: The difference from which on models are not the same, as a fraction; None for none.
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
    """Yield the samples of two whole results in random order, look by look.

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
    """Return the arrays to store of a run that stopped, in the order in which samples were taken.

    They are the arrays of model A, those of the baseline with BASELINE_PREFIX, and UNIT.
    """
    arrays = dict(task.join([a for a, _, _ in shards]))
    for name, array in task.join([b for _, b, _ in shards]).items():
        arrays[BASELINE_PREFIX + name] = array
    arrays[UNIT] = np.concatenate([units for _, _, units in shards])
    return arrays


def split_stopped_samples(samples: Samples) -> tuple[Samples, Samples, Ints]:
    """Return the arrays of model A, of the baseline, and UNIT, from `stopped_samples`.

    Raises KeyError without an array UNIT.
    """
    a, b = {}, {}
    for name, array in samples.items():
        if name.startswith(BASELINE_PREFIX):
            b[name.removeprefix(BASELINE_PREFIX)] = array
        elif name != UNIT:
            a[name] = array
    return a, b, samples[UNIT]


def shards_of_stopped(task: Task, n_units: int, seed: int, samples: Samples) -> Iterator[Shards]:
    """Yield the samples of a run that stopped, look by look, from its stored arrays.

    Raises ValueError if the units are not the first ones of the random order.
    """
    a, b, units = split_stopped_samples(samples)
    is_first_of_unit = np.append(True, units[1:] != units[:-1])
    first_samples = np.flatnonzero(is_first_of_unit)
    order = random_order(n_units, seed)
    if not np.array_equal(units[first_samples], order[: len(first_samples)]):
        raise ValueError(f"`{UNIT}` is not in the order of seed {seed}")
    ends = np.append(first_samples[1:], len(units))
    start = 0
    for places in cut_into_looks(np.arange(len(first_samples))):
        end = int(ends[places[-1]])
        rows = np.arange(start, end)
        yield task.take(a, rows), task.take(b, rows), units[rows]
        start = end


class Recomputed(NamedTuple):
    """The figures that follow from the stored samples of a run that stopped."""

    metrics: Mapping[str, float]
    looks: list[Look]
    answer: Decision
    difference: float


def recompute(row: ResultRow, samples: Samples) -> Recomputed:
    """Return the metric, the looks and the answer of a run that stopped, from its stored samples.

    Raises ValueError, KeyError or IndexError for samples that this run could not have.
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
    assert metric is not None  # otherwise there were no looks
    return Recomputed({metric.name: estimate.value}, looks, answer, evidence.difference)


def _require_usual_method(estimate: Estimate, record: Mapping[str, Any]) -> None:
    """Raise ValueError if a run cannot have stopped by the method that it records.

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

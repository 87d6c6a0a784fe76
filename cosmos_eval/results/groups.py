"""Two methods by the results of all their trainings, and how many trainings would show more."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import combinations
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.results import compare as results
from cosmos_eval.results.compare import Comparison, Measured, MetricTest
from cosmos_eval.results.identity import training_of, variants
from cosmos_eval.results.labels import Stored
from cosmos_eval.stats.estimates import Ints, Values
from cosmos_eval.stats.groups import GroupDifference, group_difference, image_covariance
from cosmos_eval.stats.planning import MOST_TRAININGS, range_of_trainings
from cosmos_eval.tasks import task_named
from cosmos_eval.types import Samples, UsageError

_IMAGES = {"these": 1.0, "4 x as many": 4.0, "unlimited": inf}  # of a plan
_PLANNED = range(2, 11)  # trainings of each method

Sets = dict[tuple[str, str], list[Stored]]
"""Results by data set and protocol, in the order of seeds."""

Read = Callable[[Path], Samples]
"""Returns the per-sample arrays of a result file; raises UsageError where there are none."""


class Moments(NamedTuple):
    """A metric of S trainings on the same images: values (S,), their covariance (S, S) by the draw
    of the images, and the number of these."""

    values: Values
    covariance: Values
    units: int

    def difference(self, a: Ints, b: Ints, **how: bool) -> GroupDifference:
        """Return the mean of some trainings, by index, minus that of others; `how` is that of
        `group_difference`."""
        both = np.concatenate([a, b])
        covariance = self.covariance[np.ix_(both, both)]
        return group_difference(self.values[a], self.values[b], covariance, self.units, **how)

    def mean(self, of: Ints) -> GroupDifference:
        """Return the mean of some trainings, by index, less 0, which has no variance."""
        covariance = np.pad(self.covariance[np.ix_(of, of)], (0, 1))
        return group_difference(self.values[of], np.zeros(1), covariance, self.units)


def choose(stored: Sequence[Stored], name: str) -> list[Stored]:
    """Return all results of a group, which its own name or a model of it names. A model that states
    no group is one training. Raises UsageError where there is neither."""
    named = [one for one in stored if _group(one) == name or one.is_called(name)]
    if len(names := {_group(one) for one in named}) == 1:
        return [
            one for one in stored if _group(one) in names and (None not in names or one in named)
        ]
    known = ", ".join(sorted({_group(one) or one.model for one in stored}))
    raise UsageError(f"no group, and no model of one group, is called '{name}'; there are {known}")


def compare(
    a: Sequence[Stored],
    b: Sequence[Stored],
    read_samples: Read,
    *,
    by_seed: bool = False,
) -> Comparison:
    """Compare two groups on every data set on which all trainings of both were measured; `by_seed`
    pairs their trainings. Raises UsageError for a training that is there twice, for edited results,
    different settings, and where metrics do not follow from their samples."""
    (of_a, notes_a), (of_b, notes_b) = sets_of(a, "A"), sets_of(b, "B")
    keys, unpaired = results.common_keys(of_a, of_b)
    tests: list[MetricTest] = []
    notes = [*notes_a, *notes_b, *unpaired]
    for key in keys:
        several = [*of_a[key], *of_b[key]]
        for other in several[1:]:
            notes += results.differing_settings(several[0], other)
        if by_seed and [*map(_training, of_a[key])] != [*map(_training, of_b[key])]:
            raise UsageError(f"{key[0]}: the trainings of A and B are not of the same seeds")
        found = moments_of(several, read_samples)
        if lone := ", ".join(name for name, one in found.items() if one is None):
            notes.append(f"{key[0]}: not compared, since one image decides whether it is: {lone}")
        sides = np.split(np.arange(len(several)), [len(of_a[key])])
        tests += metric_tests(key, several[0].row.task, found, *sides, by_seed=by_seed)
    both = of_a[keys[0]], of_b[keys[0]]
    return Comparison(
        a=_group(both[0][0]) or both[0][0].model,
        b=_group(both[1][0]) or both[1][0].model,
        tests=results.adjust(tests),
        notes=tuple(dict.fromkeys(notes)),
        trainings=tuple(map(labels_of, both)),
    )


def _group(one: Stored) -> str | None:
    return training_of(one.row).get("group")


def _training(one: Stored) -> str:
    """Return what distinguishes the trainings of a group, in the order of seeds."""
    seed = training_of(one.row).get("seed")
    return one.identity.name if seed is None else f"seed {seed:010}"


def labels_of(stored: Sequence[Stored]) -> tuple[str, ...]:
    """Return the names of trainings, with their seeds."""
    seeds = (training_of(one.row).get("seed") for one in stored)
    named = zip(stored, seeds, strict=True)
    return tuple(one.model if n is None else f"{one.model}, seed {n}" for one, n in named)


def sets_of(stored: Sequence[Stored], side: str) -> tuple[Sets, list[str]]:
    """Return the data sets and protocols that all trainings of a group were measured on, and notes
    on the others and on the trainings."""
    sets: Sets = {}
    for one in sorted(stored, key=_training):
        words = filter(None, [one.row.protocol, *variants(one.row), one.row.provenance.get("map")])
        sets.setdefault((one.row.dataset, ", ".join(words)), []).append(one)
    k = len({_training(one) for one in stored})
    notes = [*_notes(side, stored, k)]
    for (dataset, how), some in sets.items():
        require_distinct(some)
        if len(some) < k:
            notes.append(
                f"not compared: {dataset} ({how}) has {len(some)} of {k} trainings of {side}"
            )
    complete = {key: some for key, some in sets.items() if len(some) == k}
    if not complete:
        raise UsageError("; ".join(notes))
    return complete, notes


def require_distinct(stored: Sequence[Stored]) -> None:
    """Raise UsageError for results of one training, by its seed or weights, which counts once."""
    seen: dict[str, Stored] = {}
    for one in stored:
        for same in (_training(one), one.row.model["weights_sha256"] or str(one.path)):
            if (other := seen.setdefault(same, one)) is not one:
                raise UsageError(
                    f"{other.path} and {one.path} are of one training, by its seed or weights, "
                    "which counts once: leave one of them out"
                )


def _notes(side: str, stored: Sequence[Stored], k: int) -> Iterator[str]:
    if k == 1:
        yield (
            f"{side} has one training: what another seed gives is unknown, and differences are "
            "those of this training, not of its method"
        )
    if k == 2:
        yield f"{side} has two trainings, which hardly show how much seeds vary: five do"
    for name in ("recipe_sha256", "data_sha256", "samples"):
        found = {training_of(one.row).get(name) for one in stored}
        if len(found - {None}) > 1:
            yield f"the trainings of {side} differ in {name}"
        elif len(found) > 1:
            yield f"not all trainings of {side} state their {name}"


def moments_of(
    stored: Sequence[Stored], read_samples: Read, only: Collection[str] | None = None
) -> dict[str, Moments | None]:
    """Return the metrics that results of a data set have in common, or `only` some; None where one
    image decides whether a metric has a value. Raises UsageError for edited results, different
    settings, and where metrics do not follow from their samples."""
    for first, second in combinations(stored, 2):  # the first may not record its content
        results.require_comparable(first, second)
    task, dataset = stored[0].row.task, stored[0].row.dataset
    try:
        return moments(task, [(one.row.metrics, read_samples(one.path)) for one in stored], only)
    except ValueError as error:
        raise UsageError(f"{dataset}: {error}") from error


def moments(
    task: str, several: Sequence[Measured], only: Collection[str] | None = None
) -> dict[str, Moments | None]:
    """Return the metrics that several results of the same samples have in common; ValueError where
    samples are not the same or do not give the metrics."""
    estimates = task_named(task).compared_estimates([samples for _, samples in several], only)
    shared = [n for n in estimates[0] if all(n in metrics for metrics, _ in several)]
    found: dict[str, Moments | None] = {}
    for name in (n for n in shared if all(n in own for own in estimates)):
        values = np.array([metrics[name] for metrics, _ in several])
        for value, own in zip(values, estimates, strict=True):
            results.require_own(name, value, own[name].value)
        covariance, units = image_covariance([own[name] for own in estimates])
        known = np.isfinite(covariance).all()
        found[name] = Moments(values, covariance, units) if known else None
    return found


def metric_tests(
    key: tuple[str, str],
    task: str,
    found: Mapping[str, Moments | None],
    a: Ints,
    b: Ints,
    *,
    by_seed: bool = False,
) -> list[MetricTest]:
    """Return the tests of some trainings, by index, against others; primary ones first."""
    tests = (
        MetricTest(*key, task, name, one.difference(a, b, by_seed=by_seed))
        for name, one in found.items()
        if one
    )
    return sorted(tests, key=lambda test: not test.record.primary)


def plan(comparison: Comparison, points: float, power: float) -> list[dict[str, Any]]:
    """Return, per primary metric and number of images, the difference that k trainings of each
    method find with a probability of `power`, and the range of k that find a difference of `points`
    by the 5 and 95% points of the variance between trainings; in percent, ranks or ratios. Raises
    UsageError unless both have two trainings or more."""
    return [
        {
            **{name: getattr(test, name) for name in ("dataset", "protocol", "metric")},
            "images": name,
            **_planned(test, images, points, power),
        }
        for test in comparison.tests
        if test.record.primary
        for name, images in _IMAGES.items()
    ]


def _planned(test: MetricTest, images: float, points: float, power: float) -> dict[str, Any]:
    found = test.difference
    if not isinstance(found, GroupDifference) or not found.of_methods:
        raise UsageError("a plan needs two trainings of each method, to see how much seeds vary")
    detectable = {
        f"k = {k}": test.record.factor * (found.detectable(power=power, k=k, images=images) or 0.0)
        for k in _PLANNED
    }
    ends = range_of_trainings(found, points / test.record.factor, power, images)
    shown = [f"over {MOST_TRAININGS}" if k > MOST_TRAININGS else f"{k}" for k in ends]
    return {**detectable, f"k for {points:g}": " to ".join(dict.fromkeys(shown))}

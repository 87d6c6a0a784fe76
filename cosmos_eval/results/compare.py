"""Two models on the same data sets: every metric's difference, and which are more than chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, starmap
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_eval.results.labels import Stored as Stored
from cosmos_eval.results.labels import distinguish
from cosmos_eval.results.record import ResultRow
from cosmos_eval.stats.intervals import LEVEL
from cosmos_eval.stats.paired import PairedDifference, holm
from cosmos_eval.tasks import Metric, metric_of, task_named
from cosmos_eval.types import Interval, Samples, UsageError

# Either name: segmentation calls the hash of its list of images differently.
_SAMPLE_LISTS = ("sample_list", "samples")
_SHOWN = 12  # characters of a hash


class Mismatch(NamedTuple):
    """A field that two results should have alike, and what each of them has."""

    field: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.field} is {self.a} and {self.b}"


def setting(row: ResultRow) -> dict[str, Any]:
    """What decides which number is measured, whatever the model, by the name of its field."""
    recorded = row.provenance
    return {
        "task": row.task,
        "dataset": row.dataset,
        "protocol": row.protocol,
        "attention": recorded["attention"],
        "limit": recorded["limit"],
        **({"partial": recorded["partial"]} if "partial" in recorded else {}),
        "n_samples": row.n_samples,
        **{f"hashes.{name}": value for name, value in sorted(recorded["hashes"].items())},
    }


def mismatches(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Mismatch]:
    """The fields in which two settings differ; a field that one of them lacks is one.

    Settings without a hash of their samples never match: whether these are the same is unknown.
    """
    found = [
        Mismatch(name, _shown(a, name), _shown(b, name))
        for name in dict.fromkeys([*a, *b])
        if name not in a or name not in b or a[name] != b[name]
    ]
    if not any(a.get(f"hashes.{name}") for name in _SAMPLE_LISTS):
        found.append(Mismatch("hashes.sample_list", "not recorded", "of unknown samples"))
    return found


def setup_differences(a: ResultRow, b: ResultRow) -> list[str]:
    """A line for what may differ between results, but should be known: how they were computed."""
    return [
        f"{a.dataset}: {name} is {a.provenance[name]} and {b.provenance[name]}"
        for name in ("map", "precision", "device", "version")
        if a.provenance.get(name) != b.provenance.get(name)
    ]


def _shown(fields: Mapping[str, Any], name: str) -> str:
    if name not in fields:
        return "missing"
    value = "none" if fields[name] is None else str(fields[name])
    return value[:_SHOWN] if name.startswith("hashes.") else value


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

    Whether two results are of the same samples and protocol, `mismatches`
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
    task: str, several: Sequence[Samples], *, without_slow: bool = False
) -> dict[Places, dict[str, PairedDifference]]:
    """Every metric of each of several results minus that of each later one, by their indices.

    Many results take little longer than two, but for a few slow metrics, which can be left out.
    Raises ValueError where the samples are not of the same images and labels.
    """
    try:
        compare = task_named(task).differences(several, without_slow=without_slow)
        places = starmap(Places, combinations(range(len(several)), 2))
        return {place: dict(compare(*place)) for place in places}
    except (KeyError, IndexError) as error:
        raise ValueError(f"samples that lack {error} are not of this task") from error


def require_own(name: str, value: float, computed: float | None) -> None:
    """Raise ValueError where a stored metric is not what its samples give (None: nothing)."""
    if computed is None:
        raise ValueError(f"the samples do not give {name}")
    # Not the other way round: nothing is close to NaN.
    if not math.isclose(value, computed, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        raise ValueError(f"{name} is {value}, but its samples give {computed}")


ReadSamples = Callable[[Path], Samples]


class MetricTest(NamedTuple):
    """A metric of both models on one data set.

    `adjusted` is Holm's p-value over the headline metrics of the comparison; None for others,
    which illustrate, and prove nothing by themselves.
    """

    dataset: str
    protocol: str
    task: str
    metric: str
    difference: PairedDifference
    adjusted: float | None

    @property
    def record(self) -> Metric:
        """The record of the metric."""
        return metric_of(self.task, self.metric)

    @property
    def better(self) -> str:
        """Which model a headline metric shows to be the better one: `A`, `B`, or neither."""
        if self.adjusted is None or self.adjusted > 1 - LEVEL:
            return ""
        is_higher = self.difference.difference > 0
        return "A" if is_higher == self.record.higher_is_better else "B"


class Comparison(NamedTuple):
    """Two models by name, their metrics, and what a reader should know of the results."""

    a: str
    b: str
    tests: tuple[MetricTest, ...]
    notes: tuple[str, ...]


def choose(results: Sequence[Stored], model: str | None, where: str) -> list[Stored]:
    """The results of the named model, or of the only one that there is.

    `model` is a specification, or what tables call the model. Raises UsageError where it is not
    one model.
    """
    found = results
    if model is not None:
        found = [r for r in results if model in (r.model, r.row.model["spec"])]
        found = [r for r in found if r.model == model] or found
    labels = sorted({some.model for some in found})
    if len(labels) == 1:
        return list(found)
    there = ", ".join(sorted({some.model for some in results}))
    if model is None:
        raise UsageError(f"{where} has several models ({there}): choose with --model, A's then B's")
    problem = f"several results of model '{model}'" if labels else f"no result of model '{model}'"
    raise UsageError(f"{where} has {problem}; it has {there}")


def pair(
    a: Sequence[Stored], b: Sequence[Stored]
) -> tuple[list[tuple[Stored, Stored]], tuple[str, ...]]:
    """Results of the same data set and protocol, and a note for each that is without the other.

    One result each is a pair whatever it is of. Raises UsageError where no two belong together.
    """
    if len(a) == len(b) == 1:
        return [(a[0], b[0])], ()
    of_a, of_b = _by_set(a), _by_set(b)
    pairs = [(of_a[key], of_b[key]) for key in of_a if key in of_b]
    if not pairs:
        raise UsageError(
            f"no data set and protocol that both have: A has {_listed(of_a)}, B {_listed(of_b)}"
        )
    notes = (
        f"not compared: only {name} has {_listed([key])}"
        for name, own, other in (("A", of_a, of_b), ("B", of_b, of_a))
        for key in own
        if key not in other
    )
    return pairs, tuple(notes)


def compare(pairs: Sequence[tuple[Stored, Stored]], read_samples: ReadSamples) -> Comparison:
    """Compare results pair by pair.

    Raises UsageError for an edited result, where a pair is not of the same samples and protocol,
    saying which field differs, and where metrics are not those of their samples.
    """
    for stored in (stored for one in pairs for stored in one):
        _require_unchanged(stored)
    for one in pairs:
        _require_comparable(*one)
    tests = [test for one in pairs for test in _tests(*one, read_samples)]
    headlines = [test for test in tests if test.adjusted is not None]
    adjusted = iter(holm([test.difference.p_value for test in headlines]))
    final = (t if t.adjusted is None else t._replace(adjusted=next(adjusted)) for t in tests)
    notes = dict.fromkeys(line for one in pairs for line in _notes(*one))
    (first_a, first_b), *_ = pairs
    if first_a.model == first_b.model:
        # Two states of one checkpoint, each from a folder of its own.
        first_a, first_b = distinguish(pairs[0])
    return Comparison(first_a.model, first_b.model, tuple(final), (*notes,))


def to_records(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON has it."""
    return {
        "a": comparison.a,
        "b": comparison.b,
        "tests": [_record(test) for test in comparison.tests],
        "notes": list(comparison.notes),
    }


def _record(test: MetricTest) -> dict[str, Any]:
    difference = test.difference
    return {
        **{name: getattr(test, name) for name in ("dataset", "protocol", "metric")},
        "a": difference.a,
        "b": difference.b,
        "difference": difference.difference,
        "interval": difference.interval()._asdict(),
        "p_value": difference.p_value,
        "p_value_holm": test.adjusted,
        "detectable": difference.detectable(),
        "test": difference.method,
        "samples": difference.units,
        "better": test.better or None,
    }


def _notes(a: Stored, b: Stored) -> list[str]:
    lone = sorted(set(a.row.metrics) ^ set(b.row.metrics))
    lines = [f"{a.row.dataset}: not compared, since only one of both has it: {m}" for m in lone]
    return lines + setup_differences(a.row, b.row)


def _require_unchanged(one: Stored) -> None:
    if one.is_edited:
        raise UsageError(
            f"{one.path} was edited after it was written (`cosmos-eval verify` shows more): "
            "measure again"
        )


def _require_comparable(a: Stored, b: Stored) -> None:
    found = mismatches(setting(a.row), setting(b.row))
    if found:
        fields = "; ".join(map(str, found))
        raise UsageError(f"{a.path} and {b.path} cannot be compared: {fields}")


def _tests(a: Stored, b: Stored, read_samples: ReadSamples) -> list[MetricTest]:
    """Tests of all metrics, headlines first, before adjustment."""
    found = paired_differences(a.row, read_samples(a.path), b.row, read_samples(b.path))
    names = [name for name in found if name in a.row.metrics and name in b.row.metrics]
    tests = [
        metric_test(a.row.dataset, a.row.protocol, a.row.task, name, found[name]) for name in names
    ]
    return sorted(tests, key=lambda test: test.adjusted is None)


def metric_test(
    dataset: str, protocol: str, task: str, metric: str, difference: PairedDifference
) -> MetricTest:
    """Return a test before adjustment; its p-value only where the metric is a primary one."""
    p_value = difference.p_value if metric_of(task, metric).primary else None
    return MetricTest(dataset, protocol, task, metric, difference, p_value)


def _by_set(results: Sequence[Stored]) -> dict[tuple[str, str], Stored]:
    return {(some.row.dataset, some.row.protocol): some for some in results}


def _listed(keys: Sequence[tuple[str, str]] | dict[tuple[str, str], Stored]) -> str:
    return ", ".join(f"{dataset} ({protocol})" for dataset, protocol in sorted(keys))

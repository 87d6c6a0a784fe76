"""Two models on the same data sets: every metric's difference, and which are more than chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_eval.results.labels import Stored as Stored
from cosmos_eval.results.labels import distinguish
from cosmos_eval.results.matching import lower_is_better, mismatches, setting, setup_differences
from cosmos_eval.results.paired import paired_differences
from cosmos_eval.stats.intervals import LEVEL
from cosmos_eval.stats.paired import PairedDifference, holm
from cosmos_eval.tasks import task_named
from cosmos_eval.types import Samples, UsageError

ReadSamples = Callable[[Path], Samples]


class MetricTest(NamedTuple):
    """A metric of both models on one data set.

    `adjusted` is Holm's p-value over the headline metrics of the comparison; None for others,
    which illustrate, and prove nothing by themselves.
    """

    dataset: str
    protocol: str
    metric: str
    difference: PairedDifference
    adjusted: float | None

    @property
    def better(self) -> str:
        """Which model a headline metric shows to be the better one: `A`, `B`, or neither."""
        if self.adjusted is None or self.adjusted > 1 - LEVEL:
            return ""
        return "A" if (self.difference.difference > 0) != lower_is_better(self.metric) else "B"


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
    headlines = task_named(a.row.task).decisive
    names = [name for name in found if name in a.row.metrics and name in b.row.metrics]
    return [
        MetricTest(
            a.row.dataset,
            a.row.protocol,
            name,
            found[name],
            found[name].p_value if name in headlines else None,
        )
        for name in sorted(names, key=lambda name: name not in headlines)
    ]


def _by_set(results: Sequence[Stored]) -> dict[tuple[str, str], Stored]:
    return {(some.row.dataset, some.row.protocol): some for some in results}


def _listed(keys: Sequence[tuple[str, str]] | dict[tuple[str, str], Stored]) -> str:
    return ", ".join(f"{dataset} ({protocol})" for dataset, protocol in sorted(keys))

"""Two models on the same data sets: every metric's difference, and which are more than chance."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_eval.results.identity import CONTENT, model_sha256
from cosmos_eval.results.labels import Stored, distinct, distinguish
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.table import USUAL, View
from cosmos_eval.results.text import p_value_text
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.stats.intervals import LEVEL
from cosmos_eval.stats.paired import PairedDifference, holm
from cosmos_eval.tasks import Metric, metric_of, task_named
from cosmos_eval.types import Samples, UsageError, base_family

_TUNED = ("attention", "hashes.constants", "hashes.queries", "hashes.templates")
"""Fields of a setting that a search has chosen for each model, whose protocol names the search."""
SAMPLE_LISTS = ("hashes.sample_list", "hashes.samples")
"""Fields of a setting of which one is the hash of the list of samples."""
_CONTENT = f"hashes.{CONTENT}"
_DATA = ("repository", "revision", _CONTENT)
"""Fields of a setting that are compared if both have them: not every result records them."""
_RECORDED = ("attention", "limit", "partial", "repository", "revision")
_EXPLAINED = {_CONTENT: " (images, label maps and labels that were measured)"}
_SHOWN = 12  # characters of a hash
_ROUNDING = 1e-9  # sums in another order differ in their last bits

Measured = tuple[Mapping[str, float], Samples]
"""The metrics of a result and the samples that they follow from."""


def setting(row: ResultRow) -> dict[str, Any]:
    """Return the fields that decide which number is measured, whatever the model."""
    recorded = row.provenance
    fields = {
        **{name: getattr(row, name) for name in ("task", "dataset", "protocol")},
        **{name: recorded[name] for name in _RECORDED if name in recorded},
        "n_samples": row.n_samples,
        **{f"hashes.{name}": value for name, value in sorted(recorded["hashes"].items())},
    }
    chosen = _TUNED if "tuned" in recorded else ()
    return {name: value for name, value in fields.items() if name not in chosen}


def mismatches(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Describe the fields in which two settings differ; a field that one of them lacks is one, but
    for repository, revision and content, which older results do not record. Settings without a hash
    of their samples never match: whether these are the same is unknown."""
    differences = []
    for name in dict.fromkeys([*a, *b]):
        is_in_both, is_required = name in a and name in b, name not in _DATA
        if (is_in_both and a[name] != b[name]) or (is_required and not is_in_both):
            explained = f"{name}{_EXPLAINED.get(name, '')}"
            differences.append(f"{explained} is {_shown(a, name)} and {_shown(b, name)}")
    if not any(a.get(name) for name in SAMPLE_LISTS):
        differences.append("hashes.sample_list is not recorded and of unknown samples")
    return differences


def has_content(fields: Mapping[str, Any]) -> bool:
    """Return whether a setting has the hash of what was measured."""
    return bool(fields.get(_CONTENT))


def _shown(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "missing")
    value = "none" if value is None else str(value)
    return value[:_SHOWN] if name.startswith("hashes.") or name == "revision" else value


def paired_differences(
    row_a: ResultRow,
    samples_a: Samples,
    row_b: ResultRow,
    samples_b: Samples,
    only: Collection[str] | None = None,
) -> dict[str, PairedDifference]:
    """Return `differences_of` two results of a task. Raises UsageError in place of ValueError."""
    a, b = (row_a.metrics, samples_a), (row_b.metrics, samples_b)
    try:
        return differences_of(row_a.task, a, b, only)
    except ValueError as error:
        raise UsageError(f"{row_a.dataset}: {error}") from error


def differences_of(
    task: str, a: Measured, b: Measured, only: Collection[str] | None = None
) -> dict[str, PairedDifference]:
    """Return every metric of A minus that of B, or `only` some, by name. Raises ValueError where
    the samples are not of the same images and labels, and where a metric does not follow from its
    samples."""
    (found,) = all_differences(task, [a[1], b[1]], only=only).values()
    known = task_named(task)
    for (metrics, samples), side in ((a, "a"), (b, "b")):
        computed = {name: getattr(difference, side) for name, difference in found.items()}
        if metrics.keys() - found.keys():  # of a result of another version, or not compared
            estimates = known.estimates(known.derive(samples)).items()
            computed = {name: estimate.value for name, estimate in estimates} | computed
        for name, value in metrics.items():
            require_own(name, value, computed.get(name))
    return found


def all_differences(
    task: str,
    several: Sequence[Samples],
    *,
    without_slow: bool = False,
    only: Collection[str] | None = None,
) -> dict[tuple[int, int], dict[str, PairedDifference]]:
    """Return every metric, or `only` some, of each of several results minus that of each later one,
    by indices. Many results take little longer than two, except for a few slow metrics, which can
    be left out. Raises ValueError where the samples are not of the same images and labels."""
    compare = task_named(task).differences(several, without_slow=without_slow, only=only)
    return {(a, b): dict(compare(a, b)) for a, b in combinations(range(len(several)), 2)}


def require_own(name: str, value: float, computed: float | None) -> None:
    """Raise ValueError where a stored metric is not what its samples give (None: nothing)."""
    if computed is None:
        raise ValueError(f"the samples do not give {name}")
    # Not the other way round: nothing is close to NaN.
    if not math.isclose(value, computed, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        raise ValueError(f"{name} is {value}, but its samples give {computed}")


class MetricTest(NamedTuple):
    """A metric of both models, or methods, on one data set; `adjust` adds Holm's p-value and, of
    all tests, the difference that they find with a probability of 80%."""

    dataset: str
    protocol: str
    task: str
    metric: str
    difference: PairedDifference | GroupDifference
    adjusted: float | None = None
    detectable: float | None = None

    @property
    def record(self) -> Metric:
        return metric_of(self.task, self.metric)

    @property
    def better(self) -> str:
        """The model, or method, that a primary metric shows to be better: `A`, `B`, or neither."""
        if self.adjusted is None or self.adjusted > 1 - LEVEL:
            return ""
        if isinstance(self.difference, GroupDifference) and not self.difference.of_methods:
            return ""
        is_higher = self.difference.difference > 0
        return "A" if is_higher == self.record.higher_is_better else "B"


def adjust(tests: Iterable[MetricTest]) -> tuple[MetricTest, ...]:
    """Return tests with Holm's p-values over all primary metrics, and what they can detect at the
    level of his first step. Other metrics, which illustrate, and prove nothing by themselves, have
    no such p-value, and what each detects by itself."""
    tests = list(tests)
    primary = [test.difference.p_value for test in tests if test.record.primary]
    adjusted, level = iter(holm(primary)), (1 - LEVEL) / max(1, len(primary))
    return tuple(
        t._replace(adjusted=next(adjusted), detectable=t.difference.detectable(level))
        if t.record.primary
        else t._replace(detectable=t.difference.detectable())
        for t in tests
    )


class Comparison(NamedTuple):
    """Two models or groups by name, their metrics, and what a reader should know of the results;
    of groups also the models of A and of B."""

    a: str
    b: str
    tests: tuple[MetricTest, ...]
    notes: tuple[str, ...]
    trainings: tuple[tuple[str, ...], ...] = ()


def choose(results: Sequence[Stored], model: str | None, where: str) -> list[Stored]:
    """Return the results of the only model, or of `model`: its specification, name, or label in
    tables. Raises UsageError where it is not one model."""
    chosen = results
    if model is not None:
        named = [stored for stored in results if stored.model == model]
        chosen = named or [stored for stored in results if stored.is_called(model)]
    labels = {stored.model for stored in chosen}
    if len(labels) == 1:
        of_model = distinct(stored for stored in results if stored.model in labels)
        require_one_state_of_data(of_model)
        return of_model
    there = ", ".join(sorted({stored.model for stored in results}))
    if model is None:
        raise UsageError(f"{where} has several models ({there}): choose with --model, A's then B's")
    problem = f"several results of model '{model}'" if labels else f"no result of model '{model}'"
    raise UsageError(f"{where} has {problem}: choose one of {there}")


def require_one_state_of_data(results: Iterable[Stored]) -> None:
    """Raise UsageError where a model has results on other files of one data set."""
    first: dict[tuple[str, str], Stored] = {}
    for stored in results:
        other = first.setdefault((stored.row.dataset, stored.row.protocol), stored)
        if other is not stored:
            raise UsageError(
                f"{other.path} and {stored.path} are results of {stored.model} on other data: "
                f"{other.dataset} and {stored.dataset}: keep one of the files"
            )


def pair(
    a: Sequence[Stored], b: Sequence[Stored]
) -> tuple[list[tuple[Stored, Stored]], tuple[str, ...]]:
    """Pair results of the same data set and protocol; note each that is without the other. One
    result each is a pair whatever it is of. Raises UsageError where no two belong together."""
    if len(a) == len(b) == 1:
        return [(a[0], b[0])], ()
    of_a, of_b = ({(r.row.dataset, r.row.protocol): r for r in results} for results in (a, b))
    keys, notes = common_keys(of_a, of_b)
    return [(of_a[key], of_b[key]) for key in keys], notes


def common_keys(
    of_a: Collection[tuple[str, str]], of_b: Collection[tuple[str, str]]
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Return the data sets and protocols that A and B have, and notes of those that one lacks.
    Raises UsageError where they have none in common."""
    both = [key for key in of_a if key in of_b]
    if not both:
        raise UsageError(
            f"no data set and protocol that both have: A has {_listed(of_a)}, B {_listed(of_b)}"
        )
    notes = (
        f"not compared: only {name} has {_listed([key])}"
        for name, own, other in (("A", of_a, of_b), ("B", of_b, of_a))
        for key in own
        if key not in other
    )
    return both, tuple(notes)


def _listed(keys: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{dataset} ({protocol})" for dataset, protocol in sorted(keys))


def compare(
    pairs: Sequence[tuple[Stored, Stored]], read_samples: Callable[[Path], Samples]
) -> Comparison:
    """Compare results pair by pair. Raises UsageError for edited results, for pairs of different
    settings, and where metrics do not follow from their samples."""
    for a, b in pairs:
        require_comparable(a, b)
    tests = adjust(test for one in pairs for test in _tests(*one, read_samples))
    notes = dict.fromkeys(line for one in pairs for line in differing_settings(*one))
    a, b = pairs[0]
    if model_sha256(a.row) == model_sha256(b.row):
        weights = str(a.row.model["weights_sha256"])[:_SHOWN]
        notes = {f"A and B are one model, of weights {weights}": None, **notes}
    elif a.model == b.model:
        a, b = distinguish([a, b])  # two states of one checkpoint, each from a folder of its own
    return Comparison(a.model, b.model, tests, tuple(notes))


def require_comparable(a: Stored, b: Stored) -> None:
    """Raise UsageError for edited results, and for results of different settings."""
    for one in (a, b):
        if one.is_edited:
            raise UsageError(
                f"{one.path} was edited after it was written (`cosmos-eval verify` shows more): "
                "measure again"
            )
    # Scores of pairs are another protocol, but follow from the same samples.
    same = ({**setting(r), "protocol": base_family(r.protocol)} for r in (a.row, b.row))
    if found := mismatches(*same):
        raise UsageError(f"{a.path} and {b.path} cannot be compared: {'; '.join(found)}")


def _tests(a: Stored, b: Stored, read_samples: Callable[[Path], Samples]) -> list[MetricTest]:
    row = a.row
    found = paired_differences(row, read_samples(a.path), b.row, read_samples(b.path))
    names = [name for name in found if name in row.metrics and name in b.row.metrics]
    protocol = " and ".join(dict.fromkeys([row.protocol, b.row.protocol]))
    tests = (MetricTest(row.dataset, protocol, row.task, name, found[name]) for name in names)
    return sorted(tests, key=lambda test: not test.record.primary)


def differing_settings(a: Stored, b: Stored) -> list[str]:
    """Return notes of what two results that can be compared do not have in common."""
    dataset, of_a, of_b = a.row.dataset, a.row.provenance, b.row.provenance
    lone = sorted(set(a.row.metrics) ^ set(b.row.metrics))
    lone = [name for name in lone if not metric_of(a.row.task, name).reference]
    lines = [f"{dataset}: not compared, since only one of both has it: {name}" for name in lone]
    if a.row.protocol != b.row.protocol:
        lines.append(f"{dataset}: protocol is {a.row.protocol} and {b.row.protocol}")
    if not (has_content(setting(a.row)) and has_content(setting(b.row))):
        lines.append(
            f"{dataset}: the content of the images was not compared, since not all results record "
            "it (older versions did not)"
        )
    return lines + [
        f"{dataset}: {name} is {of_a.get(name)} and {of_b.get(name)}"
        for name in ("map", "pair_score", "precision", "device", "version")
        if of_a.get(name) != of_b.get(name)
    ]


def to_records(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON holds it."""
    content = {**comparison._asdict(), "tests": [_test_record(test) for test in comparison.tests]}
    return {name: part for name, part in content.items() if name != "trainings" or part}


def _test_record(test: MetricTest) -> dict[str, Any]:
    found = test.difference
    numbers = ("a", "b", "difference", "p_value")
    record = {
        **{name: getattr(test, name) for name in ("dataset", "protocol", "metric")},
        **{name: getattr(found, name) for name in numbers},
        "interval": found.interval()._asdict(),
        "p_value_holm": test.adjusted,
        "detectable": test.detectable,
        "test": found.method,
        "samples": found.units,
        "better": test.better or None,
    }
    return {**record, **components(found)}


def components(found: PairedDifference | GroupDifference) -> dict[str, Any]:
    """Return the numbers of trainings and both components of an error, if it is one of groups."""
    if not isinstance(found, GroupDifference):
        return {}
    seeds = {"k": [one.k for one in found.groups], "seed_sd": [one.seed_sd for one in found.groups]}
    return {**seeds, "image_error": found.image_error, "of_methods": found.of_methods}


def to_cells(test: MetricTest, view: View = USUAL) -> dict[str, str | None]:
    """Return a test as a row of a table: fractions in percent, ranks and ratios as they are."""
    found, factor = test.difference, test.record.factor
    ends = (factor * end for end in found.interval()[:2])
    return {
        "data set": test.dataset,
        "protocol": test.protocol,
        "metric": test.metric,
        "test": f"{found.method}, n = {found.units}",
        "A": view.fixed(factor * found.a),
        "B": view.fixed(factor * found.b),
        **view.change("A - B", factor * found.difference, ends),
        "p": p_value_text(found.p_value),
        "p (Holm)": None if test.adjusted is None else p_value_text(test.adjusted),
        "better": test.better,
        "detectable": _detectable(test, view),
        **component_cells(found, factor, view),
    }


def _detectable(test: MetricTest, view: View) -> str | None:
    """Return what is detectable, or that it is more than any two models can differ by."""
    (least, most), factor = test.record.bounds, test.record.factor
    if test.detectable is not None and test.detectable > most - least:
        return f"> {factor * (most - least):g}"
    return None if test.detectable is None else view.fixed(factor * test.detectable)


def component_cells(
    found: PairedDifference | GroupDifference, factor: float, view: View = USUAL
) -> dict[str, str]:
    """Return the numbers of trainings and both components as text, empty where there are none."""
    if not isinstance(found, GroupDifference):
        return {"seed sd": "", "image se": "", "k": ""}
    sds = ("?" if g.seed_sd is None else view.fixed(factor * g.seed_sd) for g in found.groups)
    k = " / ".join(str(one.k) for one in found.groups)
    return {"seed sd": " / ".join(sds), "image se": view.fixed(factor * found.image_error), "k": k}

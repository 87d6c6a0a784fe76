"""Compare results of the same samples: which can be compared, and by how much metrics differ.

`Measurement` is a result as all comparisons need it. Two models are compared here, two methods by
groups of trainings in `groups`, and new results with a baseline in `gate.check`.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_eval.results.identity import CONTENT
from cosmos_eval.results.labels import Stored, distinct, distinguish
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.table import USUAL, View
from cosmos_eval.results.text import p_value_text
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.stats.intervals import LEVEL
from cosmos_eval.stats.paired import PairedDifference, holm
from cosmos_eval.tasks import Metric, metric_of, task_named
from cosmos_eval.types import Samples, UsageError, base_protocol_name

_TUNED = ("attention", "hashes.constants", "hashes.queries", "hashes.templates")
"""Fields of a setting that a search has chosen for each model, whose protocol names the search."""
SAMPLE_LISTS = ("hashes.sample_list", "hashes.samples")
"""Fields that may hold the hash of the list of samples. A setting has one of them."""
_CONTENT = f"hashes.{CONTENT}"
_DATA = ("repository", "revision", _CONTENT)
"""Fields of a setting that are compared if both have them: not every result records them."""
_RECORDED = ("attention", "limit", "partial", "repository", "revision")
_EXPLANATIONS = {_CONTENT: " (images, label maps and labels that were measured)"}
_HASH = 12  # characters of a hash that is shown
_ROUNDING = 1e-9  # sums in another order differ in their last bits


class Measurement(NamedTuple):
    """A result, or an entry of a baseline, as it is compared with others."""

    # The fields that decide which number is measured, by `setting`.
    setting: Mapping[str, Any]
    metrics: Mapping[str, float]
    # The per-sample arrays that the metrics follow from.
    samples: Samples

    @property
    def task(self) -> str:
        return str(self.setting["task"])


def measurement_of(row: ResultRow, samples: Samples) -> Measurement:
    """Return a result and its samples as they are compared with others."""
    return Measurement(setting(row), row.metrics, samples)


def setting(row: ResultRow) -> dict[str, Any]:
    """Return the fields that decide which number is measured, except the model."""
    provenance = row.provenance
    fields: dict[str, Any] = {"task": row.task, "dataset": row.dataset, "protocol": row.protocol}
    for name in _RECORDED:
        if name in provenance:
            fields[name] = provenance[name]
    fields["n_samples"] = row.n_samples
    for name, digest in sorted(provenance["hashes"].items()):
        fields[f"hashes.{name}"] = digest
    if "tuned" in provenance:
        for name in _TUNED:
            fields.pop(name, None)
    return fields


def mismatches(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Describe the fields in which two settings differ.

    A field that only one of them has is a difference, except for repository, revision and content,
    which older results do not record. Settings without a hash of their samples never match, since
    it is unknown whether their samples are the same.
    """
    differences = []
    for name in dict.fromkeys([*a, *b]):
        is_in_both = name in a and name in b
        if is_in_both and a[name] == b[name]:
            continue
        if not is_in_both and name in _DATA:
            continue
        explanation = _EXPLANATIONS.get(name, "")
        differences.append(
            f"{name}{explanation} is {_field_text(a, name)} and {_field_text(b, name)}"
        )
    if not any(a.get(name) for name in SAMPLE_LISTS):
        differences.append("hashes.sample_list is not recorded, so that the samples may differ")
    return differences


def require_same_settings(settings: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError with the fields in which any two of several settings differ.

    All pairs are compared, since a field that one setting does not record may differ in others.
    """
    for a, b in combinations(settings, 2):
        differences = mismatches(a, b)
        if differences:
            raise ValueError("; ".join(differences))


def has_content(fields: Mapping[str, Any]) -> bool:
    """Return whether a setting has the hash of the content that was measured."""
    return bool(fields.get(_CONTENT))


def _field_text(fields: Mapping[str, Any], name: str) -> str:
    """Return the value of a field as text; a hash by its first characters."""
    value = fields.get(name, "missing")
    text = "none" if value is None else str(value)
    return text[:_HASH] if name.startswith("hashes.") or name == "revision" else text


def paired_differences(
    row_a: ResultRow,
    samples_a: Samples,
    row_b: ResultRow,
    samples_b: Samples,
    only: Collection[str] | None = None,
) -> dict[str, PairedDifference]:
    """Return the metrics of result A minus those of result B, by name.

    Raises UsageError in all cases in which `differences_of` raises ValueError.
    """
    a, b = measurement_of(row_a, samples_a), measurement_of(row_b, samples_b)
    try:
        return differences_of(a, b, only)
    except ValueError as error:
        raise UsageError(f"{row_a.dataset}: {error}") from error


def differences_of(
    a: Measurement, b: Measurement, only: Collection[str] | None = None
) -> dict[str, PairedDifference]:
    """Return every metric of A minus the metric of B, by name.

    `only` selects metrics. Raises ValueError if the samples are not of the same images and labels,
    and for a metric that does not follow from its samples.
    """
    differences = all_differences(a.task, [a.samples, b.samples], only=only)[0, 1]
    values_a = {name: difference.a for name, difference in differences.items()}
    values_b = {name: difference.b for name, difference in differences.items()}
    _require_metrics_of_samples(a, values_a)
    _require_metrics_of_samples(b, values_b)
    return differences


def _require_metrics_of_samples(measurement: Measurement, values: Mapping[str, float]) -> None:
    """Raise ValueError for a stored metric that is not the value that the samples give.

    `values` are the metrics that are computed already. Metrics of other versions, and metrics that
    were not compared, are missing in `values` and computed here.
    """
    computed = dict(values)
    if measurement.metrics.keys() - values.keys():
        task = task_named(measurement.task)
        estimates = task.estimates(task.derive(measurement.samples))
        for name, estimate in estimates.items():
            computed.setdefault(name, estimate.value)
    for name, value in measurement.metrics.items():
        require_metric_of_samples(name, value, computed.get(name))


def all_differences(
    task: str,
    samples: Sequence[Samples],
    *,
    without_slow: bool = False,
    only: Collection[str] | None = None,
) -> dict[tuple[int, int], dict[str, PairedDifference]]:
    """Return the differences of every two results, by the indices of both, then by metric.

    A difference is a metric of the earlier result minus the metric of the later one.

    `only` selects metrics. Many results take little longer than two, except for a few slow
    metrics, which `without_slow` leaves out. Raises ValueError if the samples are not of the same
    images and labels.
    """
    compare_two = task_named(task).differences(samples, without_slow=without_slow, only=only)
    return {(a, b): dict(compare_two(a, b)) for a, b in combinations(range(len(samples)), 2)}


def require_metric_of_samples(name: str, value: float, computed: float | None) -> None:
    """Raise ValueError if a stored metric differs from the value that the samples give.

    `value` is the stored metric. `computed` is the value from the samples, or None if they do not
    give the metric.
    """
    if computed is None:
        raise ValueError(f"the samples do not give {name}")
    # This also refuses NaN, which is close to no number.
    if not math.isclose(value, computed, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        raise ValueError(f"{name} is {value}, but its samples give {computed}")


class MetricTest(NamedTuple):
    """A metric of two models, or of two methods, on one data set."""

    dataset: str
    protocol: str
    task: str
    metric: str
    # A minus B.
    difference: PairedDifference | GroupDifference
    # Holm's p-value over all primary metrics, set by `adjust`; None for other metrics.
    adjusted: float | None = None
    # The difference that the test finds with a probability of 80%, set by `adjust`.
    detectable: float | None = None

    @property
    def record(self) -> Metric:
        return metric_of(self.task, self.metric)

    @property
    def better(self) -> str:
        """The side that a primary metric shows to be better: `A`, `B`, or empty for neither."""
        if self.adjusted is None or self.adjusted > 1 - LEVEL:
            return ""
        if isinstance(self.difference, GroupDifference) and not self.difference.compares_methods:
            return ""
        is_higher = self.difference.difference > 0
        return "A" if is_higher == self.record.higher_is_better else "B"


def adjust(tests: Iterable[MetricTest]) -> tuple[MetricTest, ...]:
    """Return tests with their adjusted p-values and detectable differences.

    Primary metrics have Holm's p-value over all of them, and the difference that they can detect at
    the level of Holm's first step. Other metrics only illustrate. They have no adjusted p-value,
    and the difference that a single test can detect.
    """
    tests = list(tests)
    p_values = [test.difference.p_value for test in tests if test.record.primary]
    adjusted_p_values = iter(holm(p_values))
    level = (1 - LEVEL) / max(1, len(p_values))
    adjusted_tests = []
    for test in tests:
        if test.record.primary:
            detectable = test.difference.detectable(level)
            test = test._replace(adjusted=next(adjusted_p_values), detectable=detectable)
        else:
            test = test._replace(detectable=test.difference.detectable())
        adjusted_tests.append(test)
    return tuple(adjusted_tests)


class Comparison(NamedTuple):
    """Two models, or two groups of trainings, and the tests of their metrics."""

    # The labels of both models, or the names of both groups.
    a: str
    b: str
    tests: tuple[MetricTest, ...]
    # What a reader should know of the results, one line each.
    notes: tuple[str, ...]
    # The labels of the trainings of A and of B; empty for models.
    trainings: tuple[tuple[str, ...], ...] = ()


def choose(results: Sequence[Stored], model: str | None, place: str) -> list[Stored]:
    """Return the results of `model`, which is a specification, name, or label in tables.

    Without `model` all results must have the same model. Raises UsageError if none or several
    models are called so; `place` is where the results were read, for the message.
    """
    chosen = list(results)
    if model is not None:
        chosen = [result for result in results if result.model == model]
        if not chosen:
            chosen = [result for result in results if result.is_called(model)]
    labels = {result.model for result in chosen}
    if len(labels) == 1:
        model_results = distinct(result for result in results if result.model in labels)
        require_one_state_of_data(model_results)
        return model_results
    models = ", ".join(sorted({result.model for result in results}))
    if model is None:
        raise UsageError(
            f"{place} has several models ({models}): choose with --model, A's then B's"
        )
    problem = f"several results of model '{model}'" if labels else f"no result of model '{model}'"
    raise UsageError(f"{place} has {problem}: choose one of {models}")


def require_one_state_of_data(results: Iterable[Stored]) -> None:
    """Raise UsageError if a model has results on different files of one data set."""
    first_results: dict[tuple[str, str], Stored] = {}
    for result in results:
        first = first_results.setdefault((result.row.dataset, result.row.protocol), result)
        if first is not result:
            raise UsageError(
                f"{first.path} and {result.path} are results of {result.model} on other data: "
                f"{first.dataset} and {result.dataset}: keep one of the files"
            )


def pair(
    a: Sequence[Stored], b: Sequence[Stored]
) -> tuple[list[tuple[Stored, Stored]], tuple[str, ...]]:
    """Pair results of the same data set and protocol; also return a note on each unpaired result.

    A single result on each side is always a pair, also if data sets and protocols differ. Raises
    UsageError if no two results belong together.
    """
    if len(a) == len(b) == 1:
        return [(a[0], b[0])], ()
    results_a = {(result.row.dataset, result.row.protocol): result for result in a}
    results_b = {(result.row.dataset, result.row.protocol): result for result in b}
    keys, notes = common_keys(results_a, results_b)
    return [(results_a[key], results_b[key]) for key in keys], notes


def common_keys(
    keys_a: Collection[tuple[str, str]], keys_b: Collection[tuple[str, str]]
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Return the data sets and protocols that both A and B have, and a note on each other one.

    Raises UsageError if they have none in common.
    """
    common = [key for key in keys_a if key in keys_b]
    if not common:
        raise UsageError(
            "no data set and protocol that both have: "
            f"A has {_keys_text(keys_a)}, B {_keys_text(keys_b)}"
        )
    notes = []
    for key in keys_a:
        if key not in keys_b:
            notes.append(f"not compared: only A has {_keys_text([key])}")
    for key in keys_b:
        if key not in keys_a:
            notes.append(f"not compared: only B has {_keys_text([key])}")
    return common, tuple(notes)


def _keys_text(keys: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{dataset} ({protocol})" for dataset, protocol in sorted(keys))


def compare(
    pairs: Sequence[tuple[Stored, Stored]], read_samples: Callable[[Path], Samples]
) -> Comparison:
    """Compare two models by pairs of their results on the same samples.

    Raises UsageError for edited results, for pairs of different settings, and for metrics that do
    not follow from their samples.
    """
    for a, b in pairs:
        require_comparable(a, b)
    tests: list[MetricTest] = []
    notes: list[str] = []
    for a, b in pairs:
        tests += _tests_of_pair(a, b, read_samples)
        notes += differing_settings(a, b)
    a, b = pairs[0]
    if a.identity.sha256 == b.identity.sha256:
        weights = str(a.row.model["weights_sha256"])[:_HASH]
        notes.insert(0, f"A and B are one model, of weights {weights}")
    elif a.model == b.model:
        a, b = distinguish([a, b])  # two states of one checkpoint, each from a folder of its own
    return Comparison(a.model, b.model, adjust(tests), tuple(dict.fromkeys(notes)))


def require_comparable(*results: Stored) -> None:
    """Raise UsageError for edited results, and for results of different settings."""
    for a, b in combinations(results, 2):
        for result in (a, b):
            if result.is_edited:
                raise UsageError(
                    f"{result.path} was edited after it was written (`cosmos-eval verify` shows "
                    "more): measure again"
                )
        try:
            require_same_settings([_setting_without_scores(a), _setting_without_scores(b)])
        except ValueError as error:
            raise UsageError(f"{a.path} and {b.path} cannot be compared: {error}") from error


def _setting_without_scores(result: Stored) -> dict[str, Any]:
    """Return the setting of a result, with a protocol that does not say how pairs were scored.

    Another way to score pairs of images and texts makes another protocol. The results can still be
    compared, because they were measured on the same samples.
    """
    return setting(result.row) | {"protocol": base_protocol_name(result.row.protocol)}


def _tests_of_pair(
    a: Stored, b: Stored, read_samples: Callable[[Path], Samples]
) -> list[MetricTest]:
    """Return the tests of the metrics that two results have, primary ones first."""
    row_a, row_b = a.row, b.row
    differences = paired_differences(row_a, read_samples(a.path), row_b, read_samples(b.path))
    protocol = " and ".join(dict.fromkeys([row_a.protocol, row_b.protocol]))
    tests = []
    for name, difference in differences.items():
        if name in row_a.metrics and name in row_b.metrics:
            tests.append(MetricTest(row_a.dataset, protocol, row_a.task, name, difference))
    return sorted(tests, key=lambda test: not test.record.primary)


def differing_settings(a: Stored, b: Stored) -> Iterator[str]:
    """Yield notes on everything in which two comparable results differ."""
    dataset, task = a.row.dataset, a.row.task
    for name in sorted(set(a.row.metrics) ^ set(b.row.metrics)):
        if not metric_of(task, name).reference:
            yield f"{dataset}: not compared, since only one of both has it: {name}"
    if a.row.protocol != b.row.protocol:
        yield f"{dataset}: protocol is {a.row.protocol} and {b.row.protocol}"
    if not (has_content(setting(a.row)) and has_content(setting(b.row))):
        yield (
            f"{dataset}: the content of the images was not compared, since not all results record "
            "it (older versions did not)"
        )
    for name in ("map", "pair_score", "precision", "device", "version"):
        value_a, value_b = a.row.provenance.get(name), b.row.provenance.get(name)
        if value_a != value_b:
            yield f"{dataset}: {name} is {value_a} and {value_b}"


def to_records(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON holds it."""
    content = comparison._asdict()
    content["tests"] = [_test_record(test) for test in comparison.tests]
    if not comparison.trainings:
        del content["trainings"]
    return content


def _test_record(test: MetricTest) -> dict[str, Any]:
    """Return a test as JSON holds it."""
    difference = test.difference
    record = {
        "dataset": test.dataset,
        "protocol": test.protocol,
        "metric": test.metric,
        "a": difference.a,
        "b": difference.b,
        "difference": difference.difference,
        "p_value": difference.p_value,
        "interval": difference.interval()._asdict(),
        "p_value_holm": test.adjusted,
        "detectable": test.detectable,
        "test": difference.method,
        "samples": difference.units,
        "better": test.better or None,
    }
    return record | components(difference)


def components(difference: PairedDifference | GroupDifference) -> dict[str, Any]:
    """Return what a difference of two groups of trainings has beyond other differences, for JSON.

    These are the numbers of trainings, and both components of the error: by seeds and by images. A
    difference of two results has none of them.
    """
    if not isinstance(difference, GroupDifference):
        return {}
    return {
        "k": [trainings.k for trainings in difference.groups],
        "seed_sd": [trainings.seed_sd for trainings in difference.groups],
        "image_error": difference.image_error,
        "of_methods": difference.compares_methods,
    }


def to_cells(test: MetricTest, view: View = USUAL) -> dict[str, str | None]:
    """Return a test as a row of a table: fractions in percent, ranks and ratios as they are."""
    difference, factor = test.difference, test.record.factor
    low, high = difference.interval()[:2]
    ends = (factor * low, factor * high)
    cells: dict[str, str | None] = {
        "data set": test.dataset,
        "protocol": test.protocol,
        "metric": test.metric,
        "test": f"{difference.method}, n = {difference.units}",
        "A": view.fixed(factor * difference.a),
        "B": view.fixed(factor * difference.b),
    }
    cells |= view.change("A - B", factor * difference.difference, ends)
    cells["p"] = p_value_text(difference.p_value)
    cells["p (Holm)"] = None if test.adjusted is None else p_value_text(test.adjusted)
    cells["better"] = test.better
    cells["detectable"] = _detectable_text(test, view)
    return cells | component_cells(difference, factor, view)


def _detectable_text(test: MetricTest, view: View) -> str | None:
    """Return the detectable difference, or that it is more than any two models can differ by."""
    if test.detectable is None:
        return None
    least, most = test.record.bounds
    factor = test.record.factor
    if test.detectable > most - least:
        return f"> {factor * (most - least):g}"
    return view.fixed(factor * test.detectable)


def component_cells(
    difference: PairedDifference | GroupDifference, factor: float, view: View = USUAL
) -> dict[str, str]:
    """Return `components` as text, times a factor; empty texts for a difference of two results."""
    if not isinstance(difference, GroupDifference):
        return {"seed sd": "", "image se": "", "k": ""}
    seed_sds = []
    for trainings in difference.groups:
        seed_sd = trainings.seed_sd
        seed_sds.append("?" if seed_sd is None else view.fixed(factor * seed_sd))
    return {
        "seed sd": " / ".join(seed_sds),
        "image se": view.fixed(factor * difference.image_error),
        "k": " / ".join(str(trainings.k) for trainings in difference.groups),
    }

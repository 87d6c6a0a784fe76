"""Compare results of the same samples: which can be compared, and by how much metrics differ.

`Measurement` is a result as all comparisons need it. Two models are compared here, two methods by
groups of trainings in `groups`, and new results with a baseline in `gate.check`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmos_core.utils.text import first_of
from cosmos_eval.results.labels import StoredResult, distinct_results, label_results
from cosmos_eval.results.record import ResultRow, is_same_figure
from cosmos_eval.results.settings import (
    differing_conditions,
    has_content,
    require_same_settings,
    setting_of_result,
)
from cosmos_eval.results.table import (
    USUAL,
    TableOptions,
    frame_of_records,
    select_metrics,
    table_of_records,
    to_html,
)
from cosmos_eval.results.text import exact_difference, p_value_text
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.stats.intervals import LEVEL
from cosmos_eval.stats.paired import PairedDifference, holm
from cosmos_eval.tasks import Metric, metric_of, task_named
from cosmos_eval.types import Samples, UsageError, base_protocol_name, nearest

if TYPE_CHECKING:
    import pandas as pd

_MOST_KEYS = 20  # data sets that a message names
_HASH_LENGTH = 12  # characters of a hash that is shown


class Measurement(NamedTuple):
    """The contents of a result, or of an entry of a baseline, that comparisons need."""

    # The fields that decide which number is measured, from `setting_of_result`.
    setting: Mapping[str, Any]
    metrics: Mapping[str, float]
    # The per-sample arrays that the metrics follow from.
    samples: Samples

    @property
    def task(self) -> str:
        """The name of the task that was measured."""
        return str(self.setting["task"])


def measurement_of(row: ResultRow, samples: Samples) -> Measurement:
    """Return what comparisons need of a result and its per-sample arrays."""
    return Measurement(setting_of_result(row), row.metrics, samples)


def paired_differences(
    row_a: ResultRow,
    samples_a: Samples,
    row_b: ResultRow,
    samples_b: Samples,
    only: Collection[str] | None = None,
) -> dict[str, PairedDifference]:
    """Return every metric of result A minus the same metric of result B, by name.

    The difference is paired: its error follows from the per-sample arrays of both.

    Args:
        row_a: Result A.
        samples_a: The per-sample arrays of result A, by name.
        row_b: Result B.
        samples_b: The per-sample arrays of result B.
        only: The names of the metrics to compare; None for all.

    Raises:
        UsageError: If the samples are not of the same images and labels, and for a stored metric
            that the samples do not give.
    """
    measurement_a = measurement_of(row_a, samples_a)
    measurement_b = measurement_of(row_b, samples_b)
    try:
        return differences_of(measurement_a, measurement_b, only)
    except ValueError as error:
        raise UsageError(f"{row_a.dataset}: {error}") from error


def differences_of(
    a: Measurement, b: Measurement, only: Collection[str] | None = None
) -> dict[str, PairedDifference]:
    """Return every metric of measurement A minus the same metric of B, by name.

    Args:
        a: Measurement A, which is a result as comparisons need it.
        b: Measurement B, of the same samples.
        only: The names of the metrics to compare; None for all.

    Raises:
        ValueError: If the samples are not of the same images and labels, and for a stored metric
            that the samples do not give.
    """
    differences_of_pairs = all_differences(a.task, [a.samples, b.samples], only=only)
    differences = differences_of_pairs[0, 1]

    # The values of both, which were computed from the samples, must be the stored metrics.
    values_a = {name: difference.a for name, difference in differences.items()}
    values_b = {name: difference.b for name, difference in differences.items()}
    _require_metrics_of_samples(a, values_a)
    _require_metrics_of_samples(b, values_b)
    return differences


def _require_metrics_of_samples(
    measurement: Measurement, computed_values: Mapping[str, float]
) -> None:
    """Raise ValueError if a stored metric of a measurement differs from what its samples give.

    Args:
        measurement: The stored metrics and the samples.
        computed_values: The metrics that were computed from the samples already, by name. Others,
            such as metrics that were not compared, are computed here.
    """
    all_values = dict(computed_values)
    missing_names = measurement.metrics.keys() - computed_values.keys()
    if missing_names:
        task = task_named(measurement.task)
        estimates = task.estimates(task.derive(measurement.samples))
        for name, estimate in estimates.items():
            all_values.setdefault(name, estimate.value)
    for name, stored_value in measurement.metrics.items():
        require_metric_of_samples(name, stored_value, all_values.get(name))


def all_differences(
    task: str,
    samples: Sequence[Samples],
    *,
    without_slow: bool = False,
    only: Collection[str] | None = None,
) -> dict[tuple[int, int], dict[str, PairedDifference]]:
    """Return the differences of every two of several results, by their indices and by metric.

    Many results take little longer than two, except for a few slow metrics.

    Args:
        task: The name of the task of all results.
        samples: The per-sample arrays of each result.
        without_slow: True if to leave out the slow metrics.
        only: The names of the metrics to compare; None for all.

    Returns:
        The differences, with the lower index first: `differences[0, 2]["mAP"]` is mAP of the first
        result minus mAP of the third.

    Raises:
        ValueError: If the samples are not of the same images and labels.
    """
    compare_two = task_named(task).differences(samples, without_slow=without_slow, only=only)
    differences = {}
    for index_a, index_b in combinations(range(len(samples)), 2):
        differences[index_a, index_b] = dict(compare_two(index_a, index_b))
    return differences


def require_metric_of_samples(name: str, value: float, computed: float | None) -> None:
    """Raise ValueError if a stored metric differs from the value computed from the samples.

    Differences by rounding are allowed.

    Args:
        name: The name of the metric.
        value: The stored value.
        computed: The value from the samples, or None if the samples do not give the metric.
    """
    if computed is None:
        raise ValueError(f"the samples do not give {name}")
    if not is_same_figure(value, computed):
        raise ValueError(f"{name} is {value}, but its samples give {computed}")


class MetricTest(NamedTuple):
    """The test whether two models, or two methods, differ in one metric on one data set."""

    dataset: str
    protocol: str
    task: str
    metric: str
    # The metric of A minus the metric of B.
    difference: PairedDifference | GroupDifference
    # The p-value of a primary metric by Holm's correction, set by `adjust_p_values`; else None.
    adjusted: float | None = None
    # The least true difference that the test finds with a probability of 80%, also set there.
    detectable: float | None = None

    @property
    def metric_record(self) -> Metric:
        """The metric's definition: its unit, its bounds, and whether higher is better."""
        return metric_of(self.task, self.metric)

    @property
    def better(self) -> str:
        """The side that the test shows to be better: "A", "B", or empty for neither.

        Only primary metrics decide, at the level of 5% after Holm's correction. A difference of
        single trainings shows nothing about methods.
        """
        is_undecided = self.adjusted is None or self.adjusted > 1 - LEVEL
        if is_undecided:
            return ""
        if _is_of_one_training(self.difference):
            return ""
        is_a_higher = self.difference.difference > 0
        is_a_better = is_a_higher == self.metric_record.higher_is_better
        return "A" if is_a_better else "B"


def _is_of_one_training(difference: PairedDifference | GroupDifference) -> bool:
    """Return whether two methods were compared, and at least one of them by a single training."""
    return isinstance(difference, GroupDifference) and not difference.compares_methods


def adjust_p_values(tests: Iterable[MetricTest]) -> tuple[MetricTest, ...]:
    """Return tests with `adjusted` p-values and `detectable` differences.

    The p-values of primary metrics are corrected by Holm's method for the number of primary
    metrics. Their detectable differences are for the strictest level of this method, 0.05 divided
    by that number. Other metrics only illustrate: they have no adjusted p-value, and the detectable
    difference of a single test at 0.05.
    """
    adjusted_tests = list(tests)
    primary_indices = []
    for index, test in enumerate(adjusted_tests):
        if test.metric_record.primary:
            primary_indices.append(index)
        else:
            adjusted_tests[index] = test._replace(detectable=test.difference.detectable())

    # Correct the primary metrics together.
    p_values = [adjusted_tests[index].difference.p_value for index in primary_indices]
    strictest_level = (1 - LEVEL) / max(1, len(p_values))
    for index, adjusted_p_value in zip(primary_indices, holm(p_values), strict=True):
        test = adjusted_tests[index]
        adjusted_tests[index] = test._replace(
            adjusted=adjusted_p_value, detectable=test.difference.detectable(strictest_level)
        )
    return tuple(adjusted_tests)


class UntestedDifference(NamedTuple):
    """A metric of two models of which one has no samples, so that nothing can be tested."""

    dataset: str
    protocol: str
    task: str
    metric: str
    # The values of model A and model B.
    a: float
    b: float

    @property
    def difference(self) -> float:
        """The value of A minus the value of B."""
        return self.a - self.b

    @property
    def metric_record(self) -> Metric:
        """The metric's definition: its unit, its bounds, and whether higher is better."""
        return metric_of(self.task, self.metric)


class Comparison(NamedTuple):
    """Two models, or two groups of trainings, and the tests of their metrics."""

    # The labels of both models, or the names of both groups.
    a: str
    b: str
    tests: tuple[MetricTest, ...]
    # What a reader should know about the results, one line each.
    notes: tuple[str, ...]
    # The labels of the trainings of A and of B; empty for models.
    trainings: tuple[tuple[str, ...], ...] = ()
    # The seeds of these trainings, None for an unknown seed; empty for models.
    seeds: tuple[tuple[int | None, ...], ...] = ()
    # The differences of models of which one was measured by another tool; empty if there are tests.
    untested: tuple[UntestedDifference, ...] = ()

    @property
    def headline_tests(self) -> tuple[MetricTest, ...]:
        """The tests of headline metrics; all tests if there are none of headline metrics."""
        headline_tests = tuple(test for test in self.tests if test.adjusted is not None)
        return headline_tests or self.tests

    @property
    def verdict(self) -> str:
        """The outcome in one line, such as "A better in 10, B in 0 of 13 tests (Holm)"."""
        if self.untested:
            return "no verdict: a paired test needs samples, which imported results do not have"
        sides = [test.better for test in self.tests if test.adjusted is not None]
        if not sides:
            return "no verdict: no headline metric was tested"
        differences = [test.difference for test in self.tests]
        if any(_is_of_one_training(difference) for difference in differences):
            return "no verdict: one training per method shows nothing about the methods"
        plural = "s" if len(sides) > 1 else ""
        n_better_a, n_better_b = sides.count("A"), sides.count("B")
        return f"A better in {n_better_a}, B in {n_better_b} of {len(sides)} test{plural} (Holm)"

    @property
    def frame(self) -> pd.DataFrame:
        """The tests as a table, one row each, with the numbers that `compare --json` prints.

        `a`, `b`, `difference`, its 95% interval `low` to `high`, and `detectable` are in the unit
        of the metric, which is a fraction for shares. `p_value_holm` and `better` are missing for
        metrics that do not decide. Differences without a test have none of these but `difference`.
        """
        if self.untested:
            return frame_of_records(_untested_record(row) for row in self.untested)
        return frame_of_records(_test_record(test) for test in self.tests)

    def _repr_html_(self) -> str:
        """Return the table that notebooks show: all tests, fractions in percent, and the notes."""
        rows = [to_cells(test) for test in self.tests]
        rows += [untested_cells(difference) for difference in self.untested]
        table = table_of_records(
            rows,
            section=("data set", "protocol"),
            n_text_columns=2,
        )
        title = f"{self.a} (A) and {self.b} (B)"
        return to_html([table._replace(title=title, notes=self.notes)])


def headlines_of(differences: Sequence[UntestedDifference]) -> list[UntestedDifference]:
    """Return the differences of primary metrics, and all of data sets without any of these."""
    cells_with_primary = set()
    for row in differences:
        if row.metric_record.primary:
            cells_with_primary.add((row.dataset, row.protocol))
    headlines = []
    for row in differences:
        has_primary = (row.dataset, row.protocol) in cells_with_primary
        if row.metric_record.primary or not has_primary:
            headlines.append(row)
    return headlines


def with_metrics(comparison: Comparison, patterns: Sequence[str]) -> Comparison:
    """Return a comparison with only the metrics that match a pattern; without patterns, all.

    Raises UsageError for a pattern that no metric matches.
    """
    if comparison.untested:
        differences = select_metrics(comparison.untested, patterns, lambda row: row.metric)
        return comparison._replace(untested=differences)
    tests = select_metrics(comparison.tests, patterns, lambda test: test.metric)
    return comparison._replace(tests=tests)


def only_headlines(comparison: Comparison) -> Comparison:
    """Return a comparison with only its headline metrics; with all metrics if it has none."""
    untested_headlines = tuple(headlines_of(comparison.untested))
    return comparison._replace(tests=comparison.headline_tests, untested=untested_headlines)


def select_model_results(
    results: Sequence[StoredResult], model: str | None, place: str
) -> list[StoredResult]:
    """Return the results of one model, without repeated results.

    Args:
        results: The results of several models.
        model: A label in tables, a name or a specification, such as "clip (student)" or
            "openclip:ViT-B-32/openai". If it is None, all results must belong to the same model.
        place: Where the results were read from, for messages.

    Raises:
        UsageError: If no model or several models are called so.
    """
    matching_results = list(results)
    if model is not None:
        # A label belongs to one model, but models can share names and specifications.
        matching_results = [result for result in results if result.model == model]
        if not matching_results:
            matching_results = [result for result in results if result.is_called(model)]

    labels = {result.model for result in matching_results}
    if len(labels) == 1:
        model_results = distinct_results(result for result in results if result.model in labels)
        require_one_data_version(model_results)
        return model_results

    # Name the models that can be chosen.
    all_models = sorted({result.model for result in results})
    if model is None:
        raise UsageError(
            f"{place} has several models ({', '.join(all_models)}): "
            "choose with --model, A's then B's"
        )
    if labels:
        labels_of_model = ", ".join(sorted(labels))
        raise UsageError(
            f"{place} has several results of model '{model}': choose one of {labels_of_model}"
        )
    raise UsageError(
        f"{place} has no result of model '{model}'; nearest: {nearest(model, all_models)}"
    )


def require_one_data_version(results: Iterable[StoredResult]) -> None:
    """Raise UsageError if results of one model were measured on several versions of a data set.

    The results must be distinct, so two results of one data set and protocol differ in its files.
    """
    first_results: dict[tuple[str, str], StoredResult] = {}
    for result in results:
        key = (result.row.dataset, result.row.protocol)
        first = first_results.setdefault(key, result)
        is_second_version = first is not result
        if is_second_version:
            raise UsageError(
                f"{first.path} and {result.path} are results of {result.model} on other data, or "
                f"with other settings: {first.dataset} and {result.dataset}: keep one of the files"
            )


def pair_results(
    a: Sequence[StoredResult], b: Sequence[StoredResult]
) -> tuple[list[tuple[StoredResult, StoredResult]], tuple[str, ...]]:
    """Pair the results of model A and model B that have the same data set and protocol.

    If each model has a single result, they are a pair even if their data sets or protocols differ.

    Args:
        a: The results of model A.
        b: The results of model B.

    Returns:
        The pairs, with the result of A first, and a note on each result without a partner.

    Raises:
        UsageError: If no pair is left to compare.
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
    """Return the keys that both A and B have, and a note on each key that only one of them has.

    Args:
        keys_a: The data set and the protocol of each result of A, such as ("coco", "karpathy").
        keys_b: The same of B.

    Raises:
        UsageError: If A and B have no key in common.
    """
    keys_of_both = [key for key in keys_a if key in keys_b]
    if not keys_of_both:
        raise UsageError(
            "no data set and protocol that both have: "
            f"A has {keys_text(keys_a)}, B {keys_text(keys_b)}"
        )
    notes = []
    for key in keys_a:
        if key not in keys_b:
            notes.append(f"not compared: only A has {keys_text([key])}")
    for key in keys_b:
        if key not in keys_a:
            notes.append(f"not compared: only B has {keys_text([key])}")
    return keys_of_both, tuple(notes)


def keys_text(keys: Iterable[tuple[str, str]]) -> str:
    """Return data sets and protocols as text.

    At most 20 are named, and the others are counted.

    Example: [("coco", "karpathy")] -> "coco (karpathy)".
    """
    texts = [f"{dataset} ({protocol})" for dataset, protocol in sorted(keys)]
    return first_of(texts, _MOST_KEYS)


def compare(
    pairs: Sequence[tuple[StoredResult, StoredResult]], read_samples: Callable[[Path], Samples]
) -> Comparison:
    """Compare model A with model B by pairs of their results on the same samples.

    Args:
        pairs: A result of A and a result of B for each data set and protocol, from `pair_results`.
        read_samples: A function that returns the per-sample arrays of a result file.

    Raises:
        UsageError: For edited results, for pairs with different settings, and for stored metrics
            that the samples do not give.
    """
    # Check all pairs before samples are read, which takes longer.
    for a, b in pairs:
        require_comparable(a, b)

    tests: list[MetricTest] = []
    notes: list[str] = []
    for a, b in pairs:
        tests_of_pair = _tests_of_pair(a, b, read_samples)
        tests += tests_of_pair
        notes += _untested_notes(a, b, {test.metric for test in tests_of_pair})
        notes += differing_settings(a, b)

    # Say which models were compared, by any of their results.
    a, b = pairs[0]
    is_one_model = not a.identity.hashes.isdisjoint(b.identity.hashes)
    if is_one_model:
        weights = str(a.row.model["weights_sha256"])[:_HASH_LENGTH]
        notes.insert(0, f"A and B are one model, of weights {weights}")
    elif a.model == b.model:
        # Two models with the same name, each from a separate folder: add hashes to their labels.
        a, b = label_results([a, b])
    return Comparison(a.model, b.model, adjust_p_values(tests), tuple(dict.fromkeys(notes)))


def require_comparable(*results: StoredResult) -> None:
    """Raise UsageError if any result was edited, or if two results have different settings.

    A single result is not checked at all.
    """
    for a, b in combinations(results, 2):
        for result in (a, b):
            require_unedited(result)
        try:
            require_same_settings([_setting_without_scores(a), _setting_without_scores(b)])
        except ValueError as error:
            raise UsageError(f"{a.path} and {b.path} cannot be compared: {error}") from error


def require_unedited(result: StoredResult) -> None:
    """Raise UsageError if a result was edited."""
    if result.is_edited:
        raise UsageError(
            f"{result.path} was edited after it was written (`cosmos-eval verify` shows "
            "more): measure again"
        )


def _setting_without_scores(result: StoredResult) -> dict[str, Any]:
    """Return the setting of a result, without the way in which images and texts were scored.

    The way to score pairs of images and texts is a suffix of the protocol's name, which is removed.
    Results with other scores can be compared, because they were measured on the same samples.
    """
    setting = setting_of_result(result.row)
    setting["protocol"] = base_protocol_name(result.row.protocol)
    return setting


def _tests_of_pair(
    a: StoredResult, b: StoredResult, read_samples: Callable[[Path], Samples]
) -> list[MetricTest]:
    """Return the tests of the metrics that results A and B have in common, primary ones first.

    Args:
        a: The result of model A.
        b: The result of model B.
        read_samples: A function that returns the per-sample arrays of a result file.
    """
    row_a, row_b = a.row, b.row
    differences = paired_differences(row_a, read_samples(a.path), row_b, read_samples(b.path))
    # Protocols may differ in how they score images and texts: "cosmos and cosmos-pairs100".
    distinct_protocols = dict.fromkeys([row_a.protocol, row_b.protocol])
    protocol = " and ".join(distinct_protocols)
    tests = []
    for name, difference in differences.items():
        if name in row_a.metrics and name in row_b.metrics:
            tests.append(MetricTest(row_a.dataset, protocol, row_a.task, name, difference))
    return sorted(tests, key=lambda test: not test.metric_record.primary)


def _untested_notes(
    a: StoredResult, b: StoredResult, tested_metrics: Collection[str]
) -> Iterator[str]:
    """Yield a note on metrics that both results have, but that could not be compared.

    Such a metric has no value without one of the images, so the error of its difference is unknown.
    """
    names = []
    for name in a.row.metrics:
        is_of_both = name in b.row.metrics and not metric_of(a.row.task, name).reference
        if is_of_both and name not in tested_metrics:
            names.append(name)
    if names:
        yield (
            f"{a.row.dataset}: not compared, since one image decides whether there is a value of "
            f"{', '.join(names)}"
        )


def differing_settings(a: StoredResult, b: StoredResult) -> Iterator[str]:
    """Yield notes on what differs between two results though they can be compared.

    These are metrics of only one result, the protocol's way of scoring, missing hashes of the
    images, and provenance such as the precision and the device, see `differing_conditions`.

    Args:
        a: The result of model A.
        b: The result of model B on the same data set.

    Example:
        "coco: precision is fp32 and bf16"
    """
    dataset, task = a.row.dataset, a.row.task
    metrics_of_one_result = set(a.row.metrics) ^ set(b.row.metrics)
    for name in sorted(metrics_of_one_result):
        if not metric_of(task, name).reference:
            yield f"{dataset}: not compared, since only one of both has it: {name}"
    if a.row.protocol != b.row.protocol:
        yield f"{dataset}: protocol is {a.row.protocol} and {b.row.protocol}"
    both_have_content = all(has_content(setting_of_result(result.row)) for result in (a, b))
    if not both_have_content:
        yield (
            f"{dataset}: the content of the images was not compared, since not all results record "
            "it (older versions did not)"
        )
    for difference in differing_conditions(a.row.provenance, b.row.provenance):
        yield f"{dataset}: {difference}"


def to_records(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as a record for JSON, with one record per test.

    The labels of trainings are left out in a comparison of two models, and `untested` if all
    differences are tested.
    """
    content = comparison._asdict()
    del content["seeds"]
    content["untested"] = [_untested_record(row) for row in comparison.untested]
    if not comparison.untested:
        del content["untested"]
    content["tests"] = [_test_record(test) for test in comparison.tests]
    if not comparison.trainings:
        del content["trainings"]
    return content


def _test_record(test: MetricTest) -> dict[str, Any]:
    """Return the test of a metric as a record for JSON."""
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
    return record | error_components(difference)


def _untested_record(difference: UntestedDifference) -> dict[str, Any]:
    """Return a difference without a test as a record for JSON."""
    return {
        "dataset": difference.dataset,
        "protocol": difference.protocol,
        "metric": difference.metric,
        "a": difference.a,
        "b": difference.b,
        "difference": difference.difference,
    }


def untested_cells(
    difference: UntestedDifference, options: TableOptions = USUAL
) -> dict[str, str | None]:
    """Return a difference without a test as a row of a table, by column title.

    Fractions are in percent. Ranks and ratios stay as they are.

    Args:
        difference: The metric of both models.
        options: How many decimals numbers have.
    """
    factor = difference.metric_record.factor
    change = exact_difference(difference.a, difference.b)
    return {
        "data set": difference.dataset,
        "protocol": difference.protocol,
        "metric": difference.metric,
        "A": options.format_number(difference.a, factor),
        "B": options.format_number(difference.b, factor),
        "A - B": options.format_number(change, factor, sign="+"),
    }


def error_components(difference: object) -> dict[str, Any]:
    """Return the components of the error of a difference between groups of trainings, for JSON.

    These are the number of trainings `k` of each group, the standard deviation `seed_sd` between
    seeds in each group, and the standard error `image_error` by the draw of images. The dictionary
    is empty for a difference of two results, which has no such components.
    """
    if not isinstance(difference, GroupDifference):
        return {}
    return {
        "k": [trainings.k for trainings in difference.groups],
        "seed_sd": [trainings.seed_sd for trainings in difference.groups],
        "image_error": difference.image_error,
        "of_methods": difference.compares_methods,
    }


def to_cells(test: MetricTest, options: TableOptions = USUAL) -> dict[str, str | None]:
    """Return the test of a metric as a row of a table, by column title.

    Fractions are in percent. Ranks and ratios stay as they are.

    Args:
        test: The test, see `adjust_p_values`.
        options: How many decimals numbers have, and whether intervals are shown.
    """
    difference = test.difference
    factor = test.metric_record.factor  # 100 for fractions, else 1
    interval = difference.interval()
    cells: dict[str, str | None] = {
        "data set": test.dataset,
        "protocol": test.protocol,
        "metric": test.metric,
        "test": f"{difference.method}, n = {difference.units}",
        "A": options.format_number(difference.a, factor),
        "B": options.format_number(difference.b, factor),
    }
    change = exact_difference(difference.a, difference.b)
    interval_ends = (interval.low, interval.high)
    cells.update(options.format_change("A - B", change, interval_ends, factor))
    cells["p"] = p_value_text(difference.p_value)
    cells["p (Holm)"] = None if test.adjusted is None else p_value_text(test.adjusted)
    cells["better"] = test.better
    cells["detectable"] = detectable_text(test.detectable, test.metric_record, options)
    cells.update(error_component_cells(difference, factor, options))
    return cells


def detectable_text(detectable: float | None, metric: Metric, options: TableOptions) -> str | None:
    """Return the detectable difference of a test as text, or None if there is none.

    If it is greater than any difference that the metric can have, the text is "> 100".

    Args:
        detectable: The difference, in the unit of the metric.
        metric: The definition of the metric.
        options: How many decimals numbers have.
    """
    if detectable is None:
        return None
    least, most = metric.bounds
    factor = metric.factor  # 100 for fractions, else 1
    largest_difference = most - least
    if detectable > largest_difference:
        return f"> {factor * largest_difference:g}"
    return options.format_number(detectable, factor)


def error_component_cells(
    difference: object, factor: int, options: TableOptions = USUAL
) -> dict[str, str]:
    """Return the components of the error of a difference as cells of a table, by column title.

    See `error_components`. The numbers of both groups are joined, such as "0.31 / 0.28", with "?"
    for a group of one training. The cells are empty for a difference of two results.

    Args:
        difference: The difference between two results, or between two groups of trainings.
        factor: The number that errors are multiplied by, which is 100 for fractions.
        options: How many decimals numbers have.
    """
    if not isinstance(difference, GroupDifference):
        return {"seed sd": "", "image se": "", "k": ""}
    seed_sds = []
    for trainings in difference.groups:
        seed_sd = trainings.seed_sd
        seed_sds.append("?" if seed_sd is None else options.format_number(seed_sd, factor))
    return {
        "seed sd": " / ".join(seed_sds),
        "image se": options.format_number(difference.image_error, factor),
        "k": " / ".join(str(trainings.k) for trainings in difference.groups),
    }


def join_error_components(
    cells: Mapping[str, str | None], difference: object
) -> dict[str, str | None]:
    """Return a row of a table, with the components of its error in the cell of the test.

    The table of a comparison of groups of trainings then fits into 80 columns. A row about two
    results only loses its empty cells of these components.

    Args:
        cells: The row, with the column `test` and the columns of `error_component_cells`.
        difference: The difference that the row is about.

    Example:
        The cells `k`, `seed sd` and `image se` of groups become one cell `test` with the text
        "k 5 / 5, n = 500, seed sd 7.58 / 6.48, image se 0.17".
    """
    joined_cells = dict(cells)
    k, seed_sd, image_se = [joined_cells.pop(name) for name in ("k", "seed sd", "image se")]
    if isinstance(difference, GroupDifference):
        joined_cells["test"] = (
            f"k {k}, n = {difference.units}, seed sd {seed_sd}, image se {image_se}"
        )
    return joined_cells

"""Compare models over several wordings of the same data sets.

A wording is one way to write the texts of a data set: its prompts or captions. A comparison says in
how many wordings a model is better. Its interval says how far the mean difference would move with
other wordings, other images and other seeds.

A comparison has one or two sides. A side is a model, A or B, or all trainings (seeds) of a method.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmos_core.utils.text import first_of
from cosmos_eval.results import compare as comparisons
from cosmos_eval.results.compare import require_metric_of_samples
from cosmos_eval.results.groups import require_distinct, training_key
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.settings import describe_mismatches, setting_of_result
from cosmos_eval.results.table import USUAL, TableOptions, frame_of_records, select_metrics
from cosmos_eval.stats.estimates import Estimate
from cosmos_eval.stats.wordings import (
    Component,
    Components,
    WordedMean,
    WordedValues,
    components,
    mean_over_wordings,
    require_enough_wordings,
    worded_values,
)
from cosmos_eval.tasks import Metric, metric_of, task_named
from cosmos_eval.types import Interval, Samples, UsageError, published_protocol_name, wording_name

if TYPE_CHECKING:
    import pandas as pd

_TEXT_FIELDS = ("hashes.templates", "hashes.class_names", "hashes.queries", "protocol")
"""The fields of a setting that may differ between the wordings of a data set."""
_POPULATION = (
    "intervals speak of a random sample of wordings like these; the published wording is not in it"
)
_CAPTION_TASKS = ("retrieval", "select")
_MOST_NAMES = 10  # of wordings in a note
_LONGEST_TEXT = 36  # characters of the column `changes` in tables

ReadSamples = Callable[[Path], Samples]
"""A function that returns the per-sample arrays of a result file."""

ResultsByWording = dict[str, list[StoredResult]]
"""The results of one side on one data set: for the name of each wording, the results of all
trainings in the order of seeds. The name of the protocol's own wording is empty."""

DatasetKey = tuple[str, str]
"""The data set and its protocol."""


class WordingRow(NamedTuple):
    """The values of a metric with one wording. They are means over the trainings of a side."""

    # The name of the wording.
    wording: str
    # A short description of what the wording changes.
    text: str
    # The value of A.
    a: float
    # The value of B; None if there is no B.
    b: float | None

    @property
    def shown(self) -> float:
        """The difference A - B, or the value of A if there is no B."""
        return self.a if self.b is None else self.a - self.b


class WordingTest(NamedTuple):
    """A metric on one data set over its wordings: of one model, or of A and B."""

    dataset: str
    # The protocol with its own wording.
    protocol: str
    task: str
    metric: str
    # The wordings: the worst one for A, the best one, and then the others from worse to better.
    rows: tuple[WordingRow, ...]
    # The values with the protocol's own wording; None if they are missing.
    published: WordingRow | None
    # The mean of A, or the mean difference of A and B, over the wordings.
    mean: WordedMean
    # The variance components of "A", and also of "B" and of "A - B" if there is a B.
    components: Mapping[str, Components]
    # The numbers of trainings of A and of B.
    trainings: tuple[int, ...]

    @property
    def metric_record(self) -> Metric:
        """The metric's definition: its unit, its bounds, and whether higher is better."""
        return metric_of(self.task, self.metric)

    @property
    def interval(self) -> Interval:
        """The 95% interval over images, wordings and, with several trainings, seeds."""
        interval = self.mean.interval()
        is_mean_of_one = self.rows[0].b is None
        return self.metric_record.within(interval) if is_mean_of_one else interval

    @property
    def n_better(self) -> tuple[int, int]:
        """In how many wordings A is better, and in how many B is better. They may also be equal."""
        sign = 1 if self.metric_record.higher_is_better else -1
        n_a = sum(sign * row.shown > 0 for row in self.rows)
        n_b = sum(sign * row.shown < 0 for row in self.rows)
        return n_a, n_b

    @property
    def better(self) -> str:
        """The side whose mean is shown to be better, "A" or "B"; empty for neither."""
        interval = self.interval
        if self.rows[0].b is None or interval.low <= 0 <= interval.high:
            return ""
        is_a_higher = interval.low > 0
        return "A" if is_a_higher == self.metric_record.higher_is_better else "B"

    @property
    def factors(self) -> str:
        """The factors that the interval includes beside images, such as "wording and seeds"."""
        return "wording and seeds" if max(self.trainings) > 1 else "wording"


class WordingComparison(NamedTuple):
    """One model, or two models or groups of trainings, over wordings."""

    # The names of A and of B; B is None if there is only one model.
    a: str
    b: str | None
    tests: tuple[WordingTest, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The outcome in one line.

        If there is one test, the line describes it. If there are several, the line counts in how
        many of them A is shown to be better, and in how many B is.

        Examples:
            "A better in 8 of 10 wordings; mean difference +2.10 [0.30, 3.90] incl. wording",
            "A better over wordings in 1, B in 0 of 3 metrics".
        """
        return verdict_text(self)

    @property
    def frame(self) -> pd.DataFrame:
        """The tests as a table, one row per data set, metric and wording; fractions in [0, 1]."""
        return frame_of_records(row for test in self.tests for row in row_records(test))


def verdict_text(comparison: WordingComparison, options: TableOptions = USUAL) -> str:
    """Return the verdict with numbers in the form of the options, see `WordingComparison`."""
    if len(comparison.tests) == 1:
        return outcome_text(comparison.tests[0], options)
    n_metrics = len(comparison.tests)
    if comparison.b is None:
        factors = comparison.tests[0].factors
        return f"means over wordings of {n_metrics} metrics; intervals include {factors}"
    sides = [test.better for test in comparison.tests]
    n_a, n_b = sides.count("A"), sides.count("B")
    return f"A better over wordings in {n_a}, B in {n_b} of {n_metrics} metrics"


def outcome_text(test: WordingTest, options: TableOptions = USUAL) -> str:
    """Return the outcome of a test in one line, see `WordingComparison.verdict`."""
    if test.rows[0].b is not None:
        return _difference_text(test, options)
    factor = test.metric_record.factor
    mean = options.format_number(test.mean.mean, factor)
    low = options.format_number(test.interval.low, factor)
    high = options.format_number(test.interval.high, factor)
    return f"mean of {len(test.rows)} wordings {mean} [{low}, {high}] incl. {test.factors}"


def _difference_text(test: WordingTest, options: TableOptions) -> str:
    """Return in how many wordings A is better, and the mean difference with its interval."""
    n_wordings = len(test.rows)
    n_a, n_b = test.n_better
    n_equal = n_wordings - n_a - n_b
    equal = f", equal in {n_equal}" if n_equal else ""
    factor = test.metric_record.factor
    mean = options.format_number(test.mean.mean, factor, "+")
    low = options.format_number(test.interval.low, factor)
    high = options.format_number(test.interval.high, factor)
    return (
        f"A better in {n_a} of {n_wordings} wordings{equal}; mean difference {mean} "
        f"[{low}, {high}] incl. {test.factors}"
    )


def compare_over_wordings(
    sides: Sequence[Sequence[StoredResult]],
    read_samples: ReadSamples,
    metric_patterns: Sequence[str] = (),
) -> WordingComparison:
    """Compare models, or the trainings of two methods, over the wordings that both have.

    Args:
        sides: All results of model A, or of the trainings of method A. If there are two sides, also
            all results of B.
        read_samples: A function that returns the per-sample arrays of a result file.
        metric_patterns: Patterns of names of metrics; empty: headline metrics that decide
            comparisons.

    Raises:
        UsageError: For results without wordings, too few wordings, edited results, other data or
            settings, and metrics that cannot be compared over wordings.
    """
    sets_of_sides = [_sets_of(results, name) for results, name in zip(sides, "AB", strict=False)]
    metric_names = _matching_metrics(sides[0], metric_patterns)
    notes: list[str] = []
    tests: list[WordingTest] = []
    for dataset, protocol in _common_keys(sets_of_sides):
        key = (dataset, protocol)
        sides_on_dataset = [sets[key] for sets in sets_of_sides]
        wording_names = _common_wordings(sides_on_dataset, key, notes)
        try:
            require_enough_wordings(len(wording_names))
        except ValueError as error:
            notes.append(f"{dataset} ({protocol}): {error}")
            continue
        tests += _tests_of_set(
            key, sides_on_dataset, wording_names, read_samples, metric_names, notes
        )
    if not tests:
        raise UsageError("; ".join(notes) or "no metric can be compared over wordings")
    notes.append(_POPULATION)
    if max(tests[0].trainings) == 1:
        notes.append("intervals do not include seeds: `--group` compares trainings of a method")
    if len(tests) > 1:
        notes.append("intervals are not corrected for the number of metrics")
    return WordingComparison(
        a=_label_of(sides[0]),
        b=_label_of(sides[1]) if len(sides) == 2 else None,
        tests=tuple(tests),
        notes=tuple(dict.fromkeys(notes)),
    )


def _matching_metrics(
    results: Sequence[StoredResult], patterns: Sequence[str]
) -> Sequence[str] | None:
    """Return the names of the metrics that match any of the patterns; None without patterns."""
    if not patterns:
        return None
    names = {name for result in results for name in result.row.metrics}
    return select_metrics(sorted(names), patterns, str)


def _common_keys(
    sets_of_sides: Sequence[Mapping[DatasetKey, ResultsByWording]],
) -> list[DatasetKey]:
    """Return the data sets and protocols that all sides have. Raises UsageError without any."""
    keys = [key for key in sets_of_sides[0] if all(key in sets for sets in sets_of_sides)]
    if not keys:
        raise UsageError(
            "no data set that was measured with other wordings by both: measure both with "
            "`cosmos-eval run --wordings`"
        )
    return keys


def _label_of(results: Sequence[StoredResult]) -> str:
    """Return the name of a model, or the name of a group with the number of its trainings."""
    models = {result.model for result in results}
    if len(models) == 1:
        return results[0].model
    return f"{training_of(results[0].row)['group']} ({len(models)} trainings)"


def _sets_of(results: Sequence[StoredResult], side: str) -> dict[DatasetKey, ResultsByWording]:
    """Return the results of a side by data set and protocol, and by wording.

    Settings that differ from the defaults are a part of the protocol's name: "scenes, bf16". Data
    sets that were measured with the protocol's own wording only are left out.

    Args:
        results: All results of the side.
        side: "A" or "B", for messages.

    Raises:
        UsageError: If a training has two results with the same wording, or if there are no results
            with other wordings.
    """
    sets: dict[DatasetKey, ResultsByWording] = {}
    for result in sorted(results, key=training_key):
        protocol = published_protocol_name(result.row.protocol)
        protocol_and_variants = ", ".join([protocol, *result.identity.variants])
        results_by_wording = sets.setdefault((result.row.dataset, protocol_and_variants), {})
        results_by_wording.setdefault(wording_name(result.row.protocol), []).append(result)
    worded_sets = {}
    for key, results_by_wording in sets.items():
        for results_of_wording in results_by_wording.values():
            require_distinct(results_of_wording)
        if set(results_by_wording) != {""}:
            worded_sets[key] = results_by_wording
    if not worded_sets:
        raise UsageError(
            f"{side} has no results with other wordings: measure them with "
            "`cosmos-eval run --wordings N`"
        )
    return worded_sets


def _common_wordings(
    sides: Sequence[ResultsByWording], key: DatasetKey, notes: list[str]
) -> list[str]:
    """Return the names of the wordings with which all trainings of all sides were measured.

    The other wordings are named in a note, which is added to `notes`. The protocol's own wording,
    whose name is empty, is not in the list.
    """
    all_names = dict.fromkeys(name for side in sides for name in side if name)
    common_names, missing_names = [], []
    for name in all_names:
        if all(_has_all_trainings(side, name) for side in sides):
            common_names.append(name)
        else:
            missing_names.append(name)
    if missing_names:
        dataset, protocol = key
        names_text = first_of(sorted(missing_names), _MOST_NAMES)
        notes.append(f"{dataset} ({protocol}): not all models have the wordings {names_text}")
    return common_names


def _has_all_trainings(side: ResultsByWording, name: str) -> bool:
    """Return whether every training of a side was measured with the wording of this name."""
    n_trainings = max(len(results) for results in side.values())
    return len(side.get(name, ())) == n_trainings


def _tests_of_set(
    key: DatasetKey,
    sides: Sequence[ResultsByWording],
    names: Sequence[str],
    read_samples: ReadSamples,
    metric_names: Collection[str] | None,
    notes: list[str],
) -> list[WordingTest]:
    """Return the tests of all metrics on one data set.

    Metrics that cannot be tested are named in notes.

    Args:
        key: The data set and the protocol.
        sides: The results of A, or of A and B, by wording.
        names: The names of the wordings.
        read_samples: A function that returns the per-sample arrays of a result file.
        metric_names: The names of the metrics; None for headline metrics that decide comparisons.
        notes: The list to which notes are added.

    Raises:
        UsageError: If the results cannot be compared.
    """
    # For example, with two trainings of A, one of B and the wordings x and y:
    # A1 with x, A1 with y, A2 with x, A2 with y, B1 with x, B1 with y.
    results = []
    for side in sides:
        n_trainings = len(side[names[0]])
        for training in range(n_trainings):
            results += [side[name][training] for name in names]
    _require_comparable_wordings(results, len(names))
    try:
        estimates_by_metric = _estimates_by_metric(results, read_samples, metric_names)
        tests = []
        for metric, estimates in estimates_by_metric.items():
            test = _test_of_metric(key, metric, estimates, sides, names)
            if test is None:
                notes.append(
                    f"{key[0]}: not over wordings, since Student's t does not hold: {metric}"
                )
            else:
                tests.append(test)
    except ValueError as error:
        raise UsageError(f"{key[0]}: {error}") from error
    return tests


def _require_comparable_wordings(results: Sequence[StoredResult], n_wordings: int) -> None:
    """Raise UsageError if a result was edited, or if more than the texts differs between wordings.

    Results with the same wording must have the same setting, which includes the texts.

    Args:
        results: The results by side, training and wording, flattened in this order.
        n_wordings: The number of wordings.
    """
    for result in results:
        comparisons.require_unedited(result)
    for wording in range(n_wordings):
        results_with_wording = results[wording::n_wordings]
        comparisons.require_comparable(*results_with_wording)
    settings = [_setting_without_texts(result.row) for result in results]
    for result, setting in zip(results[1:], settings[1:], strict=True):
        mismatches = describe_mismatches(settings[0], setting)
        if mismatches:
            raise UsageError(
                f"{results[0].path} and {result.path} differ in more than their wording: "
                f"{'; '.join(mismatches)}"
            )


def _setting_without_texts(row: ResultRow) -> dict[str, Any]:
    """Return the setting of a result without the fields that another wording changes.

    For tasks with captions, the hash of the list of samples includes the captions. It is replaced
    by the hash of the images.
    """
    setting = setting_of_result(row)
    for name in _TEXT_FIELDS:
        setting.pop(name, None)
    if row.task in _CAPTION_TASKS:
        setting["hashes.sample_list"] = setting.get("hashes.content")
    return setting


def _estimates_by_metric(
    results: Sequence[StoredResult],
    read_samples: ReadSamples,
    metric_names: Collection[str] | None,
) -> dict[str, list[Estimate]]:
    """Return the estimate of every result for each metric, by the name of the metric.

    An estimate is the value of a metric with what its interval needs, computed from the per-sample
    arrays of a result. A metric that one of the results does not state is skipped. But a metric
    that a result states has to follow from its samples.

    Args:
        results: The results on one data set.
        read_samples: A function that returns the per-sample arrays of a result file.
        metric_names: The names of the metrics; None for headline metrics that decide comparisons.

    Raises:
        ValueError: If the results have samples of different images or labels, or if the value of a
            metric does not follow from the samples.

    Example:
        Two results give `{"acc1": [estimate of the first result, estimate of the second result]}`.
    """
    task = task_named(results[0].row.task)
    samples_of_results = [read_samples(result.path) for result in results]
    if metric_names is None:
        metric_names = [name for name in results[0].row.metrics if task.metric(name).primary]
    # For each result, its estimates by the name of the metric.
    computed_by_result = task.compared_estimates(samples_of_results, metric_names)

    estimates_by_metric = {}
    for name in computed_by_result[0]:
        is_stated_by_all = all(name in result.row.metrics for result in results)
        if is_stated_by_all:
            estimates = []
            for result, computed in zip(results, computed_by_result, strict=True):
                estimates.append(_checked_estimate(name, result, computed))
            estimates_by_metric[name] = estimates
    return estimates_by_metric


def _checked_estimate(
    name: str, result: StoredResult, computed: Mapping[str, Estimate]
) -> Estimate:
    """Return the estimate of a metric. Raise ValueError if its result states another value.

    Args:
        name: The name of the metric.
        result: The result, which states the metric.
        computed: The estimates that were computed from the samples of the result, by metric.
    """
    computed_value = computed[name].value if name in computed else None
    require_metric_of_samples(name, result.row.metrics[name], computed_value)
    return computed[name]


def _test_of_metric(
    key: DatasetKey,
    metric: str,
    estimates: Sequence[Estimate],
    sides: Sequence[ResultsByWording],
    names: Sequence[str],
) -> WordingTest | None:
    """Return the test of a metric over the wordings; None if Student's t does not hold for it.

    Args:
        key: The data set and the protocol.
        metric: The name of the metric.
        estimates: The estimates by side, training and wording, flattened in this order.
        sides: The results of A, or of A and B, by wording.
        names: The names of the wordings.
    """
    values_of_sides: list[WordedValues] = []
    start = 0
    for side in sides:
        estimates_of_trainings = []
        for _training in side[names[0]]:
            estimates_of_trainings.append(estimates[start : start + len(names)])
            start += len(names)
        values = worded_values(estimates_of_trainings)
        if values is None:
            return None
        values_of_sides.append(values)

    components_by_side = {"A": components(values_of_sides[0])}
    if len(sides) == 2:
        components_by_side["B"] = components(values_of_sides[1])
        components_by_side["A - B"] = components(_difference_of(*values_of_sides))
    # For each side: the mean over its trainings with each wording.
    means = [side_values.values.mean(axis=0).tolist() for side_values in values_of_sides]
    rows = []
    for index, name in enumerate(names):
        text = wording_text(sides[0][name][0].row)
        b = means[1][index] if len(sides) == 2 else None
        rows.append(WordingRow(name, text, means[0][index], b))
    dataset, protocol = key
    task_name = sides[0][names[0]][0].row.task
    return WordingTest(
        dataset=dataset,
        protocol=protocol,
        task=task_name,
        metric=metric,
        rows=_worst_and_best_first(rows, metric_of(task_name, metric)),
        published=_published_row(sides, metric),
        mean=mean_over_wordings(*values_of_sides),
        components=components_by_side,
        trainings=tuple(len(side_values.values) for side_values in values_of_sides),
    )


def _difference_of(a: WordedValues, b: WordedValues) -> WordedValues:
    """Return the differences between the means of A and B over their trainings.

    They have the form of the values of a single training.
    """
    values = a.values.mean(axis=0) - b.values.mean(axis=0)
    deviations = a.deviations.mean(axis=0) - b.deviations.mean(axis=0)
    return WordedValues(values[None], deviations[None])


def _worst_and_best_first(rows: Sequence[WordingRow], metric: Metric) -> tuple[WordingRow, ...]:
    """Return the worst row for A, then the best one, then the others from worse to better."""
    sign = 1 if metric.higher_is_better else -1
    ordered_rows = sorted(rows, key=lambda row: sign * row.shown)
    return (ordered_rows[0], ordered_rows[-1], *ordered_rows[1:-1])


def _published_row(sides: Sequence[ResultsByWording], metric: str) -> WordingRow | None:
    """Return the row of the protocol's own wording, with the mean over each side's trainings.

    It is None if a side has no result with this wording, or a result without a value.

    Args:
        sides: The results of A, and of B if two models are compared, by the name of the wording.
            The protocol's own wording has the name "".
        metric: The name of the metric.
    """
    means: list[float] = []
    for results_by_wording in sides:
        values = []
        for result in results_by_wording.get("", ()):
            value = result.row.metrics.get(metric)
            if value is None:
                return None
            values.append(value)
        if not values:
            return None
        means.append(sum(values) / len(values))
    mean_of_b = means[1] if len(means) == 2 else None
    return WordingRow("published", "the protocol's own", means[0], mean_of_b)


def wording_text(row: ResultRow) -> str:
    """Return in short what the wording of a result changes.

    Examples:
        "templates: art of a {}", "synonyms: cat -> kitten; case: lower", "drop first sentence".
    """
    changes = dict(row.provenance.get("wording", {}))
    changes.pop("name", None)
    phrases = []
    for name, value in changes.items():
        title = name.replace("_", " ")
        if value is True:
            phrases.append(title)
        elif isinstance(value, list):
            text = value[0] if len(value) == 1 else f"{len(value)}, {value[0]} ..."
            phrases.append(f"{title}: {text}")
        elif isinstance(value, dict):
            word, synonym = next(iter(value.items()))
            text = f"{word} -> {synonym}" if len(value) == 1 else f"{synonym} ..."
            phrases.append(f"{title}: {text}")
        else:
            phrases.append(f"{title}: {value}")
    description = "; ".join(phrases)
    if len(description) <= _LONGEST_TEXT:
        return description
    return f"{description[: _LONGEST_TEXT - 3]}..."


def row_records(test: WordingTest) -> Iterable[dict[str, Any]]:
    """Yield a record for each wording of a test, the protocol's own one first."""
    rows = list(test.rows)
    if test.published is not None:
        rows.insert(0, test.published)
    for row in rows:
        record = {
            "dataset": test.dataset,
            "protocol": test.protocol,
            "metric": test.metric,
            "wording": row.wording,
            "changes": row.text,
            "a": row.a,
        }
        if row.b is not None:
            record |= {"b": row.b, "difference": row.shown}
        yield record


def to_records(comparison: WordingComparison) -> dict[str, Any]:
    """Return a comparison over wordings as a record for JSON."""
    return {
        "a": comparison.a,
        "b": comparison.b,
        "over": "wording",
        "verdict": comparison.verdict,
        "tests": [_test_record(test) for test in comparison.tests],
        "notes": list(comparison.notes),
    }


def _test_record(test: WordingTest) -> dict[str, Any]:
    """Return a test as a record for JSON, in the unit of the metric."""
    n_a, n_b = test.n_better
    record: dict[str, Any] = {
        "dataset": test.dataset,
        "protocol": test.protocol,
        "metric": test.metric,
        "mean": test.mean.mean,
        "standard_error": test.mean.standard_error,
        "interval": test.interval._asdict(),
        "n_wordings": len(test.rows),
        "n_trainings": list(test.trainings),
    }
    if test.rows[0].b is not None:
        record |= {"a_better": n_a, "b_better": n_b, "better": test.better or None}
    record["components"] = {}
    for side, side_components in test.components.items():
        record["components"][side] = _component_records(side_components)
    record["wordings"] = [row._asdict() for row in test.rows]
    record["published"] = None if test.published is None else test.published._asdict()
    return record


def _component_records(side_components: Components) -> dict[str, Any]:
    """Return the variance components of one side by factor, each with its interval, for JSON.

    The component of seeds is None if there is a single training.
    """
    records: dict[str, Any] = {}
    for factor, component in side_components._asdict().items():
        records[factor] = None if component is None else component._asdict()
    return records


def summary_cells(
    comparison: WordingComparison, options: TableOptions = USUAL
) -> list[dict[str, str | None]]:
    """Return the table of outcomes, one row per data set and metric, by column title."""
    cells = []
    for test in comparison.tests:
        factor = test.metric_record.factor
        low, high = test.interval.low, test.interval.high
        row: dict[str, str | None] = {
            "data set": test.dataset,
            "protocol": test.protocol,
            "metric": test.metric,
            "wordings": str(len(test.rows)),
        }
        if comparison.b is not None:
            row["A better in"] = str(test.n_better[0])
            row |= options.format_change("mean A - B", test.mean.mean, (low, high), factor)
            row["better"] = test.better
        else:
            mean = options.format_number(test.mean.mean, factor)
            low_text = options.format_number(low, factor)
            high_text = options.format_number(high, factor)
            row["mean [95%]"] = f"{mean} [{low_text}, {high_text}]"
            row["worst"] = options.format_number(test.rows[0].a, factor)
            row["best"] = options.format_number(test.rows[1].a, factor)
            published = test.published
            row["published"] = None
            if published is not None:
                row["published"] = options.format_number(published.a, factor)
        cells.append(row)
    return cells


def row_cells(
    comparison: WordingComparison, options: TableOptions = USUAL
) -> list[dict[str, str | None]]:
    """Return the rows of the table of wordings, worst and best first, by column title."""
    cells = []
    for test in comparison.tests:
        factor = test.metric_record.factor
        rows = list(test.rows)
        if test.published is not None:
            rows.append(test.published)
        for index, row in enumerate(rows):
            # The rows begin with the worst and the best wording.
            mark = ("worst", "best")[index] if index < 2 else ""
            row_of_cells: dict[str, str | None] = {
                "data set": test.dataset,
                "protocol": test.protocol,
                "metric": test.metric,
                "wording": row.wording,
                "changes": row.text,
                "": mark,
                "A": options.format_number(row.a, factor),
            }
            if row.b is not None:
                row_of_cells["B"] = options.format_number(row.b, factor)
                row_of_cells["A - B"] = options.format_number(row.shown, factor, "+")
            cells.append(row_of_cells)
    return cells


def component_cells(
    comparison: WordingComparison, options: TableOptions = USUAL
) -> list[dict[str, str | None]]:
    """Return the rows of the table of variance components, as standard deviations with intervals.

    They are in the unit of the metric: percentage points, ranks or ratios. The row for images says
    how much the value varies if as many other images are drawn.
    """
    cells = []
    for test in comparison.tests:
        factor = test.metric_record.factor
        for name in Components._fields:
            row: dict[str, str | None] = {
                "data set": test.dataset,
                "protocol": test.protocol,
                "metric": test.metric,
                "sd by": name,
            }
            values: list[Component | None] = []
            for side, side_components in test.components.items():
                component = getattr(side_components, name)
                values.append(component)
                row[f"{side} [95%]"] = _sd_text(component, options, factor)
            if any(value is not None for value in values):
                cells.append(row)
    return cells


def _sd_text(component: Component | None, options: TableOptions, factor: int) -> str | None:
    """Return a standard deviation with its interval, such as "4.20 [2.81, 7.95]"."""
    if component is None:
        return None
    low, high = component.low**0.5, component.high**0.5
    ends = f"[{options.format_number(low, factor)}, {options.format_number(high, factor)}]"
    return f"{options.format_number(component.sd, factor)} {ends}"

"""Several labs' results of one model and data set: how far their numbers differ."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from cosmos_eval.results.identity import is_stopped
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.leaderboard.reproduce import TOLERANCE
from cosmos_eval.results.settings import describe_mismatches, setting_of_result
from cosmos_eval.results.store import read_samples
from cosmos_eval.results.table import USUAL, Table, TableOptions, table_of_records
from cosmos_eval.results.text import exact_difference, metric_text
from cosmos_eval.tasks import Metric, metric_of
from cosmos_eval.types import UsageError

Agreement = Literal["equal samples", "within rounding", "differs", "other settings"]

_NOTES = (
    "First lab: the lab that measured first. The difference is the other lab's number minus its.",
    "Equal samples: bit by bit. Within rounding: at most 0.1 points, or one sample if that is more "
    "(0.1% of ranks and ratios), since other hardware changes the order of nearly equal scores.",
)


class LabNumber(NamedTuple):
    """A metric of a model on a data set by one lab, and by the lab that measured it first."""

    # The label of the model, without a lab.
    model: str
    task: str
    # The label of the data set.
    dataset: str
    protocol: str
    metric: str
    first_lab: str
    lab: str
    first_value: float
    value: float
    agreement: Agreement

    @property
    def difference(self) -> float:
        """The lab's value minus the first lab's value."""
        return float(exact_difference(self.value, self.first_value))

    @property
    def metric_record(self) -> Metric:
        """The metric's definition, with its unit."""
        return metric_of(self.task, self.metric)

    def cells(self, options: TableOptions) -> dict[str, str]:
        """Return the numbers as a row of a table, by column title, with fractions in percent."""
        metric = self.metric_record
        return {
            "data set": self.dataset,
            "protocol": self.protocol,
            "model": self.model,
            "metric": metric.label or self.metric,
            "first lab": self.first_lab,
            "other lab": self.lab,
            "first": metric_text(metric, self.first_value, options.decimals),
            "other": metric_text(metric, self.value, options.decimals),
            "difference": options.format_number(self.difference, metric.factor, sign="+"),
            "agreement": self.agreement,
        }

    def record(self) -> dict[str, Any]:
        """Return the numbers as a record for JSON, in which metrics are fractions."""
        record = self._asdict()
        record["difference"] = self.difference
        return record


def compare_labs(entries: Iterable[Entry], results: Iterable[StoredResult]) -> list[LabNumber]:
    """Return the headline metrics of each model and data set that several labs measured.

    Args:
        entries: The entries of a leaderboard, which decide on the models, data sets and metrics.
        results: The results of all labs, from `assign_labs`. Edited results are left out.

    Returns:
        For each metric, one record per lab except the lab that measured first.
    """
    # The results of the same weights with the same settings on the same data.
    results_by_measurement: dict[tuple[object, ...], list[StoredResult]] = {}
    for result in results:
        if not result.is_edited:
            results_by_measurement.setdefault(_measurement_key(result), []).append(result)

    numbers: list[LabNumber] = []
    for entry in sorted(entries, key=lambda entry: entry.key):
        if entry.stored is None or entry.stored.is_edited or is_stopped(entry.stored.row):
            continue
        # A measurement has an entry per lab if the labs' numbers differ. The first one counts.
        repeats = results_by_measurement.pop(_measurement_key(entry.stored), [])
        repeats.sort(key=lambda result: (result.row.provenance["utc"], result.lab))
        first_results_of_labs: dict[str, StoredResult] = {}
        for result in repeats:
            first_results_of_labs.setdefault(result.lab, result)
        numbers += _numbers_of_labs(entry, list(first_results_of_labs.values()))
    return sorted(numbers, key=lambda number: (number.protocol, number.dataset, number.model))


def _measurement_key(result: StoredResult) -> tuple[object, ...]:
    """Return what results share that measure the same weights in the same way on the same data."""
    row = result.row
    data_set = (row.task, result.data_version, row.protocol)
    return result.identity.sha256, tuple(result.row_words), *data_set


def _numbers_of_labs(entry: Entry, results: Sequence[StoredResult]) -> Iterator[LabNumber]:
    """Yield the headline metrics of each lab but the first one.

    Args:
        entry: An entry of one of the labs, which decides on the metrics.
        results: One result per lab, the earliest first.
    """
    for result in results[1:]:
        first_result = results[0]
        has_equal_samples = _have_equal_samples(first_result, result)
        for metric in headlines_of(entry):
            first_value = first_result.row.metrics.get(metric)
            value = result.row.metrics.get(metric)
            if first_value is None or value is None:
                continue
            agreement: Agreement = "equal samples"
            if not has_equal_samples:
                agreement = _agreement(first_result, result, metric)
            yield LabNumber(
                model=replace(first_result, names_lab=False).label,
                task=entry.task,
                dataset=entry.dataset,
                protocol=entry.protocol,
                metric=metric,
                first_lab=first_result.lab,
                lab=result.lab,
                first_value=first_value,
                value=value,
                agreement=agreement,
            )


def _have_equal_samples(first: StoredResult, second: StoredResult) -> bool:
    """Return whether two results have the same per-sample arrays, bit by bit.

    Equal arrays may be packed into different files. Samples that cannot be read are not equal.
    """
    first_hash = first.row.provenance["samples_sha256"]
    if first_hash == second.row.provenance["samples_sha256"]:
        return True
    try:
        first_samples = read_samples(first.path)
        second_samples = read_samples(second.path)
    except UsageError:
        return False
    if first_samples.keys() != second_samples.keys():
        return False
    for name, first_array in first_samples.items():
        second_array = second_samples[name]
        has_same_form = first_array.dtype == second_array.dtype
        if not has_same_form or first_array.shape != second_array.shape:
            return False
        if first_array.tobytes() != second_array.tobytes():
            return False
    return True


def _agreement(first: StoredResult, second: StoredResult, metric: str) -> Agreement:
    """Return how a metric of two results with different samples agrees, see `_NOTES`."""
    if describe_mismatches(setting_of_result(first.row), setting_of_result(second.row)):
        return "other settings"
    first_value, value = first.row.metrics[metric], second.row.metrics[metric]
    difference = abs(float(exact_difference(value, first_value)))
    if metric_of(first.row.task, metric).in_percent:
        tolerance = max(TOLERANCE, 1 / first.row.n_samples)  # or one sample
    else:
        tolerance = TOLERANCE * abs(first_value)
    float_error = 1e-9
    return "within rounding" if difference <= tolerance + float_error else "differs"


def lab_table(numbers: Sequence[LabNumber], options: TableOptions = USUAL) -> Table:
    """Return the table of the numbers of several labs, with fractions in percent.

    Args:
        numbers: The numbers, from `compare_labs`.
        options: The form of the numbers.
    """
    records = [number.cells(options) for number in numbers]
    table = table_of_records(records, section=("data set", "protocol"), n_text_columns=4)
    title = "Models that several labs measured (%)"
    return table._replace(title=title, notes=_NOTES, label="labs")

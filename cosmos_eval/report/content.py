"""Compute what a page states without pictures: leaderboards, comparisons of models, mistakes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations, groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from cosmos_eval.report.groups import TrainingGroups, summarize_groups
from cosmos_eval.report.overview import Overview, overview_of
from cosmos_eval.report.training import Curve, curves_of
from cosmos_eval.results import compare
from cosmos_eval.results.labels import StoredResult, distinct_results, label_results
from cosmos_eval.results.leaderboard.board import Board, make_boards
from cosmos_eval.results.leaderboard.entries import Entry, entries_of
from cosmos_eval.results.leaderboard.ranking import Ties, close_pairs, p_value_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import ReadSamples
from cosmos_eval.results.text import percent
from cosmos_eval.stats.intervals import clustered_wilson
from cosmos_eval.stats.lengths import LengthBin
from cosmos_eval.stats.paired import PairedDifference
from cosmos_eval.tasks import task_named, usable_task
from cosmos_eval.types import (
    CosmosEvalError,
    Mistakes,
    OnProgress,
    Progress,
    Samples,
    Suite,
    UsageError,
    no_progress,
)

_MISTAKES_PER_MODEL = 8

ModelNames = tuple[str, str]
"""The labels of two models, in alphabetical order."""


class SampledResult(NamedTuple):
    """A result and its samples."""

    stored: StoredResult
    samples: Samples

    @property
    def row(self) -> ResultRow:
        return self.stored.row

    @property
    def model(self) -> str:
        return self.stored.model


class ResultSet(NamedTuple):
    """The results on one data set by one protocol, sorted by model."""

    protocol: str
    dataset: str
    task: str
    results: tuple[SampledResult, ...]
    # One line for each result whose samples cannot be read.
    notes: tuple[str, ...]


class SetComparison(NamedTuple):
    """The comparison of two models on one data set."""

    models: ModelNames
    protocol: str
    dataset: str
    task: str
    # By metric; empty if there is an obstacle.
    differences: Mapping[str, PairedDifference]
    # The reason why the results cannot be compared; empty if they can.
    obstacle: str


class ModelPair(NamedTuple):
    """The comparison of two models on all data sets that both were measured on."""

    models: ModelNames
    tests: tuple[compare.MetricTest, ...]
    # One line for each data set on which the models cannot be compared.
    obstacles: tuple[str, ...]

    def wins(self, model: str) -> int:
        """Count the tests that show one of the two models to be better."""
        side = "A" if model == self.models[0] else "B"
        return sum(test.better == side for test in self.tests)

    @property
    def decisive(self) -> int:
        """The number of tests that can show a model to be better: those with Holm's p-value."""
        return sum(test.adjusted is not None for test in self.tests)


class MistakeRow(NamedTuple):
    """A true class, the class that was predicted instead, and how often, as a share per model."""

    true_class: str
    predicted_class: str
    shares: tuple[float, ...]


class MistakeTable(NamedTuple):
    """The most frequent mistakes on a data set, by their mean share over the models."""

    protocol: str
    dataset: str
    # Shares are relative to the images, or pixels, of the true class.
    unit: str
    models: tuple[str, ...]
    rows: tuple[MistakeRow, ...]


class LengthCell(NamedTuple):
    """R@1 of a model on captions of similar length; all numbers are text, in percent."""

    recall: str
    low: str
    high: str
    # The share of the captions that were cut to the model's context.
    cut: str


class LengthRow(NamedTuple):
    """Captions of similar length: the name of their bin, their number, and a cell per model."""

    bin_name: str
    n_captions: int
    cells: tuple[LengthCell, ...]


class LengthTable(NamedTuple):
    """Text to image R@1 on a data set by the length of captions."""

    protocol: str
    dataset: str
    models: tuple[str, ...]
    rows: tuple[LengthRow, ...]


class Content(NamedTuple):
    """Everything that a page states without pictures."""

    # The ranking of the models; None if they cannot be ranked.
    overview: Overview | None
    # The results that were measured here and not edited.
    results: tuple[StoredResult, ...]
    # All results that were measured here, and published numbers beside them.
    entries: tuple[Entry, ...]
    boards: tuple[Board, ...]
    # Every two models.
    pairs: tuple[ModelPair, ...]
    lengths: tuple[LengthTable, ...]
    mistakes: tuple[MistakeTable, ...]
    # Curves of trainings.
    curves: tuple[Curve, ...]
    # One line for each thing that the page does not show.
    notes: tuple[str, ...]
    # Groups of trainings of one recipe.
    groups: TrainingGroups

    @property
    def models(self) -> list[str]:
        """The models measured here, in alphabetical order."""
        return sorted({result.model for result in self.results})


def content_of(
    results: Sequence[StoredResult],
    read_samples: ReadSamples,
    published_entries: Sequence[Entry] = (),
    progress: OnProgress = no_progress,
    suite: Suite | None = None,
) -> Content:
    """Compare all results that can be compared, and return everything that a page states of them.

    Published numbers appear if their data set and protocol were measured here. Models are ranked by
    the `suite`, or else by the data sets that most of them share. Raises UsageError for two
    different results of the same model, data set and protocol.
    """
    results = distinct_results(label_results(results))
    unedited_results = [result for result in results if not result.is_edited]
    measured_entries = entries_of(results)
    entries = [*measured_entries, *_published_beside(published_entries, measured_entries)]
    n_sets = len({(entry.protocol, entry.dataset) for entry in measured_entries})
    # Threads of NumPy gain little on matrices this small, and wait for each other if other
    # processes keep the cores busy.
    with threadpool_limits(1):
        contents = _compare_sets(unedited_results, read_samples, progress, n_sets)
        groups = summarize_groups(unedited_results, read_samples)
    notes = [*contents.notes, *groups.notes]
    for result in results:
        if result.is_edited:
            notes.append(f"in leaderboards alone: {result.path} ({result.fault})")
    overview = None
    try:
        sampled_entries = [
            entry
            for entry in measured_entries
            if entry.stored is not None and entry.stored.path in contents.sampled_files
        ]
        overview = overview_of(sampled_entries, read_samples, suite)
    except UsageError as error:
        notes.append(f"no ranking of the models: {error}")
    ties = ties_of(contents.comparisons, entries)
    return Content(
        overview=overview,
        results=tuple(unedited_results),
        entries=tuple(sorted(entries, key=attrgetter("key"))),
        boards=_sort_boards(make_boards(entries, ties)),
        pairs=tuple(pair_models(contents.comparisons)),
        lengths=tuple(contents.lengths),
        mistakes=tuple(contents.mistakes),
        curves=curves_of(unedited_results),
        notes=tuple(notes),
        groups=groups,
    )


def _published_beside(
    published_entries: Iterable[Entry], measured_entries: Iterable[Entry]
) -> list[Entry]:
    """Return the published entries whose data set and protocol were measured here."""
    measured_sets = {(entry.protocol, entry.dataset_name) for entry in measured_entries}
    return [
        entry for entry in published_entries if (entry.protocol, entry.dataset) in measured_sets
    ]


class _DataSetContents:
    """Collects the comparisons and tables of all data sets."""

    def __init__(self) -> None:
        self.comparisons: list[SetComparison] = []
        self.lengths: list[LengthTable] = []
        self.mistakes: list[MistakeTable] = []
        self.notes: list[str] = []
        # The files of the results that have samples.
        self.sampled_files: set[Path] = set()

    def add(self, result_set: ResultSet) -> None:
        """Compute everything about the results on one data set."""
        self.comparisons += compare_set(result_set)
        self.notes += result_set.notes
        self.sampled_files |= {result.stored.path for result in result_set.results}
        try:
            mistakes = mistakes_of(result_set)
            if mistakes is not None:
                self.mistakes.append(mistakes)
            self.lengths += lengths_of(result_set)
        except UsageError as error:
            self.notes.append(str(error))


def _compare_sets(
    results: Sequence[StoredResult], read_samples: ReadSamples, progress: OnProgress, n_sets: int
) -> _DataSetContents:
    """Compute everything about the results, data set by data set."""
    contents = _DataSetContents()
    for done, result_set in enumerate(result_sets(results, read_samples)):
        progress(Progress("data sets compared", done, n_sets))
        contents.add(result_set)
    return contents


def _sort_boards(leaderboards: Iterable[Board]) -> tuple[Board, ...]:
    """Sort leaderboards: most data sets first, then most models, then by protocol."""

    def sort_key(board: Board) -> tuple[int, int, str]:
        n_datasets = len({column.dataset for column in board.columns})
        return -n_datasets, -len(board.rows), board.protocol

    return tuple(sorted(leaderboards, key=sort_key))


def group_by_data_set(results: Sequence[StoredResult]) -> list[list[StoredResult]]:
    """Group results by protocol and data set.

    Groups of the protocol with the most data sets come first. Every group is sorted by model.
    """
    data_sets = {(result.row.protocol, result.dataset) for result in results}
    sets_per_protocol = Counter(protocol for protocol, _ in data_sets)

    def sort_key(result: StoredResult) -> tuple[int, str, str, str]:
        protocol = result.row.protocol
        return -sets_per_protocol[protocol], protocol, result.dataset, result.model

    sorted_results = sorted(results, key=sort_key)
    groups = groupby(sorted_results, attrgetter("row.protocol", "dataset"))
    return [list(group) for _, group in groups]


def result_sets(results: Sequence[StoredResult], read_samples: ReadSamples) -> Iterator[ResultSet]:
    """Yield results by protocol and data set; samples of a set are read when it is reached."""
    for stored_results in group_by_data_set(results):
        sampled_results = []
        notes = []
        for stored in stored_results:
            try:
                sampled_results.append(SampledResult(stored, read_samples(stored.path)))
            except UsageError as error:
                notes.append(f"not compared with others: {error}")
        first = stored_results[0]
        yield ResultSet(
            protocol=first.row.protocol,
            dataset=first.dataset,
            task=first.row.task,
            results=tuple(sampled_results),
            notes=tuple(notes),
        )


def compare_set(result_set: ResultSet) -> list[SetComparison]:
    """Compare every two models on one data set.

    Results that were measured on different samples or with different settings cannot be compared.
    The comparison of their models then has no differences, and states the obstacle.
    """
    comparisons: list[SetComparison] = []
    # All results of a group can be compared with each other.
    groups: list[list[SampledResult]] = []
    for result in result_set.results:
        matching_group = None
        for group in groups:
            obstacle = _obstacle_to_comparison(result_set.task, group[0], result)
            if obstacle:
                for other in group:
                    comparisons.append(_set_comparison(result_set, other, result, {}, obstacle))
            elif matching_group is None:
                matching_group = group
        if matching_group is None:
            groups.append([result])
        else:
            matching_group.append(result)
    for group in groups:
        comparisons += _compare_group(result_set, group)
    # A model that was measured in two ways is not compared with itself.
    return [
        comparison for comparison in comparisons if comparison.models[0] != comparison.models[1]
    ]


def _set_comparison(
    result_set: ResultSet,
    a: SampledResult,
    b: SampledResult,
    differences: Mapping[str, PairedDifference],
    obstacle: str,
) -> SetComparison:
    """Return the comparison of two results of a data set."""
    return SetComparison(
        models=(a.model, b.model),  # in alphabetical order, as the results of a set are
        protocol=result_set.protocol,
        dataset=result_set.dataset,
        task=result_set.task,
        differences=differences,
        obstacle=obstacle,
    )


def _obstacle_to_comparison(task_name: str, a: SampledResult, b: SampledResult) -> str:
    """Return the reason why two results cannot be compared; empty if they can."""
    mismatches = compare.describe_mismatches(
        compare.setting_of_result(a.row), compare.setting_of_result(b.row)
    )
    if mismatches:
        return "; ".join(mismatches)
    try:
        task = task_named(task_name)
        task.require_same_truth(task.derive(a.samples), task.derive(b.samples))
    except (CosmosEvalError, ValueError) as error:
        return str(error)
    except KeyError as error:
        return f"samples that lack {error} are not of this task"
    return ""


def _compare_group(result_set: ResultSet, results: Sequence[SampledResult]) -> list[SetComparison]:
    """Compare every two results that were measured on the same samples with the same settings."""
    pairs = list(combinations(results, 2))
    try:
        samples = [result.samples for result in results]
        differences = compare.all_differences(result_set.task, samples, without_slow=True)
    except (CosmosEvalError, ValueError) as error:
        return [_set_comparison(result_set, a, b, {}, str(error)) for a, b in pairs]
    comparisons = []
    for (a, b), pair_differences in zip(pairs, differences.values(), strict=True):
        obstacle = _metric_fault(a, pair_differences, "a")
        if not obstacle:
            obstacle = _metric_fault(b, pair_differences, "b")
        usable_differences = {} if obstacle else pair_differences
        comparisons.append(_set_comparison(result_set, a, b, usable_differences, obstacle))
    return comparisons


def _metric_fault(
    result: SampledResult, differences: Mapping[str, PairedDifference], side: str
) -> str:
    """Return a message on a stored metric that differs from the value that the samples give.

    Empty if all metrics agree. `side` is the field of a difference with the value of this result:
    `a` or `b`.
    """
    try:
        for metric, difference in differences.items():
            if metric in result.row.metrics:
                computed = getattr(difference, side)
                compare.require_metric_of_samples(metric, result.row.metrics[metric], computed)
    except ValueError as error:
        return f"{result.model}: {error}"
    return ""


def pair_models(comparisons: Sequence[SetComparison]) -> list[ModelPair]:
    """Group comparisons by their two models, sorted by protocol and data set."""
    sorted_comparisons = sorted(comparisons, key=attrgetter("models", "protocol", "dataset"))
    groups = groupby(sorted_comparisons, attrgetter("models"))
    return [_model_pair(models, list(pair_comparisons)) for models, pair_comparisons in groups]


def _model_pair(models: ModelNames, comparisons: Sequence[SetComparison]) -> ModelPair:
    """Test all metrics of two models, and correct the p-values of main metrics by Holm.

    Tests of main metrics come first, sorted by protocol: the one with the most data sets first.
    """
    sets_per_protocol = Counter(comparison.protocol for comparison in comparisons)

    def sort_key(test: compare.MetricTest) -> tuple[bool, int]:
        is_main = test.adjusted is not None
        return not is_main, -sets_per_protocol[test.protocol]

    tests = sorted(compare.adjust_p_values(_headline_tests(comparisons)), key=sort_key)
    obstacles = [
        f"{comparison.dataset} ({comparison.protocol}): {comparison.obstacle}"
        for comparison in comparisons
        if comparison.obstacle
    ]
    return ModelPair(models, tuple(tests), tuple(obstacles))


def _headline_tests(comparisons: Iterable[SetComparison]) -> Iterator[compare.MetricTest]:
    """Yield the tests of the metrics that leaderboards show."""
    for comparison in comparisons:
        task = usable_task(comparison.task)
        if task is None:
            continue
        for metric in task.headlines:
            if metric in comparison.differences:
                yield compare.MetricTest(
                    dataset=comparison.dataset,
                    protocol=comparison.protocol,
                    task=comparison.task,
                    metric=metric,
                    difference=comparison.differences[metric],
                )


def ties_of(comparisons: Sequence[SetComparison], entries: Sequence[Entry]) -> Ties:
    """Return the p-values that tie numbers of leaderboards with the best, by pair of entries.

    Pairs of results that were not compared have none.
    """
    differences_by_set = {
        (comparison.models, comparison.protocol, comparison.dataset): comparison.differences
        for comparison in comparisons
    }
    # The label of an entry may be longer than the label by which models are compared.
    models = {entry.key: entry.stored.model for entry in entries if entry.stored is not None}
    tasks = {entry.key: entry.task for entry in entries}
    ties = {}
    for pair in close_pairs(entries):
        best_model, other_model = models[pair.best], models[pair.other]
        first, second = sorted((best_model, other_model))
        data_set = ((first, second), pair.best.protocol, pair.best.dataset)
        difference = differences_by_set.get(data_set, {}).get(pair.metric)
        if difference is None:
            continue
        if best_model != first:
            difference = difference.flipped()
        ties[pair] = p_value_of(tasks[pair.best], pair.metric, difference)
    return ties


def lengths_of(result_set: ResultSet) -> list[LengthTable]:
    """Return recall by the length of captions, one table for each list of captions.

    The list is empty if the task has no captions. Raises UsageError for samples of another task.
    """
    bins_by_model: dict[str, Sequence[LengthBin]] = {}
    with _name_failing_figures(result_set, "lengths of captions"):
        task = task_named(result_set.task)
        for result in result_set.results:
            bins_by_model[result.model] = task.lengths(result.samples)
    # Models whose captions have the same bins share a table.
    tables: dict[tuple[tuple[str, int], ...], dict[str, Sequence[LengthBin]]] = {}
    for model, bins in bins_by_model.items():
        if bins:
            bin_sizes = tuple((length_bin.name, length_bin.captions) for length_bin in bins)
            tables.setdefault(bin_sizes, {})[model] = bins
    return [_length_table(result_set, model_bins) for model_bins in tables.values()]


def _length_table(
    result_set: ResultSet, bins_by_model: Mapping[str, Sequence[LengthBin]]
) -> LengthTable:
    """Return the table of models whose captions have the same bins."""
    rows = []
    for same_bins in zip(*bins_by_model.values(), strict=True):
        cells = tuple(_length_cell(length_bin) for length_bin in same_bins)
        first_bin = same_bins[0]
        rows.append(LengthRow(first_bin.name, first_bin.captions, cells))
    return LengthTable(
        protocol=result_set.protocol,
        dataset=result_set.dataset,
        models=tuple(bins_by_model),
        rows=tuple(rows),
    )


def _length_cell(length_bin: LengthBin) -> LengthCell:
    """Return recall with Wilson's interval, for as many captions as would be independent."""
    recall = length_bin.recall
    interval = clustered_wilson(recall.values, recall.clusters)
    return LengthCell(
        recall=str(percent(recall.value)),
        low=str(percent(interval.low)),
        high=str(percent(interval.high)),
        cut=str(percent(length_bin.cut)),
    )


@contextmanager
def _name_failing_figures(result_set: ResultSet, figures: str) -> Iterator[None]:
    """Raise UsageError for an error in the block, and say which figures are not shown."""
    try:
        yield
    except (CosmosEvalError, KeyError, IndexError, ValueError) as error:
        raise UsageError(
            f"{result_set.dataset} ({result_set.protocol}): no {figures} are shown: {error}"
        ) from error


def mistakes_of(result_set: ResultSet) -> MistakeTable | None:
    """Return the most frequent mistakes of every model on a data set.

    Returns None if the task has no mistakes or no result has samples. Raises UsageError for samples
    from which mistakes cannot be computed.
    """
    mistakes_by_model: dict[str, Mistakes] = {}
    with _name_failing_figures(result_set, "mistakes"):
        task = task_named(result_set.task)
        for result in result_set.results:
            mistakes = task.mistakes(result.samples)
            if mistakes is not None:
                mistakes_by_model[result.model] = mistakes
    if not mistakes_by_model:
        return None
    shares_by_model = [_mistake_shares(mistakes) for mistakes in mistakes_by_model.values()]
    frequent_mistakes: set[tuple[str, str]] = set()
    for model_shares in shares_by_model:
        frequent_mistakes |= set(list(model_shares)[:_MISTAKES_PER_MODEL])
    rows = []
    for true_class, predicted_class in frequent_mistakes:
        mistake = (true_class, predicted_class)
        shares = tuple(model_shares.get(mistake, 0.0) for model_shares in shares_by_model)
        rows.append(MistakeRow(true_class, predicted_class, shares))
    rows.sort(key=lambda row: (-sum(row.shares), row.true_class, row.predicted_class))
    return MistakeTable(
        protocol=result_set.protocol,
        dataset=result_set.dataset,
        unit=next(iter(mistakes_by_model.values())).unit,
        models=tuple(mistakes_by_model),
        rows=tuple(rows),
    )


def _mistake_shares(mistakes: Mistakes) -> dict[tuple[str, str], float]:
    """Return the share of each mistake in its true class, the most frequent mistake first.

    The key of a mistake is a pair: its true and its predicted class.
    """
    order = np.argsort(-mistakes.amounts, kind="stable")
    true_classes = mistakes.true[order].tolist()
    predicted_classes = mistakes.predicted[order].tolist()
    shares = (mistakes.amounts / mistakes.totals[mistakes.true])[order].tolist()
    return {
        (mistakes.classes[true], mistakes.classes[predicted]): share
        for true, predicted, share in zip(true_classes, predicted_classes, shares, strict=True)
    }

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

from cosmos_eval.reporting.groups import TrainingGroups, summarize_groups
from cosmos_eval.reporting.overview import Overview, overview_of
from cosmos_eval.reporting.training import Curve, curves_of
from cosmos_eval.results import compare
from cosmos_eval.results.identity import is_stopped
from cosmos_eval.results.labels import StoredResult, distinct_results, label_results
from cosmos_eval.results.leaderboard.board import Board, make_boards
from cosmos_eval.results.leaderboard.entries import Entry, entries_of
from cosmos_eval.results.leaderboard.labs import LabNumber, compare_labs
from cosmos_eval.results.leaderboard.languages import LanguageTable, language_tables
from cosmos_eval.results.leaderboard.ranking import Ties, close_pairs, p_value_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.settings import describe_mismatches, setting_of_result
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
    """A result and its samples: the stored arrays that its metrics are computed from."""

    stored: StoredResult
    samples: Samples

    @property
    def row(self) -> ResultRow:
        """The record of the result's file."""
        return self.stored.row

    @property
    def model(self) -> str:
        """The label of the measured model."""
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
        """Return the number of tests that show `model`, one of the two, to be better."""
        side = "A" if model == self.models[0] else "B"
        won_tests = [test for test in self.tests if test.better == side]
        return len(won_tests)

    @property
    def decisive(self) -> int:
        """The number of tests that can show a model to be better: those with Holm's p-value."""
        decisive_tests = [test for test in self.tests if test.adjusted is not None]
        return len(decisive_tests)


class MistakeRow(NamedTuple):
    """A mistake, such as a wolf that is taken for a dog, and how often each model makes it."""

    true_class: str
    predicted_class: str
    # For each model: the share of the true class that is taken for the predicted class.
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
    # Data sets in several languages.
    languages: tuple[LanguageTable, ...]
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
    # The numbers of models that several labs measured; empty if labs are not named.
    labs: tuple[LabNumber, ...]

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

    Args:
        results: The results. Those whose files were edited by hand appear in leaderboards only.
        read_samples: Reads the samples of a result, the stored arrays that its metrics are computed
            from, by the path of the result.
        published_entries: Numbers from papers. They appear if their data set was measured here by
            the same protocol, the fixed settings of a measurement.
        progress: Called before each data set with the number of data sets that were compared.
        suite: The data sets to rank models by. By default, models are ranked by the data sets that
            most of them share.

    Raises:
        UsageError: There are two different results of the same model, data set and protocol.
    """
    labelled_results = label_results(results)
    results = distinct_results(labelled_results)
    unedited_results = []
    for result in results:
        if not result.is_edited and not is_stopped(result.row):
            unedited_results.append(result)

    # The entries of leaderboards: measured here, and published ones of the same data sets.
    measured_entries = entries_of(results)
    entries = [*measured_entries, *_published_on_measured_sets(measured_entries, published_entries)]

    # Compare the models on each data set. Threads of NumPy gain little on matrices this small, and
    # wait for each other if other processes keep the cores busy.
    n_sets = len({(entry.protocol, entry.dataset) for entry in measured_entries})
    contents = _DataSetContents()
    with threadpool_limits(1):
        for n_done, result_set in enumerate(result_sets(unedited_results, read_samples)):
            progress(Progress("data sets compared", n_done, n_sets))
            contents.add(result_set)
        groups = summarize_groups(unedited_results, read_samples)
    notes = [*contents.notes, *groups.notes, *_notes_on_excluded(results)]

    # Rank the models over all data sets.
    sampled_entries = []
    for entry in measured_entries:
        if entry.stored is not None and entry.stored.path in contents.sampled_files:
            sampled_entries.append(entry)
    overview = None
    try:
        overview = overview_of(sampled_entries, read_samples, suite)
    except UsageError as error:
        notes.append(f"no ranking of the models: {error}")
    ties = ties_of(contents.comparisons, entries)
    return Content(
        overview=overview,
        results=tuple(unedited_results),
        entries=tuple(sorted(entries, key=attrgetter("key"))),
        boards=_sort_boards(make_boards(entries, ties)),
        languages=tuple(language_tables(entries)),
        pairs=tuple(pair_models(contents.comparisons)),
        lengths=tuple(contents.lengths),
        mistakes=tuple(contents.mistakes),
        curves=curves_of(unedited_results),
        notes=tuple(notes),
        groups=groups,
        labs=tuple(compare_labs(measured_entries, labelled_results)),
    )


def _published_on_measured_sets(
    measured_entries: Sequence[Entry], published_entries: Iterable[Entry]
) -> Iterator[Entry]:
    """Yield the published numbers on data sets that were measured here by the same protocol."""
    measured_sets = {(entry.protocol, entry.dataset_name) for entry in measured_entries}
    for entry in published_entries:
        if (entry.protocol, entry.dataset) in measured_sets:
            yield entry


def _notes_on_excluded(results: Iterable[StoredResult]) -> Iterator[str]:
    """Yield a note on each result that appears in leaderboards only, with the reason."""
    for result in results:
        if result.is_edited:
            yield f"only in leaderboards: {result.path} ({result.fault})"
        elif is_stopped(result.row):
            yield f"only in leaderboards: {result.path} (the run stopped early)"


class _DataSetContents:
    """Collects the comparisons and tables of all data sets."""

    def __init__(self) -> None:
        """Start without any data set."""
        self.comparisons: list[SetComparison] = []
        self.lengths: list[LengthTable] = []
        self.mistakes: list[MistakeTable] = []
        self.notes: list[str] = []
        # The files of the results that have samples.
        self.sampled_files: set[Path] = set()

    def add(self, result_set: ResultSet) -> None:
        """Compute and add everything about the results on one data set.

        If mistakes or caption lengths cannot be computed, a note says why.
        """
        self.comparisons += compare_set(result_set)
        self.notes += result_set.notes
        self.sampled_files.update(result.stored.path for result in result_set.results)
        try:
            mistakes = mistakes_of(result_set)
            if mistakes is not None:
                self.mistakes.append(mistakes)
            self.lengths += lengths_of(result_set)
        except UsageError as error:
            self.notes.append(str(error))


def _sort_boards(leaderboards: Iterable[Board]) -> tuple[Board, ...]:
    """Sort leaderboards: most data sets first, then most models, then by protocol."""

    def sort_key(board: Board) -> tuple[int, int, str]:
        """Return negative numbers, so that the largest come first, and the protocol's name."""
        n_datasets = len({column.dataset for column in board.columns})
        return -n_datasets, -len(board.rows), board.protocol

    return tuple(sorted(leaderboards, key=sort_key))


def group_by_data_set(results: Sequence[StoredResult]) -> list[list[StoredResult]]:
    """Return one list of results for each data set and protocol.

    The lists of the protocol with the most data sets come first. Each list is sorted by model.
    """
    data_sets = {(result.row.protocol, result.dataset) for result in results}
    n_sets_by_protocol = Counter(protocol for protocol, _ in data_sets)

    def sort_key(result: StoredResult) -> tuple[int, str, str, str]:
        """Return the number of data sets, negative, then protocol, data set and model."""
        protocol = result.row.protocol
        return -n_sets_by_protocol[protocol], protocol, result.dataset, result.model

    sorted_results = sorted(results, key=sort_key)
    results_by_set = groupby(sorted_results, attrgetter("row.protocol", "dataset"))
    return [list(results_of_set) for _, results_of_set in results_by_set]


def result_sets(results: Sequence[StoredResult], read_samples: ReadSamples) -> Iterator[ResultSet]:
    """Yield the results on each data set by one protocol, with their samples.

    The samples of a result are the stored arrays that its metrics are computed from. They are read
    when their data set is reached, so that the samples of all data sets are never in memory
    together. A result whose samples cannot be read is left out, with a note.

    Args:
        results: Results on several data sets, in any order.
        read_samples: Reads the samples of a result by its path.
    """
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

    Example:
        The results a and c were measured on all images, and b with `--limit 10`. The comparison of
        a and c has differences. The comparisons of a and b, and of b and c, have an obstacle.
    """
    comparisons: list[SetComparison] = []
    # Split the results into lists of results that can be compared with each other, such as
    # [[a, c], [b]]. The first result of a list stands for all of them.
    comparable_lists: list[list[SampledResult]] = []
    for result in result_set.results:
        matching_list = None
        for comparable_results in comparable_lists:
            obstacle = _obstacle_to_comparison(result_set.task, comparable_results[0], result)
            if obstacle:
                for other_result in comparable_results:
                    comparison = _to_comparison(result_set, other_result, result, {}, obstacle)
                    comparisons.append(comparison)
            elif matching_list is None:
                matching_list = comparable_results
        if matching_list is None:
            comparable_lists.append([result])
        else:
            matching_list.append(result)

    # Compare the results of each list.
    for comparable_results in comparable_lists:
        comparisons += _compare_comparable(result_set, comparable_results)
    # A model that was measured in two ways is not compared with itself.
    return [
        comparison for comparison in comparisons if comparison.models[0] != comparison.models[1]
    ]


def _to_comparison(
    result_set: ResultSet,
    a: SampledResult,
    b: SampledResult,
    differences: Mapping[str, PairedDifference],
    obstacle: str,
) -> SetComparison:
    """Return the record of the comparison of two results on a data set.

    Args:
        result_set: The results on the data set, which also names its protocol and task.
        a: The first result, by the alphabetical order of the models.
        b: The second result.
        differences: The value of `a` minus the value of `b`, by metric. Empty if there is an
            obstacle.
        obstacle: The reason why the results cannot be compared, or "".
    """
    return SetComparison(
        models=(a.model, b.model),  # in alphabetical order, as the results of a set are
        protocol=result_set.protocol,
        dataset=result_set.dataset,
        task=result_set.task,
        differences=differences,
        obstacle=obstacle,
    )


def _obstacle_to_comparison(task_name: str, a: SampledResult, b: SampledResult) -> str:
    """Return the reason why two results cannot be compared, or "" if they can.

    They can if they have the same settings, and the same true labels, captions or masks.

    Args:
        task_name: The task of both results, such as "retrieval".
        a: The first result, with its stored arrays.
        b: The second result, on the same data set by the same protocol.
    """
    mismatches = describe_mismatches(setting_of_result(a.row), setting_of_result(b.row))
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


def _compare_comparable(
    result_set: ResultSet, results: Sequence[SampledResult]
) -> list[SetComparison]:
    """Compare every two results that were measured on the same samples with the same settings.

    A comparison has an obstacle instead of differences if it cannot be computed, or if a stored
    metric differs from the value that the samples give.

    Args:
        result_set: The results on the data set, which also names its protocol and task.
        results: The results to compare, a part of the result set.
    """
    pairs = list(combinations(results, 2))
    try:
        samples = [result.samples for result in results]
        differences_by_pair = compare.all_differences(result_set.task, samples, without_slow=True)
    except (CosmosEvalError, ValueError) as error:
        return [_to_comparison(result_set, a, b, {}, str(error)) for a, b in pairs]
    comparisons = []
    for (a, b), differences in zip(pairs, differences_by_pair.values(), strict=True):
        values_of_a = {metric: difference.a for metric, difference in differences.items()}
        values_of_b = {metric: difference.b for metric, difference in differences.items()}
        obstacle = _wrong_metric(a, values_of_a)
        if not obstacle:
            obstacle = _wrong_metric(b, values_of_b)
        usable_differences = {} if obstacle else differences
        comparisons.append(_to_comparison(result_set, a, b, usable_differences, obstacle))
    return comparisons


def _wrong_metric(result: SampledResult, computed_metrics: Mapping[str, float]) -> str:
    """Return a message about a stored metric that is not the value which the samples give.

    Return "" if all metrics agree. `computed_metrics` holds the values that are computed from the
    samples, the stored arrays of the result, by metric.
    """
    try:
        for metric, computed_value in computed_metrics.items():
            if metric in result.row.metrics:
                stored_value = result.row.metrics[metric]
                compare.require_metric_of_samples(metric, stored_value, computed_value)
    except ValueError as error:
        return f"{result.model}: {error}"
    return ""


def pair_models(comparisons: Sequence[SetComparison]) -> list[ModelPair]:
    """Return one record for every two models, with their tests on all data sets.

    The tests of a pair are sorted by protocol and data set.
    """
    sorted_comparisons = sorted(comparisons, key=attrgetter("models", "protocol", "dataset"))
    pairs = []
    for models, comparisons_of_pair in groupby(sorted_comparisons, attrgetter("models")):
        pairs.append(_test_pair(models, list(comparisons_of_pair)))
    return pairs


def _test_pair(models: ModelNames, comparisons: Sequence[SetComparison]) -> ModelPair:
    """Test the metrics of two models, and correct the p-values of main metrics by Holm's method.

    The metrics are the ones that leaderboards show. Tests of main metrics come first, sorted by
    protocol: the protocol with the most data sets first.

    Args:
        models: The labels of the two models.
        comparisons: The comparisons of these models on all data sets.
    """
    tests: list[compare.MetricTest] = []
    obstacles = []
    for comparison in comparisons:
        if comparison.obstacle:
            data_set = f"{comparison.dataset} ({comparison.protocol})"
            obstacles.append(f"{data_set}: {comparison.obstacle}")
        task = usable_task(comparison.task)
        if task is None:
            continue
        for metric in task.headlines:
            if metric in comparison.differences:
                test = compare.MetricTest(
                    dataset=comparison.dataset,
                    protocol=comparison.protocol,
                    task=comparison.task,
                    metric=metric,
                    difference=comparison.differences[metric],
                )
                tests.append(test)

    n_sets_by_protocol = Counter(comparison.protocol for comparison in comparisons)

    def sort_key(test: compare.MetricTest) -> tuple[bool, int]:
        """Return False for main metrics, which have Holm's p-value, and True for others.

        Also return the number of the protocol's data sets, negative, so that most come first.
        """
        is_main = test.adjusted is not None
        return not is_main, -n_sets_by_protocol[test.protocol]

    sorted_tests = sorted(compare.adjust_p_values(tests), key=sort_key)
    return ModelPair(models, tuple(sorted_tests), tuple(obstacles))


def ties_of(comparisons: Sequence[SetComparison], entries: Sequence[Entry]) -> Ties:
    """Return the p-values that tell whether a number of a leaderboard is tied with the best one.

    Pairs of results that were not compared are left out.

    Args:
        comparisons: The comparisons of every two models on all data sets.
        entries: The entries of the leaderboards: one for each result or published number.

    Returns:
        The p-values by pair. A pair is the best entry of a column, another entry whose number is
        close to it, and the metric of the column.
    """
    differences_by_set = {}
    for comparison in comparisons:
        key = (comparison.models, comparison.protocol, comparison.dataset)
        differences_by_set[key] = comparison.differences
    # The label of an entry may be longer than the label by which models are compared.
    models = {entry.key: entry.stored.model for entry in entries if entry.stored is not None}
    tasks = {entry.key: entry.task for entry in entries}
    p_values = {}
    for pair in close_pairs(entries):
        best_model = models[pair.best]
        other_model = models[pair.other]
        first_model, second_model = sorted((best_model, other_model))
        key = ((first_model, second_model), pair.best.protocol, pair.best.dataset)
        difference = differences_by_set.get(key, {}).get(pair.metric)
        if difference is None:
            continue
        # Differences are of models in alphabetical order: make it the best minus the other one.
        if best_model != first_model:
            difference = difference.flipped()
        p_values[pair] = p_value_of(tasks[pair.best], pair.metric, difference)
    return p_values


def lengths_of(result_set: ResultSet) -> list[LengthTable]:
    """Return text to image R@1 by the length of captions, as tables.

    Models whose captions have the same bins of lengths share a table. The list is empty if the task
    has no captions. `result_set` holds the results of all models on a data set. Raises UsageError
    for samples of another task.
    """
    bins_by_model: dict[str, Sequence[LengthBin]] = {}
    with _explain_missing_table(result_set, "lengths of captions"):
        task = task_named(result_set.task)
        for result in result_set.results:
            bins_by_model[result.model] = task.lengths(result.samples)
    # The bins of each model, by the names and the sizes of the bins, then by model. For example,
    # models_by_sizes[("1-9 words", 500), ("10-24 words", 310)]["model-a"] are two bins.
    models_by_sizes: dict[tuple[tuple[str, int], ...], dict[str, Sequence[LengthBin]]] = {}
    for model, bins in bins_by_model.items():
        if bins:
            bin_sizes = tuple((length_bin.name, length_bin.captions) for length_bin in bins)
            models_by_sizes.setdefault(bin_sizes, {})[model] = bins
    return [_length_table(result_set, models) for models in models_by_sizes.values()]


def _length_table(
    result_set: ResultSet, bins_by_model: Mapping[str, Sequence[LengthBin]]
) -> LengthTable:
    """Return the table of models whose captions have the same bins of lengths.

    It has one row for each bin, with one cell for each model: R@1 with Wilson's interval, and the
    share of captions that were cut to the model's context.

    Args:
        result_set: The results on the data set, which names its protocol.
        bins_by_model: The bins of each model. Bins with the same index have the same captions.
    """
    rows = []
    # One row at a time: the bin of each model.
    for bins_of_models in zip(*bins_by_model.values(), strict=True):
        cells = []
        for length_bin in bins_of_models:
            recall = length_bin.recall
            # Captions of one image depend on each other, so that the interval counts them as fewer.
            interval = clustered_wilson(recall.values, recall.clusters)
            cell = LengthCell(
                recall=str(percent(recall.value)),
                low=str(percent(interval.low)),
                high=str(percent(interval.high)),
                cut=str(percent(length_bin.cut)),
            )
            cells.append(cell)
        first_bin = bins_of_models[0]
        rows.append(LengthRow(first_bin.name, first_bin.captions, tuple(cells)))
    return LengthTable(
        protocol=result_set.protocol,
        dataset=result_set.dataset,
        models=tuple(bins_by_model),
        rows=tuple(rows),
    )


@contextmanager
def _explain_missing_table(result_set: ResultSet, table_name: str) -> Iterator[None]:
    """Turn an error in a `with` block into a UsageError that says which table is missing.

    For example, "coco (karpathy): no mistakes are shown: ..." if `table_name` is "mistakes".
    """
    try:
        yield
    except (CosmosEvalError, KeyError, IndexError, ValueError) as error:
        raise UsageError(
            f"{result_set.dataset} ({result_set.protocol}): no {table_name} are shown: {error}"
        ) from error


def mistakes_of(result_set: ResultSet) -> MistakeTable | None:
    """Return a table of the most frequent mistakes of every model on a data set.

    A mistake is a true class and a class that is predicted instead. A mistake that is frequent for
    any model is shown for all of them. Return None if the task has no mistakes or no result has
    samples. Raises UsageError for samples from which mistakes cannot be computed.
    """
    mistakes_by_model: dict[str, Mistakes] = {}
    with _explain_missing_table(result_set, "mistakes"):
        task = task_named(result_set.task)
        for result in result_set.results:
            mistakes = task.mistakes(result.samples)
            if mistakes is not None:
                mistakes_by_model[result.model] = mistakes
    if not mistakes_by_model:
        return None

    # For each model, the share of each mistake, the most frequent first. Choose the mistakes that
    # are frequent for at least one model.
    shares_of_models = [_mistake_shares(mistakes) for mistakes in mistakes_by_model.values()]
    frequent_mistakes: set[tuple[str, str]] = set()
    for shares_by_mistake in shares_of_models:
        most_frequent = list(shares_by_mistake)[:_MISTAKES_PER_MODEL]
        frequent_mistakes.update(most_frequent)

    # Write one row for each of them, sorted by the sum of the models' shares.
    rows = []
    for true_class, predicted_class in frequent_mistakes:
        shares = []
        for shares_by_mistake in shares_of_models:
            shares.append(shares_by_mistake.get((true_class, predicted_class), 0.0))
        rows.append(MistakeRow(true_class, predicted_class, tuple(shares)))
    # The set of mistakes has no order. Mistakes with equal sums are sorted by their classes.
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

    The key of a mistake is a pair of its true and its predicted class. For example, {("wolf",
    "dog"): 0.25} if a quarter of all wolves are taken for dogs.
    """
    # `amounts` counts the images, or pixels, of each mistake, and `totals` those of each class.
    shares = mistakes.amounts / mistakes.totals[mistakes.true]
    shares_by_mistake = {}
    most_frequent_first = np.argsort(-mistakes.amounts, kind="stable")
    for index in most_frequent_first:
        true_class = mistakes.classes[mistakes.true[index]]
        predicted_class = mistakes.classes[mistakes.predicted[index]]
        shares_by_mistake[true_class, predicted_class] = float(shares[index])
    return shares_by_mistake

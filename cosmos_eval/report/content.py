"""What a page states without pictures: leaderboards, comparisons of every two models, mistakes."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from cosmos_eval.report.groups import GroupView, view_of
from cosmos_eval.report.overview import Overview, overview_of
from cosmos_eval.report.training import Curve, curves_of
from cosmos_eval.results import compare
from cosmos_eval.results.labels import Stored, distinct, distinguish
from cosmos_eval.results.leaderboard.board import Board, boards
from cosmos_eval.results.leaderboard.entries import Entry, entries_of
from cosmos_eval.results.leaderboard.ranking import Ties, close_pairs, p_value_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import Read
from cosmos_eval.results.text import percent
from cosmos_eval.stats.intervals import clustered_wilson
from cosmos_eval.stats.lengths import LengthBin
from cosmos_eval.stats.paired import PairedDifference
from cosmos_eval.tasks import Task, task_named, usable_task
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

_FREQUENT = 8  # mistakes of each model that are shown

Models = tuple[str, str]
"""Two models by their labels, in alphabetical order."""


class Sampled(NamedTuple):
    """A result and its samples."""

    stored: Stored
    samples: Samples

    @property
    def row(self) -> ResultRow:
        return self.stored.row

    @property
    def model(self) -> str:
        return self.stored.model


_Compared = tuple[Sampled, Sampled, Mapping[str, PairedDifference], str]  # the last: an obstacle


class ResultSet(NamedTuple):
    """The results of a data set by one protocol, by model; notes on those without samples."""

    protocol: str
    dataset: str
    task: str
    results: tuple[Sampled, ...]
    notes: tuple[str, ...]


class Comparison(NamedTuple):
    """The differences of two models on one data set by metric, or an obstacle."""

    models: Models
    protocol: str
    dataset: str
    task: str
    differences: Mapping[str, PairedDifference]
    obstacle: str


class ModelPair(NamedTuple):
    """Tests of two models on all data sets that both were measured on, and obstacles."""

    models: Models
    tests: tuple[compare.MetricTest, ...]
    obstacles: tuple[str, ...]

    def wins(self, model: str) -> int:
        """Count the tests that show one of the two models to be better."""
        side = "A" if model == self.models[0] else "B"
        return sum(test.better == side for test in self.tests)

    @property
    def decisive(self) -> int:
        """The number of tests that count, those with a p-value by Holm."""
        return sum(test.adjusted is not None for test in self.tests)


class MistakeTable(NamedTuple):
    """The most frequent mistakes on a data set, by their mean share of the true class's `unit`. A
    row has the true class, the predicted one, and the share per model."""

    protocol: str
    dataset: str
    unit: str
    models: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[float, ...]], ...]


class LengthTable(NamedTuple):
    """Text to image R@1 by the length of captions on a data set. A row has the name of a bin, its
    number of captions, and per model, in percent as text, the value, its interval's ends and the
    share of captions cut."""

    protocol: str
    dataset: str
    models: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[tuple[str, ...], ...]], ...]


class Content(NamedTuple):
    """A page without pictures. `overview` ranks the models, None where that is impossible,
    `results` are those measured here without edited ones, `entries` all of them and the published
    ones beside them, `pairs` every two models, `groups` the trainings of methods, `notes` one line
    for each thing that is not shown."""

    overview: Overview | None
    results: tuple[Stored, ...]
    entries: tuple[Entry, ...]
    boards: tuple[Board, ...]
    pairs: tuple[ModelPair, ...]
    lengths: tuple[LengthTable, ...]
    mistakes: tuple[MistakeTable, ...]
    curves: tuple[Curve, ...]
    notes: tuple[str, ...]
    groups: GroupView

    @property
    def models(self) -> list[str]:
        """The models measured here, in alphabetical order."""
        return sorted({one.model for one in self.results})


def content_of(
    results: Sequence[Stored],
    read: Read,
    others: Sequence[Entry] = (),
    progress: OnProgress = no_progress,
    suite: Suite | None = None,
) -> Content:
    """Compare everything that can be compared. `others` are published numbers; those of measured
    data sets and protocols are kept. `suite` is what models are ranked by. Raises UsageError for
    two results of the same model, data set and protocol."""
    results = distinct(distinguish(results))
    trusted = [one for one in results if not one.is_edited]
    own = entries_of(results)
    measured = {(entry.protocol, entry.dataset) for entry in own}
    names = {(entry.protocol, entry.dataset_name) for entry in own}
    entries = [*own, *(o for o in others if (o.protocol, o.dataset) in names)]
    found: list[Comparison] = []
    lengths: list[LengthTable] = []
    mistakes: list[MistakeTable | None] = []
    notes: list[str] = []
    with_samples: set[Path] = set()
    # The matrices are small: more threads of NumPy's gain little, and wait for each other where
    # other processes are busy.
    with threadpool_limits(1):
        for done, one in enumerate(result_sets(trusted, read)):
            progress(Progress("data sets compared", done, len(measured)))
            found += compare_set(one)
            notes += one.notes
            with_samples |= {result.stored.path for result in one.results}
            try:
                mistakes.append(mistakes_of(one))
                lengths += lengths_of(one)
            except UsageError as error:
                notes.append(str(error))
        groups = view_of(trusted, read)
    notes += groups.notes
    notes += [
        f"in leaderboards alone: {one.path} ({one.fault})" for one in results if one.is_edited
    ]
    overview = None
    try:
        usable = [entry for entry in own if entry.stored and entry.stored.path in with_samples]
        overview = overview_of(usable, read, suite)
    except UsageError as error:
        notes.append(f"no ranking of the models: {error}")
    return Content(
        overview=overview,
        results=tuple(trusted),
        entries=tuple(sorted(entries, key=attrgetter("key"))),
        boards=_by_size(boards(entries, ties_of(found, entries))),
        pairs=tuple(pair_models(found)),
        lengths=tuple(lengths),
        mistakes=tuple(table for table in mistakes if table is not None),
        curves=curves_of(trusted),
        notes=tuple(notes),
        groups=groups,
    )


def _by_size(found: Iterable[Board]) -> tuple[Board, ...]:
    """Sort boards: those of most data sets first, then those of most models."""

    def key(board: Board) -> tuple[int, int, str]:
        return -len({c.dataset for c in board.columns}), -len(board.rows), board.protocol

    return tuple(sorted(found, key=key))


def by_data_set(results: Sequence[Stored]) -> list[tuple[str, str, list[Stored]]]:
    """Group results by protocol and data set, protocols of most data sets first; those of a group
    are sorted by model."""
    sets = {(one.row.protocol, one.dataset) for one in results}
    sizes = Counter(protocol for protocol, _ in sets)
    where = attrgetter("row.protocol", "dataset")
    results = sorted(results, key=lambda r: (-sizes[r.row.protocol], *where(r), r.model))
    groups = groupby(results, where)
    return [(protocol, dataset, list(group)) for (protocol, dataset), group in groups]


def result_sets(results: Sequence[Stored], read: Read) -> Iterator[ResultSet]:
    """Yield results by protocol and data set; samples are read when a set is reached."""
    for protocol, dataset, group in by_data_set(results):
        sampled, notes = [], []
        for stored in group:
            try:
                sampled.append(Sampled(stored, read(stored.path)))
            except UsageError as error:
                notes.append(f"not compared with others: {error}")
        yield ResultSet(protocol, dataset, group[0].row.task, tuple(sampled), tuple(notes))


def compare_set(one: ResultSet) -> list[Comparison]:
    """Compare every two models of a set. Those of other samples or settings have an obstacle."""
    parts: list[list[Sampled]] = []  # results that can be compared with each other
    found: list[_Compared] = []
    for result in one.results:
        obstacles = [_why_apart(one.task, part[0], result) for part in parts]
        for part, why in zip(parts, obstacles, strict=True):
            found += [(other, result, {}, why) for other in part if why]
        if all(obstacles):
            parts.append([result])
        else:
            parts[obstacles.index("")].append(result)
    found += [pair for part in parts for pair in _compare_part(one.task, part)]
    # Results are sorted by model. One that was measured in two ways is not compared with itself.
    return [
        Comparison((a.model, b.model), one.protocol, one.dataset, one.task, differences, why)
        for a, b, differences, why in found
        if a.model != b.model
    ]


def _why_apart(task: str, a: Sampled, b: Sampled) -> str:
    """State what keeps two results from being compared; empty where nothing does."""
    if found := compare.mismatches(compare.setting(a.row), compare.setting(b.row)):
        return "; ".join(found)
    try:
        known = task_named(task)
        known.require_same_truth(known.derive(a.samples), known.derive(b.samples))
    except (CosmosEvalError, ValueError) as error:
        return str(error)
    except KeyError as error:
        return f"samples that lack {error} are not of this task"
    return ""


def _compare_part(task: str, results: Sequence[Sampled]) -> list[_Compared]:
    pairs = list(combinations(results, 2))
    try:
        samples = [result.samples for result in results]
        differences = compare.all_differences(task, samples, without_slow=True).values()
    except (CosmosEvalError, ValueError) as error:
        return [(a, b, {}, str(error)) for a, b in pairs]
    found: list[_Compared] = []
    for (a, b), of_pair in zip(pairs, differences, strict=True):
        why = _not_own(a, of_pair, "a") or _not_own(b, of_pair, "b")
        found.append((a, b, {} if why else of_pair, why))
    return found


def _not_own(result: Sampled, differences: Mapping[str, PairedDifference], side: str) -> str:
    """Name a metric that is not what its samples give; empty where all are."""
    try:
        for name, found in differences.items():
            if name in result.row.metrics:
                compare.require_metric_of_samples(
                    name, result.row.metrics[name], getattr(found, side)
                )
    except ValueError as error:
        return f"{result.model}: {error}"
    return ""


def pair_models(found: Sequence[Comparison]) -> list[ModelPair]:
    """Group comparisons by models, with Holm's correction over the decisive tests of a pair."""
    found = sorted(found, key=attrgetter("models", "protocol", "dataset"))
    pairs = []
    for models, group in groupby(found, attrgetter("models")):
        own = list(group)
        tests = compare.adjust(
            compare.MetricTest(one.dataset, one.protocol, one.task, name, one.differences[name])
            for one in own
            if (task := usable_task(one.task)) is not None
            for name in task.headlines
            if name in one.differences
        )
        sizes = Counter(one.protocol for one in own)
        tests = tuple(sorted(tests, key=lambda t: (t.adjusted is None, -sizes[t.protocol])))
        obstacles = [f"{o.dataset} ({o.protocol}): {o.obstacle}" for o in own if o.obstacle]
        pairs.append(ModelPair(models, tests, tuple(obstacles)))
    return pairs


def ties_of(found: Sequence[Comparison], entries: Sequence[Entry]) -> Ties:
    """Return the p-value of each close pair, if compared."""
    known = {(one.models, one.protocol, one.dataset): one.differences for one in found}
    # Tables may call a model more than its name where models are compared.
    model = {entry.key: entry.stored.model for entry in entries if entry.stored is not None}
    task = {entry.key: entry.task for entry in entries}
    ties = {}
    for pair in close_pairs(entries):
        first, second = sorted((model[pair.best], model[pair.other]))
        differences = known.get(((first, second), pair.best.protocol, pair.best.dataset), {})
        if found_difference := differences.get(pair.metric):
            is_first = model[pair.best] == first
            difference = found_difference if is_first else found_difference.flipped()
            ties[pair] = p_value_of(task[pair.best], pair.metric, difference)
    return ties


def lengths_of(one: ResultSet) -> list[LengthTable]:
    """Return recall by the length of captions, if any, in a table for each set of captions. Raises
    UsageError for samples of another task."""
    found = _evaluate(one, "lengths of captions", lambda task: task.lengths)
    tables: dict[tuple[tuple[str, int], ...], dict[str, list[tuple[str, ...]]]] = {}
    for result in one.results:
        if bins := found.get(result.model):
            cells = tables.setdefault(tuple((b.name, b.captions) for b in bins), {})
            cells[result.model] = _length_cells(bins)
    return [
        LengthTable(
            one.protocol,
            one.dataset,
            tuple(cells),
            tuple((*b, row) for b, *row in zip(bins, *cells.values(), strict=True)),
        )
        for bins, cells in tables.items()
    ]


def _length_cells(bins: Sequence[LengthBin]) -> list[tuple[str, ...]]:
    """Return recall, both ends of its interval, and the share that was cut, in percent."""
    cells = []
    for length_bin in bins:
        recall = length_bin.recall
        interval = clustered_wilson(recall.values, recall.clusters)
        shares = (recall.value, interval.low, interval.high, length_bin.cut)
        cells.append(tuple(str(percent(share)) for share in shares))
    return cells


def _evaluate(
    one: ResultSet, what: str, function_of: Callable[[Task], Callable[[Samples], Any]]
) -> dict[str, Any]:
    """Return what a function of the task gives for the samples of each model, unless it is empty.
    Raises UsageError for samples of another task."""
    try:
        function = function_of(task_named(one.task))
        figures = {result.model: function(result.samples) for result in one.results}
        return {model: figure for model, figure in figures.items() if figure}
    except (CosmosEvalError, KeyError, IndexError, ValueError) as error:
        where = f"{one.dataset} ({one.protocol})"
        raise UsageError(f"{where}: no {what} are shown: {error}") from error


def mistakes_of(one: ResultSet) -> MistakeTable | None:
    """Return the mistakes on a data set, if any. Raises UsageError for samples without them."""
    found = _evaluate(one, "mistakes", lambda task: task.mistakes)
    if not found:
        return None
    shares = [_shares_of_mistakes(some) for some in found.values()]
    chosen = {pair for of_model in shares for pair in list(of_model)[:_FREQUENT]}
    rows = [(*pair, tuple(of.get(pair, 0.0) for of in shares)) for pair in chosen]
    rows.sort(key=lambda row: (-sum(row[2]), *row[:2]))
    unit = next(iter(found.values())).unit
    return MistakeTable(one.protocol, one.dataset, unit, tuple(found), tuple(rows))


def _shares_of_mistakes(some: Mistakes) -> dict[tuple[str, str], float]:
    """Return the share of every mistake, by the true and the predicted class, by frequency."""
    order = np.argsort(-some.amounts, kind="stable")
    columns = (some.true, some.predicted, some.amounts / some.totals[some.true])
    rows = zip(*(column[order].tolist() for column in columns), strict=True)
    return {(some.classes[true], some.classes[other]): share for true, other, share in rows}

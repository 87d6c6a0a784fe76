"""The tables of a leaderboard as a view shows them: one per task.

Every column is a ranking of one data set, protocol and metric.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple

from cosmos_eval.results.leaderboard.board import MARKS, MEANINGS, Board, Column, Number
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.table import (
    BY_NAME,
    BY_RANK,
    Cell,
    Head,
    Table,
    View,
    pattern_index,
    require_known,
    transposed,
)
from cosmos_eval.tasks import known_tasks, metric_of
from cosmos_eval.types import UsageError

_TITLES = {
    "cls": "classification",
    "seg": "segmentation",
    "select": "caption selection",
    "loc": "localisation",
    "assoc": "association",
}


class _Place(NamedTuple):
    """A column of a table, which is a column of a board."""

    protocol: str
    column: Column

    @property
    def heading(self) -> str:
        return f"{self.column.dataset} ({self.protocol})"


class _Name(NamedTuple):
    """The name of a row of a table."""

    model: str
    source: str
    url: str


def select(entries: Sequence[Entry], view: View) -> list[Entry]:
    """Return the entries that a view shows, with only the metrics that it names.

    Raises UsageError for a pattern that matches nothing, and if no entry matches all of them.
    """
    models = [name for entry in entries for name in _model_names(entry)]
    datasets = [name for entry in entries for name in _dataset_names(entry)]
    require_known("model", view.models, models)
    require_known("data set", view.datasets, datasets)
    require_known("protocol", view.protocols, [entry.protocol for entry in entries])
    selected = [
        entry
        for entry in entries
        if _matches(_model_names(entry), view.models)
        and _matches(_dataset_names(entry), view.datasets)
        and _matches([entry.protocol], view.protocols)
    ]
    if view.metrics:
        metrics = [name for entry in selected for name in entry.metrics]
        require_known("metric", view.metrics, metrics)
        with_metrics = [_with_metrics(entry, view.metrics) for entry in selected]
        selected = [entry for entry in with_metrics if entry.metrics]
    if entries and not selected:
        raise UsageError("no result has these models, data sets, protocols and metrics together")
    return selected


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether any name has any pattern; without patterns, all names do."""
    return not patterns or pattern_index(names, patterns) >= 0


def _model_names(entry: Entry) -> list[str]:
    """Return a model's label, also without the kind of map."""
    return [entry.model] if entry.stored is None else [entry.model, entry.stored.model]


def _dataset_names(entry: Entry) -> list[str]:
    """Return the label of a data set's column, and the name of the data set."""
    return [entry.dataset, entry.dataset_name]


def _with_metrics(entry: Entry, patterns: Sequence[str]) -> Entry:
    """Return an entry with only the metrics that have a pattern, in the order of the patterns."""
    metrics: dict[str, float] = {}
    for pattern in patterns:
        for name, value in entry.metrics.items():
            if fnmatchcase(name, pattern):
                metrics[name] = value
    headlines = headlines_of(entry)
    titles = {name: headlines.get(name, name.replace("_", " ")) for name in metrics}
    return entry._replace(metrics=metrics, titles=titles)


def tables_of(boards: Sequence[Board], view: View) -> list[Table]:
    """Return the tables of boards: one per task, or one of all tasks if the view is transposed.

    Results of other settings, such as a part of the samples or a student, have tables of their own.
    Raises UsageError for an order by a metric that is not shown.
    """
    _require_order(boards, view)
    tables = []
    for aside in (False, True):
        table_boards = [board for board in boards if board.aside == aside]
        places = [
            _Place(board.protocol, column) for board in table_boards for column in board.columns
        ]
        places.sort(key=lambda place: _order(place, view))
        if view.transpose:
            if places:
                tables.append(transposed(_TaskTable(table_boards, places, view).table()))
            continue
        for _, task_places in groupby(places, lambda place: place.column.task):
            tables.append(_TaskTable(table_boards, list(task_places), view).table())
    return tables


def _require_order(boards: Sequence[Board], view: View) -> None:
    """Raise UsageError for an order other than by name, by rank or by a metric of the tables."""
    shown_metrics = {column.metric for board in boards for column in board.columns}
    if view.sort and view.sort not in (BY_NAME, BY_RANK, *shown_metrics):
        metrics = ", ".join(sorted(shown_metrics)) or "there is none"
        raise UsageError(
            f"--sort {view.sort}: give {BY_NAME}, {BY_RANK} or a metric of the tables: {metrics}"
        )


def _order(place: _Place, view: View) -> tuple[Any, ...]:
    """Return the position of a column: by task, data set, protocol and metric, of which all but the
    task are in the order of the view's patterns, then in alphabetical order."""
    column = place.column
    return (
        column.task,
        pattern_index([column.dataset], view.datasets),
        column.dataset,
        pattern_index([place.protocol], view.protocols),
        place.protocol,
        pattern_index([column.metric], view.metrics),
        column,
    )


class _TaskTable:
    """The table of a task, whose columns are `places`.

    `numbers` and `entries` hold what the rows have, by the name of the row and the column.
    """

    def __init__(self, boards: Sequence[Board], places: Sequence[_Place], view: View) -> None:
        self.places, self.view = places, view
        self.protocols = list(dict.fromkeys(place.protocol for place in places))
        self.boards = [board for board in boards if board.protocol in self.protocols]
        self.is_aside = boards[0].aside
        self.numbers: dict[_Name, dict[_Place, Number]] = {}
        self.entries: dict[_Name, dict[_Place, Entry]] = {}
        for board in self.boards:
            self._add(board)

    def _add(self, board: Board) -> None:
        """Add the numbers of a board that belong into the table."""
        for row, name in zip(board.rows, _row_names(board), strict=True):
            for column, number, entry in zip(board.columns, row.cells, row.entries, strict=True):
                place = _Place(board.protocol, column)
                if entry is not None and number.value and place in self.places:
                    self.numbers.setdefault(name, {})[place] = number
                    self.entries.setdefault(name, {})[place] = entry

    def table(self) -> Table:
        """Return the table, with its rows in the order of the view."""
        has_source = any(name.source != "measured" for name in self.numbers)
        heads = [Head("model"), Head("source")] if has_source else [Head("model")]
        texts = len(heads)
        for place in self.places:
            is_single = len(self.protocols) == 1
            above = place.column.dataset if is_single else place.heading
            heads.append(Head(place.column.title, above))
        rows = []
        for name in self._sorted_names():
            cells = [Cell(name.model)]
            if has_source:
                cells.append(Cell(name.source, url=name.url))
            for place in self.places:
                cells.append(_cell(self.numbers[name].get(place), self.view))
            rows.append(tuple(cells))
        return Table(
            title=self._title(),
            heads=tuple(heads),
            rows=tuple(rows),
            texts=texts,
            notes=tuple(dict.fromkeys(self._notes())),
            label=self._label(),
        )

    def _tasks(self) -> list[str]:
        """Return the names of the tasks of the columns; `other` for those not installed."""
        names = [*known_tasks(), "other"]
        return [names[task] for task in dict.fromkeys(place.column.task for place in self.places)]

    def _title(self) -> str:
        """Return the title: the tasks, and the protocol if there is a single one."""
        title = ", ".join(_TITLES.get(task, task) for task in self._tasks())
        title = f"{title[:1].upper()}{title[1:]} (%)"
        if self.is_aside:
            title += ", other settings"
        if len(self.protocols) == 1:
            title += f", protocol {self.protocols[0]}"
        return title

    def _label(self) -> str:
        """Return the name of the table in LaTeX."""
        words = self._tasks()
        if self.is_aside:
            words.append("other-settings")
        return "-".join(words)

    def _notes(self) -> Iterator[str]:
        """Yield the notes that the numbers of the table need."""
        numbers = [number for row in self.numbers.values() for number in row.values()]
        needless = _needless_meanings(numbers, self.view)
        for board in self.boards:
            yield from (note for note in board.notes if note not in needless)
        yield from _layout_notes(numbers, self.view)
        for board in self.boards:
            yield from _map_notes(board)

    def _sorted_names(self) -> list[_Name]:
        """Return the names of the rows by the patterns for models or by name, or from the best
        down: by the mean, over a row's columns, of the share of rows that are better. Rows without
        a number in these columns are last."""
        places = [p for p in self.places if self.view.sort in (BY_RANK, p.column.metric)]
        losses = {place: self._losses(place) for place in places}
        sorted_losses = {place: sorted(losses[place].values()) for place in places}

        def position(name: _Name) -> tuple[float, int, _Name]:
            shares = []
            for place in places:
                if name in losses[place]:
                    n_better = bisect_left(sorted_losses[place], losses[place][name])
                    shares.append(n_better / len(sorted_losses[place]))
            is_by_name = self.view.sort == BY_NAME
            pattern = -1 if is_by_name else pattern_index([name.model], self.view.models)
            return fmean(shares) if shares else 1.0, pattern, name

        return sorted(self.entries, key=position)

    def _losses(self, place: _Place) -> dict[_Name, float]:
        """Return the numbers of a column by row, negative if higher is better."""
        metric = place.column.metric
        losses = {}
        for name, entries in self.entries.items():
            if place in entries:
                entry = entries[place]
                sign = -1 if metric_of(entry.task, metric).higher_is_better else 1
                losses[name] = sign * entry.metrics[metric]
        return losses


def _row_names(board: Board) -> list[_Name]:
    """Return the names of a board's rows without the kind of map, unless a model has several."""
    models = []
    for row in board.rows:
        results = [entry.stored for entry in row.entries if entry and entry.stored]
        models.append(results[0].model if results else row.model)
    names = []
    for row, model in zip(board.rows, models, strict=True):
        has_several_maps = models.count(model) > 1
        names.append(_Name(row.model if has_several_maps else model, row.source, row.url))
    return names


def _map_notes(board: Board) -> Iterator[str]:
    """Yield a note on the kinds of maps that the names of rows do not have."""
    kinds = []
    for name, row in zip(_row_names(board), board.rows, strict=True):
        if row.model != name.model:
            kind = row.model.removeprefix(name.model)[2:-1]  # without the brackets
            kinds.append(f"{name.model}: {kind}")
    if kinds:
        yield f"Maps by {board.protocol}: {'; '.join(kinds)}."


def _layout_notes(numbers: Sequence[Number], view: View) -> Iterator[str]:
    """Yield what lines and signs beside the numbers mean."""
    if view.second and any(number.second for number in numbers):
        yield "Underlined: the second best."
    if view.intervals and any(number.ends for number in numbers):
        yield "±, or + and -: how far the 95% interval reaches above and below the number."


def _needless_meanings(numbers: Sequence[Number], view: View) -> set[str]:
    """Return the MEANINGS of marks and words that no number shows."""
    marks = {number.mark for number in numbers}
    is_shown = {
        "best": any(number.best for number in numbers),
        "paired": MARKS["paired"] in marks,
        "intervals": MARKS["intervals"] in marks,
        "ranks": view.ranks and any(number.ranks for number in numbers),
        "seeds": view.intervals and any(number.ends for number in numbers),
        "delta": any(number.delta for number in numbers),
    }
    return {MEANINGS[name] for name, shown in is_shown.items() if not shown}


def _cell(number: Number | None, view: View) -> Cell:
    """Return a number as a view shows it."""
    if number is None:
        return Cell()
    details = []
    if number.ranks and view.ranks:
        details.append(f"({number.ranks})")
    if number.delta:
        details.append(f"Δ{number.delta}")
    return Cell(
        text=number.value,
        ends=number.ends if view.intervals else (),
        mark=number.mark,
        best=number.best,
        second=number.second and view.second,
        details=tuple(details),
    )

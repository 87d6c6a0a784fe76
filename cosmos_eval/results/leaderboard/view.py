"""The tables of a leaderboard as a view shows them: one per task.

Every column is a ranking of one data set, protocol and metric.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple

from cosmos_eval.results.labels import Stored
from cosmos_eval.results.leaderboard.board import MARKS, MEANINGS, Board, Column, Number, Row
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


class _TableColumn(NamedTuple):
    """A column of a table: a column of the board of one protocol."""

    protocol: str
    column: Column


class _RowName(NamedTuple):
    """The model of a row, and the source of its numbers."""

    # The label of the model.
    model: str
    # `measured`, or how the numbers were published.
    source: str
    # The address of published numbers; empty for measured ones.
    url: str


def select(entries: Sequence[Entry], view: View) -> list[Entry]:
    """Return the entries that match the view's patterns, with only the metrics that match.

    Raises UsageError for a pattern that matches nothing, and if no entry matches all patterns.
    """
    _require_known_patterns(entries, view)
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
        entries_with_metrics = [_with_metrics(entry, view.metrics) for entry in selected]
        selected = [entry for entry in entries_with_metrics if entry.metrics]
    if entries and not selected:
        raise UsageError("no result has these models, data sets, protocols and metrics together")
    return selected


def _require_known_patterns(entries: Sequence[Entry], view: View) -> None:
    """Raise UsageError for a pattern of models, data sets or protocols that matches nothing."""
    models = [name for entry in entries for name in _model_names(entry)]
    datasets = [name for entry in entries for name in _dataset_names(entry)]
    protocols = [entry.protocol for entry in entries]
    require_known("model", view.models, models)
    require_known("data set", view.datasets, datasets)
    require_known("protocol", view.protocols, protocols)


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether any name matches any pattern. Without patterns every name matches."""
    return not patterns or pattern_index(names, patterns) >= 0


def _model_names(entry: Entry) -> list[str]:
    """Return the names by which a user may mean the model of an entry.

    These are the label of its row, and the same label without the kind of attention map.
    """
    if entry.stored is None:
        return [entry.model]
    return [entry.model, entry.stored.model]


def _dataset_names(entry: Entry) -> list[str]:
    """Return the label of a data set's column, and the name of the data set."""
    return [entry.dataset, entry.dataset_name]


def _with_metrics(entry: Entry, patterns: Sequence[str]) -> Entry:
    """Return an entry with only the metrics that match a pattern, in the order of the patterns.

    A metric without a title has its name as the title: `mean_rank` -> `mean rank`.
    """
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
    Raises UsageError if the view sorts by a metric that the tables do not have.
    """
    _require_order(boards, view)
    tables = []
    for aside in (False, True):
        table_boards = [board for board in boards if board.aside == aside]
        columns = [
            _TableColumn(board.protocol, column)
            for board in table_boards
            for column in board.columns
        ]
        columns.sort(key=lambda column: _column_position(column, view))
        if view.transpose:
            if columns:
                tables.append(transposed(_TaskTable(table_boards, columns, view).table()))
            continue
        for _, task_columns in groupby(columns, key=lambda column: column.column.task):
            tables.append(_TaskTable(table_boards, list(task_columns), view).table())
    return tables


def _require_order(boards: Sequence[Board], view: View) -> None:
    """Raise UsageError unless rows are sorted by name, by rank or by a metric of the tables."""
    shown_metrics = {column.metric for board in boards for column in board.columns}
    if view.sort and view.sort not in (BY_NAME, BY_RANK, *shown_metrics):
        metrics = ", ".join(sorted(shown_metrics)) or "there is none"
        raise UsageError(
            f"--sort {view.sort}: give {BY_NAME}, {BY_RANK} or a metric of the tables: {metrics}"
        )


def _column_position(table_column: _TableColumn, view: View) -> tuple[Any, ...]:
    """Return the sort key of a column: by task, data set, protocol and metric.

    Data sets, protocols and metrics are in the order of the view's patterns. If several match the
    same pattern, they are in alphabetical order.
    """
    protocol, column = table_column
    return (
        column.task,
        pattern_index([column.dataset], view.datasets),
        column.dataset,
        pattern_index([protocol], view.protocols),
        protocol,
        pattern_index([column.metric], view.metrics),
        column,
    )


class _TaskTable:
    """The table of a task, or of all tasks, with one row per model and source.

    Attributes:
        columns: The columns of numbers, from left to right.
        boards: The boards that the columns belong to.
        numbers: The numbers of the table as text, by row and column.
        entries: The entry behind each number, by row and column.
    """

    def __init__(
        self, boards: Sequence[Board], columns: Sequence[_TableColumn], view: View
    ) -> None:
        self.columns, self.view = columns, view
        self.protocols = list(dict.fromkeys(column.protocol for column in columns))
        self.boards = [board for board in boards if board.protocol in self.protocols]
        self.is_aside = boards[0].aside
        self.numbers: dict[_RowName, dict[_TableColumn, Number]] = {}
        self.entries: dict[_RowName, dict[_TableColumn, Entry]] = {}
        for board in self.boards:
            self._add_board(board)

    def _add_board(self, board: Board) -> None:
        """Add the numbers of a board that are in the columns of the table."""
        for row, name in zip(board.rows, _row_names(board), strict=True):
            for column, number, entry in zip(board.columns, row.cells, row.entries, strict=True):
                table_column = _TableColumn(board.protocol, column)
                if entry is not None and number.value and table_column in self.columns:
                    self.numbers.setdefault(name, {})[table_column] = number
                    self.entries.setdefault(name, {})[table_column] = entry

    def table(self) -> Table:
        """Return the table, with its rows in the order of the view."""
        has_source = any(name.source != "measured" for name in self.numbers)
        text_heads = [Head("model"), Head("source")] if has_source else [Head("model")]
        rows = []
        for name in self._sorted_names():
            cells = [Cell(name.model)]
            if has_source:
                cells.append(Cell(name.source, url=name.url))
            for column in self.columns:
                cells.append(_cell(self.numbers[name].get(column), self.view))
            rows.append(tuple(cells))
        return Table(
            title=self._title(),
            heads=(*text_heads, *self._number_heads()),
            rows=tuple(rows),
            n_text_columns=len(text_heads),
            notes=tuple(dict.fromkeys(self._notes())),
            label=self._label(),
        )

    def _number_heads(self) -> Iterator[Head]:
        """Yield the heads of the columns of numbers: metrics, below the names of data sets.

        If the table has several protocols, the protocol follows the data set in brackets.
        """
        for protocol, column in self.columns:
            group = column.dataset
            if len(self.protocols) > 1:
                group = f"{column.dataset} ({protocol})"
            yield Head(column.title, group)

    def _tasks(self) -> list[str]:
        """Return the names of the columns' tasks, `other` for tasks that are not installed."""
        names = [*known_tasks(), "other"]
        tasks = dict.fromkeys(column.task for _, column in self.columns)
        return [names[task] for task in tasks]

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
        needless_notes = _needless_meanings(numbers, self.view)
        for board in self.boards:
            for note in board.notes:
                if note not in needless_notes:
                    yield note
        yield from _layout_notes(numbers, self.view)
        for board in self.boards:
            yield from _map_notes(board)

    def _sorted_names(self) -> list[_RowName]:
        """Return the names of the rows in the order of the view.

        By default rows follow the order of the view's patterns for models, then their names. If
        rows are sorted by rank or by a metric, the best row comes first. Its place is the mean,
        over the columns, of the share of rows that are better. Rows without a number in any of
        these columns come last.
        """
        sort = self.view.sort
        columns = [
            table_column
            for table_column in self.columns
            if sort in (BY_RANK, table_column.column.metric)
        ]
        losses_by_column = [self._losses(column) for column in columns]

        def position(name: _RowName) -> tuple[float, int, _RowName]:
            better_shares = []
            for losses in losses_by_column:
                if name in losses:
                    n_better = sum(loss < losses[name] for loss in losses.values())
                    better_shares.append(n_better / len(losses))
            pattern = -1 if sort == BY_NAME else pattern_index([name.model], self.view.models)
            return fmean(better_shares) if better_shares else 1.0, pattern, name

        return sorted(self.entries, key=position)

    def _losses(self, table_column: _TableColumn) -> dict[_RowName, float]:
        """Return the numbers of a column by row, with a sign by which lower is always better."""
        metric = table_column.column.metric
        losses = {}
        for name, row_entries in self.entries.items():
            if table_column in row_entries:
                entry = row_entries[table_column]
                sign = -1 if metric_of(entry.task, metric).higher_is_better else 1
                losses[name] = sign * entry.metrics[metric]
        return losses


def _row_names(board: Board) -> list[_RowName]:
    """Return the name of each row of a board.

    The name has the kind of attention map only if the board has several kinds for its model.
    """
    models = []
    for row in board.rows:
        result = _first_result(row)
        models.append(row.model if result is None else result.model)
    names = []
    for row, model in zip(board.rows, models, strict=True):
        has_several_maps = models.count(model) > 1
        names.append(_RowName(row.model if has_several_maps else model, row.source, row.url))
    return names


def _first_result(row: Row) -> Stored | None:
    """Return the first measured result of a row, or None for published numbers."""
    for entry in row.entries:
        if entry is not None and entry.stored is not None:
            return entry.stored
    return None


def _map_notes(board: Board) -> Iterator[str]:
    """Yield a note on the kinds of attention maps that are left out of the names of rows."""
    map_kinds = []
    for row, name in zip(board.rows, _row_names(board), strict=True):
        result = _first_result(row)
        if result is not None and row.model != name.model:
            map_kinds.append(f"{name.model}: {result.map_kind}")
    if map_kinds:
        yield f"Maps by {board.protocol}: {'; '.join(map_kinds)}."


def _layout_notes(numbers: Sequence[Number], view: View) -> Iterator[str]:
    """Yield the meaning of underlined numbers, and of the signs before intervals."""
    if view.second and any(number.second for number in numbers):
        yield "Underlined: the second best."
    if view.intervals and any(number.ends for number in numbers):
        yield "±, or + and -: how far the 95% interval reaches above and below the number."


def _needless_meanings(numbers: Sequence[Number], view: View) -> set[str]:
    """Return the texts of MEANINGS that explain a mark or word that no number of a table has."""
    marks = {number.mark for number in numbers}
    is_needed = {
        "best": any(number.best for number in numbers),
        "paired": MARKS["paired"] in marks,
        "intervals": MARKS["intervals"] in marks,
        "ranks": view.ranks and any(number.ranks for number in numbers),
        "seeds": view.intervals and any(number.ends for number in numbers),
        "delta": any(number.delta for number in numbers),
    }
    return {MEANINGS[name] for name in is_needed if not is_needed[name]}


def _cell(number: Number | None, view: View) -> Cell:
    """Return the cell of a number with the marks that a view shows, empty without a number."""
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

"""The tables of a leaderboard, one per task, with the rows and columns that users ask for.

Every column ranks models by one metric on one data set under one protocol.
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple

from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.leaderboard.board import MARKS, MEANINGS, Board, Column, Number, Row
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.table import (
    BY_NAME,
    BY_RANK,
    Cell,
    Head,
    Table,
    TableOptions,
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
    """A column of numbers in the table of a task: a column of a board, and the board's protocol."""

    protocol: str
    column: Column


class _RowName(NamedTuple):
    """The model of a row, and the source of the numbers in the row."""

    # The label of the model.
    model: str
    # `measured`, or how the numbers were published.
    source: str
    # The address of the page with published numbers; empty for measured numbers.
    url: str


def select_entries(entries: Sequence[Entry], options: TableOptions) -> list[Entry]:
    """Return the entries that match the patterns of the options, with only the metrics that match.

    A pattern such as "coco*" matches names as file names are matched in a shell. Raises UsageError
    for a pattern that matches nothing, and if no entry matches all patterns.
    """
    models: list[str] = []
    datasets: list[str] = []
    protocols: list[str] = []
    for entry in entries:
        models += _model_names(entry)
        datasets += _dataset_names(entry)
        protocols.append(entry.protocol)
    require_known("model", options.models, models)
    require_known("data set", options.datasets, datasets)
    require_known("protocol", options.protocols, protocols)

    selected_entries = [entry for entry in entries if _is_selected(entry, options)]
    if options.metrics:
        metrics = [name for entry in selected_entries for name in entry.metrics]
        require_known("metric", options.metrics, metrics)
        reduced_entries = [_select_metrics(entry, options.metrics) for entry in selected_entries]
        selected_entries = [entry for entry in reduced_entries if entry.metrics]
    if entries and not selected_entries:
        raise UsageError("no result has these models, data sets, protocols and metrics together")
    return selected_entries


def _is_selected(entry: Entry, options: TableOptions) -> bool:
    """Return whether the model, the data set and the protocol of an entry match the options."""
    return (
        _matches(_model_names(entry), options.models)
        and _matches(_dataset_names(entry), options.datasets)
        and _matches([entry.protocol], options.protocols)
    )


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether any name matches any pattern. Without patterns, every name matches."""
    return not patterns or pattern_index(names, patterns) >= 0


def _model_names(entry: Entry) -> list[str]:
    """Return the names by which a user can select the model of an entry.

    These are the label of the entry's row, and the label of the model in comparisons, which never
    has the kind of attention map.
    """
    if entry.stored is None:
        return [entry.model]
    return [entry.model, entry.stored.model]


def _dataset_names(entry: Entry) -> list[str]:
    """Return the names by which a user can select the data set of an entry.

    These are the label of its column, such as "coco (revision 1a2b3c4d)", and its name, "coco".
    """
    return [entry.dataset, entry.dataset_name]


def _select_metrics(entry: Entry, patterns: Sequence[str]) -> Entry:
    """Return an entry with only the metrics that match a pattern, in the order of the patterns.

    A metric that is not a headline metric gets its name as a title: "mean_rank" -> "mean rank".
    """
    metrics: dict[str, float] = {}
    for pattern in patterns:
        for name, value in entry.metrics.items():
            if fnmatchcase(name, pattern):
                metrics[name] = value
    headlines = headlines_of(entry)
    titles = {name: headlines.get(name, name.replace("_", " ")) for name in metrics}
    return entry._replace(metrics=metrics, titles=titles)


def tables_of(boards: Sequence[Board], options: TableOptions) -> list[Table]:
    """Return one table per task, made from boards, which are tables of single protocols.

    With `options.transpose`, there is one table of all tasks. Results with other settings than the
    protocol's, such as a limited number of samples or a student, have separate tables. Raises
    UsageError if rows are to be sorted by a metric that no table has.
    """
    _require_valid_order(boards, options)
    tables = []
    for has_other_settings in (False, True):
        table_boards = [board for board in boards if board.has_other_settings == has_other_settings]
        columns = []
        for board in table_boards:
            columns += [_TableColumn(board.protocol, column) for column in board.columns]
        columns.sort(key=lambda column: _column_sort_key(column, options))
        if options.transpose:
            if columns:
                tables.append(transposed(_TaskTable(table_boards, columns, options).table()))
            continue
        for _, task_columns in groupby(columns, key=lambda column: column.column.task):
            tables.append(_TaskTable(table_boards, list(task_columns), options).table())
    return tables


def _require_valid_order(boards: Sequence[Board], options: TableOptions) -> None:
    """Raise UsageError unless rows are sorted by name, by rank or by a metric of the boards."""
    metrics = {column.metric for board in boards for column in board.columns}
    if options.sort and options.sort not in (BY_NAME, BY_RANK, *metrics):
        metric_names = ", ".join(sorted(metrics)) or "there is none"
        raise UsageError(
            f"--sort {options.sort}: give {BY_NAME}, {BY_RANK} or a metric of the tables: "
            f"{metric_names}"
        )


def _column_sort_key(table_column: _TableColumn, options: TableOptions) -> tuple[Any, ...]:
    """Return the sort key by which columns are in order of task, data set, protocol and metric.

    Data sets are in the order of the patterns in the options: `--datasets flickr30k,coco` shows
    flickr30k first. Data sets that match the same pattern are in alphabetical order. The same
    applies to protocols and metrics.
    """
    protocol, column = table_column
    return (
        column.task,
        pattern_index([column.dataset], options.datasets),
        column.dataset,
        pattern_index([protocol], options.protocols),
        protocol,
        pattern_index([column.metric], options.metrics),
        column,
    )


class _TaskTable:
    """The table of a task, or of all tasks, with one row per model and source.

    Attributes:
        columns: The columns of numbers, from left to right.
        options: The order of the rows, and the marks that are shown.
        protocols: The names of the protocols of the columns.
        boards: The boards that the columns belong to.
        has_other_settings: True if the results have other settings than their protocol's.
        numbers: The numbers of the table as text, by row and column.
        entries: The entry behind each number, by row and column.
    """

    def __init__(
        self, boards: Sequence[Board], columns: Sequence[_TableColumn], options: TableOptions
    ) -> None:
        """Collect the numbers of the columns from the boards."""
        self.columns = columns
        self.options = options
        self.protocols = list(dict.fromkeys(column.protocol for column in columns))
        self.boards = [board for board in boards if board.protocol in self.protocols]
        self.has_other_settings = boards[0].has_other_settings
        self.numbers: dict[_RowName, dict[_TableColumn, Number]] = {}
        self.entries: dict[_RowName, dict[_TableColumn, Entry]] = {}
        for board in self.boards:
            self._add_numbers(board)

    def _add_numbers(self, board: Board) -> None:
        """Add the numbers of a board to `numbers` and `entries`, if the table has their columns."""
        for row, name in zip(board.rows, _row_names(board), strict=True):
            for column, number, entry in zip(board.columns, row.cells, row.entries, strict=True):
                table_column = _TableColumn(board.protocol, column)
                if entry is not None and number.value and table_column in self.columns:
                    self.numbers.setdefault(name, {})[table_column] = number
                    self.entries.setdefault(name, {})[table_column] = entry

    def table(self) -> Table:
        """Return the table, with its rows in the order that the options ask for.

        There is a column for the source of numbers if not all numbers were measured here. The name
        of the data set stands above the metrics.
        """
        has_source = any(name.source != "measured" for name in self.numbers)
        text_heads = [Head("model")]
        if has_source:
            text_heads.append(Head("source"))
        number_heads = []
        for protocol, column in self.columns:
            dataset = column.dataset
            if len(self.protocols) > 1:
                dataset = f"{dataset} ({protocol})"
            number_heads.append(Head(column.title, dataset))
        rows = []
        for name in self._sorted_names():
            cells = [Cell(name.model)]
            if has_source:
                cells.append(Cell(name.source, url=name.url))
            for table_column in self.columns:
                cells.append(_number_cell(self.numbers[name].get(table_column), self.options))
            rows.append(tuple(cells))

        label_words = self._task_names()
        if self.has_other_settings:
            label_words.append("other-settings")
        return Table(
            title=self._title(),
            heads=(*text_heads, *number_heads),
            rows=tuple(rows),
            n_text_columns=len(text_heads),
            notes=tuple(dict.fromkeys(self._notes())),
            label="-".join(label_words),
        )

    def _task_names(self) -> list[str]:
        """Return the names of the tasks of the columns, and "other" for tasks not installed."""
        names = [*known_tasks(), "other"]
        task_positions = dict.fromkeys(column.task for _, column in self.columns)
        return [names[position] for position in task_positions]

    def _title(self) -> str:
        """Return the title of the table, such as "Classification (%), protocol clip".

        It names the protocol only if all columns have the same one.
        """
        title = ", ".join(_TITLES.get(task, task) for task in self._task_names())
        title = f"{title[:1].upper()}{title[1:]} (%)"
        if self.has_other_settings:
            title += ", other settings"
        if len(self.protocols) == 1:
            title += f", protocol {self.protocols[0]}"
        return title

    def _notes(self) -> Iterator[str]:
        """Yield the notes that readers of the numbers in the table need."""
        numbers: list[Number] = []
        for row_numbers in self.numbers.values():
            numbers += row_numbers.values()
        needless_notes = _needless_meanings(numbers, self.options)
        for board in self.boards:
            for note in board.notes:
                if note not in needless_notes:
                    yield note
        if self.options.second and any(number.second for number in numbers):
            yield "Underlined: the second best."
        if self.options.intervals and any(number.ends for number in numbers):
            yield "±, or + and -: how far the 95% interval reaches above and below the number."
        for board in self.boards:
            yield from _map_notes(board)

    def _sorted_names(self) -> list[_RowName]:
        """Return the names of the rows in the order that the options ask for.

        By default, rows follow the patterns of models in the options, and then their names. If they
        are sorted by rank, the row that is best on average over all columns comes first, see
        `_mean_better_share`. If they are sorted by a metric, only the columns of this metric count.
        """
        sort = self.options.sort
        losses_by_column = []
        for table_column in self.columns:
            if sort in (BY_RANK, table_column.column.metric):
                losses_by_column.append(self._losses(table_column))
        sort_keys = {}
        for name in self.entries:
            pattern_position = -1
            if sort != BY_NAME:
                pattern_position = pattern_index([name.model], self.options.models)
            better_share = _mean_better_share(name, losses_by_column)
            sort_keys[name] = (better_share, pattern_position, name)
        return sorted(sort_keys, key=lambda name: sort_keys[name])

    def _losses(self, table_column: _TableColumn) -> dict[_RowName, float]:
        """Return the numbers of a column by row, negated if higher is better.

        Lower is then always better.
        """
        metric = table_column.column.metric
        losses = {}
        for name, row_entries in self.entries.items():
            if table_column in row_entries:
                entry = row_entries[table_column]
                sign = -1 if metric_of(entry.task, metric).higher_is_better else 1
                losses[name] = sign * entry.metrics[metric]
        return losses


def _mean_better_share(
    name: _RowName, losses_by_column: Sequence[Mapping[_RowName, float]]
) -> float:
    """Return the share of rows that are better than a row, as the mean over columns.

    `losses_by_column` has the numbers of each column by row, of which lower ones are better. A row
    that is best of 4 rows in one column and second of 4 in another one has (0 + 1/4) / 2. A row
    without a number in any column has 1, so that it is sorted to the end.
    """
    better_shares = []
    for losses in losses_by_column:
        if name in losses:
            n_better = sum(loss < losses[name] for loss in losses.values())
            better_shares.append(n_better / len(losses))
    return fmean(better_shares) if better_shares else 1.0


def _row_names(board: Board) -> list[_RowName]:
    """Return the name of each row of a board, in the order of the rows.

    The label of a model has its kind of attention map only if the board has several kinds for the
    model, and so several rows.
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


def _first_result(row: Row) -> StoredResult | None:
    """Return the first result of a row that was measured here, or None for published numbers."""
    for entry in row.entries:
        if entry is not None and entry.stored is not None:
            return entry.stored
    return None


def _map_notes(board: Board) -> Iterator[str]:
    """Yield one note on the kinds of attention maps that the names of rows leave out, if any do.

    Example: "Maps by objects: clip: rollout; siglip: gradient."
    """
    map_kinds = []
    for row, name in zip(board.rows, _row_names(board), strict=True):
        result = _first_result(row)
        if result is not None and row.model != name.model:
            map_kinds.append(f"{name.model}: {result.map_kind}")
    if map_kinds:
        yield f"Maps by {board.protocol}: {'; '.join(map_kinds)}."


def _needless_meanings(numbers: Sequence[Number], options: TableOptions) -> set[str]:
    """Return the notes of MEANINGS that explain a mark which no number of a table shows."""
    marks = {number.mark for number in numbers}
    is_needed = {
        "best": any(number.best for number in numbers),
        "paired": MARKS["paired"] in marks,
        "intervals": MARKS["intervals"] in marks,
        "ranks": options.ranks and any(number.ranks for number in numbers),
        "seeds": options.intervals and any(number.ends for number in numbers),
        "delta": any(number.delta for number in numbers),
    }
    return {MEANINGS[name] for name in is_needed if not is_needed[name]}


def _number_cell(number: Number | None, options: TableOptions) -> Cell:
    """Return the cell of a number with the marks that the options ask for.

    The cell is empty if `number` is None.
    """
    if number is None:
        return Cell()
    details = []
    if number.ranks and options.ranks:
        details.append(f"({number.ranks})")
    if number.delta:
        details.append(f"Δ{number.delta}")
    return Cell(
        text=number.value,
        ends=number.ends if options.intervals else (),
        mark=number.mark,
        best=number.best,
        second=number.second and options.second,
        details=tuple(details),
    )

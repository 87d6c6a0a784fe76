"""The tables of a leaderboard, one per task, with the rows and columns that users ask for.

Every column ranks models by one metric on one data set under one protocol.
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain, groupby
from statistics import fmean
from typing import Any, NamedTuple

from cosmos_eval.results.captions import (
    INTERVAL_METHODS,
    measured_sentence,
    methods_sentence,
    sizes_sentence,
)
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.leaderboard.board import MARKS, MEANINGS, Board, Column, Number, Row
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.table import (
    BY_NAME,
    BY_RANK,
    Cell,
    Head,
    NamePatterns,
    Table,
    TableOptions,
    pattern_index,
    require_known,
    transposed,
)
from cosmos_eval.tasks import known_tasks, metric_of
from cosmos_eval.types import UsageError, nearest, wording_name

_TITLES = {
    "cls": "classification",
    "seg": "segmentation",
    "select": "caption selection",
    "loc": "localisation",
    "assoc": "association",
    "ood": "out-of-distribution detection",
    "seg-probe": "segmentation probe",
    "depth-probe": "depth probe",
}


def capitalized_title(tasks: Sequence[str]) -> str:
    """Return the titles of tasks as a heading: ["cls", "seg"] -> "Classification, segmentation".

    The title of a task of another package is its name.
    """
    title = ", ".join(_TITLES.get(task, task) for task in tasks)
    return title[:1].upper() + title[1:]


class _TableColumn(NamedTuple):
    """A column of numbers in the table of a task: a column of a board, and the board's protocol."""

    protocol: str
    # The data set and the metric, with their positions among others.
    board_column: Column


class _RowName(NamedTuple):
    """The model of a row, and the source of the numbers in the row."""

    # The label of the model.
    model: str
    # `measured`, or how the numbers were published.
    source: str
    # The address of the page with published numbers; empty for measured numbers.
    url: str


def select_entries(entries: Sequence[Entry], patterns: NamePatterns) -> list[Entry]:
    """Return the entries that match patterns of names, with only the metrics that match.

    A pattern such as "coco*" matches names as file names are matched in a shell. Without patterns,
    every name matches.

    Args:
        entries: The entries of a leaderboard.
        patterns: The patterns of models, data sets, protocols and metrics.

    Raises:
        UsageError: For a pattern that matches nothing, and if no entry matches all patterns.
    """
    # The names by which a user can select the model and the data set of each entry. The label of
    # the model in comparisons never has the kind of attention map, unlike the label of the row.
    model_names: list[list[str]] = []
    dataset_names: list[list[str]] = []
    for entry in entries:
        row_label = entry.model
        label_in_comparisons = row_label if entry.stored is None else entry.stored.model
        model_names.append([row_label, label_in_comparisons])
        dataset_names.append([entry.dataset, entry.dataset_name])
    require_known("model", patterns.models, chain.from_iterable(model_names))
    require_known("data set", patterns.datasets, chain.from_iterable(dataset_names))
    require_known("protocol", patterns.protocols, [entry.protocol for entry in entries])

    selected_entries = []
    for entry, models, datasets in zip(entries, model_names, dataset_names, strict=True):
        has_model = _matches(models, patterns.models)
        has_dataset = _matches(datasets, patterns.datasets)
        has_protocol = _matches([entry.protocol], patterns.protocols)
        if has_model and has_dataset and has_protocol:
            selected_entries.append(entry)
    if patterns.metrics:
        selected_entries = _select_metrics(selected_entries, patterns.metrics)
    if entries and not selected_entries:
        raise UsageError("no result has these models, data sets, protocols and metrics together")
    return selected_entries


def headline_entries(
    entries: Sequence[Entry], *, with_variants: bool = False, with_other_settings: bool = False
) -> list[Entry]:
    """Return the entries that tables show by default.

    Variants of protocols, and results with other settings than their protocol's, are left out. If
    there are only such entries, all of them are returned, except for those with other wordings
    unless there is nothing else.

    Args:
        entries: The entries that a user selected.
        with_variants: True if variants of protocols stay.
        with_other_settings: True if results with other settings stay.
    """
    headlines, with_own_wording = [], []
    for entry in entries:
        has_shown_protocol = with_variants or not entry.has_variant_protocol
        has_shown_settings = with_other_settings or not entry.has_other_settings
        if has_shown_protocol and has_shown_settings:
            headlines.append(entry)
        if with_variants or not wording_name(entry.protocol):
            with_own_wording.append(entry)
    return headlines or with_own_wording or list(entries)


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether any name matches any pattern. Without patterns, every name matches."""
    return not patterns or pattern_index(names, patterns) >= 0


def _select_metrics(entries: Sequence[Entry], patterns: Sequence[str]) -> list[Entry]:
    """Return entries with only the metrics that match a pattern, in the order of the patterns.

    A metric that is not a headline metric gets its name as a title: "mean_rank" -> "mean rank".
    Entries without any such metric are left out.

    Args:
        entries: The metrics of models on data sets.
        patterns: Patterns of names of metrics, such as "acc*".

    Raises:
        UsageError: For a pattern that no metric of the entries matches.
    """
    all_metrics = [name for entry in entries for name in entry.metrics]
    require_known("metric", patterns, all_metrics)

    reduced_entries = []
    for entry in entries:
        metrics: dict[str, float] = {}
        for pattern in patterns:
            for name in entry.metrics:
                if fnmatchcase(name, pattern):
                    metrics[name] = entry.metrics[name]
        headlines = headlines_of(entry)
        titles = {name: headlines.get(name, name.replace("_", " ")) for name in metrics}
        if metrics:
            reduced_entries.append(entry._replace(metrics=metrics, titles=titles))
    return reduced_entries


def tables_of(boards: Sequence[Board], options: TableOptions) -> list[Table]:
    """Return one table per task, made from boards, which are tables of single protocols.

    Results with other settings than the protocol's, such as a limited number of samples or a
    student, have separate tables, which come last.

    Args:
        boards: The boards of all protocols.
        options: The order of rows and columns, and the marks that are shown. With
            `options.transpose`, there is one table of all tasks, with rows and columns exchanged.

    Raises:
        UsageError: If rows are to be sorted by a metric that no table has.
    """
    _require_sortable(boards, options.sort)
    tables = []
    for has_other_settings in (False, True):
        table_boards = [board for board in boards if board.has_other_settings == has_other_settings]
        columns = []
        for board in table_boards:
            columns += [_TableColumn(board.protocol, column) for column in board.columns]
        columns.sort(key=lambda column: _column_sort_key(column, options.patterns))
        if options.transpose:
            if columns:
                all_tasks_table = _TaskTable(table_boards, columns, options).make_table()
                tables.append(transposed(all_tasks_table))
        else:
            for _, task_columns in groupby(columns, key=lambda column: column.board_column.task):
                task_table = _TaskTable(table_boards, list(task_columns), options)
                tables.append(task_table.make_table())
    return tables


def _require_sortable(boards: Sequence[Board], sort: str) -> None:
    """Raise UsageError if rows are to be sorted by something that no table has.

    Args:
        boards: The boards of all protocols.
        sort: `model`, `rank`, or a metric; empty for the usual order.
    """
    metrics = {column.metric for board in boards for column in board.columns}
    if sort and sort not in (BY_NAME, BY_RANK, *metrics):
        nearest_names = nearest(sort, (BY_NAME, BY_RANK, *sorted(metrics)))
        raise UsageError(
            f"--sort {sort}: give {BY_NAME}, {BY_RANK} or a metric of the tables; nearest: "
            f"{nearest_names}"
        )


def _column_sort_key(table_column: _TableColumn, patterns: NamePatterns) -> tuple[Any, ...]:
    """Return the sort key by which columns are in order of task, data set, protocol and metric.

    Data sets are in the order of their patterns: `--datasets flickr30k,coco` shows
    flickr30k first. Data sets that match the same pattern are in alphabetical order. The same
    applies to protocols and metrics.

    Args:
        table_column: The column: a metric on a data set, under a protocol.
        patterns: The patterns of data sets, protocols and metrics.
    """
    protocol = table_column.protocol
    board_column = table_column.board_column
    return (
        board_column.task,
        pattern_index([board_column.dataset], patterns.datasets),
        board_column.dataset,
        pattern_index([protocol], patterns.protocols),
        protocol,
        pattern_index([board_column.metric], patterns.metrics),
        board_column,
    )


class _TaskTable:
    """The table of a task, or of all tasks, with one row per model and source.

    Attributes:
        columns: The columns of numbers, from left to right.
        options: The order of the rows, and the marks that are shown.
        protocols: The names of the protocols of the columns.
        boards: The boards that the columns belong to.
        task_names: The names of the tasks of the columns, and "other" for tasks not installed.
        has_other_settings: True if the results have other settings than their protocol's.
        numbers: The numbers of the table as text, by row and column.
        entries: The entry behind each number, by row and column.
    """

    def __init__(
        self, boards: Sequence[Board], columns: Sequence[_TableColumn], options: TableOptions
    ) -> None:
        """Collect the numbers of the columns from the boards.

        Args:
            boards: The boards of all protocols, either with or without other settings.
            columns: The columns of numbers, from left to right. There is at least one.
            options: The order of the rows, and the marks that are shown.
        """
        self.columns = columns
        self.options = options
        self.protocols = list(dict.fromkeys(column.protocol for column in columns))
        self.boards = [board for board in boards if board.protocol in self.protocols]
        self.has_other_settings = boards[0].has_other_settings

        # A column holds the position of its task among the installed tasks.
        names = [*known_tasks(), "other"]
        task_positions = dict.fromkeys(column.board_column.task for column in columns)
        self.task_names = [names[position] for position in task_positions]

        self.numbers: dict[_RowName, dict[_TableColumn, Number]] = {}
        self.entries: dict[_RowName, dict[_TableColumn, Entry]] = {}
        for board in self.boards:
            for row, name in zip(board.rows, _row_names(board), strict=True):
                for column, number, entry in zip(
                    board.columns, row.cells, row.entries, strict=True
                ):
                    table_column = _TableColumn(board.protocol, column)
                    if entry is not None and number.value and table_column in self.columns:
                        self.numbers.setdefault(name, {})[table_column] = number
                        self.entries.setdefault(name, {})[table_column] = entry

    def make_table(self) -> Table:
        """Return the table, with its rows in the order that the options ask for.

        There is a column for the source of numbers if not all numbers were measured here. The name
        of the data set stands above the metrics.
        """
        has_source = any(name.source != "measured" for name in self.numbers)
        text_heads = [Head("model")]
        if has_source:
            text_heads.append(Head("source"))

        number_heads = []
        for protocol, board_column in self.columns:
            dataset = board_column.dataset
            if len(self.protocols) > 1:
                dataset = f"{dataset} ({protocol})"
            number_heads.append(Head(board_column.title, dataset))

        rows = []
        for name in self._sorted_names():
            cells = [Cell(name.model)]
            if has_source:
                cells.append(Cell(name.source, url=name.url))
            for table_column in self.columns:
                cells.append(_number_cell(self.numbers[name].get(table_column), self.options))
            rows.append(tuple(cells))

        label_words = list(self.task_names)
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

    def _title(self) -> str:
        """Return the title of the table, such as "Classification (%), protocol clip".

        It names the protocol only if all columns have the same one.
        """
        title = f"{capitalized_title(self.task_names)} (%)"
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

        # A board has the notes on all of its numbers, and the table may not show all of them.
        unneeded_notes = _unneeded_notes(numbers, self.options)
        for board in self.boards:
            for note in board.notes:
                if note not in unneeded_notes:
                    yield note
        if self.options.second and any(number.second for number in numbers):
            yield "Underlined: the second best."
        if self.options.intervals and any(number.ends for number in numbers):
            yield "±, or + and -: how far the 95% interval reaches above and below the number."
        for board in self.boards:
            yield from _map_notes(board)
        if self.options.caption:
            yield from self._caption_notes()

    def _caption_notes(self) -> Iterator[str]:
        """Yield the sentences of a paper: numbers of samples, methods of intervals, versions."""
        sizes, versions, protocols = [], [], []
        methods_by_level: dict[float, list[tuple[str, str]]] = {}
        for table_column in self.columns:
            column = table_column.board_column
            for row_entries in self.entries.values():
                entry = row_entries.get(table_column)
                if entry is None or entry.stored is None:
                    continue
                sizes.append((column.dataset, entry.stored.row.n_samples))
                versions.append(entry.stored.row.provenance["version"])
                protocols.append(table_column.protocol)
                if self.options.intervals and column.metric in entry.intervals:
                    interval = entry.intervals[column.metric]
                    method = INTERVAL_METHODS.get(interval["method"], interval["method"])
                    methods_by_level.setdefault(interval["level"], []).append(
                        (column.title, method)
                    )
        if not sizes:
            return  # all numbers are published
        yield sizes_sentence(sizes)
        for level, methods in methods_by_level.items():
            yield methods_sentence(f"{100 * level:g}% intervals", methods)
        coverage = "test images, not seeds" if methods_by_level else ""
        yield measured_sentence(versions, protocols, coverage)

    def _sorted_names(self) -> list[_RowName]:
        """Return the names of the rows in the order that the options ask for.

        By default, rows follow the patterns of models in the options, and then their names. If they
        are sorted by rank, the row that is best on average over all columns comes first, see
        `_mean_better_share`. If they are sorted by a metric, only the columns of this metric count.
        """
        sort = self.options.sort
        # The numbers of the columns that decide the order: all columns, those of a metric, or none.
        losses_by_column = []
        for table_column in self.columns:
            if sort in (BY_RANK, table_column.board_column.metric):
                losses_by_column.append(self._losses(table_column))

        sort_keys = {}
        for name in self.entries:
            pattern_position = -1
            if sort != BY_NAME:
                pattern_position = pattern_index([name.model], self.options.patterns.models)
            better_share = _mean_better_share(name, losses_by_column)
            sort_keys[name] = (better_share, pattern_position, name)
        return sorted(sort_keys, key=lambda name: sort_keys[name])

    def _losses(self, table_column: _TableColumn) -> dict[_RowName, float]:
        """Return the numbers of a column by row, negated if higher is better.

        Lower is then always better. Rows without a number are left out.
        """
        metric = table_column.board_column.metric
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

    A row without a number in any column has 1, so that it is sorted to the end.

    Args:
        name: The name of the row.
        losses_by_column: The numbers of each column by row, of which lower ones are better.

    Example:
        A row that is best of 4 rows in one column and second of 4 in another one has
        (0/4 + 1/4) / 2 = 0.125.
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
    # The labels of the models without the kind of map.
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

    Example: "Maps by scenes: cosmos: cross-attention; clip: text-to-patch similarity."
    """
    model_kinds = []
    for row, name in zip(board.rows, _row_names(board), strict=True):
        result = _first_result(row)
        is_kind_left_out = row.model != name.model
        if result is not None and is_kind_left_out:
            model_kinds.append(f"{name.model}: {result.map_kind}")
    if model_kinds:
        yield f"Maps by {board.protocol}: {'; '.join(model_kinds)}."


def _unneeded_notes(numbers: Sequence[Number], options: TableOptions) -> set[str]:
    """Return the notes of `MEANINGS` that explain a mark which no number of a table shows.

    Args:
        numbers: The numbers of the table.
        options: The marks that the table shows.
    """
    marks = {number.mark for number in numbers}
    is_needed = {
        "best": any(number.best for number in numbers),
        "paired": MARKS["paired"] in marks,
        "intervals": MARKS["intervals"] in marks,
        "ranks": options.ranks and any(number.ranks for number in numbers),
        "seeds": options.intervals
        and not options.caption  # its last sentence says the same
        and any(number.ends for number in numbers),
        "delta": any(number.delta for number in numbers),
    }
    return {MEANINGS[name] for name in is_needed if not is_needed[name]}


def _number_cell(number: Number | None, options: TableOptions) -> Cell:
    """Return the cell of a number with the marks that the options ask for.

    Args:
        number: The number as text, with all its marks. If it is None, the cell is empty.
        options: The marks that tables show.
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

"""What of a leaderboard is shown, and its tables: one per task, in which every column is a ranking
of one data set, protocol family and metric."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple

from cosmos_eval.results.leaderboard.board import MARKS, MEANINGS, Board, Column, Shown
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.table import (
    BY_NAME,
    BY_RANK,
    Cell,
    Head,
    Table,
    View,
    first,
    require_known,
    transposed,
)
from cosmos_eval.tasks import known_tasks, metric_of
from cosmos_eval.types import UsageError

_TITLES = {
    **{"cls": "classification", "seg": "segmentation", "select": "caption selection"},
    **{"loc": "localisation", "assoc": "association"},
}


class _Place(NamedTuple):
    """A column of a table: that of a board."""

    protocol: str
    column: Column


class _Name(NamedTuple):
    """A row of a table."""

    model: str
    source: str
    url: str


def select(entries: Sequence[Entry], view: View) -> list[Entry]:
    """Return the entries that a view shows, with only the metrics that it names. Raises UsageError
    for a pattern that nothing has."""
    kept = [*entries]
    for what, wanted, names in (
        ("model", view.models, _labels),
        ("data set", view.datasets, lambda entry: [entry.dataset, entry.dataset_name]),
        ("protocol", view.protocols, lambda entry: [entry.protocol]),
    ):
        require_known(what, wanted, (name for entry in entries for name in names(entry)))
        kept = [entry for entry in kept if not wanted or first(names(entry), wanted) >= 0]
    if view.metrics:
        require_known("metric", view.metrics, (name for e in kept for name in e.metrics))
        kept = [entry for entry in map(_with_metrics(view.metrics), kept) if entry.metrics]
    if entries and not kept:
        raise UsageError("no result is of these models, data sets, protocols and metrics together")
    return kept


def _labels(entry: Entry) -> list[str]:
    """Return a model's label, also without the kind of map."""
    return [entry.model, *([entry.stored.model] if entry.stored else [])]


def _with_metrics(wanted: Sequence[str]) -> Callable[[Entry], Entry]:
    def chosen(entry: Entry) -> Entry:
        names = [name for pattern in wanted for name in entry.metrics if fnmatchcase(name, pattern)]
        metrics = {name: entry.metrics[name] for name in dict.fromkeys(names)}
        titles = {**{name: name.replace("_", " ") for name in metrics}, **headlines_of(entry)}
        return entry._replace(metrics=metrics, titles={name: titles[name] for name in metrics})

    return chosen


def tables_of(boards: Sequence[Board], view: View) -> list[Table]:
    """Return the tables of boards, one per task, or one of all tasks if transposed. Results of
    other settings, such as a part of the samples or a student, have tables of their own. Raises
    UsageError for an order by a metric that is not shown."""
    _require_order(boards, view)
    tables = []
    for aside in (False, True):
        own = [board for board in boards if board.aside == aside]
        places = [_Place(board.protocol, column) for board in own for column in board.columns]
        places.sort(key=lambda place: _order(place, view))
        for _, group in groupby(places, lambda place: view.transpose or place.column.task):
            tables.append(_table(own, list(group), view))
    return [transposed(table) for table in tables] if view.transpose else tables


def _require_order(boards: Sequence[Board], view: View) -> None:
    shown = {column.metric for board in boards for column in board.columns}
    if view.sort and view.sort not in (BY_NAME, BY_RANK, *shown):
        metrics = ", ".join(sorted(shown)) or "there is none"
        raise UsageError(
            f"--sort {view.sort}: give {BY_NAME}, {BY_RANK} or a metric of the tables: {metrics}"
        )


def _order(place: _Place, view: View) -> tuple[Any, ...]:
    """Return the order of columns: by task and data set, unless patterns have one."""
    column = place.column
    dataset = first([column.dataset], view.datasets), column.dataset
    protocol = first([place.protocol], view.protocols), place.protocol
    return column.task, *dataset, *protocol, first([column.metric], view.metrics), column


def _table(boards: Sequence[Board], places: Sequence[_Place], view: View) -> Table:
    protocols = list(dict.fromkeys(place.protocol for place in places))
    of = [board for board in boards if board.protocol in protocols]
    rows: dict[_Name, dict[_Place, Shown]] = {}
    entries: dict[_Name, dict[_Place, Entry]] = {}
    for board, row, name in ((b, r, n) for b in of for r, n in zip(b.rows, _names(b), strict=True)):
        for column, shown, entry in zip(board.columns, row.cells, row.entries, strict=True):
            place = _Place(board.protocol, column)
            if entry is not None and shown.value and place in places:
                rows.setdefault(name, {})[place] = shown
                entries.setdefault(name, {})[place] = entry
    texts = 1 + any(name.source != "measured" for name in rows)
    several = len(protocols) > 1
    cells = [shown for found in rows.values() for shown in found.values()]
    heads = (Head(p.column.title, _group(p) if several else p.column.dataset) for p in places)
    return Table(
        title=_title(boards, places, protocols),
        heads=(Head("model"), Head("source"))[:texts] + tuple(heads),
        rows=tuple(
            (Cell(name.model), Cell(name.source, url=name.url))[:texts]
            + tuple(_cell(rows[name].get(place), view) for place in places)
            for name in _sorted(entries, places, view)
        ),
        texts=texts,
        notes=tuple(dict.fromkeys(_notes(of, cells, view))),
        label="-".join([*_tasks(places), *(["other-settings"] if boards[0].aside else [])]),
    )


def _names(board: Board) -> list[_Name]:
    """Return the names of a board's rows without the kinds of maps, unless one has several."""
    stored = [next((e.stored for e in row.entries if e and e.stored), None) for row in board.rows]
    short = [
        r.model if one is None else one.model for r, one in zip(board.rows, stored, strict=True)
    ]
    models = [
        row.model if short.count(name) > 1 else name
        for row, name in zip(board.rows, short, strict=True)
    ]
    return [_Name(m, row.source, row.url) for m, row in zip(models, board.rows, strict=True)]


def _kinds(board: Board) -> Iterator[str]:
    """Yield a note on the kinds of maps that names of rows do not have."""
    kinds = [
        f"{name.model}: {row.model.removeprefix(name.model)[2:-1]}"
        for name, row in zip(_names(board), board.rows, strict=True)
        if row.model != name.model
    ]
    if kinds:
        yield f"Maps by {board.protocol}: {'; '.join(kinds)}."


def _notes(boards: Sequence[Board], cells: Sequence[Shown], view: View) -> Iterator[str]:
    """Yield the notes that what is shown needs."""
    marks = {cell.mark for cell in cells}
    has_ends = view.intervals and any(cell.ends for cell in cells)
    is_shown = {
        MEANINGS["best"]: any(cell.best for cell in cells),
        MEANINGS["paired"]: MARKS["paired"] in marks,
        MEANINGS["intervals"]: MARKS["intervals"] in marks,
        MEANINGS["ranks"]: view.ranks and any(cell.ranks for cell in cells),
        MEANINGS["seeds"]: has_ends,
        MEANINGS["delta"]: any(cell.delta for cell in cells),
    }
    yield from (note for b in boards for note in b.notes if is_shown.get(note, True))
    if view.second and any(cell.second for cell in cells):
        yield "Underlined: the second best."
    if has_ends:
        yield "±, or + and -: how far the 95% interval reaches above and below the number."
    yield from (note for board in boards for note in _kinds(board))


def _tasks(places: Sequence[_Place]) -> list[str]:
    """Return the names of the tasks of columns; `other` for those that are not installed."""
    known = [*known_tasks(), "other"]
    return [known[task] for task in dict.fromkeys(place.column.task for place in places)]


def _title(boards: Sequence[Board], places: Sequence[_Place], protocols: Sequence[str]) -> str:
    tasks = [_TITLES.get(task, task) for task in _tasks(places)]
    title = f"{', '.join(tasks)} (%)"
    words = ["other settings"] * boards[0].aside
    words += [f"protocol {protocols[0]}"] * (len(protocols) == 1)
    return ", ".join([title[:1].upper() + title[1:], *words])


def _group(place: _Place) -> str:
    return f"{place.column.dataset} ({place.protocol})"


def _cell(shown: Shown | None, view: View) -> Cell:
    if shown is None:
        return Cell()
    ranks = f"({shown.ranks})" if shown.ranks and view.ranks else ""
    return Cell(
        text=shown.value,
        ends=shown.ends if view.intervals else (),
        mark=shown.mark,
        best=shown.best,
        second=shown.second and view.second,
        details=tuple(filter(None, [ranks, shown.delta and f"Δ{shown.delta}"])),
    )


def _sorted(
    entries: Mapping[_Name, Mapping[_Place, Entry]], places: Sequence[_Place], view: View
) -> list[_Name]:
    """Return rows by name, by the order of `models`, or from the best down: by the mean, over their
    own columns, of the share of rows that are better. Rows without a number are last."""
    by = [p for p in places if view.sort in (BY_RANK, p.column.metric)]
    columns = {place: sorted(_losses(entries, place).values()) for place in by}
    losses = {place: _losses(entries, place) for place in by}

    def position(name: _Name) -> tuple[Any, ...]:
        own = [p for p in by if name in losses[p]]
        better = [bisect_left(columns[p], losses[p][name]) / len(columns[p]) for p in own]
        given = -1 if view.sort == BY_NAME else first([name.model], view.models)
        return fmean(better) if better else 1.0, given, name

    return sorted(entries, key=position)


def _losses(entries: Mapping[_Name, Mapping[_Place, Entry]], place: _Place) -> dict[_Name, float]:
    """Return the numbers of a column, negative where higher is better."""
    found = {name: own[place] for name, own in entries.items() if place in own}
    metric = place.column.metric
    return {
        name: (-1 if metric_of(entry.task, metric).higher_is_better else 1) * entry.metrics[metric]
        for name, entry in found.items()
    }

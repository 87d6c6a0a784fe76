"""Tables of a leaderboard before they are written: one per protocol family."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from cosmos_eval.results.labels import warnings_of
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Cell, Rank, Tie, Ties, rank_entries
from cosmos_eval.results.text import bounds, shown_text
from cosmos_eval.tasks import known_tasks, metric_of

MARKS: Mapping[Tie, str] = {"": "", "paired": "†", "intervals": "‡"}

_MEANINGS = {
    "best": "Bold: the best of its column.",
    "paired": f"{MARKS['paired']} tied with the best: a test of the difference on the same "
    "samples, corrected for the number of results, does not tell them apart. The truly best result "
    "is bold or tied in 95% of columns.",
    "intervals": f"{MARKS['intervals']} not distinguished from the best: the intervals, widened "
    "for the number of results, overlap (their samples were not compared).",
    "ranks": "Rank: the ranks that a result measured here can have; those of a whole column hold "
    "at once with 95%.",
    "seeds": "Intervals cover test images, not seeds: each model was trained once.",
    "delta": "Signed: percentage points above what its authors published.",
    "partial": "Not ranked: results of a part of the samples only.",
    "unverified": "Not ranked: unverified numbers, which are not from the authors' own page.",
    "cut": "Captions cut: the share that did not fit the model's context.",
    "unknown": "Not ranked, and not in percent: metrics of a task that is not installed.",
}


class Column(NamedTuple):
    """A data set's metric and its title; the fields sort columns as tables show them."""

    task: int
    dataset: str
    position: int
    metric: str
    title: str


class Shown(NamedTuple):
    """One number, its marks and its interval as text; all empty where it is unknown."""

    value: str = ""
    interval: str = ""
    best: bool = False
    mark: str = ""
    ranks: str = ""
    delta: str = ""


class Row(NamedTuple):
    """A model's numbers from one source, one cell per column, and the entry behind each cell."""

    model: str
    source: str
    url: str
    cells: tuple[Shown, ...]
    entries: tuple[Entry | None, ...]


class Board(NamedTuple):
    """A protocol family's table, and what its readers must know, one line each."""

    protocol: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def urls(self) -> tuple[str, ...]:
        """The sources of numbers that were not measured here."""
        return tuple(sorted({row.url for row in self.rows if row.url}))

    @property
    def shows_source(self) -> bool:
        """Whether some row was not measured here."""
        return any(row.source != "measured" for row in self.rows)

    @property
    def texts(self) -> list[str]:
        """The titles of the columns before the numbers."""
        return ["model", "source"] if self.shows_source else ["model"]

    def head(self, row: Row, model: str) -> list[str]:
        """Return the texts before a row's numbers; a source has the number of its URL."""
        source = f"{row.source} [{self.urls.index(row.url) + 1}]" if row.url else row.source
        return [model, source][: len(self.texts)]


def boards(entries: Iterable[Entry], ties: Ties = NO_TIES) -> list[Board]:
    """Return one table per protocol family, in alphabetical order of the families."""
    families = groupby(sorted(entries, key=lambda entry: entry.key), lambda e: e.protocol)
    return [_board(protocol, list(family), ties) for protocol, family in families]


def _board(protocol: str, entries: Sequence[Entry], ties: Ties) -> Board:
    columns = tuple(sorted({column for entry in entries for column in columns_of(entry)}))
    ranked = rank_entries(entries, ties)
    by_key = {entry.key: entry for entry in entries}
    rows = []
    for key in dict.fromkeys(entry.key._replace(dataset="") for entry in entries):
        found = [by_key.get(key._replace(dataset=column.dataset)) for column in columns]
        cells = (_cell(e, c.metric, ranked) for e, c in zip(found, columns, strict=True))
        rows.append(Row(key.model, key.source, key.url, tuple(cells), tuple(found)))
    return Board(protocol, columns, tuple(rows), _notes(entries, rows, ranked))


def columns_of(entry: Entry) -> list[Column]:
    """Return the columns of an entry's numbers, without references that are 0; tasks that are
    not installed here come last."""
    order = list(known_tasks())
    installed = entry.task in order
    task = order.index(entry.task) if installed else len(order)
    return [
        # Entries of a task that is not installed may have other metrics: names are the order.
        Column(task, entry.dataset, position if installed else 0, metric, title)
        for position, (metric, title) in enumerate(headlines_of(entry).items())
        if metric in entry.metrics
        and (entry.metrics[metric] or not metric_of(entry.task, metric).reference)
    ]


def _cell(entry: Entry | None, metric: str, ranked: Mapping[Cell, Rank]) -> Shown:
    if entry is None or metric not in entry.metrics:
        return Shown()
    best, tie, ranks = ranked.get((entry.key, metric), Rank())
    known = metric_of(entry.task, metric)
    return Shown(
        value=shown_text(known, entry.metrics[metric]),
        interval=bounds(known, entry.intervals.get(metric)),
        best=best,
        mark=MARKS[tie],
        ranks="" if ranks is None else "-".join(str(rank) for rank in dict.fromkeys(ranks)),
        delta=entry.delta(metric),
    )


def _notes(
    entries: Sequence[Entry], rows: Sequence[Row], ranked: Mapping[Cell, Rank]
) -> tuple[str, ...]:
    cells = [cell for row in rows for cell in row.cells]
    ties = {found.tie for found in ranked.values()}
    applies = {
        "best": any(cell.best for cell in cells),
        "paired": "paired" in ties,
        "intervals": "intervals" in ties,
        "ranks": any(cell.ranks for cell in cells),
        "seeds": len(rows) > 1 and any(cell.interval for cell in cells),
        "delta": any(cell.delta for cell in cells),
        "partial": any(entry.partial for entry in entries),
        "unverified": any(e.source == "unverified" and e.stored is None for e in entries),
        "cut": any(entry.metrics.get("captions_cut") for entry in entries),
        "unknown": any(entry.task not in known_tasks() for entry in entries),
    }
    results = [entry.stored for entry in entries if entry.stored is not None]
    meanings = (meaning for name, meaning in _MEANINGS.items() if applies[name])
    return (*meanings, *(f"{line[:1].upper()}{line[1:]}." for line in warnings_of(results)))

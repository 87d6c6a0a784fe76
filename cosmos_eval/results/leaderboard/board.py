"""Tables of a leaderboard before they are written: one per protocol family."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from cosmos_eval.protocols import published_error
from cosmos_eval.results.identity import data_identity
from cosmos_eval.results.labels import warnings_of
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Cell, Rank, Tie, Ties, rank_entries
from cosmos_eval.results.text import bounds, ends, shown_text
from cosmos_eval.tasks import known_tasks, metric_of, usable_task

MARKS: Mapping[Tie, str] = {"": "", "paired": "†", "intervals": "‡"}

MEANINGS = {
    "best": "Bold: the best by its data set and metric.",
    "paired": f"{MARKS['paired']} tied with the best: a test of the difference on the same "
    "samples, corrected for the number of results, does not tell them apart. The truly best result "
    "is bold or tied in 95% of cases.",
    "intervals": f"{MARKS['intervals']} not distinguished from the best: the intervals, widened "
    "for the number of results, overlap (their samples were not compared).",
    "ranks": "Rank: the ranks that a result measured here can have; those of all models on a data "
    "set hold at once with 95%.",
    "seeds": "Intervals cover test images, not seeds: each model was trained once.",
    "delta": "Signed, or after Δ: percentage points above what its authors published.",
    "partial": "Not ranked: results of a part of the samples only.",
    "second-hand": "Not ranked: second-hand numbers, quoted from a paper by somebody else.",
    "unverified": "Not ranked: unverified numbers, which are not from the authors' own page.",
    "cut": "Captions cut: the share that did not fit the model's context.",
    "random_ties": "Random ties: R@1 if captions or images with equal features were in random "
    "order; R@1 itself ranks wrong ones above the right one.",
    "unknown": (
        "Not ranked, and not in percent: metrics of a task that is not installed or whose package "
        "cannot be loaded (cosmos-eval list tasks says which)."
    ),
    "content": "Not compared: the content of the images, which older results do not record.",
}


class Column(NamedTuple):
    """A data set's metric and its title; the fields sort columns as tables show them."""

    task: int
    dataset: str
    position: int
    metric: str
    title: str


class Shown(NamedTuple):
    """One number, its marks and its interval as text, `ends` being above and below the number; all
    empty where it is unknown."""

    value: str = ""
    interval: str = ""
    ends: tuple[str, ...] = ()
    best: bool = False
    second: bool = False
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
    """The results of a protocol family, of other settings if `aside`, and what readers must know,
    one line each."""

    protocol: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    aside: bool = False

    @property
    def name(self) -> str:
        return f"{self.protocol}, other settings" if self.aside else self.protocol

    @property
    def shows_source(self) -> bool:
        """Whether some row was not measured here."""
        return any(row.source != "measured" for row in self.rows)


def boards(
    entries: Iterable[Entry], ties: Ties = NO_TIES, decimals: int | None = None
) -> list[Board]:
    """Return one table per protocol family, in alphabetical order of the families, each followed by
    one of its results of other settings, if any. Numbers have `decimals`, or else the usual ones.
    """
    ordered = sorted(entries, key=lambda entry: (entry.protocol, entry.aside, entry.key))
    families = groupby(ordered, lambda entry: (entry.protocol, entry.aside))
    return [_board(*family, list(own), ties, decimals) for family, own in families]


def _board(
    protocol: str, aside: bool, entries: Sequence[Entry], ties: Ties, decimals: int | None
) -> Board:
    columns = tuple(sorted({column for entry in entries for column in columns_of(entry)}))
    ranked = rank_entries(entries, ties, decimals)
    by_key = {entry.key: entry for entry in entries}
    rows = []
    for key in dict.fromkeys(entry.key._replace(dataset="") for entry in entries):
        found = [by_key.get(key._replace(dataset=column.dataset)) for column in columns]
        cells = (_cell(e, c.metric, ranked, decimals) for e, c in zip(found, columns, strict=True))
        rows.append(Row(key.model, key.source, key.url, tuple(cells), tuple(found)))
    return Board(protocol, columns, tuple(rows), _notes(entries, rows, ranked), aside)


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


def _cell(
    entry: Entry | None, metric: str, ranked: Mapping[Cell, Rank], decimals: int | None
) -> Shown:
    if entry is None or metric not in entry.metrics:
        return Shown()
    best, tie, ranks, second = ranked.get((entry.key, metric), Rank())
    known, interval = metric_of(entry.task, metric), entry.intervals.get(metric)
    return Shown(
        value=shown_text(known, entry.metrics[metric], decimals),
        interval=bounds(known, interval),
        ends=ends(known, entry.metrics[metric], interval, decimals),
        best=best,
        second=second,
        mark=MARKS[tie],
        ranks="" if ranks is None else "-".join(str(rank) for rank in dict.fromkeys(ranks)),
        delta=entry.delta(metric, decimals),
    )


def _is_content_unknown(entries: Iterable[Entry]) -> bool:
    """Return whether a column has several results and one does not record what it measured."""
    columns: dict[str, list[str]] = {}
    for entry in entries:
        if entry.stored is not None:
            content = data_identity(entry.stored.row)["content"]
            columns.setdefault(entry.dataset, []).append(content)
    return any(len(contents) > 1 and not all(contents) for contents in columns.values())


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
        "second-hand": any(entry.source == "second-hand" for entry in entries),
        "unverified": any(e.source == "unverified" and e.stored is None for e in entries),
        "cut": any(entry.metrics.get("captions_cut") for entry in entries),
        "random_ties": any(n.endswith("_random_ties") for e in entries for n in e.metrics),
        "unknown": any(usable_task(entry.task) is None for entry in entries),
        "content": _is_content_unknown(entries),
    }
    errors = {e.dataset_name: published_error(e.dataset_name, e.protocol) for e in entries}
    named = ", ".join(f"{name} ({error})" for name, error in errors.items() if error)
    faults = [f"Class names with the published errors: {named}."] if named else []
    results = [entry.stored for entry in entries if entry.stored is not None]
    conditions = dict.fromkeys(note for entry in entries for note in _conditions(entry))
    meanings = (meaning for name, meaning in MEANINGS.items() if applies[name])
    return (
        *meanings,
        *conditions,
        *faults,
        *(f"{line[:1].upper()}{line[1:]}." for line in warnings_of(results)),
    )


def _conditions(entry: Entry) -> Iterator[str]:
    """Yield a note for what the intervals of shown metrics are conditional on."""
    titles: dict[str, list[str]] = {}
    for name, title in headlines_of(entry).items():
        condition = metric_of(entry.task, name).conditional_on
        if condition and name in entry.intervals:
            titles.setdefault(condition, []).append(title)
    for condition, conditional in titles.items():
        listed = " and ".join(conditional)
        yield (
            f"Intervals of {listed} are for the {condition} that were used: they do not cover the "
            f"choice of {condition}."
        )

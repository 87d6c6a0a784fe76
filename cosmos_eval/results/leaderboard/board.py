"""The boards of a leaderboard: for each protocol, the results with ranks, marks and notes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from cosmos_eval.protocols import published_error
from cosmos_eval.results.identity import data_identity
from cosmos_eval.results.labels import result_warnings
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.leaderboard.ranking import (
    NO_TIES,
    Rank,
    RankedNumber,
    Tie,
    Ties,
    rank_entries,
)
from cosmos_eval.results.text import interval_ends, interval_text, metric_text
from cosmos_eval.tasks import known_tasks, metric_of, usable_task

MARKS: Mapping[Tie, str] = {"": "", "paired": "†", "intervals": "‡"}

MEANINGS = {
    "best": "Bold: the best by its data set and metric.",
    "paired": f"{MARKS['paired']} tied with the best: a test of the difference on the same "
    "samples, corrected for the number of results, does not tell them apart. The truly best result "
    "is bold or tied in 95% of cases.",
    "intervals": f"{MARKS['intervals']} not distinguished from the best: the intervals, widened "
    "for the number of results, overlap (their samples were not compared).",
    "ranks": "Rank: the ranks that a result measured here can have; the ranks of all models on a "
    "data set hold at once with 95%.",
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
    """A metric on a data set. Sorted columns are in the order in which tables show them."""

    # The position of the task among the installed tasks.
    task: int
    dataset: str
    # The position of the metric among the headline metrics of the task.
    position: int
    metric: str
    title: str


class Number(NamedTuple):
    """A number of a table as text, with its marks. All fields are empty if it is unknown."""

    # The number itself, such as `67.1`.
    value: str = ""
    # The interval in brackets, such as `[65.2, 69.0]`.
    interval: str = ""
    # How far the interval reaches above and below the number, see `results.text.interval_ends`.
    ends: tuple[str, ...] = ()
    # Whether it is the best, or the second best, number of its column after rounding.
    best: bool = False
    second: bool = False
    # The mark of a tie with the best.
    mark: str = ""
    # The ranks that the number can have, such as `1-2`.
    ranks: str = ""
    # The difference from the published number.
    delta: str = ""


class Row(NamedTuple):
    """A model's numbers from one source, one per column, and the entry behind each of them."""

    model: str
    source: str
    url: str
    cells: tuple[Number, ...]
    entries: tuple[Entry | None, ...]


class Board(NamedTuple):
    """The results of a protocol, and what readers must know of them, one line each."""

    protocol: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    # Whether the results have other settings than the protocol's, see `Entry.has_other_settings`.
    has_other_settings: bool = False

    @property
    def name(self) -> str:
        """The protocol, and whether the results have other settings: "clip, other settings"."""
        return f"{self.protocol}, other settings" if self.has_other_settings else self.protocol

    @property
    def shows_source(self) -> bool:
        """True if a row was not measured here."""
        return any(row.source != "measured" for row in self.rows)


def make_boards(
    entries: Iterable[Entry], ties: Ties = NO_TIES, decimals: int | None = None
) -> list[Board]:
    """Return one board per protocol, in alphabetical order of the protocols.

    Results with other settings than their protocol's have a separate board, which follows the board
    of the protocol. `ties` are the p-values of paired tests that tell close results apart. Numbers
    have `decimals` digits after the point, or the usual digits of their metric if it is None.
    """
    entries_by_board: dict[tuple[str, bool], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.key):
        board_key = (entry.protocol, entry.has_other_settings)
        entries_by_board.setdefault(board_key, []).append(entry)
    all_boards = []
    for board_key in sorted(entries_by_board):
        protocol, has_other_settings = board_key
        board = _make_board(protocol, entries_by_board[board_key], ties, decimals)
        all_boards.append(board._replace(has_other_settings=has_other_settings))
    return all_boards


def _make_board(protocol: str, entries: Sequence[Entry], ties: Ties, decimals: int | None) -> Board:
    """Return the board of the entries of a protocol.

    A row has the numbers of one model from one source. Rows are in the order of `entries`, which
    are sorted by their keys.
    """
    columns = sorted({column for entry in entries for column in columns_of(entry)})
    ranks = rank_entries(entries, ties, decimals)
    entries_by_key = {entry.key: entry for entry in entries}
    # The keys of the entries of one row differ only in the data set.
    row_keys = dict.fromkeys(entry.key._replace(dataset="") for entry in entries)
    rows = []
    for row_key in row_keys:
        row_entries = []
        numbers = []
        for column in columns:
            entry = entries_by_key.get(row_key._replace(dataset=column.dataset))
            row_entries.append(entry)
            numbers.append(_format_number(entry, column.metric, ranks, decimals))
        rows.append(
            Row(row_key.model, row_key.source, row_key.url, tuple(numbers), tuple(row_entries))
        )
    notes = tuple(_notes(entries, rows, ranks))
    return Board(protocol, tuple(columns), tuple(rows), notes)


def columns_of(entry: Entry) -> list[Column]:
    """Return one column for each number of an entry that tables show.

    A reference metric, such as the share of captions that were cut, only helps to read the other
    metrics, and has no column if it is 0. Tasks that are not installed come after all others.
    """
    tasks = list(known_tasks())
    is_installed = entry.task in tasks
    task = tasks.index(entry.task) if is_installed else len(tasks)
    columns = []
    for position, (metric, title) in enumerate(headlines_of(entry).items()):
        if metric not in entry.metrics:
            continue
        is_reference = metric_of(entry.task, metric).reference
        if is_reference and entry.metrics[metric] == 0:
            continue
        # Without the task, the order of its metrics is unknown. They are then sorted by name.
        column_position = position if is_installed else 0
        columns.append(Column(task, entry.dataset, column_position, metric, title))
    return columns


def _format_number(
    entry: Entry | None, metric: str, ranks: Mapping[RankedNumber, Rank], decimals: int | None
) -> Number:
    """Return a metric of an entry as text, with its interval, marks and ranks.

    The number is empty without an entry, or if the entry lacks the metric.
    """
    if entry is None or metric not in entry.metrics:
        return Number()
    value = entry.metrics[metric]
    interval = entry.intervals.get(metric)
    metric_record = metric_of(entry.task, metric)
    rank = ranks.get((entry.key, metric), Rank())
    # Ranks from 1 to 3 are "1-3". If only one rank is possible, it is given once.
    distinct_ranks = dict.fromkeys(rank.ranks or ())
    return Number(
        value=metric_text(metric_record, value, decimals),
        interval=interval_text(metric_record, interval),
        ends=interval_ends(metric_record, value, interval, decimals),
        best=rank.best,
        second=rank.second,
        mark=MARKS[rank.tie],
        ranks="-".join(str(possible_rank) for possible_rank in distinct_ranks),
        delta=entry.delta(metric, decimals),
    )


def _notes(
    entries: Sequence[Entry], rows: Sequence[Row], ranks: Mapping[RankedNumber, Rank]
) -> Iterator[str]:
    """Yield the notes below a board: the meaning of its marks, then warnings on its results."""
    meanings = _meanings_of_numbers(rows, ranks) | _meanings_of_entries(entries)
    for name, meaning in MEANINGS.items():
        if name in meanings:
            yield meaning
    yield from dict.fromkeys(note for entry in entries for note in _condition_notes(entry))
    yield from _class_name_notes(entries)
    results = [entry.stored for entry in entries if entry.stored is not None]
    for line in result_warnings(results):
        yield f"{line[:1].upper()}{line[1:]}."


def _meanings_of_numbers(rows: Sequence[Row], ranks: Mapping[RankedNumber, Rank]) -> set[str]:
    """Return the keys of the MEANINGS that explain the marks of the numbers of a board.

    The note on seeds is left out if a board has a single row, since nothing is compared.
    """
    names: set[str] = {rank.tie for rank in ranks.values() if rank.tie}
    for row in rows:
        for number in row.cells:
            if number.best:
                names.add("best")
            if number.ranks:
                names.add("ranks")
            if number.delta:
                names.add("delta")
            if number.interval and len(rows) > 1:
                names.add("seeds")
    return names


def _meanings_of_entries(entries: Sequence[Entry]) -> set[str]:
    """Return the keys of the MEANINGS that explain special entries, such as unranked ones."""
    names = set()
    for entry in entries:
        if entry.partial:
            names.add("partial")
        if entry.source == "second-hand":
            names.add("second-hand")
        if entry.source == "unverified" and entry.stored is None:
            names.add("unverified")
        if entry.metrics.get("captions_cut"):
            names.add("cut")
        if any(name.endswith("_random_ties") for name in entry.metrics):
            names.add("random_ties")
        if usable_task(entry.task) is None:
            names.add("unknown")
    if _is_content_unknown(entries):
        names.add("content")
    return names


def _is_content_unknown(entries: Iterable[Entry]) -> bool:
    """Return whether it is unknown if the results on any data set were measured on equal images.

    This is so if the data set has several results, and one of them records no hash of its images.
    """
    contents_by_column: dict[str, list[str]] = {}
    for entry in entries:
        if entry.stored is not None:
            content = data_identity(entry.stored.row)["content"]
            contents_by_column.setdefault(entry.dataset, []).append(content)
    return any(len(contents) > 1 and not all(contents) for contents in contents_by_column.values())


def _condition_notes(entry: Entry) -> Iterator[str]:
    """Yield a note for each choice, such as the prompts, that intervals of an entry do not cover.

    Example: "Intervals of top-1 and top-5 are for the prompts that were used: they do not cover the
    choice of prompts."
    """
    titles_by_condition: dict[str, list[str]] = {}
    for name, title in headlines_of(entry).items():
        condition = metric_of(entry.task, name).conditional_on
        if condition and name in entry.intervals:
            titles_by_condition.setdefault(condition, []).append(title)
    for condition, titles in titles_by_condition.items():
        yield (
            f"Intervals of {' and '.join(titles)} are for the {condition} that were used: they do "
            f"not cover the choice of {condition}."
        )


def _class_name_notes(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield one note on the data sets whose published class names have errors, if there are any.

    The errors are kept, so that numbers are comparable with the published ones.
    """
    errors: dict[str, str] = {}
    for entry in entries:
        error = published_error(entry.dataset_name, entry.protocol)
        if error:
            errors[entry.dataset_name] = error
    if errors:
        dataset_errors = ", ".join(f"{name} ({error})" for name, error in errors.items())
        yield f"Class names with the published errors: {dataset_errors}."

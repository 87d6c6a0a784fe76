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

BEST_BY_MARK = "* the best by its data set and metric."
"""The meaning of the best numbers where text cannot be bold."""
MEANINGS = {
    "best": "Bold: the best by its data set and metric.",
    "paired": f"{MARKS['paired']} tied with the best: a test of the difference on the same "
    "samples, corrected for the number of results, does not tell them apart. The truly best result "
    "is best or tied here in 95% of cases.",
    "intervals": f"{MARKS['intervals']} not distinguished from the best: the intervals, widened "
    "for the number of results, overlap (their samples were not compared).",
    "ranks": "Rank: the ranks that a result measured here can have; the ranks of all models on a "
    "data set hold at once with 95%.",
    "seeds": "Intervals cover test images, not seeds: each model was trained once.",
    "delta": "Signed, or after Δ: percentage points above what its authors published.",
    "partial": "Not ranked: results of a part of the samples only.",
    "second-hand": "Not ranked: second-hand numbers, quoted from a paper by somebody else.",
    "unverified": "Not ranked: unverified numbers, which are not from the authors' own page.",
    "imported": "Not ranked: imported numbers, which another tool wrote to a file without samples.",
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

    # The position of the task among the installed tasks; their number for a task not installed.
    task: int
    # The label of the data set.
    dataset: str
    # The position of the metric among the headline metrics of the task.
    position: int
    # The name of the metric, and its title in tables.
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
    of the protocol.

    Args:
        entries: The entries of all protocols.
        ties: The p-values of paired tests that tell close results apart, from `find_ties`.
        decimals: The digits of numbers after the point; None for the usual digits of each metric.
    """
    entries_by_board: dict[tuple[str, bool], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.key):
        board_key = (entry.protocol, entry.has_other_settings)
        entries_by_board.setdefault(board_key, []).append(entry)

    boards = []
    for (protocol, has_other_settings), board_entries in sorted(entries_by_board.items()):
        columns = sorted({column for entry in board_entries for column in columns_of(entry)})
        ranks = rank_entries(board_entries, ties, decimals)
        rows = _make_rows(board_entries, columns, ranks, decimals)
        board = Board(
            protocol=protocol,
            columns=tuple(columns),
            rows=tuple(rows),
            notes=tuple(_notes(board_entries, rows, ranks)),
            has_other_settings=has_other_settings,
        )
        boards.append(board)
    return boards


def _make_rows(
    entries: Sequence[Entry],
    columns: Sequence[Column],
    ranks: Mapping[RankedNumber, Rank],
    decimals: int | None,
) -> list[Row]:
    """Return the rows of a board. A row has the numbers of one model from one source.

    Args:
        entries: The entries of the board, sorted by their keys, so that rows are sorted as well.
        columns: The columns of the board.
        ranks: The ranks of the numbers, by the key of the entry and the metric.
        decimals: The digits of numbers after the point; None for the usual digits of each metric.
    """
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
        row = Row(
            model=row_key.model,
            source=row_key.source,
            url=row_key.url,
            cells=tuple(numbers),
            entries=tuple(row_entries),
        )
        rows.append(row)
    return rows


def columns_of(entry: Entry) -> list[Column]:
    """Return one column for each number of an entry that tables show.

    A reference metric, such as the share of captions that were cut, only helps to read the other
    metrics, and has no column if it is 0. Tasks that are not installed come after all others.

    Args:
        entry: One model's metrics on one data set.
    """
    task_names = list(known_tasks())
    is_installed = entry.task in task_names
    task_position = task_names.index(entry.task) if is_installed else len(task_names)
    columns = []
    for position, (metric, title) in enumerate(headlines_of(entry).items()):
        if metric not in entry.metrics:
            continue
        is_reference = metric_of(entry.task, metric).reference
        if is_reference and entry.metrics[metric] == 0:
            continue
        # Without the task, the order of its metrics is unknown. They are then sorted by name.
        column_position = position if is_installed else 0
        columns.append(Column(task_position, entry.dataset, column_position, metric, title))
    return columns


def _format_number(
    entry: Entry | None, metric: str, ranks: Mapping[RankedNumber, Rank], decimals: int | None
) -> Number:
    """Return a metric of an entry as text, with its interval, marks and ranks.

    Args:
        entry: The entry, or None if a model has no entry on a data set.
        metric: The name of the metric.
        ranks: The ranks of the numbers of the board, by the key of the entry and the metric.
        decimals: The digits after the point; None for the usual digits of the metric.

    Returns:
        The number, which is empty without an entry, or if the entry lacks the metric.
    """
    if entry is None or metric not in entry.metrics:
        return Number()
    value = entry.metrics[metric]
    interval = entry.intervals.get(metric)
    metric_record = metric_of(entry.task, metric)
    rank = ranks.get((entry.key, metric), Rank())

    # Ranks from 1 to 3 are "1-3". If only rank 2 is possible, they are "2".
    ranks_text = ""
    if rank.ranks is not None:
        first_rank, last_rank = rank.ranks
        ranks_text = str(first_rank)
        if last_rank != first_rank:
            ranks_text = f"{first_rank}-{last_rank}"

    return Number(
        value=metric_text(metric_record, value, decimals),
        interval=interval_text(metric_record, interval),
        ends=interval_ends(metric_record, value, interval, decimals),
        best=rank.best,
        second=rank.second,
        mark=MARKS[rank.tie],
        ranks=ranks_text,
        delta=entry.delta(metric, decimals),
    )


def _notes(
    entries: Sequence[Entry], rows: Sequence[Row], ranks: Mapping[RankedNumber, Rank]
) -> Iterator[str]:
    """Yield the notes below a board: the meaning of its marks, then warnings on its results.

    Args:
        entries: The entries of the board.
        rows: The rows of the board, with the numbers of the entries.
        ranks: The ranks of the numbers, by the key of the entry and the metric.
    """
    # The meanings of marks, in the order of `MEANINGS`.
    meaning_names = _meanings_of_numbers(rows, ranks) | _meanings_of_entries(entries)
    for name, meaning in MEANINGS.items():
        if name in meaning_names:
            yield meaning

    # What intervals do not cover. Entries of the same task have the same notes.
    condition_notes: list[str] = []
    for entry in entries:
        condition_notes += _condition_notes(entry)
    yield from dict.fromkeys(condition_notes)

    # Errors in the class names of data sets, which are kept so that numbers are comparable with the
    # published ones.
    errors: dict[str, str] = {}
    for entry in entries:
        error = published_error(entry.dataset_name, entry.protocol)
        if error:
            errors[entry.dataset_name] = error
    if errors:
        dataset_errors = ", ".join(f"{name} ({error})" for name, error in errors.items())
        yield f"Class names with the published errors: {dataset_errors}."

    # Warnings, which become sentences.
    results = [entry.stored for entry in entries if entry.stored is not None]
    for warning in result_warnings(results):
        yield f"{warning[:1].upper()}{warning[1:]}."


def _meanings_of_numbers(rows: Sequence[Row], ranks: Mapping[RankedNumber, Rank]) -> set[str]:
    """Return the keys of `MEANINGS` that explain the marks of the numbers of a board.

    The note on seeds is left out if a board has a single row, since nothing is compared.

    Args:
        rows: The rows of the board.
        ranks: The ranks of the numbers, which say why numbers are tied with the best.
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
    """Return the keys of `MEANINGS` that explain special entries, such as unranked ones.

    Args:
        entries: The entries of the board, each with one model's metrics on one data set.
    """
    names = set()
    for entry in entries:
        if entry.partial:
            names.add("partial")
        if entry.source == "second-hand":
            names.add("second-hand")
        if entry.source == "imported":
            names.add("imported")
        # An edited result is unverified too, but has a warning of its own.
        if entry.source == "unverified" and entry.stored is None:
            names.add("unverified")
        if entry.metrics.get("captions_cut"):
            names.add("cut")
        if any(name.endswith("_random_ties") for name in entry.metrics):
            names.add("random_ties")
        if usable_task(entry.task) is None:
            names.add("unknown")
    if _may_have_different_images(entries):
        names.add("content")
    return names


def _may_have_different_images(entries: Sequence[Entry]) -> bool:
    """Return whether results on one data set may have different images.

    This is so if one of several results records no hash of the images.
    """
    # The hashes of the images by data set. A result that records none has an empty text.
    content_hashes: dict[str, list[str]] = {}
    for entry in entries:
        if entry.stored is not None:
            content_hash = data_identity(entry.stored.row)["content"]
            content_hashes.setdefault(entry.dataset, []).append(content_hash)
    return any(len(hashes) > 1 and "" in hashes for hashes in content_hashes.values())


def _condition_notes(entry: Entry) -> Iterator[str]:
    """Yield a note for each choice, such as the prompts, that intervals of an entry do not cover.

    Args:
        entry: One model's metrics on one data set, with their intervals.

    Example:
        "Intervals of top-1 and top-5 are for the prompts that were used: they do not cover the
        choice of prompts."
    """
    titles_by_choice: dict[str, list[str]] = {}
    for name, title in headlines_of(entry).items():
        choice = metric_of(entry.task, name).conditional_on
        if choice and name in entry.intervals:
            titles_by_choice.setdefault(choice, []).append(title)
    for choice, titles in titles_by_choice.items():
        yield (
            f"Intervals of {' and '.join(titles)} are for the {choice} that were used: they do "
            f"not cover the choice of {choice}."
        )

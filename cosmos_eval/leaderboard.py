"""Results side by side: one table a protocol family, never two families in one ranking."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cosmos_eval.labels import model_label
from cosmos_eval.types import ResultRow, UsageError

if TYPE_CHECKING:
    from rich.table import Table

Format = Literal["table", "md", "csv", "json"]

# Metric -> what its column is called; the order of tasks and of a task's columns.
HEADLINES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "retrieval": {
            "image_to_text_R@1": "image to text R@1",
            "text_to_image_R@1": "text to image R@1",
        },
        "cls": {"acc1": "acc1"},
        "seg": {"mIoU": "mIoU", "mIoU_things": "mIoU things", "mIoU_stuff": "mIoU stuff"},
        "select": {
            "accuracy": "accuracy",
            "mean_subset_accuracy": "mean over subsets",
            "text_score": "text score",
            "image_score": "image score",
            "group_score": "group score",
        },
    }
)

_CSV_COLUMNS = (
    *("model", "task", "dataset", "protocol", "metric"),
    *("value", "low", "high", "source", "url"),
)
_PUBLISHED_KEY = ("model", "task", "dataset", "protocol", "source", "url")


class Entry(NamedTuple):
    """One model's metrics on one data set, measured here or published elsewhere.

    `metrics` are fractions in [0, 1]; `partial` marks a result of the first samples only, which
    is shown but never ranked; `url` says where a published number stands.
    """

    model: str
    task: str
    dataset: str
    protocol: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, Mapping[str, Any]]
    source: str
    partial: bool = False
    url: str = ""


class Column(NamedTuple):
    """A data set's metric; its fields sort columns as tables show them."""

    task: int
    dataset: str
    position: int
    metric: str

    @property
    def title(self) -> str:
        """Data set and metric for people."""
        return f"{self.dataset} {list(HEADLINES.values())[self.task][self.metric]}"


class Cell(NamedTuple):
    """One number in percent as text, its interval as text, and whether it is the column's best."""

    value: str
    interval: str = ""
    best: bool = False


class Board(NamedTuple):
    """A protocol family's table: a row is a model, its source and a cell a column."""

    protocol: str
    titles: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]
    urls: tuple[str, ...]

    @property
    def shows_source(self) -> bool:
        """Whether some row was not measured here."""
        return any(source != "measured" for _, source, _ in self.rows)


def measured(rows: Iterable[ResultRow]) -> list[Entry]:
    """Entries of stored results. Raises UsageError where two results would be the same entry."""
    entries: dict[tuple[str, ...], Entry] = {}
    for row in rows:
        model, partial = model_label(row), row.provenance["limit"] is not None
        key = (row.protocol, model, row.dataset)
        if key in entries:
            raise UsageError(
                f"two results of {model} on {row.dataset} ({row.protocol}): keep one of the files"
            )
        where = (row.task, row.dataset, row.protocol)
        entries[key] = Entry(model, *where, row.metrics, row.intervals, row.source, partial)
    return sorted(entries.values(), key=_order)


def published() -> list[Entry]:
    """Numbers of others, as this package ships them, each with the URL where it stands.

    Their source is `unverified` where it is not the authors' own page.
    """
    numbers: dict[tuple[str, ...], dict[str, float]] = {}
    for file in files("cosmos_eval").joinpath("published").iterdir():
        for line in csv.DictReader(io.StringIO(file.read_text("utf-8"))):
            key = tuple(line[name] for name in _PUBLISHED_KEY)
            # The sources give at most two decimals of a percentage.
            numbers.setdefault(key, {})[line["metric"]] = round(float(line["percent"]) / 100, 4)
    entries = [
        Entry(model, task, dataset, protocol, metrics, {}, source, url=url)
        for (model, task, dataset, protocol, source, url), metrics in numbers.items()
    ]
    return sorted(entries, key=_order)


def boards(entries: Sequence[Entry]) -> list[Board]:
    """One table a protocol family, in alphabetical order of the families."""
    families = sorted({entry.protocol for entry in entries})
    return [_board(name, [e for e in entries if e.protocol == name]) for name in families]


def to_markdown(entries: Sequence[Entry]) -> str:
    """Tables as GitHub's Markdown, best in bold, with the sources of published numbers below."""
    return "\n".join(_markdown(board) for board in boards(entries))


def to_csv(entries: Sequence[Entry]) -> str:
    """Every metric, one a line, as a fraction; the protocol is a column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for entry in entries:
        for metric, value in sorted(entry.metrics.items()):
            bounds = entry.intervals.get(metric, {})
            where = (entry.model, entry.task, entry.dataset, entry.protocol, metric, value)
            writer.writerow(
                (*where, bounds.get("low"), bounds.get("high"), entry.source, entry.url)
            )
    return out.getvalue()


def to_json(entries: Sequence[Entry]) -> str:
    """A list of {model, task, dataset, protocol, metrics, intervals, source}, fractions."""
    keys = ("model", "task", "dataset", "protocol", "metrics", "intervals", "source")
    records = [{key: entry._asdict()[key] for key in keys} for entry in entries]
    return json.dumps(records, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def to_tables(entries: Sequence[Entry]) -> list[Table]:
    """Tables for the terminal, best in bold."""
    return [_rich_table(board) for board in boards(entries)]


def _order(entry: Entry) -> tuple[str, str, str, str]:
    return entry.protocol, entry.model, entry.source, entry.dataset


def _board(protocol: str, entries: Sequence[Entry]) -> Board:
    columns = sorted({column for entry in entries for column in _columns(entry)})
    best = {column: _best(entries, column) for column in columns}
    models = sorted({(entry.model, entry.source) for entry in entries})
    rows = tuple(
        (model, source, tuple(_cell(entries, model, source, c, best[c]) for c in columns))
        for model, source in models
    )
    urls = tuple(sorted({entry.url for entry in entries if entry.url}))
    return Board(protocol, tuple(column.title for column in columns), rows, urls)


def _columns(entry: Entry) -> list[Column]:
    task = list(HEADLINES).index(entry.task)
    names = HEADLINES[entry.task]
    return [
        Column(task, entry.dataset, position, metric)
        for position, metric in enumerate(names)
        if metric in entry.metrics
    ]


def _best(entries: Sequence[Entry], column: Column) -> Decimal | None:
    """The highest value of a column as shown; None where there is nothing to compare."""
    values = [
        _percent(entry.metrics[column.metric])
        for entry in entries
        if entry.dataset == column.dataset and column.metric in entry.metrics and not entry.partial
    ]
    return max(values) if len(values) > 1 else None


def _cell(
    entries: Sequence[Entry], model: str, source: str, column: Column, best: Decimal | None
) -> Cell:
    for entry in entries:
        if (entry.model, entry.source, entry.dataset) == (model, source, column.dataset):
            if column.metric not in entry.metrics:
                continue
            value = _percent(entry.metrics[column.metric])
            winner = value == best and not entry.partial
            return Cell(str(value), _bounds(entry.intervals.get(column.metric)), winner)
    return Cell("")


def _bounds(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return ""
    return f"[{_percent(interval['low'])}, {_percent(interval['high'])}]"


def _percent(fraction: float) -> Decimal:
    """Percent with one decimal, half up as people round: 0.6705 -> 67.1.

    By way of the shortest text of the float, since 0.6705 itself is a little less.
    """
    return (Decimal(repr(fraction)) * 100).quantize(Decimal("0.1"), ROUND_HALF_UP)


def _markdown(board: Board) -> str:
    extra = ["source"] if board.shows_source else []
    marks = ["---"] * (1 + len(extra)) + ["--:"] * len(board.titles)
    table = [["model", *extra, *board.titles], marks]
    for model, source, cells in board.rows:
        shown = [source] if board.shows_source else []
        table.append([model, *shown, *(_markdown_cell(cell) for cell in cells)])
    lines = [f"### Protocol `{board.protocol}` (%)", ""]
    lines += [f"| {' | '.join(row)} |" for row in table]
    if board.urls:
        lines += ["", "Not measured here: " + ", ".join(f"<{url}>" for url in board.urls)]
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.best else cell.value
    return f"{value} {cell.interval}".strip()


def _rich_table(board: Board) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Protocol {board.protocol} (%)", title_justify="left")
    table.add_column("model", overflow="fold")
    if board.shows_source:
        table.add_column("source")
    for title in board.titles:
        table.add_column(title, justify="right")
    for model, source, cells in board.rows:
        texts = [
            Text.assemble((cell.value, "bold green" if cell.best else ""), f" {cell.interval}")
            for cell in cells
        ]
        table.add_row(Text(model), *([source] if board.shows_source else []), *texts)
    if board.urls:
        table.caption = "Not measured here: " + ", ".join(board.urls)
    return table

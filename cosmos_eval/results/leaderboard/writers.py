"""Leaderboards as CSV, JSON, Markdown, HTML and LaTeX; equal entries give equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any

from cosmos_eval.results.export import csv_of
from cosmos_eval.results.leaderboard.board import MARKS, Board, Row, Shown, boards
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Cell, Rank, Ties, rank_entries
from cosmos_eval.results.text import (
    difference,
    html_templates,
    json_text,
    latex_text,
    markdown_code,
    markdown_table,
    markdown_text,
)

_LATEX_MARKS = {"": "", MARKS["paired"]: r"$^\dagger$", MARKS["intervals"]: r"$^\ddagger$"}
_RANKS = ("rank_low", "rank_high")
_CSV_COLUMNS = (
    *("model", "task", "dataset", "protocol", "metric"),
    *("value", "low", "high", "source", "url"),
    *("best", "tie", *_RANKS, "delta"),
)


def to_csv(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    """Write one line per entry and metric, as a fraction.

    `best` is `yes` or empty, `tie` what ties a number with the best (`paired`, `intervals`), and
    `delta` is in percentage points above what its authors published.
    """
    import pandas as pd

    listed = sorted(entries, key=lambda entry: entry.key)
    found = rank_entries(listed, ties)
    records = [
        _csv_record(entry, metric, found.get(Cell(entry.key, metric), Rank()))
        for entry in listed
        for metric in sorted(entry.metrics)
    ]
    table = pd.DataFrame(records, columns=_CSV_COLUMNS).astype(dict.fromkeys(_RANKS, "Int64"))
    return csv_of(table, signed=["delta"])[0]


def _csv_record(entry: Entry, metric: str, rank: Rank) -> tuple[Any, ...]:
    value, ends = entry.metrics[metric], entry.intervals.get(metric, {})
    published = entry.published.get(metric)
    delta = "" if published is None else difference(value, published)
    where = (entry.model, entry.task, entry.dataset, entry.protocol, metric)
    number = (value, ends.get("low"), ends.get("high"), entry.source, entry.url)
    best = "yes" if rank.best else ""
    return *where, *number, best, rank.tie, *(rank.ranks or (None, None)), delta


def to_json(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    """Write a list of {model, task, dataset, protocol, metrics, intervals, source}, as fractions.

    Where they exist, also `url`, `published` (metric -> what the model's authors published) and
    `standings` (metric -> `best`, `tie`, `ranks`).
    """
    listed = sorted(entries, key=lambda entry: entry.key)
    found = rank_entries(listed, ties)
    records = [_json_record(entry, found) for entry in listed]
    return json_text(records, indent=2, sort_keys=True) + "\n"


def _json_record(entry: Entry, found: Mapping[Cell, Rank]) -> dict[str, Any]:
    names = ("model", "task", "dataset", "protocol", "metrics", "intervals", "source")
    ranks = {
        metric: found[Cell(entry.key, metric)]._asdict()
        for metric in entry.metrics
        if Cell(entry.key, metric) in found
    }
    more = {"url": entry.url, "published": dict(entry.published), "standings": ranks}
    fixed = {name: getattr(entry, name) for name in names}
    return {**fixed, **{key: value for key, value in more.items() if value}}


def to_markdown(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    """Write tables as GitHub's Markdown, best in bold, with links to published numbers."""
    return "\n".join(_markdown_board(board) for board in boards(entries, ties))


def _markdown_board(board: Board) -> str:
    titles = (f"{markdown_text(c.dataset)} {markdown_text(c.title)}" for c in board.columns)
    rows = []
    for row in board.rows:
        source = f"[{row.source}](<{row.url}>)" if row.url else row.source
        texts = [markdown_text(row.model), source][: len(board.texts)]
        rows.append([*texts, *map(_markdown_cell, row.cells)])
    table = markdown_table([*board.texts, *titles], rows, len(board.texts))
    notes = "".join(f"- {markdown_text(note)}\n" for note in board.notes)
    title = f"### Protocol {markdown_code(board.protocol)} (%)"
    return "\n".join([title, "", table, *filter(None, [notes])])


def _markdown_cell(cell: Shown) -> str:
    value = f"**{cell.value}**" if cell.best else f"{cell.value}{cell.mark}"
    details = ", ".join(text for text in (cell.ranks and f"rank {cell.ranks}", cell.delta) if text)
    numbers = f"{value} {cell.interval}".strip()
    return f"{numbers}<br>{details}" if details else numbers


def to_html(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    """Write one page that needs no other file, with a table per protocol, best in bold."""
    listed = [(board, _datasets(board)) for board in boards(entries, ties)]
    page = html_templates("cosmos_eval.results.leaderboard").get_template("page.html")
    return page.render(boards=listed)


def _datasets(board: Board) -> list[tuple[str, int]]:
    """Return the data sets of consecutive columns, and how many columns each has."""
    groups = groupby(board.columns, key=lambda column: column.dataset)
    return [(dataset, len(list(columns))) for dataset, columns in groups]


def to_latex(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    r"""Write a `table` per board, best in bold; the document needs `\usepackage{booktabs}`."""
    tables = "\n".join(_latex_table(board) for board in boards(entries, ties))
    return "% needs \\usepackage{booktabs} in the preamble\n" + tables


def _latex_table(board: Board) -> str:
    notes = [latex_text(note) for note in board.notes]
    # An address may be broken after its slashes.
    urls = [latex_text(url).replace("/", r"/\allowbreak{}") for url in board.urls]
    notes += [f"[{number}] {url}" for number, url in enumerate(urls, start=1)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{Protocol {latex_text(board.protocol)} (\%)}}",
        r"\small",
        rf"\begin{{tabular}}{{{'l' * len(board.texts)}{'r' * len(board.columns)}}}",
        r"\toprule",
        *_latex_header(board),
        r"\midrule",
        *(_latex_row(row, board) for row in board.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip{{\footnotesize {note}\par}}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_header(board: Board) -> Iterator[str]:
    names, rules, start = [""] * len(board.texts), "", len(board.texts) + 1
    for dataset, width in _datasets(board):
        names.append(rf"\multicolumn{{{width}}}{{c}}{{{latex_text(dataset)}}}")
        rules += rf"\cmidrule(lr){{{start}-{start + width - 1}}}"
        start += width
    # The last word of a metric's name is below the others: numbers are narrow.
    words = ([latex_text(part) for part in c.title.rsplit(" ", 1)] for c in board.columns)
    titles = [*board.texts, *(_stacked("b", lines) for lines in words)]
    yield f"{' & '.join(names)} \\\\"
    yield rules
    yield f"{' & '.join(titles)} \\\\"


def _latex_row(row: Row, board: Board) -> str:
    texts = [latex_text(row.model), board.source_of(row)][: len(board.texts)]
    return f"{' & '.join([*texts, *map(_latex_cell, row.cells)])} \\\\"


def _latex_cell(cell: Shown) -> str:
    value = rf"\textbf{{{cell.value}}}" if cell.best else cell.value + _LATEX_MARKS[cell.mark]
    ranks = f"rank {cell.ranks.replace('-', '--')}" if cell.ranks else ""
    delta = f"${cell.delta}$" if cell.delta else ""
    details = (rf"\scriptsize {text}" for text in (cell.interval, ranks, delta) if text)
    return _stacked("t", [value, *details])


def _stacked(position: str, lines: Sequence[str]) -> str:
    """Stack lines flush right; the first (t) or last (b) is level with the table's."""
    if len(lines) == 1:
        return lines[0]
    return rf"\begin{{tabular}}[{position}]{{@{{}}r@{{}}}}" + r" \\ ".join(lines) + r"\end{tabular}"


WRITERS: Mapping[str, Callable[..., str]] = MappingProxyType(
    {"md": to_markdown, "csv": to_csv, "tex": to_latex, "html": to_html, "json": to_json}
)
"""The writers of every form except the terminal's."""

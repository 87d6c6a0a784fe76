"""Entries and boards as CSV, JSON, Markdown, HTML and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from cosmos_eval.results.leaderboard.board import MARKS, Board, Column, Row, Shown, boards
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Cell, Rank, Ties, rank_entries
from cosmos_eval.results.text import (
    csv_text,
    difference,
    html_templates,
    json_text,
    latex_text,
    markdown_code,
    markdown_text,
)

_CSV_COLUMNS = (
    *("model", "task", "dataset", "protocol", "metric"),
    *("value", "low", "high", "source", "url"),
    *("best", "tie", "rank_low", "rank_high", "delta"),
)


def to_csv(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    """Every metric, one a line, as a fraction; the protocol is a column.

    `best` is `yes` or empty, `tie` what ties a number with the best (`paired`, `intervals`);
    `rank_low` and `rank_high` are the places that it can have, `delta` percentage points above
    what its authors published.
    """
    listed = sorted(entries, key=lambda entry: entry.key)
    found = rank_entries(listed, ties)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for entry in listed:
        for metric in sorted(entry.metrics):
            standing = found.get(Cell(entry.key, metric), Rank())
            writer.writerow(
                (*_csv_number(entry, metric), *_csv_rank(standing), _csv_delta(entry, metric))
            )
    return out.getvalue()


def _csv_number(entry: Entry, metric: str) -> tuple[object, ...]:
    ends = entry.intervals.get(metric, {})
    where = map(csv_text, (entry.model, entry.task, entry.dataset, entry.protocol, metric))
    value = (entry.metrics[metric], ends.get("low"), ends.get("high"))
    return *where, *value, entry.source, csv_text(entry.url)


def _csv_rank(standing: Rank) -> tuple[object, ...]:
    first, last = standing.ranks or (None, None)
    return "yes" if standing.best else "", standing.tie, first, last


def _csv_delta(entry: Entry, metric: str) -> str:
    if metric not in entry.published:
        return ""
    return difference(entry.metrics[metric], entry.published[metric])


_JSON_KEYS = ("model", "task", "dataset", "protocol", "metrics", "intervals", "source")


def to_json(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    """A list of {model, task, dataset, protocol, metrics, intervals, source}, fractions.

    Where there is something to say, also `url`, `published` (metric -> what the model's authors
    published) and `standings` (metric -> `best`, `tie`, `ranks`).
    """
    listed = sorted(entries, key=lambda entry: entry.key)
    found = rank_entries(listed, ties)
    records = [_json_record(entry, found) for entry in listed]
    return json_text(records, indent=2, sort_keys=True) + "\n"


def _json_record(entry: Entry, found: Mapping[Cell, Rank]) -> dict[str, Any]:
    compared = {
        metric: found[Cell(entry.key, metric)]._asdict()
        for metric in entry.metrics
        if Cell(entry.key, metric) in found
    }
    more = {"url": entry.url, "published": dict(entry.published), "standings": compared}
    fixed = {key: getattr(entry, key) for key in _JSON_KEYS}
    return {**fixed, **{key: value for key, value in more.items() if value}}


def to_markdown(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    """Tables as GitHub's Markdown, best in bold; published numbers link to where they stand."""
    return "\n".join(_markdown_board(board) for board in boards(entries, ties))


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]], texts: int) -> str:
    """A table of cells that are Markdown already; the columns after the first `texts` are numbers.

    Ends with a line break.
    """
    titles = list(header)
    marks = ["---"] * texts + ["--:"] * (len(titles) - texts)
    lines = (f"| {' | '.join(cells)} |\n" for cells in (titles, marks, *rows))
    return "".join(lines)


def _markdown_board(board: Board) -> str:
    texts = ["model", "source"] if board.shows_source else ["model"]
    titles = (f"{markdown_text(c.dataset)} {markdown_text(c.title)}" for c in board.columns)
    rows = (
        [*_markdown_texts(row)[: len(texts)], *map(_markdown_cell, row.cells)] for row in board.rows
    )
    table = markdown_table([*texts, *titles], rows, len(texts))
    notes = "".join(f"- {markdown_text(note)}\n" for note in board.notes)
    return f"### Protocol {markdown_code(board.protocol)} (%)\n\n{table}" + (
        f"\n{notes}" if notes else ""
    )


def _markdown_texts(row: Row) -> list[str]:
    source = f"[{row.source}](<{row.url}>)" if row.url else row.source
    return [markdown_text(row.model), source]


def _markdown_cell(cell: Shown) -> str:
    value = f"**{cell.value}**" if cell.best else f"{cell.value}{cell.mark}"
    details = ", ".join(text for text in (cell.ranks and f"rank {cell.ranks}", cell.delta) if text)
    numbers = f"{value} {cell.interval}".strip()
    return f"{numbers}<br>{details}" if details else numbers


def to_html(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    """A page with a table a board, best in bold; published numbers link to where they stand."""
    listed = [(board, _datasets(board)) for board in boards(entries, ties)]
    page = html_templates("cosmos_eval.results.leaderboard").get_template("page.html")
    return page.render(boards=listed)


def _datasets(board: Board) -> list[tuple[str, int]]:
    """Data sets in the order of the columns, and how many columns each has."""
    groups = groupby(board.columns, key=lambda column: column.dataset)
    return [(dataset, len(list(columns))) for dataset, columns in groups]


_LATEX_MARKS = {"": "", MARKS["paired"]: r"$^\dagger$", MARKS["intervals"]: r"$^\ddagger$"}


def to_latex(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    r"""A `table` a board, best in bold; the document needs `\usepackage{booktabs}`."""
    tables = "\n".join(_latex_table(board) for board in boards(entries, ties))
    return "% needs \\usepackage{booktabs} in the preamble\n" + tables


def _latex_url(url: str) -> str:
    """An address that may be broken after its slashes."""
    return latex_text(url).replace("/", r"/\allowbreak{}")


def _latex_table(board: Board) -> str:
    texts = 2 if board.shows_source else 1
    notes = [latex_text(note) for note in board.notes]
    notes += [f"[{n}] {_latex_url(url)}" for n, url in enumerate(board.urls, start=1)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{Protocol {latex_text(board.protocol)} (\%)}}",
        r"\small",
        rf"\begin{{tabular}}{{{'l' * texts}{'r' * len(board.columns)}}}",
        r"\toprule",
        *_latex_header(board, texts),
        r"\midrule",
        *(_latex_row(row, board) for row in board.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip{{\footnotesize {note}\par}}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_header(board: Board, texts: int) -> Iterator[str]:
    """A line of data sets, each over its metrics, rules under them, and the line of metrics."""
    names, rules, start = [], [], texts + 1
    for dataset, group in groupby(board.columns, key=lambda column: column.dataset):
        width = len(list(group))
        names.append(rf"\multicolumn{{{width}}}{{c}}{{{latex_text(dataset)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    titles = ["model", "source"][:texts] + [_latex_title(column) for column in board.columns]
    yield f"{' & '.join(['' for _ in range(texts)] + names)} \\\\"
    yield "".join(rules)
    yield f"{' & '.join(titles)} \\\\"


def _latex_row(row: Row, board: Board) -> str:
    texts = [latex_text(row.model)]
    if board.shows_source:
        number = f" [{board.urls.index(row.url) + 1}]" if row.url else ""
        texts.append(row.source + number)
    return f"{' & '.join([*texts, *map(_latex_cell, row.cells)])} \\\\"


def _latex_cell(cell: Shown) -> str:
    value = rf"\textbf{{{cell.value}}}" if cell.best else cell.value + _LATEX_MARKS[cell.mark]
    ranks = f"rank {cell.ranks.replace('-', '--')}" if cell.ranks else ""
    delta = f"${cell.delta}$" if cell.delta else ""
    details = (rf"\scriptsize {text}" for text in (cell.interval, ranks, delta) if text)
    return _stacked("t", [value, *details])


def _latex_title(column: Column) -> str:
    """A metric's name with its last word below the others: numbers are narrow."""
    return _stacked("b", [latex_text(words) for words in column.title.rsplit(" ", 1)])


def _stacked(place: str, lines: Sequence[str]) -> str:
    """Lines above each other, flush right; the first (t) or last (b) is level with the table's."""
    if len(lines) == 1:
        return lines[0]
    return rf"\begin{{tabular}}[{place}]{{@{{}}r@{{}}}}" + r" \\ ".join(lines) + r"\end{tabular}"

"""Boards as LaTeX tables with booktabs' rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from cosmos_eval.results.escaping import latex_text
from cosmos_eval.results.leaderboard.board import MARKS, Board, Column, Row, Shown, boards
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Ties

_MARKS = {"": "", MARKS["paired"]: r"$^\dagger$", MARKS["intervals"]: r"$^\ddagger$"}


def to_latex(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    r"""A `table` a board, best in bold; the document needs `\usepackage{booktabs}`."""
    tables = "\n".join(_table(board) for board in boards(entries, ties))
    return "% needs \\usepackage{booktabs} in the preamble\n" + tables


def _url(url: str) -> str:
    """An address that may be broken after its slashes."""
    return latex_text(url).replace("/", r"/\allowbreak{}")


def _table(board: Board) -> str:
    texts = 2 if board.shows_source else 1
    notes = [latex_text(note) for note in board.notes]
    notes += [f"[{n}] {_url(url)}" for n, url in enumerate(board.urls, start=1)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{Protocol {latex_text(board.protocol)} (\%)}}",
        r"\small",
        rf"\begin{{tabular}}{{{'l' * texts}{'r' * len(board.columns)}}}",
        r"\toprule",
        *_header(board, texts),
        r"\midrule",
        *(_row(row, board) for row in board.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip{{\footnotesize {note}\par}}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _header(board: Board, texts: int) -> Iterator[str]:
    """A line of data sets, each over its metrics, rules under them, and the line of metrics."""
    names, rules, start = [], [], texts + 1
    for dataset, group in groupby(board.columns, key=lambda column: column.dataset):
        width = len(list(group))
        names.append(rf"\multicolumn{{{width}}}{{c}}{{{latex_text(dataset)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    titles = ["model", "source"][:texts] + [_title(column) for column in board.columns]
    yield f"{' & '.join(['' for _ in range(texts)] + names)} \\\\"
    yield "".join(rules)
    yield f"{' & '.join(titles)} \\\\"


def _row(row: Row, board: Board) -> str:
    texts = [latex_text(row.model)]
    if board.shows_source:
        number = f" [{board.urls.index(row.url) + 1}]" if row.url else ""
        texts.append(row.source + number)
    return f"{' & '.join([*texts, *map(_cell, row.cells)])} \\\\"


def _cell(cell: Shown) -> str:
    value = rf"\textbf{{{cell.value}}}" if cell.best else cell.value + _MARKS[cell.mark]
    ranks = f"rank {cell.ranks.replace('-', '--')}" if cell.ranks else ""
    delta = f"${cell.delta}$" if cell.delta else ""
    details = (rf"\scriptsize {text}" for text in (cell.interval, ranks, delta) if text)
    return _stacked("t", [value, *details])


def _title(column: Column) -> str:
    """A metric's name with its last word below the others: numbers are narrow."""
    return _stacked("b", [latex_text(words) for words in column.title.rsplit(" ", 1)])


def _stacked(place: str, lines: Sequence[str]) -> str:
    """Lines above each other, flush right; the first (t) or last (b) is level with the table's."""
    if len(lines) == 1:
        return lines[0]
    return rf"\begin{{tabular}}[{place}]{{@{{}}r@{{}}}}" + r" \\ ".join(lines) + r"\end{tabular}"

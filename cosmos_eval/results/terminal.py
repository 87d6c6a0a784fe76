"""Tables for a terminal: no number and no name of a metric is ever cut or broken over lines.

Of the layouts that fit, the first is taken: as the table is; transposed, if its columns may become
rows; every row's name on a line above its numbers; one value per line. A table of numbers that fits
in none is split into parts, each with some of the columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, groupby, product, zip_longest
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval.results.table import Cell, Head, Table, is_number, part_of, transposed
from cosmos_eval.results.text import one_line

if TYPE_CHECKING:
    from rich.text import Text

_GAP = 2  # spaces between columns
_TITLE = 10  # characters of a title above numbers that is rather not broken
_NAME = 24  # characters of a name of a row that is never broken
_WORD = 40  # characters of a word that is never broken, in columns of texts
_PIECES = re.compile(
    r"(?<= )(?=[^ ])|(?<=[,/])(?=[A-Za-z_.])|(?<=:)(?=[A-Za-z/])|(?<=-)(?=[A-Za-z])"
)
Spans = list[tuple[str, str]]
"""Texts of one line with their styles."""


class _Column(NamedTuple):
    """A column before it is set: the words of its title, its cells, its least and full width."""

    group: str
    title: str
    cells: list[Spans]
    number: bool
    least: int
    full: int


def to_terminal(table: Table, width: int, *, can_turn: bool = True) -> list[Text]:
    """Return a table as texts at most `width` characters wide, one per part, without its notes. One
    that cannot turn, of columns of several kinds, may have one value per line."""
    shown = _clean(table)
    if not shown.rows:
        return [_text([[(f"{shown.title}: none", "italic")]])]
    forms = [(shown, False)]
    if can_turn and not shown.sections:
        forms.append((transposed(shown), False))
    forms += [(form, True) for form, _ in forms if form.texts < len(form.heads)]
    laid = [(form, stacked, _columns(form, stacked=stacked)) for form, stacked in forms]
    # Rather transposed than with names of rows that are broken over lines.
    for is_whole, (form, stacked, columns) in product((True, False), laid):
        if not (stacked and is_whole) and _width(columns, is_whole) <= width:
            return [_draw(form, width, stacked)]
    if not can_turn:
        return [_listed(shown, width)]
    several = (_split(form, width) for form, stacked, _ in laid if not stacked)
    return min(several, key=lambda texts: sum(text.plain.count("\n") + 2 for text in texts))


def _clean(table: Table) -> Table:
    """Return a table of texts that a terminal only shows."""
    rows = tuple(tuple(cell._replace(text=one_line(cell.text)) for cell in r) for r in table.rows)
    heads = tuple(Head(*map(one_line, head)) for head in table.heads)
    sections, title = tuple(map(one_line, table.sections)), one_line(table.title)
    return table._replace(title=title, heads=heads, rows=rows, sections=sections)


def _columns(table: Table, *, stacked: bool) -> list[_Column]:
    """Return the columns of a table; of a stacked one without the names of rows."""
    columns = []
    for index, head in enumerate(table.heads):
        cells = [row[index] for row in table.rows]
        number = index >= table.texts and is_number(cell.text for cell in cells)
        if index >= table.texts or not stacked:
            is_name = index == 0 and bool(table.sections)
            column = _column(head, cells, number, "  " if is_name else "")
            is_short = index < table.texts and column.full <= _NAME
            columns.append(column._replace(least=column.full) if is_short else column)
    return [column for _, own in _runs(columns) for column in _widened(own)]


def _runs(columns: Sequence[_Column]) -> list[tuple[str, list[_Column]]]:
    """Return consecutive columns by their groups."""
    return [(group, list(own)) for group, own in groupby(columns, key=lambda c: c.group)]


def _widened(columns: list[_Column]) -> list[_Column]:
    """Widen the last column of a group so that the group's name fits above its columns."""
    *first, last = columns
    gaps = _GAP * len(first)
    least = max(map(_size, _pieces(last.group))) - gaps - sum(c.least for c in first)
    full = _size(last.group) - gaps - sum(c.full for c in first)
    return [*first, last._replace(least=max(last.least, least), full=max(last.full, least, full))]


def _column(head: Head, cells: Sequence[Cell], number: bool, indent: str) -> _Column:
    sizes = [max(map(len, texts)) for texts in zip(*map(_texts, cells), strict=True)]
    spans = [[(indent, ""), *_spans(cell, sizes if number else [0] * len(sizes))] for cell in cells]
    widths = [_length(line) for line in spans]
    title = max(map(_size, _pieces(head.title)))
    texts = chain.from_iterable(_pieces(cell.text) for cell in cells)
    least = max(widths) if number else len(indent) + min(_WORD, max(map(_size, texts)))
    is_long = number and len(head.title) > _TITLE
    full = max(*widths, *map(_size, head.title.split(" ") if is_long else [head.title]))
    return _Column(head.group, head.title, spans, number, max(least, title), max(full, title))


def _texts(cell: Cell) -> tuple[str, ...]:
    return cell.text, cell.mark, cell.interval and f" {cell.interval}", _details(cell)


def _details(cell: Cell) -> str:
    return "".join(f" {detail}" for detail in cell.details)


def _spans(cell: Cell, sizes: Sequence[int]) -> Spans:
    """Return a cell's texts with styles; its number, mark, interval and details have sizes, by
    which those of a column are below each other."""
    style = "bold green" if cell.best else "underline" if cell.second else ""
    name, mark, interval, details = _texts(cell)
    pad = (" " * (sizes[0] - len(name)), "")
    rest = f"{mark:<{sizes[1]}}{interval:<{sizes[2]}}{details:<{sizes[3]}}"
    return [pad, (name, style), (rest, "")]


def _size(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text.strip())


def _length(spans: Spans) -> int:
    from rich.cells import cell_len

    return sum(cell_len(text) for text, _ in spans)


def _pieces(text: str) -> list[str]:
    """Split a text where a line may end."""
    return _PIECES.split(text)


def _width(columns: Sequence[_Column], is_whole: bool = False) -> int:
    """Return the least width of columns, with `is_whole` texts in one line."""
    sizes = (c.full if is_whole and not c.number else c.least for c in columns)
    return sum(sizes) + _GAP * (len(columns) - 1)


def _split(table: Table, width: int) -> list[Text]:
    parts = list(_parts(table, width))
    return [
        _draw(part._replace(title=f"{part.title}, part {number} of {len(parts)}"), width)
        for number, part in enumerate(parts, start=1)
    ]


def _parts(table: Table, width: int) -> Iterator[Table]:
    """Split columns of values into parts that fit beside the names, at least one at a time."""
    start = table.texts
    count = len(table.heads)
    for stop in range(start + 1, count + 1):
        more = range(start, stop + 1)
        if stop == count or _width(_columns(part_of(table, more), stacked=False)) > width:
            yield part_of(table, range(start, stop))
            start = stop


def _draw(table: Table, width: int, stacked: bool = False) -> Text:
    columns = _columns(table, stacked=stacked)
    widths = _widths(columns, width)
    line = partial(_lines, columns, widths)
    drawn: list[Spans] = [[(table.title, "italic")]] if table.title else []
    drawn += _groups(columns, widths)
    drawn += line([_wrap(c.title, w) for c, w in zip(columns, widths, strict=True)], "bold")
    drawn.append([("─" * (sum(widths) + _GAP * (len(widths) - 1)), "dim")])
    section = ""
    for index, row in enumerate(table.rows):
        if table.sections and table.sections[index] != section:
            section = table.sections[index]
            drawn += [[(text, "bold")] for text in _wrap(section, width)]
        if stacked:
            name = ", ".join(filter(None, (cell.text for cell in row[: table.texts])))
            indent = "  " if table.sections else ""
            drawn += [[(indent + text, "")] for text in _wrap(name, width - len(indent))]
        cells = [column.cells[index] for column in columns]
        drawn += line([_folded(*pair) for pair in zip(cells, widths, strict=True)])
    return _text(drawn)


def _groups(columns: Sequence[_Column], widths: Sequence[int]) -> Iterator[Spans]:
    """Yield the names of groups, each centred above its columns."""
    runs, left = _runs(columns), iter(widths)
    sizes = [sum(next(left) + _GAP for _ in own) - _GAP for _, own in runs]
    names = [_wrap(name, size) for (name, _), size in zip(runs, sizes, strict=True)]
    height = max(map(len, names)) if any(name for name, _ in runs) else 0
    for index in range(-height, 0):
        lines = (name[index] if len(name) >= -index else "" for name in names)
        centred = (f"{line:^{size}}" for line, size in zip(lines, sizes, strict=True))
        yield [((" " * _GAP).join(centred), "bold")]


def _widths(columns: Sequence[_Column], width: int) -> list[int]:
    """Widen columns that would break texts by equal shares of the room that is left."""
    widths = [column.least for column in columns]
    left = max(0, width - _width(columns))
    order = sorted(range(len(columns)), key=lambda index: columns[index].full - widths[index])
    for number, index in enumerate(order):
        more = min(left // (len(order) - number), columns[index].full - widths[index])
        widths[index] += more
        left -= more
    return widths


def _lines(
    columns: Sequence[_Column], widths: Sequence[int], cells: Sequence[Sequence], style: str = ""
) -> Iterator[Spans]:
    """Yield the lines of cells, which are texts or spans; titles stand at the bottom."""
    height = max(map(len, cells))
    if style:
        cells = [[""] * (height - len(cell)) + [*cell] for cell in cells]
    for line in zip_longest(*cells, fillvalue=""):
        spans: Spans = []
        for column, width, part in zip(columns, widths, line, strict=True):
            own = [(part, style)] if isinstance(part, str) else part
            pad = (" " * max(0, width - _length(own)), "")
            spans += [*([pad, *own] if column.number else [*own, pad]), (" " * _GAP, "")]
        yield spans


def _folded(spans: Spans, width: int) -> list[Spans]:
    """Break a text over lines; numbers with marks and styles are never too long."""
    if _length(spans) <= width:
        return [spans]
    indent, name = spans[0][0], "".join(text for text, _ in spans[1:])
    style = spans[2][1]
    return [[(indent + part, style)] for part in _wrap(name, width - len(indent))]


def _wrap(text: str, width: int) -> list[str]:
    """Break a text into lines at spaces, words longer than a line at separators, and what is still
    longer anywhere."""
    lines, current = [], ""
    words = re.findall(r"\S*\s*", text)
    pieces = (_pieces(word) if _size(word) > width else [word] for word in words)
    for piece in chain.from_iterable(pieces):
        if _size(current + piece) > width and current:
            lines.append(current.rstrip())
            current = ""
        current += piece
        while _size(current) > width:
            cut = next(n for n in range(len(current), 0, -1) if _size(current[:n]) <= width)
            lines.append(current[:cut])
            current = current[cut:]
    return [*lines, current.rstrip()]


def _listed(table: Table, width: int) -> Text:
    """Draw a row as lines of a title and a value."""
    titles = [head.title for head in table.heads]
    indent = max(map(_size, titles)) + _GAP
    drawn: list[Spans] = []
    for index, row in enumerate(table.rows):
        drawn += [[("", "")]] if index else []
        if table.sections:
            drawn += [[(line, "bold")] for line in _wrap(table.sections[index], width)]
        for title, cell in zip(titles, row, strict=True):
            lines = _wrap(cell.plain, max(8, width - indent)) if cell.plain else []
            for first, line in enumerate(lines):
                name = "" if first else title
                drawn.append([(name + " " * (indent - _size(name)), "bold"), (line, "")])
    return _text(drawn)


def _text(lines: Iterable[Spans]) -> Text:
    from rich.text import Text

    texts = (Text.assemble(*line) for line in lines)
    return Text("\n").join(_stripped(one) for one in texts)


def _stripped(text: Text) -> Text:
    text.rstrip()
    return text


def notes_text(notes: Iterable[str], width: int) -> Text:
    """Return notes below tables, each once."""
    from rich.text import Text

    lines = (line for note in dict.fromkeys(notes) for line in _wrap(one_line(note), width))
    return Text("\n".join(lines))

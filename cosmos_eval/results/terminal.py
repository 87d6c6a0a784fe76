"""Tables for a terminal: no number and no name of a metric is ever cut or broken over lines.

The first layout that fits is taken: the table as it is; transposed, if its columns may become rows;
every row's name on a line above its numbers; one value per line. A table of numbers that fits
in none is split into parts, each with some of the columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval.results.table import Cell, Head, Table, is_number, transposed, with_columns
from cosmos_eval.results.text import one_line

if TYPE_CHECKING:
    from rich.text import Text

_GAP = 2  # spaces between columns
_TITLE = 10  # characters of a title above numbers that is rather not broken
_NAME = 24  # characters of a name of a row that is never broken
_WORD = 40  # characters of a word that is never broken, in columns of texts
_VALUE = 8  # characters that are left for a value beside its title, at least
_PIECES = re.compile(
    r"(?<= )(?=[^ ])|(?<=[,/])(?=[A-Za-z_.])|(?<=:)(?=[A-Za-z/])|(?<=-)(?=[A-Za-z])"
)
Spans = list[tuple[str, str]]
"""Texts of one line with their styles."""


class _Column(NamedTuple):
    """A column before it has a width."""

    group: str
    title: str
    cells: list[Spans]
    # Whether it holds numbers, which are set right and never broken.
    number: bool
    # The least width, for which texts are broken over lines.
    least: int
    # The width in which no text is broken.
    full: int


class _Layout(NamedTuple):
    """A way to draw a table; `stacked` has every row's name on a line above its numbers."""

    table: Table
    stacked: bool
    columns: list[_Column]

    def width(self, *, is_whole: bool) -> int:
        """Return the least width; with `is_whole` no text is broken over lines."""
        return _width(self.columns, is_whole=is_whole)


def to_terminal(table: Table, width: int, *, can_turn: bool = True) -> list[Text]:
    """Return a table as texts at most `width` characters wide, one per part, without its notes.

    A table whose columns have several kinds cannot turn: it is not transposed and not split, but
    may have one value per line.
    """
    table = _clean(table)
    if not table.rows:
        return [_text([[(f"{table.title}: none", "italic")]])]
    layouts = _layouts(table, can_turn=can_turn)
    # Rather transposed than with names of rows that are broken over lines.
    for layout in layouts:
        if not layout.stacked and layout.width(is_whole=True) <= width:
            return [_draw(layout, width)]
    for layout in layouts:
        if layout.width(is_whole=False) <= width:
            return [_draw(layout, width)]
    if not can_turn:
        return [_listed(table, width)]
    splits = [_split(layout.table, width) for layout in layouts if not layout.stacked]
    return min(splits, key=_number_of_lines)


def _number_of_lines(texts: Iterable[Text]) -> int:
    return sum(text.plain.count("\n") + 2 for text in texts)


def _layouts(table: Table, *, can_turn: bool) -> list[_Layout]:
    """Return the layouts of a table, the best first."""
    tables = [table]
    if can_turn and not table.sections:
        tables.append(transposed(table))
    layouts = [_Layout(form, False, _columns(form, stacked=False)) for form in tables]
    for form in tables:
        if form.n_text_columns < len(form.heads):
            layouts.append(_Layout(form, True, _columns(form, stacked=True)))
    return layouts


def _clean(table: Table) -> Table:
    """Return a table whose texts are on one line and free of control characters."""
    rows = []
    for row in table.rows:
        rows.append(tuple(cell._replace(text=one_line(cell.text)) for cell in row))
    return table._replace(
        title=one_line(table.title),
        heads=tuple(Head(one_line(head.title), one_line(head.group)) for head in table.heads),
        rows=tuple(rows),
        sections=tuple(one_line(section) for section in table.sections),
    )


def _columns(table: Table, *, stacked: bool) -> list[_Column]:
    """Return the columns of a table; of a stacked one without the names of rows."""
    columns = []
    for index, head in enumerate(table.heads):
        is_name = index < table.n_text_columns
        if is_name and stacked:
            continue
        cells = [row[index] for row in table.rows]
        if is_name:
            indent = "  " if index == 0 and table.sections else ""
            columns.append(_name_column(head, cells, indent))
        elif is_number(cell.text for cell in cells):
            columns.append(_number_column(head, cells))
        else:
            columns.append(_text_column(head, cells))
    widened_columns = []
    for _, group_columns in _by_group(columns):
        widened_columns += _widened(group_columns)
    return widened_columns


def _by_group(columns: Sequence[_Column]) -> list[tuple[str, list[_Column]]]:
    """Return consecutive columns by their groups."""
    return [(group, list(run)) for group, run in groupby(columns, key=lambda column: column.group)]


def _widened(columns: list[_Column]) -> list[_Column]:
    """Widen the last column of a group so that the group's name fits above its columns."""
    *other_columns, last = columns
    gaps = _GAP * len(other_columns)
    least = _longest(_pieces(last.group)) - gaps - sum(column.least for column in other_columns)
    full = _size(last.group) - gaps - sum(column.full for column in other_columns)
    least, full = max(last.least, least), max(last.full, least, full)
    return [*other_columns, last._replace(least=least, full=full)]


def _name_column(head: Head, cells: Sequence[Cell], indent: str) -> _Column:
    """Return a column of names of rows, of which short ones are never broken."""
    column = _text_column(head, cells, indent)
    return column._replace(least=column.full) if column.full <= _NAME else column


def _number_column(head: Head, cells: Sequence[Cell]) -> _Column:
    """Return a column of numbers, whose marks and intervals are aligned below each other."""
    words_of_cells = [_words(cell) for cell in cells]
    sizes = [max(len(words[index]) for words in words_of_cells) for index in range(4)]
    lines = [_spans(cell, sizes) for cell in cells]
    longest = max(_length(line) for line in lines)
    least = max(longest, _longest(_pieces(head.title)))
    title_lines = head.title.split(" ") if len(head.title) > _TITLE else [head.title]
    full = max(longest, _longest(title_lines))
    return _Column(head.group, head.title, lines, True, least, full)


def _text_column(head: Head, cells: Sequence[Cell], indent: str = "") -> _Column:
    """Return a column of texts, with `indent` before each of them."""
    lines = [[(indent, ""), *_spans(cell, [0, 0, 0, 0])] for cell in cells]
    longest_word = max(_longest(_pieces(cell.text)) for cell in cells)
    least = max(len(indent) + min(_WORD, longest_word), _longest(_pieces(head.title)))
    full = max(_size(head.title), *(_length(line) for line in lines))
    return _Column(head.group, head.title, lines, False, least, full)


def _words(cell: Cell) -> tuple[str, str, str, str]:
    """Return the number or name of a cell, its mark, its interval and its details."""
    interval = f" {cell.interval}" if cell.interval else ""
    details = "".join(f" {detail}" for detail in cell.details)
    return cell.text, cell.mark, interval, details


def _spans(cell: Cell, sizes: Sequence[int]) -> Spans:
    """Return a cell's texts with styles.

    `sizes` are the widths of the number, mark, interval and details in the column, by which they
    are aligned below each other.
    """
    style = ""
    if cell.best:
        style = "bold green"
    elif cell.second:
        style = "underline"
    name, mark, interval, details = _words(cell)
    pad = " " * (sizes[0] - len(name))
    behind = f"{mark:<{sizes[1]}}{interval:<{sizes[2]}}{details:<{sizes[3]}}"
    return [(pad, ""), (name, style), (behind, "")]


def _size(text: str) -> int:
    """Return the width of a text without the spaces around it."""
    from rich.cells import cell_len

    return cell_len(text.strip())


def _longest(texts: Iterable[str]) -> int:
    """Return the width of the widest text, without the spaces around it."""
    return max(_size(text) for text in texts)


def _length(spans: Spans) -> int:
    """Return the width of a line, with all spaces."""
    from rich.cells import cell_len

    return sum(cell_len(text) for text, _ in spans)


def _pieces(text: str) -> list[str]:
    """Split a text where a line may end."""
    return _PIECES.split(text)


def _width(columns: Sequence[_Column], *, is_whole: bool = False) -> int:
    """Return the least width of columns; with `is_whole` no text is broken over lines."""
    width = _GAP * (len(columns) - 1)
    for column in columns:
        width += column.full if is_whole and not column.number else column.least
    return width


def _split(table: Table, width: int) -> list[Text]:
    """Draw a table in parts, each with some of the columns of values beside the names."""
    tables = list(_narrow_tables(table, width))
    texts = []
    for number, narrow_table in enumerate(tables, start=1):
        title = f"{table.title}, part {number} of {len(tables)}"
        titled_table = narrow_table._replace(title=title)
        columns = _columns(titled_table, stacked=False)
        texts.append(_draw(_Layout(titled_table, False, columns), width))
    return texts


def _narrow_tables(table: Table, width: int) -> Iterator[Table]:
    """Yield tables of as many columns of values as fit beside the names, at least one each."""
    start = table.n_text_columns
    n_columns = len(table.heads)
    for stop in range(start + 1, n_columns + 1):
        is_last = stop == n_columns
        if not is_last:
            one_more = with_columns(table, range(start, stop + 1))
            is_last = _width(_columns(one_more, stacked=False)) > width
        if is_last:
            yield with_columns(table, range(start, stop))
            start = stop


def _draw(layout: _Layout, width: int) -> Text:
    """Return a table as text: its title, the titles of groups and columns, a rule, and the rows."""
    table, columns = layout.table, layout.columns
    widths = _widths(columns, width)
    lines: list[Spans] = [[(table.title, "italic")]] if table.title else []
    lines += _group_lines(columns, widths)
    titles = [_wrap(column.title, size) for column, size in zip(columns, widths, strict=True)]
    lines += _title_lines(columns, widths, titles)
    lines.append([("─" * (sum(widths) + _GAP * (len(widths) - 1)), "dim")])
    section = ""
    for index, row in enumerate(table.rows):
        if table.sections and table.sections[index] != section:
            section = table.sections[index]
            lines += [[(line, "bold")] for line in _wrap(section, width)]
        if layout.stacked:
            names = [cell.text for cell in row[: table.n_text_columns] if cell.text]
            indent = "  " if table.sections else ""
            for line in _wrap(", ".join(names), width - len(indent)):
                lines.append([(indent + line, "")])
        cells = []
        for column, size in zip(columns, widths, strict=True):
            cells.append(_folded(column.cells[index], size))
        lines += _row_lines(columns, widths, cells)
    return _text(lines)


def _group_lines(columns: Sequence[_Column], widths: Sequence[int]) -> Iterator[Spans]:
    """Yield the lines of the names of groups, each centred above its columns."""
    names: list[list[str]] = []
    sizes = []
    start = 0
    for name, group_columns in _by_group(columns):
        stop = start + len(group_columns)
        size = sum(widths[start:stop]) + _GAP * (len(group_columns) - 1)
        names.append(_wrap(name, size))
        sizes.append(size)
        start = stop
    if not any(column.group for column in columns):
        return
    height = max(len(lines) for lines in names)
    for index in range(height):
        centred = []
        for lines, size in zip(names, sizes, strict=True):
            padded_lines = [""] * (height - len(lines)) + lines
            centred.append(f"{padded_lines[index]:^{size}}")
        yield [((" " * _GAP).join(centred), "bold")]


def _widths(columns: Sequence[_Column], width: int) -> list[int]:
    """Return the widths of columns: the least ones, and equal shares of the remaining room for
    columns that would otherwise break texts."""
    widths = [column.least for column in columns]
    room = max(0, width - _width(columns))
    order = sorted(range(len(columns)), key=lambda index: columns[index].full - widths[index])
    for number, index in enumerate(order):
        share = room // (len(order) - number)
        more = min(share, columns[index].full - widths[index])
        widths[index] += more
        room -= more
    return widths


def _title_lines(
    columns: Sequence[_Column], widths: Sequence[int], titles: Sequence[list[str]]
) -> Iterator[Spans]:
    """Yield the lines of the titles of columns, which stand at the bottom."""
    height = max(len(lines) for lines in titles)
    cells: list[list[Spans]] = []
    for lines in titles:
        padded_lines = [""] * (height - len(lines)) + lines
        cells.append([[(line, "bold")] for line in padded_lines])
    yield from _row_lines(columns, widths, cells)


def _row_lines(
    columns: Sequence[_Column], widths: Sequence[int], cells: Sequence[list[Spans]]
) -> Iterator[Spans]:
    """Yield the lines of a row, of which each cell has one or several."""
    empty: Spans = [("", "")]
    for cell_lines in zip_longest(*cells, fillvalue=empty):
        line: Spans = []
        for column, width, spans in zip(columns, widths, cell_lines, strict=True):
            pad = (" " * max(0, width - _length(spans)), "")
            line += [pad, *spans] if column.number else [*spans, pad]
            line.append((" " * _GAP, ""))
        yield line


def _folded(spans: Spans, width: int) -> list[Spans]:
    """Break a text over lines; numbers with marks and styles are never too long."""
    if _length(spans) <= width:
        return [spans]
    indent, name = spans[0][0], "".join(text for text, _ in spans[1:])
    style = spans[2][1]
    return [[(indent + line, style)] for line in _wrap(name, width - len(indent))]


def _wrap(text: str, width: int) -> list[str]:
    """Break a text into lines.

    Lines end at spaces. A word longer than a line is broken at separators, and a piece of it that
    is still longer is broken anywhere.
    """
    pieces: list[str] = []
    for word in re.findall(r"\S*\s*", text):
        pieces += _pieces(word) if _size(word) > width else [word]
    lines, current = [], ""
    for piece in pieces:
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
    """Draw every row as lines of a title and a value."""
    titles = [head.title for head in table.heads]
    indent = max(_size(title) for title in titles) + _GAP
    lines: list[Spans] = []
    for index, row in enumerate(table.rows):
        if index > 0:
            lines.append([("", "")])
        if table.sections:
            lines += [[(line, "bold")] for line in _wrap(table.sections[index], width)]
        for title, cell in zip(titles, row, strict=True):
            if not cell.plain:
                continue
            name = title
            for line in _wrap(cell.plain, max(_VALUE, width - indent)):
                lines.append([(name + " " * (indent - _size(name)), "bold"), (line, "")])
                name = ""  # of the lines after the first
    return _text(lines)


def _text(lines: Iterable[Spans]) -> Text:
    """Return lines as a text without spaces at their ends."""
    from rich.text import Text

    texts = []
    for line in lines:
        text = Text.assemble(*line)
        text.rstrip()
        texts.append(text)
    return Text("\n").join(texts)


def notes_text(notes: Iterable[str], width: int) -> Text:
    """Return notes below tables, each once."""
    from rich.text import Text

    lines = []
    for note in dict.fromkeys(notes):
        lines += _wrap(one_line(note), width)
    return Text("\n".join(lines))

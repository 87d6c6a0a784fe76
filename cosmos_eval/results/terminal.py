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
_SHORT_TITLE = 10  # titles above numbers of up to this many characters are rather not broken
_SHORT_NAME = 24  # names of rows of up to this many characters are never broken
_SHORT_WORD = 40  # words of up to this many characters are never broken, in columns of texts
_LEAST_VALUE_WIDTH = 8  # characters for a value beside its title
# A line may end after a space, and between a separator and the letter after it.
_LINE_END = re.compile(
    r"(?<= )(?=[^ ])|(?<=[,/])(?=[A-Za-z_.])|(?<=:)(?=[A-Za-z/])|(?<=-)(?=[A-Za-z])"
)
Spans = list[tuple[str, str]]
"""The pieces of a line, each a text and its style, such as `("67.1", "bold green")`."""


class _Column(NamedTuple):
    """A column before it has a width. Widths are in characters."""

    group: str
    title: str
    cells: list[Spans]
    # Whether it is a column of numbers, which are set right and never broken over lines.
    is_numeric: bool
    # The least width that the column can have, with texts broken over lines.
    least_width: int
    # The width in which no text is broken.
    full_width: int


class _Layout(NamedTuple):
    """A way to draw a table."""

    table: Table
    # Whether the name of every row is on a line of its own above the numbers.
    is_stacked: bool
    columns: list[_Column]

    def width(self, *, is_whole: bool) -> int:
        """Return the least width; with `is_whole` no text is broken over lines."""
        return _table_width(self.columns, is_whole=is_whole)


def to_terminal(table: Table, width: int, *, can_turn: bool = True) -> list[Text]:
    """Return a table as texts at most `width` characters wide, one per part, without its notes.

    With `can_turn` the table may be transposed or split into parts. A table whose columns have
    different kinds of values cannot: if it is too wide, it has one value per line instead.
    """
    table = _on_one_line(table)
    if not table.rows:
        return [_joined_lines([[(f"{table.title}: none", "italic")]])]
    layouts = _layouts(table, can_turn=can_turn)
    # A transposed table is better than one in which names of rows are broken over lines.
    for layout in layouts:
        if not layout.is_stacked and layout.width(is_whole=True) <= width:
            return [_draw(layout, width)]
    for layout in layouts:
        if layout.width(is_whole=False) <= width:
            return [_draw(layout, width)]
    if not can_turn:
        return [_draw_as_list(table, width)]
    splits = [_draw_in_parts(layout.table, width) for layout in layouts if not layout.is_stacked]
    return min(splits, key=_number_of_lines)


def _number_of_lines(texts: Iterable[Text]) -> int:
    """Return the number of lines of texts, with a blank line after each text."""
    return sum(text.plain.count("\n") + 2 for text in texts)


def _layouts(table: Table, *, can_turn: bool) -> list[_Layout]:
    """Return the layouts of a table, the best first.

    They are the table itself, the transposed table, and both of them stacked. With `can_turn`
    false, or if the rows have sections, the table is not transposed.
    """
    tables = [table]
    if can_turn and not table.sections:
        tables.append(transposed(table))
    layouts = []
    for layout_table in tables:
        layouts.append(_Layout(layout_table, False, _columns(layout_table, is_stacked=False)))
    for layout_table in tables:
        if layout_table.n_text_columns < len(layout_table.heads):
            layouts.append(_Layout(layout_table, True, _columns(layout_table, is_stacked=True)))
    return layouts


def _on_one_line(table: Table) -> Table:
    """Return a table in which every text is on one line and has no control characters."""
    rows = []
    for row in table.rows:
        rows.append(tuple(cell._replace(text=one_line(cell.text)) for cell in row))
    return table._replace(
        title=one_line(table.title),
        heads=tuple(Head(one_line(head.title), one_line(head.group)) for head in table.heads),
        rows=tuple(rows),
        sections=tuple(one_line(section) for section in table.sections),
    )


def _columns(table: Table, *, is_stacked: bool) -> list[_Column]:
    """Return the columns of a table. A stacked table has no columns for the names of rows."""
    columns = []
    for index, head in enumerate(table.heads):
        is_name = index < table.n_text_columns
        if is_name and is_stacked:
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
    """Return the groups of consecutive columns, from left to right, with their names."""
    return [(group, list(run)) for group, run in groupby(columns, key=lambda column: column.group)]


def _widened(columns: list[_Column]) -> list[_Column]:
    """Widen the last column of a group if the group's name does not fit above its columns."""
    *other_columns, last = columns
    gaps = _GAP * len(other_columns)
    # The width that the last column needs for the name, broken over lines or not.
    least_width = _widest(_split_at_line_ends(last.group)) - gaps
    full_width = _text_width(last.group) - gaps
    for column in other_columns:
        least_width -= column.least_width
        full_width -= column.full_width
    least_width = max(last.least_width, least_width)
    full_width = max(last.full_width, least_width, full_width)
    return [*other_columns, last._replace(least_width=least_width, full_width=full_width)]


def _name_column(head: Head, cells: Sequence[Cell], indent: str) -> _Column:
    """Return a column of names of rows. Short names are never broken over lines."""
    column = _text_column(head, cells, indent)
    if column.full_width <= _SHORT_NAME:
        return column._replace(least_width=column.full_width)
    return column


def _number_column(head: Head, cells: Sequence[Cell]) -> _Column:
    """Return a column of numbers, whose marks and intervals are aligned below each other."""
    words_of_cells = [_cell_words(cell) for cell in cells]
    # The width of the numbers, marks, intervals and details.
    word_widths = [max(len(word) for word in words) for words in zip(*words_of_cells, strict=True)]
    lines = [_spans(cell, word_widths) for cell in cells]
    cell_width = max(_line_width(line) for line in lines)
    title_lines = head.title.split(" ") if len(head.title) > _SHORT_TITLE else [head.title]
    return _Column(
        group=head.group,
        title=head.title,
        cells=lines,
        is_numeric=True,
        least_width=max(cell_width, _widest(_split_at_line_ends(head.title))),
        full_width=max(cell_width, _widest(title_lines)),
    )


def _text_column(head: Head, cells: Sequence[Cell], indent: str = "") -> _Column:
    """Return a column of texts, with `indent` before each of them."""
    lines = [[(indent, ""), *_spans(cell, [0, 0, 0, 0])] for cell in cells]
    longest_word = max(_widest(_split_at_line_ends(cell.text)) for cell in cells)
    word_width = len(indent) + min(_SHORT_WORD, longest_word)
    return _Column(
        group=head.group,
        title=head.title,
        cells=lines,
        is_numeric=False,
        least_width=max(word_width, _widest(_split_at_line_ends(head.title))),
        full_width=max(_text_width(head.title), *(_line_width(line) for line in lines)),
    )


def _cell_words(cell: Cell) -> tuple[str, str, str, str]:
    """Return the number or name of a cell, its mark, its interval and its details."""
    interval = f" {cell.interval}" if cell.interval else ""
    details = "".join(f" {detail}" for detail in cell.details)
    return cell.text, cell.mark, interval, details


def _spans(cell: Cell, widths: Sequence[int]) -> Spans:
    """Return the number or text of a cell, with its style, and what follows it.

    `widths` are the widths of the number, mark, interval and details in the column. Spaces fill
    them up, so numbers are aligned to the right and the other three to the left.
    """
    style = ""
    if cell.best:
        style = "bold green"
    elif cell.second:
        style = "underline"
    text_width, mark_width, interval_width, details_width = widths
    text, mark, interval, details = _cell_words(cell)
    padding = " " * (text_width - len(text))
    behind = f"{mark:<{mark_width}}{interval:<{interval_width}}{details:<{details_width}}"
    return [(padding, ""), (text, style), (behind, "")]


def _text_width(text: str) -> int:
    """Return the width of a text without the spaces around it."""
    from rich.cells import cell_len

    return cell_len(text.strip())


def _widest(texts: Iterable[str]) -> int:
    """Return the width of the widest text, without the spaces around it."""
    return max(_text_width(text) for text in texts)


def _line_width(spans: Spans) -> int:
    """Return the width of a line, with all spaces."""
    from rich.cells import cell_len

    return sum(cell_len(text) for text, _ in spans)


def _split_at_line_ends(text: str) -> list[str]:
    """Split a text at every place where a line may end: "openclip:ViT" -> ["openclip:", "ViT"]."""
    return _LINE_END.split(text)


def _table_width(columns: Sequence[_Column], *, is_whole: bool = False) -> int:
    """Return the least width of columns; with `is_whole` no text is broken over lines."""
    width = _GAP * (len(columns) - 1)
    for column in columns:
        width += column.full_width if is_whole and not column.is_numeric else column.least_width
    return width


def _draw_in_parts(table: Table, width: int) -> list[Text]:
    """Draw a table in parts, each with the names of rows and some of the columns of values."""
    tables = list(_narrow_tables(table, width))
    texts = []
    for number, narrow_table in enumerate(tables, start=1):
        title = f"{table.title}, part {number} of {len(tables)}"
        titled_table = narrow_table._replace(title=title)
        columns = _columns(titled_table, is_stacked=False)
        texts.append(_draw(_Layout(titled_table, False, columns), width))
    return texts


def _narrow_tables(table: Table, width: int) -> Iterator[Table]:
    """Yield tables of as many columns of values as fit beside the names, at least one each."""
    start = table.n_text_columns
    n_columns = len(table.heads)
    for stop in range(start + 1, n_columns + 1):
        is_full = stop == n_columns
        if not is_full:
            wider_table = with_columns(table, range(start, stop + 1))
            is_full = _table_width(_columns(wider_table, is_stacked=False)) > width
        if is_full:
            yield with_columns(table, range(start, stop))
            start = stop


def _draw(layout: _Layout, width: int) -> Text:
    """Return a table as text: its title, the titles of groups and columns, a rule, and the rows."""
    table, columns = layout.table, layout.columns
    widths = _column_widths(columns, width)
    lines: list[Spans] = []
    if table.title:
        lines.append([(table.title, "italic")])
    lines += _group_lines(columns, widths)
    lines += _title_lines(columns, widths)
    rule_width = sum(widths) + _GAP * (len(widths) - 1)
    lines.append([("─" * rule_width, "dim")])
    section = ""
    for index, row in enumerate(table.rows):
        if table.sections and table.sections[index] != section:
            section = table.sections[index]
            lines += [[(line, "bold")] for line in _wrap(section, width)]
        if layout.is_stacked:
            lines += _stacked_name(table, row, width)
        cells = []
        for column, column_width in zip(columns, widths, strict=True):
            cells.append(_broken_cell(column.cells[index], column_width))
        lines += _row_lines(columns, widths, cells)
    return _joined_lines(lines)


def _stacked_name(table: Table, row: Sequence[Cell], width: int) -> Iterator[Spans]:
    """Yield the lines with the name of a row, which stand above its numbers."""
    names = [cell.text for cell in row[: table.n_text_columns] if cell.text]
    indent = "  " if table.sections else ""
    for line in _wrap(", ".join(names), width - len(indent)):
        yield [(indent + line, "")]


def _group_lines(columns: Sequence[_Column], widths: Sequence[int]) -> Iterator[Spans]:
    """Yield the lines of the names of groups, each centred above its columns.

    Yields nothing if no column has a group.
    """
    if not any(column.group for column in columns):
        return
    names: list[list[str]] = []  # the lines of each name
    group_widths = []
    start = 0
    for name, group_columns in _by_group(columns):
        stop = start + len(group_columns)
        group_width = sum(widths[start:stop]) + _GAP * (len(group_columns) - 1)
        names.append(_wrap(name, group_width))
        group_widths.append(group_width)
        start = stop
    for name_lines in zip(*_with_equal_heights(names), strict=True):
        centred = []
        for line, group_width in zip(name_lines, group_widths, strict=True):
            centred.append(f"{line:^{group_width}}")
        yield [((" " * _GAP).join(centred), "bold")]


def _with_equal_heights(texts: Sequence[list[str]]) -> list[list[str]]:
    """Return texts of several lines with blank lines above the shorter ones."""
    height = max(len(lines) for lines in texts)
    return [[""] * (height - len(lines)) + lines for lines in texts]


def _column_widths(columns: Sequence[_Column], width: int) -> list[int]:
    """Return the widths of the columns of a table that is at most `width` wide.

    Every column has its least width. The remaining room is shared equally between the columns that
    would otherwise break texts over lines. No column is wider than its texts.
    """
    widths = [column.least_width for column in columns]
    lacking = [column.full_width - column.least_width for column in columns]
    room = max(0, width - _table_width(columns))
    # Columns that lack least come first: what they do not need goes to the others.
    order = sorted(range(len(columns)), key=lambda index: lacking[index])
    for n_done, index in enumerate(order):
        equal_share = room // (len(order) - n_done)
        added_width = min(equal_share, lacking[index])
        widths[index] += added_width
        room -= added_width
    return widths


def _title_lines(columns: Sequence[_Column], widths: Sequence[int]) -> Iterator[Spans]:
    """Yield the lines of the titles of columns; short titles are in the last lines."""
    titles = []
    for column, column_width in zip(columns, widths, strict=True):
        titles.append(_wrap(column.title, column_width))
    cells: list[list[Spans]] = []
    for title_lines in _with_equal_heights(titles):
        cells.append([[(line, "bold")] for line in title_lines])
    yield from _row_lines(columns, widths, cells)


def _row_lines(
    columns: Sequence[_Column], widths: Sequence[int], cells: Sequence[list[Spans]]
) -> Iterator[Spans]:
    """Yield the lines of a row, each with one line of every cell.

    Numbers are set right and texts left. Cells with fewer lines than others end in blank lines.
    """
    blank_line: Spans = [("", "")]
    for cell_lines in zip_longest(*cells, fillvalue=blank_line):
        line: Spans = []
        for column, width, spans in zip(columns, widths, cell_lines, strict=True):
            padding = (" " * max(0, width - _line_width(spans)), "")
            line += [padding, *spans] if column.is_numeric else [*spans, padding]
            line.append((" " * _GAP, ""))
        yield line


def _broken_cell(spans: Spans, width: int) -> list[Spans]:
    """Return the lines of a cell, which is broken over several lines if it is too wide.

    Only texts can be too wide: columns of numbers are as wide as their numbers. The first span of a
    text is its indent, which every line gets.
    """
    if _line_width(spans) <= width:
        return [spans]
    indent = spans[0][0]
    text = "".join(piece for piece, _ in spans[1:])
    style = spans[2][1]
    return [[(indent + line, style)] for line in _wrap(text, width - len(indent))]


def _wrap(text: str, width: int) -> list[str]:
    """Break a text into lines.

    Lines end at spaces. A word longer than a line is broken at separators, and a piece of it that
    is still longer is broken anywhere.
    """
    pieces: list[str] = []
    for word in re.findall(r"\S*\s*", text):
        if _text_width(word) > width:
            pieces += _split_at_line_ends(word)
        else:
            pieces.append(word)
    lines, line = [], ""
    for piece in pieces:
        if line and _text_width(line + piece) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
        while _text_width(line) > width:
            n_fitting = _n_characters_within(line, width)
            lines.append(line[:n_fitting])
            line = line[n_fitting:]
    return [*lines, line.rstrip()]


def _n_characters_within(text: str, width: int) -> int:
    """Return how many of the first characters of a text fit into `width`, but at least 1.

    Some characters, such as Chinese ones, are two wide.
    """
    n_characters = len(text)
    while n_characters > 1 and _text_width(text[:n_characters]) > width:
        n_characters -= 1
    return n_characters


def _draw_as_list(table: Table, width: int) -> Text:
    """Draw every value of a table on a line of its own, behind the title of its column."""
    titles = [head.title for head in table.heads]
    indent = max(_text_width(title) for title in titles) + _GAP
    value_width = max(_LEAST_VALUE_WIDTH, width - indent)
    lines: list[Spans] = []
    for index, row in enumerate(table.rows):
        if index > 0:
            lines.append([("", "")])
        if table.sections:
            lines += [[(line, "bold")] for line in _wrap(table.sections[index], width)]
        for title, cell in zip(titles, row, strict=True):
            if not cell.plain:
                continue
            padded_title = title + " " * (indent - _text_width(title))
            first_line, *other_lines = _wrap(cell.plain, value_width)
            lines.append([(padded_title, "bold"), (first_line, "")])
            for line in other_lines:
                lines.append([(" " * indent, "bold"), (line, "")])
    return _joined_lines(lines)


def _joined_lines(lines: Iterable[Spans]) -> Text:
    """Return lines as one text, without spaces at the ends of lines."""
    from rich.text import Text

    texts = []
    for line in lines:
        text = Text.assemble(*line)
        text.rstrip()
        texts.append(text)
    return Text("\n").join(texts)


def notes_text(notes: Iterable[str], width: int) -> Text:
    """Return the notes below tables as a text at most `width` wide, each note once."""
    from rich.text import Text

    lines = []
    for note in dict.fromkeys(notes):
        lines += _wrap(one_line(note), width)
    return Text("\n".join(lines))

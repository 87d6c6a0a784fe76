"""Tables for a terminal: no number and no name of a metric is ever cut or broken over lines.

The first layout that fits is taken: the table as it is; transposed, if its columns may become rows;
every row's name on a line above its numbers; one value per line. A table of numbers that fits
in no layout is split into several tables, each with some of the columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval.results.table import Cell, Head, Table, is_number, select_columns, transposed
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
    """A column that has no final width yet. Widths are in characters."""

    # The name above the title, which neighbouring columns share; empty without a name.
    group: str
    title: str
    # The styled text of each cell, from top to bottom.
    cells: list[Spans]
    # Whether it is a column of numbers, which are set right and never broken over lines.
    is_numeric: bool
    # The least width that the column can have, with texts broken over lines.
    least_width: int
    # The least width in which no text is broken over lines.
    full_width: int


class _Layout(NamedTuple):
    """A way to draw a table."""

    table: Table
    # Whether the name of every row is on a line of its own above the numbers.
    is_stacked: bool
    columns: list[_Column]

    def width(self, *, is_whole: bool) -> int:
        """Return the least width of the table in characters.

        With `is_whole`, it is the least width in which no text is broken over lines.
        """
        return _table_width(self.columns, is_whole=is_whole)


def to_terminal(table: Table, width: int, *, can_turn: bool = True) -> list[Text]:
    """Draw a table as texts at most `width` characters wide, without its notes.

    The first layout that fits is taken, see the top of this module. There are several texts only if
    the table had to be split into several tables.

    `can_turn` says whether the table may be transposed or split. If it is false, as for a table
    whose columns have different kinds of values, a table that is too wide is drawn as a list with
    one value per line.
    """
    table = _without_line_breaks(table)
    if not table.rows:
        return [_join_lines([[(f"{table.title}: none", "italic")]])]
    layouts = _possible_layouts(table, can_turn=can_turn)

    # A transposed table is better than one in which names of rows are broken over lines.
    for layout in layouts:
        if not layout.is_stacked and layout.width(is_whole=True) <= width:
            return [_draw(layout, width)]
    for layout in layouts:
        if layout.width(is_whole=False) <= width:
            return [_draw(layout, width)]
    if not can_turn:
        return [_draw_as_list(table, width)]

    # No layout fits. Split the table, or the transposed table if that takes fewer lines.
    splits = [_draw_split(layout.table, width) for layout in layouts if not layout.is_stacked]
    return min(splits, key=_count_lines)


def _count_lines(texts: Iterable[Text]) -> int:
    """Return the number of lines of several texts, with a blank line after each text."""
    n_lines = 0
    for text in texts:
        n_lines += text.plain.count("\n") + 1
        n_lines += 1  # the blank line
    return n_lines


def _possible_layouts(table: Table, *, can_turn: bool) -> list[_Layout]:
    """Return the layouts in which a table can be drawn, the best layout first.

    They are the table itself, the transposed table, and both of them stacked, that is, with the
    name of each row on a line above its numbers. The table is not transposed if `can_turn` is false
    or if its rows have sections.
    """
    tables = [table]
    if can_turn and not table.sections:
        tables.append(transposed(table))
    layouts = []
    for layout_table in tables:
        columns = _measure_columns(layout_table, is_stacked=False)
        layouts.append(_Layout(layout_table, False, columns))
    for layout_table in tables:
        has_values = layout_table.n_text_columns < len(layout_table.heads)
        if has_values:
            columns = _measure_columns(layout_table, is_stacked=True)
            layouts.append(_Layout(layout_table, True, columns))
    return layouts


def _without_line_breaks(table: Table) -> Table:
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


def _measure_columns(table: Table, *, is_stacked: bool) -> list[_Column]:
    """Return the columns of a table with the least and the full width of each.

    A stacked table has no columns for the names of rows, which stand above the numbers.
    """
    columns = []
    for index, head in enumerate(table.heads):
        is_row_name = index < table.n_text_columns
        if is_row_name and is_stacked:
            continue
        cells = [row[index] for row in table.rows]
        if is_row_name:
            indent = "  " if index == 0 and table.sections else ""
            column = _text_column(head, cells, indent)
            if column.full_width <= _SHORT_NAME:
                column = column._replace(least_width=column.full_width)  # is never broken
        elif is_number(cell.text for cell in cells):
            column = _number_column(head, cells)
        else:
            column = _text_column(head, cells)
        columns.append(column)

    # The columns that share a name above their titles must be at least as wide as the name.
    widened_columns = []
    for _, neighbours in _group_columns(columns):
        widened_columns += _fit_below_group_name(neighbours)
    return widened_columns


def _group_columns(columns: Sequence[_Column]) -> list[tuple[str, list[_Column]]]:
    """Return the neighbouring columns that share a name above their titles, each with the name.

    Columns with the names A, A and B give [("A", [first, second]), ("B", [third])].
    """
    groups = []
    for name, neighbours in groupby(columns, key=lambda column: column.group):
        groups.append((name, list(neighbours)))
    return groups


def _fit_below_group_name(columns: list[_Column]) -> list[_Column]:
    """Widen the last of several columns if they are narrower than the name that they share.

    The least width is enough for the name if it is broken over lines, and the full width for the
    whole name.
    """
    *other_columns, last = columns
    gaps = _GAP * len(other_columns)
    # What the other columns leave of the name's width must fit into the last column.
    least_width = _widest(_split_at_line_ends(last.group)) - gaps
    full_width = _text_width(last.group) - gaps
    for column in other_columns:
        least_width -= column.least_width
        full_width -= column.full_width
    least_width = max(last.least_width, least_width)
    full_width = max(last.full_width, least_width, full_width)
    return [*other_columns, last._replace(least_width=least_width, full_width=full_width)]


def _number_column(head: Head, cells: Sequence[Cell]) -> _Column:
    """Return a column of numbers, in which numbers, marks and intervals are each aligned."""
    # The greatest width of the numbers, of the marks, of the intervals and of the details.
    word_widths = [0, 0, 0, 0]
    for cell in cells:
        for index, word in enumerate(_cell_words(cell)):
            word_widths[index] = max(word_widths[index], len(word))

    lines = [_styled_cell(cell, word_widths) for cell in cells]
    cell_width = max(_line_width(line) for line in lines)
    # Only long titles are broken over lines, since numbers are narrow.
    title_lines = [head.title]
    if len(head.title) > _SHORT_TITLE:
        title_lines = head.title.split(" ")
    return _Column(
        group=head.group,
        title=head.title,
        cells=lines,
        is_numeric=True,
        least_width=max(cell_width, _widest(_split_at_line_ends(head.title))),
        full_width=max(cell_width, _widest(title_lines)),
    )


def _text_column(head: Head, cells: Sequence[Cell], indent: str = "") -> _Column:
    """Return a column of texts, with the spaces `indent` before each text."""
    no_padding = [0, 0, 0, 0]
    lines = [[(indent, ""), *_styled_cell(cell, no_padding)] for cell in cells]
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
    """Return the words of a cell: its number or text, its mark, its interval and its details.

    Example: ("67.1", "†", " ±1.9", " (1-2)"). Words that the cell does not have are empty.
    """
    interval = f" {cell.interval}" if cell.interval else ""
    details = "".join(f" {detail}" for detail in cell.details)
    return cell.text, cell.mark, interval, details


def _styled_cell(cell: Cell, word_widths: Sequence[int]) -> Spans:
    """Return the words of a cell, padded to the widths of the column, with their styles.

    The best number is bold and green, the second best is underlined. `word_widths` are the widths
    of the number, mark, interval and details. The number is set right, and the other words left:
    "67.1" in widths [5, 1, 5, 0] -> " 67.1† ±1.9".
    """
    style = ""
    if cell.best:
        style = "bold green"
    elif cell.second:
        style = "underline"
    text_width, mark_width, interval_width, details_width = word_widths
    text, mark, interval, details = _cell_words(cell)
    padding = " " * (text_width - len(text))
    other_words = f"{mark:<{mark_width}}{interval:<{interval_width}}{details:<{details_width}}"
    return [(padding, ""), (text, style), (other_words, "")]


def _text_width(text: str) -> int:
    """Return the width of a text in characters, without the spaces around it.

    Wide characters, such as Chinese ones, count twice.
    """
    from rich.cells import cell_len

    return cell_len(text.strip())


def _widest(texts: Iterable[str]) -> int:
    """Return the width of the widest text, without the spaces around it."""
    return max(_text_width(text) for text in texts)


def _line_width(spans: Spans) -> int:
    """Return the width of a line in characters, with the spaces around it."""
    from rich.cells import cell_len

    return sum(cell_len(text) for text, _ in spans)


def _split_at_line_ends(text: str) -> list[str]:
    """Split a text at every place where a line may end: "openclip:ViT" -> ["openclip:", "ViT"]."""
    return _LINE_END.split(text)


def _table_width(columns: Sequence[_Column], *, is_whole: bool = False) -> int:
    """Return the least width of a table with these columns and the gaps between them.

    With `is_whole`, texts are not broken over lines. The titles of numbers still may be.
    """
    width = _GAP * (len(columns) - 1)
    for column in columns:
        if is_whole and not column.is_numeric:
            width += column.full_width
        else:
            width += column.least_width
    return width


def _draw_split(table: Table, width: int) -> list[Text]:
    """Draw a table as several tables, each with the names of rows and some columns of values.

    Their titles are numbered: "Retrieval, part 1 of 3".
    """
    narrow_tables = list(_split_columns(table, width))
    texts = []
    for number, narrow_table in enumerate(narrow_tables, start=1):
        title = f"{table.title}, part {number} of {len(narrow_tables)}"
        titled_table = narrow_table._replace(title=title)
        columns = _measure_columns(titled_table, is_stacked=False)
        texts.append(_draw(_Layout(titled_table, False, columns), width))
    return texts


def _split_columns(table: Table, width: int) -> Iterator[Table]:
    """Yield tables with as many of the columns of values as fit into `width`, from left to right.

    Every table has all columns with names of rows, and at least one column of values.
    """
    n_columns = len(table.heads)
    start = table.n_text_columns  # the first column of the current table
    for stop in range(start + 1, n_columns + 1):
        # The current table has the columns from `start` to `stop - 1`. Check if one more would fit.
        is_complete = stop == n_columns
        if not is_complete:
            wider_table = select_columns(table, range(start, stop + 1))
            wider_columns = _measure_columns(wider_table, is_stacked=False)
            is_complete = _table_width(wider_columns) > width
        if is_complete:
            yield select_columns(table, range(start, stop))
            start = stop


def _draw(layout: _Layout, width: int) -> Text:
    """Draw a table, from top to bottom: title, names and titles of columns, a rule, and the rows.

    A section name stands above the first row of its section. In a stacked layout, the name of each
    row stands above its numbers.
    """
    table, columns = layout.table, layout.columns
    widths = _choose_column_widths(columns, width)
    lines: list[Spans] = []
    if table.title:
        lines.append([(table.title, "italic")])
    lines += _group_name_lines(columns, widths)
    lines += _title_lines(columns, widths)
    rule_width = sum(widths) + _GAP * (len(widths) - 1)
    lines.append([("─" * rule_width, "dim")])

    section = ""
    for index, row in enumerate(table.rows):
        if table.sections and table.sections[index] != section:
            section = table.sections[index]
            lines += [[(line, "bold")] for line in _wrap(section, width)]
        if layout.is_stacked:
            names = [cell.text for cell in row[: table.n_text_columns] if cell.text]
            indent = "  " if table.sections else ""
            for line in _wrap(", ".join(names), width - len(indent)):
                lines.append([(indent + line, "")])
        cells = []
        for column, column_width in zip(columns, widths, strict=True):
            cells.append(_wrap_cell(column.cells[index], column_width))
        lines += _row_lines(columns, widths, cells)
    return _join_lines(lines)


def _group_name_lines(columns: Sequence[_Column], widths: Sequence[int]) -> Iterator[Spans]:
    """Yield the lines above the titles, with each shared name centred above its columns.

    Yields nothing if no column has such a name. `widths` are the widths of the columns.
    """
    if not any(column.group for column in columns):
        return
    lines_of_names: list[list[str]] = []
    name_widths = []
    start = 0
    for name, neighbours in _group_columns(columns):
        stop = start + len(neighbours)
        name_width = sum(widths[start:stop]) + _GAP * (len(neighbours) - 1)
        lines_of_names.append(_wrap(name, name_width))
        name_widths.append(name_width)
        start = stop
    for name_lines in zip(*_pad_above(lines_of_names), strict=True):
        centred_lines = []
        for line, name_width in zip(name_lines, name_widths, strict=True):
            centred_lines.append(f"{line:^{name_width}}")
        yield [((" " * _GAP).join(centred_lines), "bold")]


def _pad_above(texts: Sequence[list[str]]) -> list[list[str]]:
    """Return texts of equally many lines, with blank lines above the shorter texts.

    Example: [["a"], ["b", "c"]] -> [["", "a"], ["b", "c"]].
    """
    height = max(len(lines) for lines in texts)
    padded_texts = []
    for lines in texts:
        blank_lines = [""] * (height - len(lines))
        padded_texts.append(blank_lines + lines)
    return padded_texts


def _choose_column_widths(columns: Sequence[_Column], width: int) -> list[int]:
    """Return the widths of the columns of a table that is at most `width` wide.

    Every column has at least its least width. The remaining room is shared equally between the
    columns that would otherwise break texts over lines. No column is wider than its texts.
    """
    widths = [column.least_width for column in columns]
    missing_widths = [column.full_width - column.least_width for column in columns]
    room = max(0, width - _table_width(columns))
    # Columns that miss least come first: the room that they do not need goes to the next columns.
    order = sorted(range(len(columns)), key=lambda index: missing_widths[index])
    for n_done, index in enumerate(order):
        equal_share = room // (len(order) - n_done)
        added_width = min(equal_share, missing_widths[index])
        widths[index] += added_width
        room -= added_width
    return widths


def _title_lines(columns: Sequence[_Column], widths: Sequence[int]) -> Iterator[Spans]:
    """Yield the lines with the titles of columns. The last line of each title is in the last line.

    `widths` are the widths of the columns, in which the titles are broken over lines.
    """
    titles = []
    for column, column_width in zip(columns, widths, strict=True):
        titles.append(_wrap(column.title, column_width))
    cells: list[list[Spans]] = []
    for title_lines in _pad_above(titles):
        cells.append([[(line, "bold")] for line in title_lines])
    yield from _row_lines(columns, widths, cells)


def _row_lines(
    columns: Sequence[_Column], widths: Sequence[int], cells: Sequence[list[Spans]]
) -> Iterator[Spans]:
    """Yield the lines of a row of a table, each with one line of every cell.

    `cells` are the lines of each cell. Numbers are set right and texts left. Cells with fewer lines
    than others end with blank lines.
    """
    blank_line: Spans = [("", "")]
    for cell_lines in zip_longest(*cells, fillvalue=blank_line):
        line: Spans = []
        for column, width, spans in zip(columns, widths, cell_lines, strict=True):
            padding = (" " * max(0, width - _line_width(spans)), "")
            line += [padding, *spans] if column.is_numeric else [*spans, padding]
            line.append((" " * _GAP, ""))
        yield line


def _wrap_cell(spans: Spans, width: int) -> list[Spans]:
    """Return the lines of a cell, which is broken over several lines if it is wider than `width`.

    Only texts can be too wide, since columns of numbers are as wide as their numbers. The spans of
    a text are its indent, an empty padding, the text itself and the words behind it. Every line
    begins with the indent.
    """
    if _line_width(spans) <= width:
        return [spans]
    (indent, _), padding, (text, style), other_words = spans
    whole_text = padding[0] + text + other_words[0]
    return [[(indent + line, style)] for line in _wrap(whole_text, width - len(indent))]


def _wrap(text: str, width: int) -> list[str]:
    """Break a text into lines that are at most `width` wide.

    Lines end at spaces. A word longer than a line is broken at separators, and a piece that is
    still longer is broken anywhere.

    With `width` 9: "a openclip:ViT-B" -> ["a", "openclip:", "ViT-B"].
    """
    # Split the text into pieces that fit into a line where possible.
    pieces: list[str] = []
    for word in re.findall(r"\S*\s*", text):
        if _text_width(word) > width:
            pieces += _split_at_line_ends(word)
        else:
            pieces.append(word)
    # Fill each line with as many pieces as fit.
    lines, line = [], ""
    for piece in pieces:
        if line and _text_width(line + piece) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
        # A piece that is too long takes several lines, with at least one character each.
        while _text_width(line) > width:
            n_fitting = len(line)
            while n_fitting > 1 and _text_width(line[:n_fitting]) > width:
                n_fitting -= 1
            lines.append(line[:n_fitting])
            line = line[n_fitting:]
    return [*lines, line.rstrip()]


def _draw_as_list(table: Table, width: int) -> Text:
    """Draw a table as a list, with every value on a line behind the title of its column.

    A blank line separates the rows of the table. Empty values are left out.
    """
    titles = [head.title for head in table.heads]
    title_width = max(_text_width(title) for title in titles) + _GAP
    value_width = max(_LEAST_VALUE_WIDTH, width - title_width)
    lines: list[Spans] = []
    for index, row in enumerate(table.rows):
        if index > 0:
            lines.append([("", "")])
        if table.sections:
            lines += [[(line, "bold")] for line in _wrap(table.sections[index], width)]
        for title, cell in zip(titles, row, strict=True):
            if not cell.plain:
                continue
            padded_title = title + " " * (title_width - _text_width(title))
            first_line, *other_lines = _wrap(cell.plain, value_width)
            lines.append([(padded_title, "bold"), (first_line, "")])
            for line in other_lines:
                lines.append([(" " * title_width, "bold"), (line, "")])
    return _join_lines(lines)


def _join_lines(lines: Iterable[Spans]) -> Text:
    """Join styled lines to one text, without spaces at the ends of lines."""
    from rich.text import Text

    texts = []
    for line in lines:
        text = Text.assemble(*line)
        text.rstrip()
        texts.append(text)
    return Text("\n").join(texts)


def notes_text(notes: Iterable[str], width: int) -> Text:
    """Return the notes below tables as a text at most `width` characters wide.

    A note that several tables have is in the text once.
    """
    from rich.text import Text

    lines = []
    for note in dict.fromkeys(notes):
        lines += _wrap(one_line(note), width)
    return Text("\n".join(lines))

"""Tables for a terminal: no number and no name of a metric is ever cut or broken over lines.

The first layout that fits is taken: the table as it is; transposed, if its columns may become rows;
every row's name on a line above its numbers; one value per line. A table of numbers that fits
in no layout is split into several tables, each with some of the columns.

All widths are in characters. Wide characters, such as Chinese ones, count twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval.results.table import Cell, Head, Table, is_number, select_columns, transposed
from cosmos_eval.results.text import one_line

if TYPE_CHECKING:
    from rich.text import Text  # imported in functions, since rich takes long

_GAP = 2  # spaces between columns
_SHORT_TITLE = 10  # titles above numbers of up to this many characters are rather not broken
_SHORT_NAME = 24  # names of rows of up to this many characters are never broken
_SHORT_WORD = 40  # words of up to this many characters are never broken, in columns of texts
_LEAST_VALUE_WIDTH = 8  # characters for a value beside its title
# A line may end after a space, and between a separator and the letter after it.
_LINE_END = re.compile(
    r"(?<= )(?=[^ ])|(?<=[,/])(?=[A-Za-z_.])|(?<=:)(?=[A-Za-z/])|(?<=-)(?=[A-Za-z])"
)


class _Column(NamedTuple):
    """A column of a table that has no final width yet."""

    # The name above the title, which neighbouring columns share; empty without a name.
    group: str
    title: str
    # The text of each cell with its style, from top to bottom.
    cells: list[Text]
    # Whether it is a column of numbers, which are set right and never broken over lines.
    is_numeric: bool
    # The least width that the column can have, with texts broken over lines.
    least_width: int
    # The least width in which no text is broken over lines.
    full_width: int
    # The spaces before the text of every cell.
    indent: str = ""


class _Layout(NamedTuple):
    """A way to draw a table."""

    table: Table
    # Whether the name of every row is on a line of its own above the numbers.
    is_stacked: bool
    columns: list[_Column]


def to_terminal(table: Table, width: int, *, can_turn: bool = True) -> list[Text]:
    """Draw a table as texts for a terminal, without its notes.

    The first layout that fits is taken, see the top of this module.

    Args:
        table: The table.
        width: The width of the terminal in characters, which no line exceeds.
        can_turn: True if the table may be transposed or split. A table whose columns have different
            kinds of values may not. If such a table is too wide, it is drawn as a list with one
            value per line.

    Returns:
        One text with styles, or several texts if the table had to be split into several tables.
    """
    from rich.text import Text

    table = _without_line_breaks(table)
    if not table.rows:
        return [Text.assemble((f"{table.title}: none", "italic"))]
    layouts = _possible_layouts(table, can_turn=can_turn)

    # Prefer a layout that breaks no text over lines, even if the table has to be transposed.
    for layout in layouts:
        if not layout.is_stacked and _table_width(layout.columns, is_whole=True) <= width:
            return [_draw(layout, width)]
    for layout in layouts:
        if _table_width(layout.columns) <= width:
            return [_draw(layout, width)]
    if not can_turn:
        return [draw_as_list(table, width)]

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


def _possible_layouts(table: Table, *, can_turn: bool) -> list[_Layout]:
    """Return the layouts in which a table can be drawn, the best layout first.

    They are the table itself, the transposed table, and both of them stacked, that is, with the
    name of each row on a line above its numbers.

    Args:
        table: The table. If its rows have sections, it is not transposed.
        can_turn: True if it may be transposed.
    """
    tables = [table]
    if can_turn and not table.sections:
        tables.append(transposed(table))

    layouts = []
    for layout_table in tables:
        columns = _measure_columns(layout_table, is_stacked=False)
        layouts.append(_Layout(layout_table, is_stacked=False, columns=columns))
    for layout_table in tables:
        has_values = layout_table.n_text_columns < len(layout_table.heads)
        if has_values:
            columns = _measure_columns(layout_table, is_stacked=True)
            layouts.append(_Layout(layout_table, is_stacked=True, columns=columns))
    return layouts


def _measure_columns(table: Table, *, is_stacked: bool) -> list[_Column]:
    """Return the columns of a table with the least and the full width of each.

    Args:
        table: The table.
        is_stacked: True if the names of rows stand above the numbers. There are then no columns for
            them.
    """
    columns = []
    for index, head in enumerate(table.heads):
        cells = [row[index] for row in table.rows]
        is_row_name = index < table.n_text_columns
        if is_row_name and is_stacked:
            continue
        if is_row_name:
            # Names of rows are indented below the names of sections.
            indent = "  " if index == 0 and table.sections else ""
            column = _text_column(head, cells, indent)
            if column.full_width <= _SHORT_NAME:
                # A short name is never broken over lines.
                column = column._replace(least_width=column.full_width)
        elif is_number(cell.text for cell in cells):
            column = _number_column(head, cells)
        else:
            column = _text_column(head, cells)
        columns.append(column)
    return _fit_below_group_names(columns)


def _fit_below_group_names(columns: Sequence[_Column]) -> list[_Column]:
    """Widen columns that are narrower than the name that they share with their neighbours.

    The name stands above the neighbouring columns. If they are too narrow for it, the last one of
    them is widened. Its least width makes room for the name broken over lines, and its full width
    for the whole name.
    """
    fitting_columns = []
    for group_name, neighbours in groupby(columns, key=lambda column: column.group):
        *other_columns, last = neighbours
        # The last column must hold the rest of the name, which is not above the other columns.
        least_rest = _longest_word_width(group_name)
        full_rest = _text_width(group_name)
        for column in other_columns:
            least_rest -= column.least_width + _GAP
            full_rest -= column.full_width + _GAP
        least_width = max(last.least_width, least_rest)
        full_width = max(last.full_width, full_rest, least_width)
        last = last._replace(least_width=least_width, full_width=full_width)
        fitting_columns += [*other_columns, last]
    return fitting_columns


def _number_column(head: Head, cells: Sequence[Cell]) -> _Column:
    """Return a column of numbers, in which numbers, marks and intervals are each aligned.

    Args:
        head: The title of the column, and the name above it.
        cells: The cells of the column, from top to bottom.
    """
    # The greatest width of the numbers, of the marks, of the intervals and of the details.
    part_widths = [0, 0, 0, 0]
    for cell in cells:
        for index, part in enumerate(_cell_parts(cell)):
            part_widths[index] = max(part_widths[index], len(part))

    cell_texts = [_styled_cell(cell, part_widths) for cell in cells]
    cell_width = max(cell_text.cell_len for cell_text in cell_texts)
    # Only long titles are broken over lines, since numbers are narrow.
    title_lines = [head.title]
    if len(head.title) > _SHORT_TITLE:
        title_lines = head.title.split(" ")
    title_width = max(_text_width(line) for line in title_lines)
    return _Column(
        group=head.group,
        title=head.title,
        cells=cell_texts,
        is_numeric=True,
        least_width=max(cell_width, _longest_word_width(head.title)),
        full_width=max(cell_width, title_width),
    )


def _text_column(head: Head, cells: Sequence[Cell], indent: str = "") -> _Column:
    """Return a column of texts.

    Args:
        head: The title of the column, and the name above it.
        cells: The cells of the column, from top to bottom.
        indent: Spaces before each text.
    """
    no_padding = [0, 0, 0, 0]
    cell_texts = [_styled_cell(cell, no_padding, indent) for cell in cells]
    longest_cell = max(cell_text.cell_len for cell_text in cell_texts)
    longest_word = max(_longest_word_width(cell.text) for cell in cells)
    # A longer word may be broken anywhere.
    word_width = len(indent) + min(_SHORT_WORD, longest_word)
    return _Column(
        group=head.group,
        title=head.title,
        cells=cell_texts,
        is_numeric=False,
        least_width=max(word_width, _longest_word_width(head.title)),
        full_width=max(longest_cell, _text_width(head.title)),
        indent=indent,
    )


def _cell_parts(cell: Cell) -> tuple[str, str, str, str]:
    """Return the parts of a cell: its number or text, its mark, its interval and its details.

    Example: ("67.1", "†", " ±1.9", " (1-2)"). Parts that the cell does not have are empty.
    """
    interval = f" {cell.interval}" if cell.interval else ""
    details = "".join(f" {detail}" for detail in cell.details)
    return cell.text, cell.mark, interval, details


def _styled_cell(cell: Cell, part_widths: Sequence[int], indent: str = "") -> Text:
    """Return the text of a cell, with its style and padded to the widths of the column.

    The best number is bold and green, the second best is underlined.

    Args:
        cell: The cell.
        part_widths: The widths of the column's numbers, marks, intervals and details. Numbers are
            set right and the other parts left.
        indent: Spaces before the text.

    Example:
        The parts "67.1", "†", " ±1.9" and "" in widths [5, 1, 5, 0] give " 67.1† ±1.9".
    """
    from rich.text import Text

    style = ""
    if cell.best:
        style = "bold green"
    elif cell.second:
        style = "underline"

    number, mark, interval, details = _cell_parts(cell)
    number_width, mark_width, interval_width, details_width = part_widths
    padding = " " * (number_width - len(number))
    marks = f"{mark:<{mark_width}}{interval:<{interval_width}}{details:<{details_width}}"
    return Text.assemble(indent + padding, (number, style), marks)


def _text_width(text: str) -> int:
    """Return the width of a text in characters, without the spaces around it.

    Wide characters, such as Chinese ones, count twice.
    """
    from rich.cells import cell_len

    return cell_len(text.strip())


def _longest_word_width(text: str) -> int:
    """Return the width of the widest piece of a text that is not broken over lines.

    Example: 9 for "openclip:ViT", which may be broken into "openclip:" and "ViT".
    """
    return max(_text_width(piece) for piece in _LINE_END.split(text))


def _table_width(columns: Sequence[_Column], *, is_whole: bool = False) -> int:
    """Return the least width of a table with these columns and the gaps between them.

    Args:
        columns: The columns.
        is_whole: True if texts are whole, that is, not broken over lines. The titles of numbers
            may be broken in any case.
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
        layout = _Layout(titled_table, is_stacked=False, columns=columns)
        texts.append(_draw(layout, width))
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

    Args:
        layout: The table and its columns.
        width: The width that no line should exceed.
    """
    from rich.text import Text

    table, columns = layout.table, layout.columns
    column_widths = _choose_column_widths(columns, width)
    lines: list[Text] = []
    if table.title:
        lines.append(Text.assemble((table.title, "italic")))
    lines += _group_name_lines(columns, column_widths)
    lines += _title_lines(columns, column_widths)
    rule_width = sum(column_widths) + _GAP * (len(column_widths) - 1)
    lines.append(Text.assemble(("─" * rule_width, "dim")))

    section = ""
    for row_index, row in enumerate(table.rows):
        # Draw the name of the section above its first row.
        if table.sections and table.sections[row_index] != section:
            section = table.sections[row_index]
            for line in _wrap(section, width):
                lines.append(Text.assemble((line, "bold")))

        # Draw the name of the row above its numbers.
        if layout.is_stacked:
            names = [cell.text for cell in row[: table.n_text_columns] if cell.text]
            indent = "  " if table.sections else ""
            for line in _wrap(", ".join(names), width - len(indent)):
                lines.append(Text(indent + line))

        # Draw the cells of the row, each broken over as many lines as it needs.
        cells = []
        for column, column_width in zip(columns, column_widths, strict=True):
            cells.append(_wrap_cell(column.cells[row_index], column.indent, column_width))
        lines += _row_lines(columns, column_widths, cells)
    return _join_lines(lines)


def _group_name_lines(columns: Sequence[_Column], widths: Sequence[int]) -> Iterator[Text]:
    """Yield the lines above the titles, with each shared name centred above its columns.

    Yields nothing if no column has such a name.

    Args:
        columns: The columns. Neighbours with an equal `group` share this name.
        widths: The widths of the columns.
    """
    from rich.text import Text

    if not any(column.group for column in columns):
        return

    # Break each name into lines that are as wide as its columns together.
    lines_of_names: list[list[str]] = []
    name_widths = []
    start = 0  # the index of the first column below the name
    for name, neighbours in groupby(columns, key=lambda column: column.group):
        n_neighbours = len(list(neighbours))
        stop = start + n_neighbours
        name_width = sum(widths[start:stop]) + _GAP * (n_neighbours - 1)
        lines_of_names.append(_wrap(name, name_width))
        name_widths.append(name_width)
        start = stop

    # Write the first line of all names, then the second line of all names, and so on.
    for name_lines in zip(*_pad_above(lines_of_names), strict=True):
        centred_lines = []
        for line, name_width in zip(name_lines, name_widths, strict=True):
            centred_lines.append(f"{line:^{name_width}}")
        gap = " " * _GAP
        yield Text.assemble((gap.join(centred_lines), "bold"))


def _title_lines(columns: Sequence[_Column], widths: Sequence[int]) -> Iterator[Text]:
    """Yield the lines with the titles of columns. The last line of each title is in the last line.

    Args:
        columns: The columns.
        widths: The widths of the columns, in which the titles are broken over lines.
    """
    from rich.text import Text

    lines_of_titles = []
    for column, column_width in zip(columns, widths, strict=True):
        lines_of_titles.append(_wrap(column.title, column_width))
    cells: list[list[Text]] = []
    for title_lines in _pad_above(lines_of_titles):
        cells.append([Text.assemble((line, "bold")) for line in title_lines])
    yield from _row_lines(columns, widths, cells)


def _pad_above(texts: Sequence[list[str]]) -> list[list[str]]:
    """Return texts of equally many lines, with blank lines above the shorter texts.

    Each text is the list of its lines. Example: [["a"], ["b", "c"]] -> [["", "a"], ["b", "c"]].
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
    columns that would otherwise break texts over lines. No column becomes wider than its texts. If
    even the least widths are too wide together, they are returned.

    Example:
        Three columns with a least width of 10 and full widths of 11, 20 and 30, in a table that is
        45 wide with its gaps, get the widths 11, 15 and 15.
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


def _row_lines(
    columns: Sequence[_Column], widths: Sequence[int], cells: Sequence[list[Text]]
) -> Iterator[Text]:
    """Yield the lines of a row of a table, each with one line of every cell.

    Args:
        columns: The columns. Cells of numbers are set right, and cells of texts left.
        widths: The widths of the columns.
        cells: The lines of each cell of the row. Cells with fewer lines than others end with blank
            lines.
    """
    from rich.text import Text

    for cell_lines in zip_longest(*cells, fillvalue=Text("")):
        row_line = Text("")
        for column, width, cell_line in zip(columns, widths, cell_lines, strict=True):
            padding = " " * max(0, width - cell_line.cell_len)
            if column.is_numeric:
                row_line.append(padding).append_text(cell_line)
            else:
                row_line.append_text(cell_line).append(padding)
            row_line.append(" " * _GAP)
        yield row_line


def _wrap_cell(cell_text: Text, indent: str, width: int) -> list[Text]:
    """Return the lines of a cell, which is broken over several lines if it is wider than `width`.

    Only texts can be too wide, since columns of numbers are as wide as their numbers.

    Args:
        cell_text: The text of the cell, which begins with the indent. At most one span of it has a
            style, which all of its lines get.
        indent: The spaces with which every line begins.
        width: The width of the column.
    """
    from rich.text import Text

    if cell_text.cell_len <= width:
        return [cell_text]
    style = cell_text.spans[0].style if cell_text.spans else ""
    text_without_indent = cell_text.plain[len(indent) :]
    lines = _wrap(text_without_indent, width - len(indent))
    return [Text.assemble((indent + line, style)) for line in lines]


def _wrap(text: str, width: int) -> list[str]:
    """Break a text into lines that are at most `width` wide.

    Lines end at spaces. A word longer than a line is broken at separators, and a piece that is
    still longer is broken anywhere.

    Example:
        _wrap("a openclip:ViT-B", 9) -> ["a", "openclip:", "ViT-B"]
    """
    # Split the text into pieces that fit into a line where possible.
    pieces: list[str] = []
    for word in re.findall(r"\S*\s*", text):
        if _text_width(word) > width:
            pieces += _LINE_END.split(word)
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


def draw_as_list(table: Table, width: int) -> Text:
    """Draw a table as a list, with every value on a line behind the title of its column.

    A blank line separates the rows of the table. Empty values are left out. A value that is too
    long for its line continues on the next lines, below its beginning.
    """
    from rich.text import Text

    table = _without_line_breaks(table)
    titles = [head.title for head in table.heads]
    title_width = max(_text_width(title) for title in titles) + _GAP
    value_width = max(_LEAST_VALUE_WIDTH, width - title_width)
    lines: list[Text] = []
    for row_index, row in enumerate(table.rows):
        if row_index > 0:
            lines.append(Text(""))
        if table.sections:
            for line in _wrap(table.sections[row_index], width):
                lines.append(Text.assemble((line, "bold")))
        for title, cell in zip(titles, row, strict=True):
            if not cell.plain:
                continue
            padded_title = title + " " * (title_width - _text_width(title))
            first_line, *other_lines = _wrap(cell.plain, value_width)
            lines.append(Text.assemble((padded_title, "bold"), first_line))
            for line in other_lines:
                lines.append(Text.assemble((" " * title_width, "bold"), line))
    return _join_lines(lines)


def _join_lines(lines: Iterable[Text]) -> Text:
    """Join styled lines to one text, without spaces at the ends of lines."""
    from rich.text import Text

    stripped_lines = []
    for line in lines:
        line.rstrip()
        stripped_lines.append(line)
    return Text("\n").join(stripped_lines)


def notes_text(notes: Iterable[str], width: int) -> Text:
    """Return the notes below tables as a text at most `width` characters wide.

    A note that several tables have is in the text once.
    """
    from rich.text import Text

    lines = []
    for note in dict.fromkeys(notes):
        lines += _wrap(one_line(note), width)
    return Text("\n".join(lines))

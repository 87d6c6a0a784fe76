r"""Tables for a paper: `booktabs`, one number per cell, no wider than the text.

The width of a table is estimated by the widths of Computer Modern's characters. A table becomes
several ones if it is longer than a page, or wider than the text of LaTeX's `article`, the narrowest
of usual classes.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from math import ceil
from typing import NamedTuple

from cosmos_eval.results.table import Cell, Table, number_links, sections_to_column, select_columns
from cosmos_eval.results.text import latex_text, one_line

PREAMBLE = "% needs \\usepackage{booktabs}\n"

_PAGE_WIDTH = 345.0  # in points: \textwidth of article at 10 pt
_TEXT_COLUMNS_WIDTH = 0.55 * _PAGE_WIDTH  # of all columns of texts, before their lines are broken
_GAP = 8.0  # points between columns: twice \tabcolsep
_LINES_PER_PAGE = 40  # beside the titles and the caption
_BREAKING_LOSS = 1.2  # a text broken into lines needs about a fifth more room
_TITLE_LENGTH = 9  # characters of a line of a title, unless a word is longer
_EM = 9.25  # points, of \small
_INTERVAL_SCALE = 0.8  # size of the digits of an interval, relative to the number
# Widths in em of characters of cmr9 (its TFM file), rounded up; other characters have 0.6 em.
_CHARACTER_WIDTHS = dict.fromkeys("ijl.,:;'|!I[]()/-", 0.4) | dict.fromkeys("mwMW%@", 1.06)
_CHARACTER_WIDTHS |= dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ&_", 0.8)
_CHARACTER_WIDTHS |= dict.fromkeys("0123456789 ", 0.52)
_OTHER_WIDTH = 0.6
_MARKS = {"†": r"$^\dagger$", "‡": r"$^\ddagger$"}


def to_latex(table: Table) -> str:
    r"""Return a table as LaTeX floats with `\caption` and `\label`, several if one is too large.

    A table that is too wide is split between columns. A table that is longer than a page is split
    between rows.
    """
    (table,) = number_links([table])
    pages: list[Table] = []
    for columns in _split_columns(table):
        pages += _split_rows(select_columns(table, columns))
    floats = []
    for page_number, page in enumerate(pages, start=1):
        floats.append(_format_float(page, page_number, len(pages)))
    return "\n".join(floats)


def _split_rows(table: Table) -> Iterator[Table]:
    """Split a table between rows into tables of about equal height that fit on a page each."""
    # The height in lines of all rows above each row. The last value is the height of the table.
    heights_above = [0]
    for row_height in _row_heights(sections_to_column(table)):
        heights_above.append(heights_above[-1] + row_height)
    table_height = heights_above[-1]
    n_pages = ceil(table_height / _LINES_PER_PAGE)

    # The first row of each page is the first one with enough height above it. For 100 lines on 3
    # pages, these are the rows with at least 0, 33.3 and 66.7 lines above them.
    first_rows = []
    for page in range(n_pages + 1):
        height_of_former_pages = table_height * page / n_pages
        first_rows.append(bisect_left(heights_above, height_of_former_pages))
    for first_row, end_row in pairwise(first_rows):
        yield table._replace(
            rows=table.rows[first_row:end_row], sections=table.sections[first_row:end_row]
        )


def _row_heights(table: Table) -> list[int]:
    """Return the estimated height of each row in lines.

    A row is as high as its highest text, after texts are broken over lines in their columns.
    """
    column_widths = _text_column_widths(table)
    heights = []
    for row in table.rows:
        height = 1
        for cell, width in zip(row[: table.n_text_columns], column_widths, strict=True):
            text_height = ceil(_BREAKING_LOSS * _text_width(cell.text) / width.limit)
            height = max(height, text_height)
        heights.append(height)
    return heights


def _split_columns(table: Table) -> Iterator[range]:
    """Yield ranges of the columns of values, so that each fits on a page beside the names of rows.

    Columns that share a name above their titles stay together, unless they are wider than a page.

    Example:
        A table with names of rows in column 0 and six wide columns may give range(1, 4) and
        range(4, 7).
    """
    # The width in points that the names of rows leave for values.
    names_width = 0.0
    for text_column_width in _text_column_widths(sections_to_column(table)):
        names_width += min(text_column_width.full, text_column_width.limit) + _GAP
    available_width = _PAGE_WIDTH - names_width

    # The blocks of columns that stay together. If one is too wide, every column is a block.
    blocks = _column_blocks(table)
    is_too_wide = any(_block_width(table, block) > available_width for block in blocks)
    if is_too_wide:
        blocks = [[column] for block in blocks for column in block]

    # Each range has as many blocks as fit, and at least one.
    range_start = table.n_text_columns
    range_width = 0.0
    for block in blocks:
        block_width = _block_width(table, block)
        block_start = block[0]
        is_first_block = block_start == range_start
        if not is_first_block and range_width + block_width > available_width:
            yield range(range_start, block_start)
            range_start = block_start
            range_width = 0.0
        range_width += block_width
    yield range(range_start, len(table.heads))


def _column_blocks(table: Table) -> list[list[int]]:
    """Return the indices of neighbouring columns of values that share a name above their titles.

    A column without such a name is a block by itself.

    Example:
        A table with names of rows in column 0, and columns of values below the names "coco", "coco"
        and "", has the blocks [[1, 2], [3]].
    """
    value_columns = range(table.n_text_columns, len(table.heads))
    # The index stands for the name of a column without a name, since it differs for each column.
    blocks = groupby(value_columns, key=lambda column: table.heads[column].group or column)
    return [list(block) for _, block in blocks]


def _block_width(table: Table, columns: Sequence[int]) -> float:
    """Return the width in points of columns and their gaps, or of the name above them if wider.

    Args:
        table: The table.
        columns: The indices of neighbouring columns, which share the name above their titles.
    """
    columns_width = sum(_column_width(table, column) + _GAP for column in columns)
    shared_name = table.heads[columns[0]].group
    name_width = max(_text_width(line) for line in _name_and_protocol(shared_name))
    return max(columns_width, _GAP + name_width)


def _column_width(table: Table, column: int) -> float:
    """Return the width in points of a column, without its gap and without breaking texts."""
    is_text = column < table.n_text_columns
    title_lines = _title_lines(table.heads[column].title, is_text=is_text)
    widths = [_text_width(line) for line in title_lines]
    for row in table.rows:
        widths.append(_cell_width(row[column]))
    return max(widths)


def _cell_width(cell: Cell) -> float:
    """Return the estimated width in points of a cell: its text, mark, interval and details."""
    words_behind = list(cell.details)
    if cell.mark:
        words_behind.append("x")  # about as wide as a mark
    thin_space = 0.2 * _EM
    width_behind = thin_space + _text_width(" ".join(words_behind))
    if cell.ends:
        plus_minus_width = _EM
        # Both ends of an interval stand above each other.
        ends_width = max(_text_width(end) for end in cell.ends)
        width_behind += _INTERVAL_SCALE * (plus_minus_width + ends_width)
    return _text_width(cell.text) + width_behind


def _text_width(text: str) -> float:
    """Return the estimated width of a text in points, by the widths of its characters."""
    return _EM * sum(_CHARACTER_WIDTHS.get(character, _OTHER_WIDTH) for character in text)


def _format_float(page: Table, page_number: int, n_pages: int) -> str:
    """Return one page of a table as a LaTeX float.

    The first page has the notes of the table in its caption, and the others refer to it.

    Args:
        page: The rows and columns of the table that are on the page.
        page_number: The number of the page, from 1.
        n_pages: The number of pages of the table.
    """
    table = sections_to_column(page)
    title = table.title
    if n_pages > 1:
        title += f", part {page_number} of {n_pages}"
    caption_title = latex_text(title)

    # The notes, and the label by which texts refer to the page.
    if page_number == 1:
        notes = " ".join(_format_note(note) for note in table.notes)
        label = table.label
    else:
        notes = rf"Signs as in Table~\ref{{tab:{table.label}}}."
        label = f"{table.label}-{page_number}"

    # In LaTeX's list of tables, the caption is only the title.
    caption = rf"\caption{{{caption_title}.}}"
    if notes:
        caption = rf"\caption[{{{caption_title}}}]{{{caption_title}. {notes}}}"
    lines = [
        r"\begin{table*}",
        r"\centering",
        caption,
        rf"\label{{tab:{label}}}",
        r"\smallskip",
        r"\small",
        rf"\setlength{{\tabcolsep}}{{{_GAP / 2:g}pt}}",
        rf"\begin{{tabular}}{{@{{}}{_column_types(table)}@{{}}}}",
        r"\toprule",
        *_format_header(table),
        r"\midrule",
        *_format_body(table, has_sections=bool(page.sections)),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _column_types(table: Table) -> str:
    """Return the types of the columns for LaTeX's `tabular`, such as "lp{90pt}rr".

    Columns of texts are set left, or in a fixed width if texts must be broken over lines. Columns
    of values are set right.
    """
    types = ""
    for width in _text_column_widths(table):
        types += f"p{{{width.limit:.0f}pt}}" if width.is_broken else "l"
    n_value_columns = len(table.heads) - table.n_text_columns
    return types + "r" * n_value_columns


class _TextColumnWidth(NamedTuple):
    """The width of a column of texts in points."""

    # The width in which no text is broken over lines.
    full: float
    # The greatest width that the column may have.
    limit: float

    @property
    def is_broken(self) -> bool:
        """True if texts must be broken over lines."""
        return self.full > self.limit


def _text_column_widths(table: Table) -> list[_TextColumnWidth]:
    """Return the widths of the columns of texts, which share a bit more than half of the page.

    A column is short if it needs no more than an equal share of this room. Short columns get the
    width that they need. Long columns share the remaining room equally.

    Example:
        With room for 190 points, columns that need 40, 100 and 200 points may have 40, 75 and 75.
    """
    needed_widths = [_column_width(table, column) for column in range(table.n_text_columns)]
    equal_share = _TEXT_COLUMNS_WIDTH / len(needed_widths)
    short_widths = [width for width in needed_widths if width <= equal_share]
    n_long = len(needed_widths) - len(short_widths)
    limit_of_long_columns = (_TEXT_COLUMNS_WIDTH - sum(short_widths)) / max(1, n_long)

    column_widths = []
    for needed_width in needed_widths:
        limit = limit_of_long_columns
        is_short = needed_width <= equal_share
        if is_short:
            limit = max(limit_of_long_columns, needed_width)
        column_widths.append(_TextColumnWidth(needed_width, limit))
    return column_widths


def _format_note(note: str) -> str:
    """Return a note as LaTeX, in which an address may be broken after its slashes."""
    text = latex_text(note)
    has_address = "://" in note
    if has_address:
        text = text.replace("/", r"/\allowbreak{}")
    return text


def _format_header(table: Table) -> Iterator[str]:
    """Yield the lines of LaTeX with the titles of columns, below the names that columns share."""
    if table.groups:
        yield from _format_shared_names(table)
    titles = []
    for column, head in enumerate(table.heads):
        is_text = column < table.n_text_columns
        titles.append(_stacked(_title_lines(head.title, is_text=is_text), "r"))
    yield _latex_row(titles)


def _format_shared_names(table: Table) -> Iterator[str]:
    r"""Yield the line with the names that columns share, and the line with the rules below them.

    A name above columns 2 to 4 gives `\multicolumn{3}{c}{name}` and `\cmidrule(lr){2-4}`.
    """
    cells = [""] * table.n_text_columns
    rules = ""
    first_column = table.n_text_columns + 1  # LaTeX counts columns from 1
    for name, n_columns in table.groups:
        last_column = first_column + n_columns - 1
        stacked_name = _stacked(_name_and_protocol(name), "c")
        cells.append(rf"\multicolumn{{{n_columns}}}{{c}}{{{stacked_name}}}")
        rules += rf"\cmidrule(lr){{{first_column}-{last_column}}}"
        first_column = last_column + 1
    yield _latex_row(cells)
    yield rules


def _latex_row(cells: Sequence[str]) -> str:
    r"""Return cells as a row of a LaTeX table: ["a", "b"] -> `a & b \\`."""
    return f"{' & '.join(cells)} \\\\"


def _title_lines(title: str, *, is_text: bool) -> list[str]:
    """Split the title of a column into lines.

    The title of a column of numbers has short lines, since numbers are narrow. The title of a
    column of texts stays on one line.

    Args:
        title: The title.
        is_text: True if the column has texts.

    Example:
        _title_lines("image to text", is_text=False) -> ["image to", "text"]
    """
    if is_text or not title:
        return [title]
    # Split the title at places where a line may end: after a space, and after a separator in a
    # word. NUL stands for the latter.
    title_with_breaks = re.sub(r"(?<=[-/:])(?=\w)", "\0", title)
    pieces = re.split(r"(?<= )|\0", title_with_breaks)

    # Fill each line with as many pieces as fit.
    lines = [""]
    for piece in pieces:
        is_too_long = len(lines[-1] + piece) > _TITLE_LENGTH
        if lines[-1] and is_too_long:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def _stacked(lines: Sequence[str], side: str) -> str:
    r"""Return LaTeX that sets lines of text above each other: `\shortstack[c]{coco \\ (karpathy)}`.

    Args:
        lines: The lines, from top to bottom. A single line needs no stack.
        side: How the lines are aligned: "l" is left, "r" is right, and "c" is centred.
    """
    text = r" \\ ".join(latex_text(line) for line in lines)
    if len(lines) == 1:
        return text
    return rf"\shortstack[{side}]{{{text}}}"


def _name_and_protocol(shared_name: str) -> list[str]:
    """Split the name above columns into two lines: "coco (karpathy)" -> ["coco", "(karpathy)"].

    A name without a protocol in brackets stays on one line.
    """
    name, bracket, protocol = shared_name.partition(" (")
    if not bracket:
        return [name]
    return [name, f"({protocol}"]


def _format_body(table: Table, *, has_sections: bool) -> Iterator[str]:
    """Yield the rows of a table as LaTeX, with space above each row that begins a section.

    Args:
        table: The table.
        has_sections: True if the first column has the name of a section in the first row of the
            section, and is empty in the other rows.
    """
    column_widths = _text_column_widths(table)
    for row_index, row in enumerate(table.rows):
        begins_section = has_sections and row[0].text != ""
        if begins_section and row_index > 0:
            yield r"\addlinespace"
        cells = []
        for column, cell in enumerate(row):
            if column < table.n_text_columns:
                cells.append(_format_name(cell, is_broken=column_widths[column].is_broken))
            else:
                cells.append(_format_value(cell))
        yield _latex_row(cells)


def _format_name(cell: Cell, *, is_broken: bool) -> str:
    r"""Return the name of a row as LaTeX, which may be broken over lines at separators.

    Args:
        cell: The cell with the name.
        is_broken: True if the column is so narrow that names must be broken.

    Example:
        `hf:a/b` -> `hf:\allowbreak{}a/\allowbreak{}b`
    """
    # Split the name after each separator that a letter or digit follows.
    pieces = re.split(r"(?<=[^\w\s([-])(?=\w)|(?<=_)(?=\w)", one_line(cell.text))
    name = r"\allowbreak{}".join(latex_text(piece) for piece in pieces)
    if is_broken:
        return rf"{{\raggedright {name}\par}}"
    return name


def _format_value(cell: Cell) -> str:
    """Return a number as LaTeX, with its mark, interval and details.

    The best number is bold, and the second best is underlined.
    """
    value = latex_text(cell.text)
    if cell.best:
        value = rf"\textbf{{{value}}}"
    elif cell.second:
        value = rf"\underline{{{value}}}"
    value += _MARKS.get(cell.mark, "") + _format_interval(cell.ends)
    for detail in cell.details:
        value += rf" {{\scriptsize {latex_text(detail)}}}"
    return value


def _format_interval(ends: tuple[str, ...]) -> str:
    r"""Return an interval as LaTeX in small digits.

    Args:
        ends: How far the interval reaches above and below the number, from `interval_ends`.

    Example:
        ("1.9",) -> `\,{\scriptsize $\pm$1.9}`, ("1.8", "2.0") -> `\,$^{+1.8}_{-2.0}$`
    """
    if len(ends) == 0:
        return ""
    if len(ends) == 2:
        above, below = ends
        return rf"\,$^{{+{above}}}_{{-{below}}}$"
    (end,) = ends
    is_whole_interval = end.startswith("[")
    text = latex_text(end) if is_whole_interval else rf"$\pm${end}"
    return rf"\,{{\scriptsize {text}}}"

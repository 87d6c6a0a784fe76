r"""Tables for a paper: `booktabs`, one number per cell, no wider than the text.

The width of a table is estimated by the widths of Computer Modern's characters. A table becomes
several ones if it is longer than a page, or wider than the text: a column of a paper of two columns
(`table`), both columns (`table*`), or the text of LaTeX's `article`, the narrowest of usual classes
of one column. Columns of numbers of the same models come into one table. In a column of a paper,
words are abbreviated and rows exchanged with columns before a table is split.

Numbers line up in their columns, and so do their intervals: a mark or an interval that a cell lacks
becomes a `\phantom`, which is as wide as the one of other cells in the column.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby, pairwise
from math import ceil
from typing import NamedTuple

from cosmos_eval.results.abbreviations import abbreviate
from cosmos_eval.results.table import (
    Cell,
    Table,
    number_links,
    sections_to_column,
    select_columns,
    transposed,
)
from cosmos_eval.results.text import latex_text, one_line

PREAMBLE = "% needs \\usepackage{booktabs}\n"
WIDTHS = {1: 3.25, 2: 6.875}
"""The widths of a column and of a page of two columns in inches, as in CVPR's and IEEE's templates.
"""

_PAGE_HEIGHT = 550.0  # in points: \textheight of article at 10 pt
_HEIGHT_OF_RULES = 60.0  # of the rules of a table, a line of its caption, and the space around
_CAPTION_EM, _CAPTION_LINE = 10.0, 12.0  # points, of \normalsize
# The text that replaces the notes in the captions of later pages, see `_format_float`. The
# numbers of the page and the table are not known yet: two digits are as many as they usually have.
_LONGEST_REFERENCE = ", part 10 of 10. Signs as in Table 10."
_LEAST_TEXT_SHARE = 0.3  # of the width: what values must leave for all columns of texts
_BREAKING_LOSS = 1.2  # a text broken into lines needs about a fifth more room
_NAME_LENGTH = 9  # characters of a line of a name above columns that is broken
_ROUNDING = 1e-6  # points, more than errors of sums of widths
_HEIGHT_OF_TWO_ENDS = 13.75  # points, of a row whose intervals have ends one above the other
_SCRIPT_EM = 8.0  # points, of \scriptsize, and about that of exponents
# Widths in em of characters of cmr9 (its TFM file), rounded up; other characters have 0.6 em.
_CHARACTER_WIDTHS = dict.fromkeys("ijl.,:;'|!I[]()/-", 0.4) | dict.fromkeys("mwMW%@", 1.06)
_CHARACTER_WIDTHS |= dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ&_+−×<>", 0.8)
_CHARACTER_WIDTHS |= dict.fromkeys("frst", 0.42) | dict.fromkeys("acegoz", 0.52)
_FIGURE_SPACE = "\u2007"  # as wide as a digit
_CHARACTER_WIDTHS |= dict.fromkeys(f"0123456789 {_FIGURE_SPACE}", 0.52)
_OTHER_WIDTH = 0.6
_BOLD_WIDTH = 1.15  # of bold digits, relative to others
_MARKS = {"†": r"$^\dagger$", "‡": r"$^\ddagger$"}
_NO_NUMBER = "--"
_WIDE_SIGNS = str.maketrans("-xe", "−××")


class _Layout(NamedTuple):
    """The width of a table, and the size of its text. All lengths are in points."""

    # LaTeX's environment for the table.
    environment: str
    # The greatest width of the table.
    width: float
    # LaTeX's command for the size of the text, with its em and its distance of lines.
    font: str
    em: float
    line_height: float
    # The space between columns, which is twice \tabcolsep.
    gap: float
    # The share of the width for all columns of texts of a table that is split.
    text_share: float = 0.55
    # The characters of a line of a title, unless a word is longer.
    title_length: int = 9
    # Whether the names above columns are broken over lines if they are wider than their columns.
    breaks_names: bool = False


_LAYOUTS: Mapping[int | None, _Layout] = {
    None: _Layout("table*", 345.0, r"\small", 9.25, 11.0, 8.0),
    1: _Layout("table", 72.27 * WIDTHS[1], r"\footnotesize", 8.5, 9.5, 6.0),
    2: _Layout("table*", 72.27 * WIDTHS[2], r"\small", 9.25, 11.0, 8.0),
}


def to_latex(table: Table, paper_columns: int | None = None) -> str:
    r"""Return a table as LaTeX floats with `\caption` and `\label`, several if one is too large.

    A table that is too wide is split between columns. A table that is longer than a page is split
    between rows. A table for one column of a paper is made narrower first, see `_split_width`.

    Args:
        table: The table.
        paper_columns: The number of columns that the table spans in a paper of two columns, 1 or
            2; None for a paper of one column.
    """
    layout = _LAYOUTS[paper_columns]
    (numbered_table,) = number_links([table])
    if paper_columns == 1 and not _fits(numbered_table, layout):
        layout = layout._replace(text_share=0.5, title_length=6, breaks_names=True)
        (numbered_table,) = number_links([abbreviate(table)])
    pages: list[tuple[Table, _Layout]] = []
    for narrow_table, table_layout in _split_width(numbered_table, layout):
        for page in _split_rows(narrow_table, table_layout, has_notes=not pages):
            pages.append((page, table_layout))
    floats = []
    for page_number, (page, page_layout) in enumerate(pages, start=1):
        floats.append(_format_float(page, page_layout, page_number, len(pages)))
    return "\n".join(floats)


def _split_width(table: Table, layout: _Layout) -> Iterator[tuple[Table, _Layout]]:
    """Yield tables that fit into the width of the text, which have all numbers of a table together.

    If the table is too wide, it is first split into tables with different rows, see
    `_columns_by_rows`. If names above columns may be broken, rows and columns of such a table are
    exchanged if it then fits. Others are split between columns.

    Yields:
        A table and its layout.
    """
    if _fits(table, layout):
        yield table, layout
        return
    for columns in _columns_by_rows(table):
        dense_table = select_columns(table, columns)
        if layout.breaks_names and not table.sections and not _fits(dense_table, layout):
            exchanged_table = sections_to_column(transposed(dense_table))
            # The titles are names of models now, whose words are longer.
            exchanged_layout = layout._replace(title_length=_NAME_LENGTH)
            if _fits(exchanged_table, exchanged_layout):
                yield exchanged_table, exchanged_layout
                continue
        for page_columns in _split_columns(dense_table, layout):
            yield select_columns(dense_table, page_columns), layout


def _fits(table: Table, layout: _Layout) -> bool:
    """Return whether a table fits into the width of the text."""
    return len(list(_split_columns(table, layout))) == 1


def _columns_by_rows(table: Table) -> list[list[int]]:
    """Group the columns of values so that columns with values in the same row are in one group.

    Columns that share a name above their titles stay together. Groups are in the order of their
    first columns.

    Example:
        Columns 1 and 3 have values of the models a and b, and column 2 of the model c. The groups
        are [[1, 3], [2]].
    """
    groups: list[list[int]] = []
    rows_of_groups: list[set[int]] = []
    for block in _column_blocks(table, range(table.n_text_columns, len(table.heads))):
        columns = list(block)
        rows = set()
        for row_index, row in enumerate(table.rows):
            if any(row[column].text for column in block):
                rows.add(row_index)
        # Join the block with all groups that have one of its rows.
        for index in reversed(range(len(groups))):
            if rows & rows_of_groups[index]:
                columns += groups.pop(index)
                rows |= rows_of_groups.pop(index)
        groups.append(sorted(columns))
        rows_of_groups.append(rows)
    return sorted(groups)


def _split_rows(table: Table, layout: _Layout, *, has_notes: bool) -> Iterator[Table]:
    """Split a table between rows into tables that fit on a page each, and are about equally high.

    Args:
        table: The table.
        layout: The width of the table, and the size of its text.
        has_notes: True if the caption of the first page has the notes, so that it has fewer rows.

    Example:
        A table without notes has 100 rows of one line each, and 3 pages. The pages end 33.3, 66.7
        and 100 lines below its top. They have the rows 0 to 33, 34 to 66 and 67 to 99: a page
        begins with the first row that begins at the end of the former page or below.
    """
    row_heights = _row_heights(table, layout)
    notes_height = _notes_height(table, layout, has_notes=has_notes)
    # The height above each row: of the notes and of all rows above. The last value is the height of
    # the whole table.
    heights_above = list(accumulate(row_heights, initial=notes_height))
    # The last row of a page begins above the end of the page, and may reach below it. So the end
    # leaves room for the highest row.
    page_height = _page_height(table, layout) - max(row_heights)

    first_rows = [0]
    for page_end in _page_ends(heights_above, page_height):
        first_row_of_next_page = bisect_left(heights_above, page_end)
        # The first page has a row in any case.
        first_rows.append(max(first_row_of_next_page, 1))
    for first_row, end_row in pairwise(first_rows):
        if end_row > first_row:
            yield table._replace(
                rows=table.rows[first_row:end_row], sections=table.sections[first_row:end_row]
            )


def _notes_height(table: Table, layout: _Layout, *, has_notes: bool) -> float:
    """Return the height in points of the caption of the first page, without its first line.

    Args:
        table: The table.
        layout: The width of the caption.
        has_notes: True if the caption has the notes. If not, it refers to another table for them.
    """
    notes = table.notes if has_notes else [_LONGEST_REFERENCE]
    caption = " ".join([table.title, *notes])
    n_lines = ceil(_text_width(caption, _CAPTION_EM) / layout.width)
    return (n_lines - 1) * _CAPTION_LINE


def _page_ends(heights_above: Sequence[float], page_height: float) -> list[float]:
    """Return how far below the top of the notes each page of a table ends, in points.

    All pages are equally high, with as few pages as possible. But if the notes themselves are
    higher than such a page, the first page is filled, and has a row in any case. The other pages
    share the remaining height equally.

    Args:
        heights_above: The height above each row, which begins with the height of the notes above
            row 0 and ends with the height of the whole table.
        page_height: The greatest height of a page.

    Example:
        A table of 100 points on pages of 40 points needs 3 pages, which end at 33.3, 66.7 and 100
        points. If 35 of the 100 points are notes, the pages end at 40, 70 and 100 points.
    """
    notes_height, table_height = heights_above[0], heights_above[-1]
    n_pages = max(1, ceil(table_height / page_height))
    first_height = other_height = table_height / n_pages
    if notes_height > first_height:
        height_with_one_row = heights_above[1]
        first_height = max(page_height, height_with_one_row)
        remaining_height = table_height - first_height
        n_other_pages = max(1, ceil(remaining_height / page_height))
        n_pages = 1 + n_other_pages
        other_height = remaining_height / n_other_pages
    return [first_height + page * other_height for page in range(n_pages)]


def _page_height(table: Table, layout: _Layout) -> float:
    """Return the height in points that a page leaves for rows and notes below the titles."""
    n_title_lines = 1
    for column, head in enumerate(table.heads):
        n_lines = len(_title_lines(table, column, layout))
        if head.group:
            n_lines += len(_shared_name_lines(table, [column], layout))
        n_title_lines = max(n_title_lines, n_lines)
    return _PAGE_HEIGHT - _HEIGHT_OF_RULES - n_title_lines * layout.line_height


def _row_heights(table: Table, layout: _Layout) -> list[float]:
    """Return the estimated height of each row in points.

    A row is as high as its highest text, after texts are broken over lines in their columns. The
    first row of a section includes the name of the section and the space above it.
    """
    column_widths = _text_column_widths(table, layout)
    row_stretch = _row_stretch(table, layout)
    heights = []
    former_section = ""
    for row_index, row in enumerate(table.rows):
        n_lines = 1.0
        for cell, width in zip(row[: table.n_text_columns], column_widths, strict=True):
            text_width = _text_width(cell.text, layout.em)
            n_lines = max(n_lines, ceil(_BREAKING_LOSS * text_width / width.limit))
        section = table.sections[row_index] if table.sections else ""
        if section != former_section:
            name_width = _BREAKING_LOSS * _text_width(section, layout.em)
            n_lines += ceil(name_width / layout.width) + 0.5  # \addlinespace is half a line
        former_section = section
        heights.append(n_lines * layout.line_height * row_stretch)
    return heights


def _split_columns(table: Table, layout: _Layout) -> Iterator[list[int]]:
    """Yield lists of columns of values, so that each fits on a page beside the names of rows.

    Columns that share a name above their titles stay together, unless they are wider than a page.

    Example:
        A table with names of rows in column 0 and six wide columns may give [1, 2, 3] and
        [4, 5, 6].
    """
    # The width in points that the names of rows leave for values, which may need exactly that. The
    # outer edges of a table have no space, so that there is one gap less than columns.
    available_width = layout.width + layout.gap + _ROUNDING
    for text_column_width in _text_column_widths(table, layout):
        available_width -= min(text_column_width.full, text_column_width.limit) + layout.gap

    # The blocks of columns that stay together. If one is too wide, each of its columns is a block.
    blocks: list[list[int]] = []
    for block in _column_blocks(table, range(table.n_text_columns, len(table.heads))):
        is_too_wide = _block_width(table, block, layout) > available_width
        blocks += [[column] for column in block] if is_too_wide else [block]

    # Each page has as many blocks as fit, and at least one.
    page_columns: list[int] = []
    for block in blocks:
        width = _values_width(table, [*page_columns, *block], layout)
        if page_columns and width > available_width:
            yield page_columns
            page_columns = []
        page_columns = [*page_columns, *block]
    yield page_columns


def _column_blocks(table: Table, columns: Iterable[int]) -> list[list[int]]:
    """Group neighbouring columns of values that share a name above their titles.

    A column without such a name is a block by itself.

    Args:
        table: The table.
        columns: The indices of neighbouring columns of values.

    Example:
        Columns 1, 2 and 3 below the names "coco", "coco" and "" are the blocks [[1, 2], [3]].
    """
    # The index stands for the name of a column without a name, since it differs for each column.
    blocks = groupby(columns, key=lambda column: table.heads[column].group or column)
    return [list(block) for _, block in blocks]


def _values_width(table: Table, columns: Iterable[int], layout: _Layout) -> float:
    """Return the width in points of neighbouring columns of values and the gaps before them."""
    blocks = _column_blocks(table, columns)
    return sum(_block_width(table, block, layout) for block in blocks)


def _block_width(table: Table, columns: Sequence[int], layout: _Layout) -> float:
    """Return the width in points of columns and their gaps, or of the name above them if wider.

    Args:
        table: The table.
        columns: The indices of neighbouring columns, which share the name above their titles.
        layout: The size of the text.
    """
    columns_width = sum(_column_width(table, column, layout) + layout.gap for column in columns)
    name_lines = _shared_name_lines(table, columns, layout)
    name_width = max(_text_width(line, layout.em) for line in name_lines)
    return max(columns_width, layout.gap + name_width)


def _shared_name_lines(table: Table, columns: Sequence[int], layout: _Layout) -> list[str]:
    """Return the lines of the name above columns, which are its data set and its protocol.

    If the layout breaks names, a line that is wider than the columns becomes several lines.

    Args:
        table: The table.
        columns: The indices of neighbouring columns, which share the name.
        layout: The size of the text.

    Example:
        "flickr30k-val (cosmos)" -> ["flickr30k-val", "(cosmos)"], or above narrow columns
        ["flickr30k-", "val", "(cosmos)"]
    """
    lines = _name_and_protocol(table.heads[columns[0]].group)
    if not layout.breaks_names:
        return lines
    columns_width = sum(_column_width(table, column, layout) + layout.gap for column in columns)
    broken_lines = []
    for line in lines:
        is_too_wide = layout.gap + _text_width(line, layout.em) > columns_width
        broken_lines += _break_title(line, _NAME_LENGTH) if is_too_wide else [line]
    return broken_lines


def _column_width(table: Table, column: int, layout: _Layout) -> float:
    """Return the width in points of a column, without its gap and without breaking texts."""
    title_lines = _title_lines(table, column, layout)
    widths = [_text_width(line, layout.em) for line in title_lines]
    if column < table.n_text_columns:
        widths += [_text_width(row[column].text, layout.em) for row in table.rows]
    elif table.rows:
        values = _column_values(table, column, layout)
        number_width = max(value.number.width for value in values)
        widths.append(number_width + sum(suffix.width for suffix in _widest_suffixes(values)))
    return max(widths)


def _text_width(text: str, em: float) -> float:
    """Return the estimated width of a text in points, by the widths of its characters.

    Args:
        text: The text.
        em: The em of its font in points.
    """
    return em * sum(_CHARACTER_WIDTHS.get(character, _OTHER_WIDTH) for character in text)


def _format_float(page: Table, layout: _Layout, page_number: int, n_pages: int) -> str:
    """Return one page of a table as a LaTeX float.

    The first page has the notes of the table in its caption, and the others refer to it.

    Args:
        page: The rows and columns of the table that are on the page.
        layout: The width of the table, and the size of its text.
        page_number: The number of the page, from 1.
        n_pages: The number of pages of the table.
    """
    title = page.title
    if n_pages > 1:
        title += f", part {page_number} of {n_pages}"
    caption_title = latex_text(title)

    # The notes, and the label by which texts refer to the page.
    if page_number == 1:
        notes = " ".join(_format_note(note) for note in page.notes)
        label = page.label
    else:
        notes = rf"Signs as in Table~\ref{{tab:{page.label}}}."
        label = f"{page.label}-{page_number}"

    # In LaTeX's list of tables, the caption is only the title.
    caption = rf"\caption{{{caption_title}.}}"
    if notes:
        caption = rf"\caption[{{{caption_title}}}]{{{caption_title}. {notes}}}"
    stretch = _row_stretch(page, layout)
    lines = [
        rf"\begin{{{layout.environment}}}",
        r"\centering",
        caption,
        rf"\label{{tab:{label}}}",
        r"\medskip",
        layout.font,
        rf"\setlength{{\tabcolsep}}{{{layout.gap / 2:g}pt}}",
        *([rf"\renewcommand{{\arraystretch}}{{{stretch:.2f}}}"] if stretch != 1 else []),
        rf"\begin{{tabular}}{{@{{}}{_column_types(page, layout)}@{{}}}}",
        r"\toprule",
        *_format_header(page, layout),
        r"\midrule",
        *_format_body(page, layout),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\end{{{layout.environment}}}",
    ]
    return "\n".join(lines) + "\n"


def _column_types(table: Table, layout: _Layout) -> str:
    """Return the types of the columns for LaTeX's `tabular`, such as "lp{90pt}rr".

    Columns of texts are set left, or in a fixed width if texts must be broken over lines. Columns
    of values are set right.
    """
    types = ""
    for width in _text_column_widths(table, layout):
        types += f"p{{{width.limit:.0f}pt}}" if width.is_broken else "l"
    n_value_columns = len(table.heads) - table.n_text_columns
    return types + "r" * n_value_columns


def _row_stretch(table: Table, layout: _Layout) -> float:
    """Return the distance of rows relative to lines, which is 1 unless intervals have two ends."""
    has_two_ends = any(len(cell.ends) == 2 for row in table.rows for cell in row)
    return _HEIGHT_OF_TWO_ENDS / layout.line_height if has_two_ends else 1.0


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


def _text_column_widths(table: Table, layout: _Layout) -> list[_TextColumnWidth]:
    """Return the widths of the columns of texts, which share the width that values leave.

    If values leave little, the table is split, and texts get a bit more than half of the width.
    A column is short if it needs no more than an equal share of this room. Short columns get the
    width that they need. Long columns share the remaining room equally.

    Example:
        With room for 190 points, columns that need 40, 100 and 200 points may have 40, 75 and 75.
    """
    value_columns = range(table.n_text_columns, len(table.heads))
    gaps_width = (table.n_text_columns - 1) * layout.gap
    room = layout.width - gaps_width - _values_width(table, value_columns, layout)
    if room < _LEAST_TEXT_SHARE * layout.width:
        room = layout.text_share * layout.width
    needed_widths = [_column_width(table, column, layout) for column in range(table.n_text_columns)]
    equal_share = room / len(needed_widths)
    short_widths = [width for width in needed_widths if width <= equal_share]
    n_long = len(needed_widths) - len(short_widths)
    limit_of_long_columns = (room - sum(short_widths)) / max(1, n_long)

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


def _format_header(table: Table, layout: _Layout) -> Iterator[str]:
    """Yield the lines of LaTeX with the titles of columns, below the names that columns share."""
    if table.groups:
        yield from _format_shared_names(table, layout)
    titles = [_title_lines(table, column, layout) for column in range(len(table.heads))]
    for cells in _rows_of_lines(titles):
        yield _latex_row(cells)


def _format_shared_names(table: Table, layout: _Layout) -> Iterator[str]:
    r"""Yield the rows with the names that columns share, and the line with the rules below them.

    A name above columns 2 to 4 gives `\multicolumn{3}{c}{name}` and `\cmidrule(lr){2-4}`.
    """
    names = []
    first_column = table.n_text_columns
    for _, n_columns in table.groups:
        columns = range(first_column, first_column + n_columns)
        names.append(_shared_name_lines(table, columns, layout))
        first_column += n_columns
    for texts in _rows_of_lines(names):
        cells = [""] * table.n_text_columns
        for text, (_, n_columns) in zip(texts, table.groups, strict=True):
            cells.append(rf"\multicolumn{{{n_columns}}}{{c}}{{{text}}}")
        yield _latex_row(cells)

    rules = ""
    first_column = table.n_text_columns + 1  # LaTeX counts columns from 1
    for _, n_columns in table.groups:
        last_column = first_column + n_columns - 1
        rules += rf"\cmidrule(lr){{{first_column}-{last_column}}}"
        first_column = last_column + 1
    yield rules


def _rows_of_lines(titles: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return titles of one or more lines as rows of a table, in LaTeX, so that all end in the last.

    Example:
        [["model"], ["image to", "text"]] -> [["", "image to"], ["model", "text"]]
    """
    n_rows = max(len(lines) for lines in titles)
    rows = []
    for row_index in range(n_rows):
        cells = []
        for lines in titles:
            line_index = row_index - (n_rows - len(lines))
            cells.append(latex_text(lines[line_index]) if line_index >= 0 else "")
        rows.append(cells)
    return rows


def _latex_row(cells: Sequence[str]) -> str:
    r"""Return cells as a row of a LaTeX table: ["a", "b"] -> `a & b \\`."""
    return f"{' & '.join(cells)} \\\\"


def _title_lines(table: Table, column: int, layout: _Layout) -> list[str]:
    """Return the lines of the title of a column.

    The title of a column of numbers has short lines, since numbers are narrow. The title of a
    column of texts stays on one line.
    """
    title = table.heads[column].title
    if column < table.n_text_columns or not title:
        return [title]
    return _break_title(title, layout.title_length)


def _break_title(title: str, length: int) -> list[str]:
    """Split a title into lines of at most `length` characters, unless a word is longer.

    Example:
        _break_title("image to text", 9) -> ["image to", "text"]
    """
    # Split the title at places where a line may end: after a space, and after a separator in a
    # word. NUL stands for the latter.
    title_with_breaks = re.sub(r"(?<=[-/:])(?=\w)", "\0", title)
    pieces = re.split(r"(?<= )|\0", title_with_breaks)

    # Fill each line with as many pieces as fit.
    lines = [""]
    for piece in pieces:
        is_too_long = len(lines[-1] + piece) > length
        if lines[-1] and is_too_long:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def _name_and_protocol(shared_name: str) -> list[str]:
    """Split the name above columns into two lines: "coco (karpathy)" -> ["coco", "(karpathy)"].

    A name without a protocol in brackets stays on one line.
    """
    name, bracket, protocol = shared_name.partition(" (")
    if not bracket:
        return [name]
    return [name, f"({protocol}"]


def _format_body(table: Table, layout: _Layout) -> Iterator[str]:
    """Yield the rows of a table as LaTeX, below the names of their sections."""
    column_widths = _text_column_widths(table, layout)
    columns: list[list[str]] = []
    for column in range(len(table.heads)):
        if column < table.n_text_columns:
            is_broken = column_widths[column].is_broken
            columns.append([_format_name(row[column], is_broken=is_broken) for row in table.rows])
        else:
            columns.append(_align_values(_column_values(table, column, layout)))

    former_section = ""
    for row_index, cells in enumerate(zip(*columns, strict=True)):
        section = table.sections[row_index] if table.sections else ""
        if section != former_section:
            if row_index > 0:
                yield r"\addlinespace"
            yield _format_section(section, len(columns), layout)
        former_section = section
        yield _latex_row(cells)


def _format_section(name: str, n_columns: int, layout: _Layout) -> str:
    """Return the row with the name of a section, which spans all columns of a table.

    A name that is wider than the table may be is broken over lines.
    """
    is_broken = _text_width(name, layout.em) > layout.width
    column_type = rf"p{{{layout.width:.0f}pt}}" if is_broken else "l"
    text = rf"\textit{{{_format_name(Cell(name), is_broken=is_broken)}}}"
    return _latex_row([rf"\multicolumn{{{n_columns}}}{{@{{}}{column_type}@{{}}}}{{{text}}}"])


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


class _Part(NamedTuple):
    """A part of a cell as LaTeX, such as the number or its interval."""

    latex: str = ""
    # The estimated width in points.
    width: float = 0.0


class _Value(NamedTuple):
    """A number as LaTeX, and what stands behind it."""

    number: _Part
    # The mark of a tie, the interval, and further words. One that is missing is empty.
    suffixes: tuple[_Part, _Part, _Part]


def _column_values(table: Table, column: int, layout: _Layout) -> list[_Value]:
    """Return the numbers in a column, with their intervals in the same form."""
    cells = [row[column] for row in table.rows]
    values = []
    for cell, ends in zip(cells, _align_intervals([cell.ends for cell in cells]), strict=True):
        mark = _Part()
        if cell.mark:
            mark = _Part(_MARKS[cell.mark], _text_width(cell.mark, _SCRIPT_EM))
        details = _Part()
        if cell.details:
            words = " ".join(cell.details)
            width = _text_width(f" {words}", _SCRIPT_EM)
            details = _Part(rf" {{\scriptsize {latex_text(words)}}}", width)
        suffixes = (mark, _format_interval(ends), details)
        values.append(_Value(_format_number(cell, layout), suffixes))
    return values


def _format_number(cell: Cell, layout: _Layout) -> _Part:
    r"""Return a number as LaTeX: the best one bold, the second best underlined.

    Example:
        "-1.42x" -> `$-$1.42$\times$`, "6.3e-05" -> `6.3$\times10^{-5}$`, "" -> `--`
    """
    # A minus, a factor and a power of ten are wider than the characters that stand for them.
    wide_text = cell.text.translate(_WIDE_SIGNS)
    width = _text_width(wide_text or _NO_NUMBER, layout.em)
    if cell.text in ("", "-"):
        return _Part(_NO_NUMBER, width)
    value = latex_text(cell.text)
    value = re.sub(r"(?<=\d)x$", r"$\\times$", value)
    value = re.sub(r"(?<![\w.])-(?=\d)", "$-$", value)
    # A power of ten: 6.3e-05 becomes 6.3 x 10^-5, and 1e-06 becomes 10^-6.
    value = re.sub(r"(?<=\d)e\+?(-?)0*(\d+)$", r"$\\times10^{\1\2}$", value)
    value = re.sub(r"(?<![\d.])1\$\\times10", "$10", value)
    if cell.best:
        return _Part(rf"\textbf{{{value}}}", _BOLD_WIDTH * width)
    if cell.second:
        return _Part(rf"\underline{{{value}}}", width)
    return _Part(value, width)


def _align_intervals(intervals: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the ends of the intervals of a column in one form, and all as long as the longest.

    If an interval reaches further on one side, all have two ends. Short ends begin with a space as
    wide as a digit. Whole intervals in brackets stay as they are.

    Args:
        intervals: How far each interval reaches above and below its number, from `interval_ends`.

    Example:
        [("1.9",), ("12.0", "9.5")] -> [(" 1.9", " 1.9"), ("12.0", " 9.5")]
    """
    all_ends = [end for ends in intervals for end in ends if not end.startswith("[")]
    longest = max((len(end) for end in all_ends), default=0)
    has_two_ends = any(len(ends) == 2 for ends in intervals)
    aligned_intervals = []
    for ends in intervals:
        is_whole_interval = len(ends) > 0 and ends[0].startswith("[")
        if is_whole_interval:
            aligned_intervals.append(ends)
            continue
        if len(ends) == 1 and has_two_ends:
            ends = (*ends, *ends)
        aligned_intervals.append(tuple(end.rjust(longest, _FIGURE_SPACE) for end in ends))
    return aligned_intervals


def _format_interval(ends: tuple[str, ...]) -> _Part:
    r"""Return an interval as LaTeX in small digits; empty without one.

    Args:
        ends: How far the interval reaches above and below the number, from `_align_intervals`.

    Example:
        ("1.9",) -> `\,{\scriptsize $\pm$1.9}`, ("1.8", "2.0") -> `\,$^{+1.8}_{-2.0}$`
    """
    if len(ends) == 0:
        return _Part()
    # Both ends of an interval stand above each other. A sign and a thin space are in front.
    width = _SCRIPT_EM + max(_text_width(end, _SCRIPT_EM) for end in ends)
    texts = [end.replace(_FIGURE_SPACE, r"\phantom{0}") for end in ends]
    if len(texts) == 2:
        above, below = texts
        return _Part(rf"\,$^{{+{above}}}_{{-{below}}}$", width)
    (text,) = texts
    is_whole_interval = text.startswith("[")
    text = latex_text(text) if is_whole_interval else rf"$\pm${text}"
    return _Part(rf"\,{{\scriptsize {text}}}", width)


def _widest_suffixes(values: Sequence[_Value]) -> list[_Part]:
    """Return the widest mark, the widest interval and the widest words behind them of a column."""
    suffixes_by_place = zip(*(value.suffixes for value in values), strict=True)
    return [max(suffixes, key=lambda suffix: suffix.width) for suffixes in suffixes_by_place]


def _align_values(values: Sequence[_Value]) -> list[str]:
    r"""Return the cells of a column of numbers as LaTeX, so that their suffixes line up.

    The column is set right. Each suffix has the width of the widest one of its place: a missing one
    becomes a `\phantom`, and a narrow one is laid over a `\phantom`.
    """
    widest_suffixes = _widest_suffixes(values) if values else []
    cells = []
    for value in values:
        text = value.number.latex
        for suffix, widest in zip(value.suffixes, widest_suffixes, strict=True):
            if suffix.width == widest.width:
                text += suffix.latex
            elif suffix.latex == "":
                text += rf"\phantom{{{widest.latex}}}"
            else:
                text += rf"\rlap{{{suffix.latex}}}\phantom{{{widest.latex}}}"
        cells.append(text)
    return cells

r"""Tables for a paper: `booktabs`, one number per cell, no wider than the text.

The width of a table is estimated by the widths of Computer Modern's characters. A table becomes
several ones if it is longer than a page, or wider than the text of LaTeX's `article`, the narrowest
of usual classes.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import ceil
from typing import NamedTuple

from cosmos_eval.results.table import Cell, Table, numbered, with_columns, without_sections
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
    r"""Write a table as floats with captions and `\label`, several if one is too large."""
    (table,) = numbered([table])
    pages: list[Table] = []
    for columns in _column_ranges(table):
        pages += _pages(with_columns(table, columns))
    floats = [_float(page, number, len(pages)) for number, page in enumerate(pages, start=1)]
    return "\n".join(floats)


def _pages(table: Table) -> Iterator[Table]:
    """Yield parts of a table that are no longer than a page and of about the same height."""
    # The height in lines of the rows above each row, and of all rows at the end.
    heights_above = [0]
    for n_lines in _lines_of_rows(without_sections(table)):
        heights_above.append(heights_above[-1] + n_lines)
    height = heights_above[-1]
    n_pages = ceil(height / _LINES_PER_PAGE)
    # The index of the first row of each page, and the number of rows at the end.
    starts = [bisect_left(heights_above, height * page / n_pages) for page in range(n_pages + 1)]
    for page in range(n_pages):
        rows = slice(starts[page], starts[page + 1])
        yield table._replace(rows=table.rows[rows], sections=table.sections[rows])


def _lines_of_rows(table: Table) -> list[int]:
    """Return the height of each row in lines, which depends on its longest text."""
    widths = _text_column_widths(table)
    heights = []
    for row in table.rows:
        n_lines = 1
        for cell, width in zip(row[: table.n_text_columns], widths, strict=True):
            n_lines = max(n_lines, ceil(_BREAKING_LOSS * _points(cell.text) / width.limit))
        heights.append(n_lines)
    return heights


def _column_ranges(table: Table) -> Iterator[range]:
    """Split the columns of values into ranges that fit beside the names of rows.

    A range consists of whole groups of columns, unless a group is wider than a page.
    """
    names_width = 0.0
    for column_width in _text_column_widths(without_sections(table)):
        names_width += min(column_width.full, column_width.limit) + _GAP
    available = _PAGE_WIDTH - names_width
    groups = _column_groups(table)
    if any(_group_width(table, group) > available for group in groups):
        groups = [[column] for group in groups for column in group]
    range_start = table.n_text_columns
    range_width = 0.0
    for group in groups:
        group_width = _group_width(table, group)
        is_first_of_range = group[0] == range_start
        if not is_first_of_range and range_width + group_width > available:
            yield range(range_start, group[0])
            range_start = group[0]
            range_width = 0.0
        range_width += group_width
    yield range(range_start, len(table.heads))


def _column_groups(table: Table) -> list[list[int]]:
    """Return the indices of the columns of values by group, from left to right.

    A column without a group is a group of its own.
    """
    columns = range(table.n_text_columns, len(table.heads))
    groups = groupby(columns, key=lambda column: table.heads[column].group or column)
    return [list(group) for _, group in groups]


def _group_width(table: Table, columns: Sequence[int]) -> float:
    """Return the width of columns with their gaps, or of the name above them if that is wider."""
    columns_width = sum(_width(table, column) + _GAP for column in columns)
    name_lines = _name_and_protocol(table.heads[columns[0]].group)
    name_width = max(_points(line) for line in name_lines)
    return max(columns_width, _GAP + name_width)


def _width(table: Table, column: int) -> float:
    """Return the width of a column in points, without its gap."""
    is_text = column < table.n_text_columns
    widths = [_points(line) for line in _title_lines(table.heads[column].title, is_text=is_text)]
    for row in table.rows:
        cell = row[column]
        widths.append(_points(cell.text) + _width_behind(cell))
    return max(widths)


def _width_behind(cell: Cell) -> float:
    """Return the width of what follows the number of a cell: its mark, interval and details."""
    words = list(cell.details)
    if cell.mark:
        words.append("x")  # about as wide as a mark
    thin_space = 0.2 * _EM
    width = thin_space + _points(" ".join(words))
    if cell.ends:
        sign = _EM  # the width of a plus-minus sign
        width += _INTERVAL_SCALE * (sign + max(_points(end) for end in cell.ends))
    return width


def _points(text: str) -> float:
    """Return the estimated width of a text in points."""
    return _EM * sum(_CHARACTER_WIDTHS.get(character, _OTHER_WIDTH) for character in text)


def _float(page: Table, number: int, n_pages: int) -> str:
    """Return one page of a table as a float. `number` is the number of the page, from 1."""
    table = without_sections(page)
    title = table.title
    if n_pages > 1:
        title += f", part {number} of {n_pages}"
    caption_title = latex_text(title)
    if number == 1:
        notes = " ".join(_sentence(note) for note in table.notes)
    else:
        notes = rf"Signs as in Table~\ref{{tab:{table.label}}}."
    caption = rf"\caption{{{caption_title}.}}"
    if notes:
        caption = rf"\caption[{{{caption_title}}}]{{{caption_title}. {notes}}}"
    label = table.label if number == 1 else f"{table.label}-{number}"
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
        *_header(table),
        r"\midrule",
        *_body(table, has_sections=bool(page.sections)),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _column_types(table: Table) -> str:
    """Return the types of columns, such as `lp{90pt}rr`.

    Columns of texts are set left, in a fixed width if lines must be broken. Values are set right.
    """
    types = ""
    for width in _text_column_widths(table):
        types += f"p{{{width.limit:.0f}pt}}" if width.is_broken else "l"
    return types + "r" * (len(table.heads) - table.n_text_columns)


class _TextColumnWidth(NamedTuple):
    """The width of a column of texts in points."""

    # The width that the texts need if no line is broken.
    full: float
    # The width that the column may have.
    limit: float

    @property
    def is_broken(self) -> bool:
        """True if lines must be broken."""
        return self.full > self.limit


def _text_column_widths(table: Table) -> list[_TextColumnWidth]:
    """Return the widths of the columns of texts.

    A column is short if it needs no more than an equal share of the room for all of them. Short
    columns have the width that they need. Long columns share the remaining room.
    """
    widths = [_width(table, column) for column in range(table.n_text_columns)]
    equal_share = _TEXT_COLUMNS_WIDTH / len(widths)
    short_widths = [width for width in widths if width <= equal_share]
    n_long = len(widths) - len(short_widths)
    long_limit = (_TEXT_COLUMNS_WIDTH - sum(short_widths)) / max(1, n_long)
    column_widths = []
    for width in widths:
        limit = max(long_limit, width) if width <= equal_share else long_limit
        column_widths.append(_TextColumnWidth(width, limit))
    return column_widths


def _sentence(note: str) -> str:
    """Return a note as LaTeX; an address may be broken after its slashes."""
    text = latex_text(note)
    return text.replace("/", r"/\allowbreak{}") if "://" in note else text


def _header(table: Table) -> Iterator[str]:
    """Yield the lines above the first rule: the names of groups, if there are any, then titles."""
    if table.groups:
        yield from _group_header(table)
    titles = []
    for column, head in enumerate(table.heads):
        is_text = column < table.n_text_columns
        titles.append(_stacked(_title_lines(head.title, is_text=is_text), "r"))
    yield _latex_row(titles)


def _group_header(table: Table) -> Iterator[str]:
    r"""Yield the line of the names of groups, and the line of the rules below them.

    A group that spans columns 2 to 4 has `\multicolumn{3}{c}{name}` and `\cmidrule(lr){2-4}`.
    """
    cells = [""] * table.n_text_columns
    rules = ""
    first_column = table.n_text_columns + 1  # LaTeX counts columns from 1
    for group, n_columns in table.groups:
        last_column = first_column + n_columns - 1
        name = _stacked(_name_and_protocol(group), "c")
        cells.append(rf"\multicolumn{{{n_columns}}}{{c}}{{{name}}}")
        rules += rf"\cmidrule(lr){{{first_column}-{last_column}}}"
        first_column = last_column + 1
    yield _latex_row(cells)
    yield rules


def _latex_row(cells: Sequence[str]) -> str:
    r"""Return cells as a row of a table: `first & second \\`."""
    return f"{' & '.join(cells)} \\\\"


def _title_lines(title: str, *, is_text: bool) -> list[str]:
    """Split the title of a column of numbers into short lines: "image to text" -> ["image to",
    "text"]. Numbers are narrow. The title of a column of texts stays one line.
    """
    if is_text or not title:
        return [title]
    # NUL stands where a word may be broken.
    with_breaks = re.sub(r"(?<=[-/:])(?=\w)", "\0", title)
    lines = [""]
    for piece in re.split(r"(?<= )|\0", with_breaks):
        if lines[-1] and len(lines[-1] + piece) > _TITLE_LENGTH:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def _stacked(lines: Sequence[str], side: str) -> str:
    """Return lines of text above each other. `side` aligns them: `l`, `r` or `c` for centred."""
    text = r" \\ ".join(latex_text(line) for line in lines)
    return text if len(lines) == 1 else rf"\shortstack[{side}]{{{text}}}"


def _name_and_protocol(group: str) -> list[str]:
    """Split the name of a group into two lines: "coco (karpathy)" -> ["coco", "(karpathy)"].

    A name without a protocol in brackets stays one line.
    """
    name, bracket, protocol = group.partition(" (")
    return [name, f"({protocol}"] if bracket else [name]


def _body(table: Table, *, has_sections: bool) -> Iterator[str]:
    """Yield the rows of a table, with space above each row that begins a section."""
    widths = _text_column_widths(table)
    for number, row in enumerate(table.rows):
        if has_sections and number > 0 and row[0].text:
            yield r"\addlinespace"
        cells = []
        for column, cell in enumerate(row):
            if column < table.n_text_columns:
                cells.append(_name(cell, is_broken=widths[column].is_broken))
            else:
                cells.append(_cell(cell))
        yield _latex_row(cells)


def _name(cell: Cell, *, is_broken: bool) -> str:
    """Return the name of a row, in which lines may be broken at separators."""
    pieces = re.split(r"(?<=[^\w\s([-])(?=\w)|(?<=_)(?=\w)", one_line(cell.text))
    name = r"\allowbreak{}".join(latex_text(piece) for piece in pieces)
    return rf"{{\raggedright {name}\par}}" if is_broken else name


def _cell(cell: Cell) -> str:
    """Return a number with its marks, interval and details as LaTeX."""
    value = latex_text(cell.text)
    if cell.best:
        value = rf"\textbf{{{value}}}"
    elif cell.second:
        value = rf"\underline{{{value}}}"
    value += _MARKS.get(cell.mark, "") + _interval(cell.ends)
    for detail in cell.details:
        value += rf" {{\scriptsize {latex_text(detail)}}}"
    return value


def _interval(ends: tuple[str, ...]) -> str:
    r"""Return `$\pm$1.9` in small digits, or how far an interval reaches above and below."""
    if len(ends) == 0:
        return ""
    if len(ends) == 2:
        return rf"\,$^{{+{ends[0]}}}_{{-{ends[1]}}}$"
    end = ends[0]
    text = latex_text(end) if end.startswith("[") else rf"$\pm${end}"
    return rf"\,{{\scriptsize {text}}}"

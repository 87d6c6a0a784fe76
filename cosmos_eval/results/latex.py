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

from cosmos_eval.results.table import Cell, Table, numbered, with_columns, without_sections
from cosmos_eval.results.text import latex_text, one_line

PREAMBLE = "% needs \\usepackage{booktabs}\n"

_WIDTH = 345.0  # points: \textwidth of article at 10 pt
_NAMES = 0.55 * _WIDTH  # points of the columns of texts together, before these are broken
_GAP = 8.0  # points between columns: twice \tabcolsep
_ROWS = 40  # on a page, with titles and caption
_TITLE = 9  # characters of a line of a title, unless a word is longer
_EM = 9.25  # points, of \small
# Widths in em of characters of cmr9 (its TFM file), rounded up; others are 0.6.
_WIDTHS = dict.fromkeys("ijl.,:;'|!I[]()/-", 0.4) | dict.fromkeys("mwMW%@", 1.06)
_WIDTHS |= dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ&_", 0.8) | dict.fromkeys("0123456789 ", 0.52)
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
    limits, heights = _limits(without_sections(table)), [0.0]
    for row in without_sections(table).rows:
        lines = 1
        for cell, (_, limit) in zip(row, limits, strict=False):
            lines = max(lines, ceil(1.2 * _points(cell.text) / limit))
        heights.append(heights[-1] + lines)
    n_pages = ceil(heights[-1] / _ROWS)
    starts = [bisect_left(heights, heights[-1] * page / n_pages) for page in range(n_pages + 1)]
    for page in range(n_pages):
        rows = slice(starts[page], starts[page + 1])
        yield table._replace(rows=table.rows[rows], sections=table.sections[rows])


def _column_ranges(table: Table) -> Iterator[range]:
    """Split the columns of values into ranges that fit beside the names.

    Ranges consist of whole groups if every group fits.
    """
    names = [min(width, limit) + _GAP for width, limit in _limits(without_sections(table))]
    available = _WIDTH - sum(names)
    groups = _column_groups(table)
    if any(_group_width(table, group) > available for group in groups):
        groups = [[column] for group in groups for column in group]
    start, used = table.texts, 0.0
    for group in groups:
        width = _group_width(table, group)
        if group[0] > start and used + width > available:
            yield range(start, group[0])
            start, used = group[0], 0.0
        used += width
    yield range(start, len(table.heads))


def _column_groups(table: Table) -> list[list[int]]:
    """Return the indices of the columns of values by their groups; a column without a group is a
    group of its own."""
    columns = range(table.texts, len(table.heads))
    groups = groupby(columns, key=lambda column: table.heads[column].group or column)
    return [list(group) for _, group in groups]


def _group_width(table: Table, columns: Sequence[int]) -> float:
    """Return the width of columns with their gaps, or of the name above them if that is wider."""
    width = sum(_width(table, column) + _GAP for column in columns)
    name_lines = _lines_of(table.heads[columns[0]].group)
    return max(width, _GAP + max(_points(line) for line in name_lines))


def _width(table: Table, column: int) -> float:
    """Return the width of a column without its gap."""
    title_lines = _title_lines(table.heads[column].title, is_text=column < table.texts)
    widths = [_points(line) for line in title_lines]
    for row in table.rows:
        widths.append(_points(row[column].text) + _width_behind(row[column]))
    return max(widths)


def _width_behind(cell: Cell) -> float:
    """Return the width of the interval, mark and details of a cell."""
    words = list(cell.details)
    if cell.mark:
        words.append("x")
    width = 0.2 * _EM + _points(" ".join(words))
    if cell.ends:
        width += 0.8 * (_EM + max(_points(end) for end in cell.ends))
    return width


def _points(text: str) -> float:
    return _EM * sum(_WIDTHS.get(character, _OTHER_WIDTH) for character in text)


def _float(page: Table, number: int, n_pages: int) -> str:
    """Return one page of a table as a float; `number` is that page's, from 1."""
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
    """Return the types of columns: left, of a fixed width for long texts, right for values."""
    types = ""
    for width, limit in _limits(table):
        types += "l" if width <= limit else f"p{{{limit:.0f}pt}}"
    return types + "r" * (len(table.heads) - table.texts)


def _limits(table: Table) -> list[tuple[float, float]]:
    """Return the width of every column of texts, and the width that it may have.

    Long columns share the room that short ones leave.
    """
    widths = [_width(table, column) for column in range(table.texts)]
    short_widths = [width for width in widths if width <= _NAMES / len(widths)]
    n_long = len(widths) - len(short_widths)
    limit = (_NAMES - sum(short_widths)) / max(1, n_long)
    limits = []
    for width in widths:
        limits.append((width, max(limit, width if width in short_widths else 0)))
    return limits


def _sentence(note: str) -> str:
    """Return a note as LaTeX; an address may be broken after its slashes."""
    text = latex_text(note)
    return text.replace("/", r"/\allowbreak{}") if "://" in note else text


def _header(table: Table) -> Iterator[str]:
    """Yield the titles, below the names of groups, which span their columns."""
    if table.groups:
        names, rules = [""] * table.texts, ""
        start = table.texts + 1
        for group, n_columns in table.groups:
            name = _stacked(_lines_of(group), "c")
            names.append(rf"\multicolumn{{{n_columns}}}{{c}}{{{name}}}")
            rules += rf"\cmidrule(lr){{{start}-{start + n_columns - 1}}}"
            start += n_columns
        yield f"{' & '.join(names)} \\\\"
        yield rules
    titles = []
    for column, head in enumerate(table.heads):
        titles.append(_stacked(_title_lines(head.title, is_text=column < table.texts), "r"))
    yield f"{' & '.join(titles)} \\\\"


def _title_lines(title: str, *, is_text: bool) -> list[str]:
    """Split the title of a column into lines, unless it is above texts: numbers are narrow."""
    if is_text or not title:
        return [title]
    # NUL stands where a word may be broken.
    with_breaks = re.sub(r"(?<=[-/:])(?=\w)", "\0", title)
    lines = [""]
    for piece in re.split(r"(?<= )|\0", with_breaks):
        if lines[-1] and len(lines[-1] + piece) > _TITLE:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def _stacked(lines: Sequence[str], side: str) -> str:
    """Return lines of text above each other, set to a side or centred."""
    text = r" \\ ".join(latex_text(line) for line in lines)
    return text if len(lines) == 1 else rf"\shortstack[{side}]{{{text}}}"


def _lines_of(group: str) -> list[str]:
    """Split the name of a group before the brackets, which hold its protocol."""
    name, bracket, protocol = group.partition(" (")
    return [name, f"({protocol}"] if bracket else [name]


def _body(table: Table, *, has_sections: bool) -> Iterator[str]:
    """Yield the rows, with space above those that begin a section."""
    is_broken = [width > limit for width, limit in _limits(table)]
    for number, row in enumerate(table.rows):
        if has_sections and number > 0 and row[0].text:
            yield r"\addlinespace"
        cells = []
        for column, cell in enumerate(row):
            if column < table.texts:
                cells.append(_name(cell, is_broken[column]))
            else:
                cells.append(_cell(cell))
        yield f"{' & '.join(cells)} \\\\"


def _name(cell: Cell, is_broken: bool) -> str:
    """Return the name of a row, in which lines may be broken at separators."""
    pieces = re.split(r"(?<=[^\w\s([-])(?=\w)|(?<=_)(?=\w)", one_line(cell.text))
    name = r"\allowbreak{}".join(latex_text(piece) for piece in pieces)
    return rf"{{\raggedright {name}\par}}" if is_broken else name


def _cell(cell: Cell) -> str:
    """Return a number with its marks, interval and details."""
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

r"""Tables for a paper: `booktabs`, one number per cell, no wider than the text.

The width of a table is estimated by the widths of Computer Modern's characters. What is wider than
the text of LaTeX's `article`, the narrowest of usual classes, and what is longer than a page,
becomes several tables.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
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
_WIDTHS = {**dict.fromkeys("ijl.,:;'|!I[]()/-", 0.4), **dict.fromkeys("mwMW%@", 1.06)}
_WIDTHS |= {**dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ&_", 0.8), **dict.fromkeys("0123456789 ", 0.52)}
_MARKS = {"†": r"$^\dagger$", "‡": r"$^\ddagger$"}


def to_latex(table: Table) -> str:
    r"""Write a table as floats with captions and `\label`, several where one is too large."""
    (shown,) = numbered([table])
    parts = [part for columns in _columns(shown) for part in _pages(with_columns(shown, columns))]
    floats = (_float(part, n, len(parts)) for n, part in enumerate(parts, start=1))
    return "\n".join(floats)


def _pages(table: Table) -> Iterator[Table]:
    """Yield parts that are no longer than a page."""
    limits, heights = _limits(without_sections(table)), [0.0]
    for row in without_sections(table).rows:
        texts = zip(row, limits, strict=False)
        lines = max(ceil(1.2 * _points(cell.text) / limit) for cell, (_, limit) in texts)
        heights.append(heights[-1] + max(1, lines))
    pages = ceil(heights[-1] / _ROWS)
    starts = [bisect_left(heights, heights[-1] * page / pages) for page in range(pages + 1)]
    for rows in (slice(*pair) for pair in pairwise(starts)):
        yield table._replace(rows=table.rows[rows], sections=table.sections[rows])


def _columns(table: Table) -> Iterator[range]:
    """Split the columns of values into ranges that fit beside the names: whole groups, where every
    group fits."""
    names = [min(own, limit) + _GAP for own, limit in _limits(without_sections(table))]
    available = _WIDTH - sum(names)
    values = range(table.texts, len(table.heads))
    groups = [[*some] for _, some in groupby(values, key=lambda i: table.heads[i].group or i)]
    if any(_group_width(table, some) > available for some in groups):
        groups = [[index] for index in values]
    start, used = table.texts, 0.0
    for some in groups:
        width = _group_width(table, some)
        if some[0] > start and used + width > available:
            yield range(start, some[0])
            start, used = some[0], 0.0
        used += width
    yield range(start, len(table.heads))


def _group_width(table: Table, columns: Sequence[int]) -> float:
    own = sum(_width(table, index) + _GAP for index in columns)
    return max(own, _GAP + max(map(_points, _lines_of(table.heads[columns[0]].group))))


def _width(table: Table, index: int) -> float:
    words = _stack(table.heads[index].title, index < table.texts)
    cells = (_points(row[index].text) + _ends_width(row[index]) for row in table.rows)
    return max(*map(_points, words), *cells)


def _ends_width(cell: Cell) -> float:
    extra = " ".join([*cell.details, *(cell.mark and "x")])
    return 0.8 * max(map(_points, cell.ends), default=-_EM) + _EM + _points(extra)


def _points(text: str) -> float:
    return _EM * sum(_WIDTHS.get(character, 0.6) for character in text)


def _float(part: Table, number: int, count: int) -> str:
    table = without_sections(part)
    of_parts = f", part {number} of {count}" if count > 1 else ""
    title = latex_text(table.title + of_parts)
    first = rf"Signs as in Table~\ref{{tab:{table.label}}}."
    notes = " ".join(map(_sentence, table.notes)) if number == 1 else first
    kinds = ["l" if own <= limit else f"p{{{limit:.0f}pt}}" for own, limit in _limits(table)]
    columns = "".join(kinds) + "r" * (len(table.heads) - table.texts)
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption[{{{title}}}]{{{title}. {notes}}}" if notes else rf"\caption{{{title}.}}",
        rf"\label{{tab:{table.label}{f'-{number}' if number > 1 else ''}}}",
        r"\smallskip",
        r"\small",
        rf"\setlength{{\tabcolsep}}{{{_GAP / 2:g}pt}}",
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        *_header(table),
        r"\midrule",
        *_body(table, is_grouped=bool(part.sections)),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _limits(table: Table) -> list[tuple[float, float]]:
    """Return the width of every column of texts, and what it may have: what short ones leave."""
    widths = [_width(table, index) for index in range(table.texts)]
    short = [width for width in widths if width <= _NAMES / len(widths)]
    limit = (_NAMES - sum(short)) / max(1, len(widths) - len(short))
    return [(width, max(limit, width if width in short else 0)) for width in widths]


def _sentence(note: str) -> str:
    # An address may be broken after its slashes.
    plain = latex_text(note)
    return plain.replace("/", r"/\allowbreak{}") if "://" in note else plain


def _header(table: Table) -> Iterator[str]:
    """Yield the titles, below groups that span their columns."""
    names, rules, start = [""] * table.texts, "", table.texts + 1
    for group, width in table.groups:
        names.append(rf"\multicolumn{{{width}}}{{c}}{{{_stacked(_lines_of(group), 'c')}}}")
        rules += rf"\cmidrule(lr){{{start}-{start + width - 1}}}"
        start += width
    if rules:
        yield f"{' & '.join(names)} \\\\"
        yield rules
    heads = enumerate(table.heads)
    titles = (_stacked(_stack(head.title, i < table.texts), "r") for i, head in heads)
    yield f"{' & '.join(titles)} \\\\"


def _stack(title: str, is_text: bool) -> list[str]:
    """Split a title into lines: numbers are narrow."""
    if is_text or not title:
        return [title]
    pieces = re.sub(r"(?<=[-/:])(?=\w)", "\0", title)
    lines = [""]
    for piece in re.split(r"(?<= )|\0", pieces):
        if lines[-1] and len(lines[-1] + piece) > _TITLE:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def _stacked(lines: Sequence[str], side: str) -> str:
    joined = r" \\ ".join(map(latex_text, lines))
    return joined if len(lines) == 1 else rf"\shortstack[{side}]{{{joined}}}"


def _lines_of(group: str) -> list[str]:
    """Split a group's name before what is in brackets, its protocol."""
    name, bracket, rest = group.partition(" (")
    return [name, f"({rest}"] if bracket else [name]


def _body(table: Table, *, is_grouped: bool) -> Iterator[str]:
    """Yield the rows, with space above those that begin a section."""
    is_broken = [own > limit for own, limit in _limits(table)]
    for number, row in enumerate(table.rows):
        if is_grouped and number and row[0].text:
            yield r"\addlinespace"
        names = (_name(*pair) for pair in zip(row, is_broken, strict=False))
        yield f"{' & '.join([*names, *map(_cell, row[table.texts :])])} \\\\"


def _name(cell: Cell, is_broken: bool) -> str:
    pieces = re.split(r"(?<=[^\w\s([-])(?=\w)|(?<=_)(?=\w)", one_line(cell.text))
    name = r"\allowbreak{}".join(map(latex_text, pieces))
    return rf"{{\raggedright {name}\par}}" if is_broken else name


def _cell(cell: Cell) -> str:
    name = latex_text(cell.text)
    value = (
        rf"\textbf{{{name}}}" if cell.best else rf"\underline{{{name}}}" if cell.second else name
    )
    details = "".join(rf" {{\scriptsize {latex_text(one)}}}" for one in cell.details)
    return value + _MARKS.get(cell.mark, "") + _interval(cell.ends) + details


def _interval(ends: tuple[str, ...]) -> str:
    r"""Return `$\pm$1.9` in small digits, or what is above and below the number."""
    if len(ends) == 2:
        return rf"\,$^{{+{ends[0]}}}_{{-{ends[1]}}}$"
    texts = (latex_text(end) if end[:1] == "[" else rf"$\pm${end}" for end in ends)
    return "".join(rf"\,{{\scriptsize {one}}}" for one in texts)

"""Tables as records, which are then written for a terminal, a page or a paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from cosmos_eval.results import text

_NUMBER = r"[<>+-]?\d[\d.,e+x%:/ \[\]-]*|\d[\d,]* of \d[\d,]*|-"


class Cell(NamedTuple):
    """A text, or a number with its marks.

    `ends` are how far the interval reaches above and below the number, one text where both are
    equal as shown, or the interval in brackets where the number lies outside. `url` is the source.
    """

    text: str = ""
    ends: tuple[str, ...] = ()
    mark: str = ""
    best: bool = False
    second: bool = False
    details: tuple[str, ...] = ()
    url: str = ""

    @property
    def interval(self) -> str:
        """The interval in one word: `±1.9`, `+1.8/-2.0` or `[90.1, 92.3]`."""
        if len(self.ends) < 2:
            return "".join(f"{'' if end[:1] == '[' else '±'}{end}" for end in self.ends)
        return f"+{self.ends[0]}/-{self.ends[1]}"

    @property
    def plain(self) -> str:
        """All that the cell shows, in one line."""
        return " ".join(filter(None, [self.text + self.mark, self.interval, *self.details]))


class Head(NamedTuple):
    """The title of a column, and what stands above it and its neighbours."""

    title: str
    group: str = ""


class Table(NamedTuple):
    """A table: the first `texts` columns are texts that name a row, the others its values. Rows may
    have `sections`, one each, that are called `section`; `label` names the table in LaTeX."""

    title: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    texts: int = 1
    notes: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    section: str = "data set"
    label: str = "results"

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The groups of consecutive columns, and how many columns each has."""
        values = self.heads[self.texts :]
        found = [(name, len(list(some))) for name, some in groupby(values, key=lambda h: h.group)]
        return found if any(name for name, _ in found) else []


def of_records(
    records: Sequence[Mapping[str, Any]], *, section: Sequence[str] = (), texts: int = 1
) -> Table:
    """Return a table of records that have the same keys, without its empty columns. Values of the
    keys `section` are those of the sections, the next `texts` name a row."""
    names = [n for n in next(iter(records), ()) if any(r[n] not in ("", None) for r in records)]
    shown = [name for name in names if name not in section]
    rows = [[Cell("" if r[n] is None else str(r[n])) for n in shown] for r in records]
    sections = [", ".join(str(r[n]) for n in section if r[n]) for r in records] if section else ()
    heads = tuple(map(Head, shown))
    return Table("", heads, tuple(map(tuple, rows)), texts, sections=tuple(sections))


def is_number(texts: Iterable[str]) -> bool:
    """Return whether a column holds numbers alone, which are set right and never broken."""
    import re

    return all(re.fullmatch(_NUMBER, one) for one in texts if one)


def numbered(tables: Sequence[Table]) -> list[Table]:
    """Return tables whose texts with a URL have a number; the last lists the URLs below."""
    urls = sorted({cell.url for table in tables for row in table.rows for cell in row if cell.url})

    def named(cell: Cell) -> Cell:
        number = f" [{urls.index(cell.url) + 1}]" if cell.url else ""
        return cell._replace(text=cell.text + number)

    found = [t._replace(rows=tuple(tuple(map(named, row)) for row in t.rows)) for t in tables]
    notes = (f"[{number}] {url}" for number, url in enumerate(urls, start=1))
    return [*found[:-1], *(t._replace(notes=(*t.notes, *notes)) for t in found[-1:])]


def part_of(table: Table, columns: range) -> Table:
    """Return a table of some columns of values, and of the rows that have any of them."""
    shown = [*range(table.texts), *columns]
    kept = [i for i, row in enumerate(table.rows) if any(row[c].text for c in columns)]
    return table._replace(
        heads=tuple(table.heads[c] for c in shown),
        rows=tuple(tuple(table.rows[i][c] for c in shown) for i in kept),
        sections=tuple(table.sections[i] for i in kept) if table.sections else (),
    )


def transposed(table: Table) -> Table:
    """Return a table whose columns are the rows; groups of columns become sections of rows."""
    values = table.heads[table.texts :]
    names = [" ".join(filter(None, (c.text for c in row[: table.texts]))) for row in table.rows]
    columns = zip(*(row[table.texts :] for row in table.rows), strict=True)
    rows = ((Cell(head.title), *column) for head, column in zip(values, columns, strict=True))
    sections = tuple(head.group for head in values) if table.groups else ()
    corner = "metric" if sections else ""
    return table._replace(
        heads=(Head(corner), *map(Head, names)), rows=tuple(rows), texts=1, sections=sections
    )


def flat(table: Table) -> Table:
    """Return a table whose sections are its first column, each named once."""
    if not table.sections:
        return table
    firsts = ["", *table.sections]
    names = (Cell(new if new != old else "") for old, new in pairwise(firsts))
    rows = tuple((name, *row) for name, row in zip(names, table.rows, strict=True))
    heads = (Head(table.section), *table.heads)
    return table._replace(heads=heads, rows=rows, texts=table.texts + 1, sections=())


def to_markdown(table: Table) -> str:
    """Write a table as GitHub's Markdown, the best numbers in bold, with links to sources."""
    shown = flat(table)
    titles = (" ".join(filter(None, [head.group, head.title])) for head in shown.heads)
    rows = (map(_markdown_cell, row) for row in shown.rows)
    lines = text.markdown_table(map(text.markdown_text, titles), rows, shown.texts)
    notes = "".join(f"- {text.markdown_text(note)}\n" for note in shown.notes)
    return "\n".join(filter(None, [f"### {text.markdown_text(shown.title)}\n", lines, notes]))


def _markdown_cell(cell: Cell) -> str:
    name = text.markdown_text(cell.text)
    if cell.url:
        return f"[{name}](<{cell.url}>)"
    value = f"**{name}**" if cell.best else f"<ins>{name}</ins>" if cell.second else name
    return " ".join(
        filter(None, [value + cell.mark, text.markdown_text(cell.interval), *cell.details])
    )

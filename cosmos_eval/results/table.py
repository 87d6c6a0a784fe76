"""Tables as records, which are then written for a terminal, a page or a paper."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import groupby, pairwise
from typing import Any, NamedTuple, TypeVar

from cosmos_eval.results import text
from cosmos_eval.types import UsageError, nearest

T = TypeVar("T")
BY_NAME, BY_RANK = "model", "rank"  # orders of leaderboards
_NUMBER = r"[<>+-]?\d[\d.,e+x%:/ \[\]-]*|\d[\d,]* of \d[\d,]*|-"


class View(NamedTuple):
    """What tables show and how. `models`, `datasets`, `protocols` and `metrics` are patterns, in
    the order of which rows and columns are shown; empty for all models, data sets and protocols,
    and the headline metrics. `sort` is the order of the rows: of leaderboards `model`, `rank` or a
    metric, of other tables a column. `second` underlines the second best, and `members` adds the
    tables of single data sets to a suite's."""

    models: Sequence[str] = ()
    datasets: Sequence[str] = ()
    protocols: Sequence[str] = ()
    metrics: Sequence[str] = ()
    decimals: int | None = None
    intervals: bool = True
    ranks: bool = False
    second: bool = False
    sort: str = ""
    transpose: bool = False
    members: bool = False

    def fixed(self, value: float, sign: str = "") -> str:
        """Return a number with the decimals of the view, or else with two."""
        return f"{value:{sign}.{2 if self.decimals is None else self.decimals}f}"

    def change(self, title: str, value: float, ends: Iterable[float]) -> dict[str, str]:
        """Return a difference as a column, with the ends of its interval where these are shown."""
        low, high = (self.fixed(end, "+") for end in ends)
        if not self.intervals:
            return {title: self.fixed(value, "+")}
        return {f"{title} [95%]": f"{self.fixed(value, '+')} [{low}, {high}]"}


USUAL = View()


def patterns(values: Iterable[str] | None) -> list[str]:
    """Split the values of an option at commas outside brackets."""
    parts = (one.strip() for value in values or () for one in re.split(r",(?![^(]*\))", value))
    return [one for one in parts if one]


def require_known(what: str, wanted: Iterable[str], known: Iterable[str]) -> None:
    """Raise UsageError for a pattern that no known name matches."""
    names = sorted(set(known))
    for pattern in wanted:
        if names and not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"no {what} is called '{pattern}'; there are {nearest(pattern, names)}"
            )


def first(names: Iterable[str], wanted: Sequence[str]) -> int:
    """Return the index of the first pattern that one of several names has, -1 where none has."""
    found = (i for i, p in enumerate(wanted) if any(fnmatchcase(name, p) for name in names))
    return next(found, -1)


def of_metrics(
    items: Sequence[T], wanted: Sequence[str], name: Callable[[T], str]
) -> tuple[T, ...]:
    """Return the items whose metric, by `name`, is wanted, all where `wanted` is empty. Raises
    UsageError for a pattern that no metric has."""
    require_known("metric", wanted, map(name, items))
    return tuple(item for item in items if not wanted or first([name(item)], wanted) >= 0)


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
    """Return a table of records that have the same keys, without its empty columns. Of the first
    keys, those in `section` are headings, and `texts` others name a row."""
    keys = list(next(iter(records), ()))
    named = keys[: len(section) + texts]
    keys = [key for key in keys if any(record[key] not in ("", None) for record in records)]
    shown = [key for key in keys if key not in section]
    rows = (tuple(Cell("" if r[n] is None else str(r[n])) for n in shown) for r in records)
    sections = [", ".join(str(r[n]) for n in section if r[n]) for r in records] if section else ()
    count = sum(key in named for key in shown)
    return Table("", tuple(map(Head, shown)), tuple(rows), count, sections=tuple(sections))


def sorted_by(table: Table, column: str) -> Table:
    """Return a table in the order of a column, numbers from the least, then texts; sections become
    a column. Raises UsageError for a column that is not there."""
    if not column or not table.rows:
        return table
    titles = [head.title.partition(" [")[0] for head in table.heads]
    if column not in titles:
        raise UsageError(f"--sort {column}: give a column of the table: {', '.join(titles)}")
    texts = [row[titles.index(column)].text for row in table.rows]
    numbers = [re.match(r"<?([+-]?[\d.]+(?:e-?\d+)?)", one) for one in texts]
    keys = [float(found[1]) if found else math.inf for found in numbers]
    order = sorted(range(len(keys)), key=lambda index: (keys[index], texts[index] or "\uffff"))
    sections = tuple(table.sections[index] for index in order) if table.sections else ()
    rows = tuple(table.rows[index] for index in order)
    return flat(table._replace(rows=rows, sections=sections))


def is_number(texts: Iterable[str]) -> bool:
    """Return whether a column holds numbers alone, which are set right and never broken."""
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

"""Tables of texts and numbers, which are then written for a terminal, a page or a paper."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cosmos_eval.results import text
from cosmos_eval.types import UsageError, nearest

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
# Values of `TableOptions.sort` that sort leaderboards by name and by rank.
BY_NAME, BY_RANK = "model", "rank"
# A number with its interval, unit or p-value sign; a count such as `3 of 8`; or `-` for no number.
_NUMBER = r"[<>+-]?\d[\d.,e+x%:/ \[\]-]*|\d[\d,]* of \d[\d,]*|-"


class NamePatterns(NamedTuple):
    """The names that a user wants to see, as patterns such as `scenes-*`; empty for all names.

    Tables show models, data sets, protocols and metrics in the order of their patterns.
    """

    models: Sequence[str] = ()
    datasets: Sequence[str] = ()
    protocols: Sequence[str] = ()
    # Empty for the headline metrics of each task.
    metrics: Sequence[str] = ()

    @classmethod
    def split(
        cls,
        *,
        models: str | Iterable[str] | None = None,
        datasets: str | Iterable[str] | None = None,
        protocols: str | Iterable[str] | None = None,
        metrics: str | Iterable[str] | None = None,
    ) -> NamePatterns:
        """Return the patterns in texts with commas between patterns, see `split_patterns`.

        Example:
            NamePatterns.split(metrics="acc1, acc5") -> NamePatterns(metrics=["acc1", "acc5"])
        """
        return cls(
            models=split_patterns(models),
            datasets=split_patterns(datasets),
            protocols=split_patterns(protocols),
            metrics=split_patterns(metrics),
        )


class TableOptions(NamedTuple):
    """The choices of a user on tables: which rows, columns and marks they show, and how."""

    # The models, data sets, protocols and metrics that are shown, and their order.
    patterns: NamePatterns = NamePatterns()
    # Digits after the decimal point; None for the usual number of a metric's unit.
    decimals: int | None = None
    intervals: bool = True
    ranks: bool = False
    # Whether the second best number is underlined.
    second: bool = False
    # The number of columns that tables span in a paper of two columns, 1 or 2; None for a paper of
    # one column. Only tables for LaTeX have a width.
    paper_columns: int | None = None
    # Whether the captions of tables state numbers of samples, methods and versions.
    caption: bool = False
    # What rows are sorted by: `model`, `rank` or a metric in leaderboards, a column in other
    # tables, empty for the usual order.
    sort: str = ""
    transpose: bool = False
    # Whether the tables of single data sets follow the table of a suite.
    members: bool = False

    def format_number(self, value: float | Decimal, factor: int = 1, sign: str = "") -> str:
        """Format a number with `self.decimals` digits after the point, or with two if it is None.

        Args:
            value: The number.
            factor: The number that it is multiplied by, such as 100 for percent.
            sign: "+" if positive numbers get a sign, as in "+1.50"; empty if they do not.
        """
        decimals = 2 if self.decimals is None else self.decimals
        return f"{text.rounded(value, decimals, factor):{sign}}"

    def format_change(
        self, title: str, value: float | Decimal, ends: Iterable[float], factor: int = 1
    ) -> dict[str, str]:
        """Return a difference as one cell of a table, by the title of its column.

        Args:
            title: The title of the column without interval.
            value: The difference.
            ends: The lower and the upper end of its 95% interval.
            factor: The number that all three are multiplied by, such as 100 for percent.

        Example:
            {"change [95%]": "+1.20 [+0.50, +1.90]"}, or {"change": "+1.20"} if tables show no
            intervals.
        """
        value_text = self.format_number(value, factor, sign="+")
        if not self.intervals:
            return {title: value_text}
        low, high = (self.format_number(end, factor, sign="+") for end in ends)
        return {f"{title} [95%]": f"{value_text} [{low}, {high}]"}


USUAL = TableOptions()


def split_patterns(values: str | Iterable[str] | None) -> list[str]:
    """Split the values of a repeatable option at commas that are not inside brackets.

    Blank pieces are left out.

    Args:
        values: One value or several; None if the option was not given.

    Example:
        split_patterns(["a (b, c), d", "e"]) -> ["a (b, c)", "d", "e"]
    """
    texts = [values] if isinstance(values, str) else values or ()
    patterns = []
    for value in texts:
        # A comma is inside brackets if a closing bracket follows before the next opening one.
        for piece in re.split(r",(?![^(]*\))", value):
            pattern = piece.strip()
            if pattern:
                patterns.append(pattern)
    return patterns


def require_known(kind: str, patterns: Iterable[str], known_names: Iterable[str]) -> None:
    """Raise UsageError, with the nearest names, for a pattern that no known name matches.

    Args:
        kind: The kind of thing that is named, such as "model", for the message.
        patterns: Patterns such as "ViT*", which match names as in a shell.
        known_names: The names. Without names nothing is raised.
    """
    names = sorted(set(known_names))
    for pattern in patterns:
        if names and not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"no {kind} is called '{pattern}'; nearest: {nearest(pattern, names)}")


def pattern_index(names: Iterable[str], patterns: Sequence[str]) -> int:
    """Return the index of the first pattern that at least one of the names matches, or -1.

    Example:
        pattern_index(["coco"], ["flickr*", "co*"]) -> 1
    """
    names = list(names)
    for index, pattern in enumerate(patterns):
        if any(fnmatchcase(name, pattern) for name in names):
            return index
    return -1


def select_metrics(
    items: Sequence[T], patterns: Sequence[str], name: Callable[[T], str]
) -> tuple[T, ...]:
    """Return the items whose metric matches a pattern, or all items without patterns.

    Args:
        items: Records that are about one metric each.
        patterns: Patterns of names of metrics, such as "acc*".
        name: A function that returns the name of the metric of an item.

    Raises:
        UsageError: For a pattern that no metric matches.
    """
    require_known("metric", patterns, [name(item) for item in items])
    if not patterns:
        return tuple(items)
    selected_items = []
    for item in items:
        is_match = pattern_index([name(item)], patterns) >= 0
        if is_match:
            selected_items.append(item)
    return tuple(selected_items)


class Cell(NamedTuple):
    """A cell of a table: a text, or a number with its marks."""

    text: str = ""
    # How far the interval reaches above and below the number, such as ("1.8", "2.0"). It is one
    # text if both are equal after rounding, or the interval in brackets if the number lies outside.
    ends: tuple[str, ...] = ()
    # The mark of a tie with the best number.
    mark: str = ""
    # Whether the number is the best, or the second best, of its column.
    best: bool = False
    second: bool = False
    # Words behind the number, such as its ranks.
    details: tuple[str, ...] = ()
    # The address of the source of a published number.
    url: str = ""

    @property
    def interval(self) -> str:
        """The interval as one word: "±1.9", "+1.8/-2.0" or "[90.1, 92.3]"; empty without one."""
        if len(self.ends) == 0:
            return ""
        if len(self.ends) == 2:
            above, below = self.ends
            return f"+{above}/-{below}"
        (end,) = self.ends
        is_whole_interval = end.startswith("[")
        return end if is_whole_interval else f"±{end}"

    @property
    def plain(self) -> str:
        """Everything that the cell shows, in one line: "67.1† ±1.9 (1-2)"."""
        words = [self.text + self.mark, self.interval, *self.details]
        return " ".join(word for word in words if word)


class Head(NamedTuple):
    """The title of a column, and a name above the title that neighbouring columns share."""

    title: str
    # The shared name, such as the data set of several metrics; empty without one.
    group: str = ""


class Table(NamedTuple):
    """A table, before it is written in any format."""

    title: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    # The number of columns on the left whose texts name a row; the other columns are values.
    n_text_columns: int = 1
    notes: tuple[str, ...] = ()
    # The section of each row; empty for a table without sections.
    sections: tuple[str, ...] = ()
    # The title of the column of sections, if they become one.
    section: str = "data set"
    # The name of the table in LaTeX.
    label: str = "results"

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The names that neighbouring columns of values share, each with its number of columns.

        They are in order from left to right: [("coco", 2), ("flickr30k", 3)]. The list is empty if
        no column has such a name.
        """
        value_heads = self.heads[self.n_text_columns :]
        if not any(head.group for head in value_heads):
            return []
        groups = []
        for name, heads in groupby(value_heads, key=lambda head: head.group):
            groups.append((name, len(list(heads))))
        return groups


def table_of_records(
    records: Sequence[Mapping[str, Any]], *, section: Sequence[str] = (), n_text_columns: int = 1
) -> Table:
    """Return a table with one row per record and one column per key, without empty columns.

    Args:
        records: The records. All of them have the same keys, in this order: first the keys in
            `section`, then `n_text_columns` keys that name a row, and then the values of the row.
        section: The keys whose values become headings between the rows.
        n_text_columns: The number of keys that name a row.

    Example:
        The record {"data set": "coco", "model": "clip", "R@1": 30.1} with the section
        ["data set"] becomes the row ("clip", "30.1") below the heading "coco".
    """
    keys = list(records[0]) if records else []
    name_keys = keys[: len(section) + n_text_columns]
    columns = [key for key in _keys_with_values(records) if key not in section]

    rows, sections = [], []
    for record in records:
        cells = []
        for key in columns:
            value = record[key]
            cells.append(Cell("" if value is None else str(value)))
        rows.append(tuple(cells))
        if section:
            section_names = [str(record[key]) for key in section if record[key]]
            sections.append(", ".join(section_names))
    return Table(
        title="",
        heads=tuple(Head(key) for key in columns),
        rows=tuple(rows),
        n_text_columns=sum(key in name_keys for key in columns),
        sections=tuple(sections),
    )


def _keys_with_values(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of records, without those whose values are all empty texts or None."""
    keys = list(records[0]) if records else []
    return [key for key in keys if any(record[key] not in ("", None) for record in records)]


def sorted_by(table: Table, column: str) -> Table:
    """Return a table with its rows sorted by a column: numbers in ascending order, then texts.

    Sections become a column, since rows of several sections mix.

    Args:
        table: The table.
        column: The title of the column, without "[95%]". If it is empty, the table stays as it is.

    Raises:
        UsageError: If the table does not have the column.
    """
    if not column or not table.rows:
        return table
    titles = [head.title.partition(" [")[0] for head in table.heads]
    if column not in titles:
        raise UsageError(
            f"--sort {column}: give a column of the table; nearest: {nearest(column, titles)}"
        )
    column_index = titles.index(column)

    # Find the order of the rows by their indices, so that sections can be sorted in the same way.
    sort_keys = [_sort_key(row[column_index].text) for row in table.rows]
    order = sorted(range(len(table.rows)), key=lambda row_index: sort_keys[row_index])
    rows = tuple(table.rows[row_index] for row_index in order)
    sections: tuple[str, ...] = ()
    if table.sections:
        sections = tuple(table.sections[row_index] for row_index in order)
    return sections_to_column(table._replace(rows=rows, sections=sections))


def _sort_key(text: str) -> tuple[float, str]:
    """Return the key that sorts numbers in ascending order, then texts, then empty texts.

    Example:
        "67.1 [65.2, 69.0]" -> (67.1, "67.1 [65.2, 69.0]")
        "clip" -> (inf, "clip")
    """
    last_character = "\uffff"  # sorts after every other text
    match = re.match(r"<?([+-]?[\d.]+(?:e-?\d+)?)", text)
    number = float(match[1]) if match else math.inf
    return number, text or last_character


def is_number(texts: Iterable[str]) -> bool:
    """Return whether all texts of a column are numbers. Empty texts do not count.

    Numbers may have a unit, a sign or an interval, such as "<1e-06" and "67.1 [65.2, 69.0]".
    """
    return all(re.fullmatch(_NUMBER, text) for text in texts if text)


def number_links(tables: Sequence[Table]) -> list[Table]:
    """Return tables in which numbers replace links, for formats without links.

    A text with a URL is followed by the number of the URL, such as "published [1]". The notes of
    the last table list the URLs by their numbers, such as "[1] https://...".
    """
    # Number the distinct URLs of all tables, in alphabetical order.
    cells = [cell for table in tables for row in table.rows for cell in row]
    urls = sorted({cell.url for cell in cells if cell.url})
    number_by_url = {url: number for number, url in enumerate(urls, start=1)}

    numbered_tables = []
    for table in tables:
        rows = []
        for row in table.rows:
            numbered_cells = []
            for cell in row:
                if cell.url:
                    cell = cell._replace(text=f"{cell.text} [{number_by_url[cell.url]}]")
                numbered_cells.append(cell)
            rows.append(tuple(numbered_cells))
        numbered_tables.append(table._replace(rows=tuple(rows)))

    if numbered_tables:
        last_table = numbered_tables[-1]
        url_notes = [f"[{number}] {url}" for url, number in number_by_url.items()]
        numbered_tables[-1] = last_table._replace(notes=(*last_table.notes, *url_notes))
    return numbered_tables


def select_columns(table: Table, columns: Sequence[int]) -> Table:
    """Return a table with the names of rows and only some of the columns of values.

    Rows that have no value in these columns are left out.

    Args:
        table: The table.
        columns: The indices of the columns among all columns of the table.
    """
    selected_columns = [*range(table.n_text_columns), *columns]
    heads = tuple(table.heads[column] for column in selected_columns)
    rows, sections = [], []
    for row_index, row in enumerate(table.rows):
        has_values = any(row[column].text for column in columns)
        if has_values:
            rows.append(tuple(row[column] for column in selected_columns))
            if table.sections:
                sections.append(table.sections[row_index])
    return table._replace(heads=heads, rows=tuple(rows), sections=tuple(sections))


def transposed(table: Table) -> Table:
    """Return a table with rows and columns exchanged.

    The titles of columns become names of rows. Names that several columns share, such as a data
    set, become sections of rows.
    """
    # The names above the columns become sections.
    sections: tuple[str, ...] = ()
    value_heads = table.heads[table.n_text_columns :]
    if table.groups:
        sections = tuple(head.group for head in value_heads)

    # The names of a row, such as its model and its source, become the title of a column.
    heads = [Head("metric" if sections else "")]
    for row in table.rows:
        names = [cell.text for cell in row[: table.n_text_columns] if cell.text]
        heads.append(Head(" ".join(names)))

    # Each column of values becomes a row.
    rows = []
    for column_index, head in enumerate(value_heads, start=table.n_text_columns):
        cells = [row[column_index] for row in table.rows]
        rows.append((Cell(head.title), *cells))
    return table._replace(heads=tuple(heads), rows=tuple(rows), n_text_columns=1, sections=sections)


def sections_to_column(table: Table) -> Table:
    """Return a table in which the names of sections are a first column instead of headings.

    The column has the name in the first row of each section, and is empty in the other rows. A
    table without sections stays as it is.
    """
    if not table.sections:
        return table
    rows = []
    former_section = ""
    for section, row in zip(table.sections, table.rows, strict=True):
        is_first_row = section != former_section
        name_cell = Cell(section if is_first_row else "")
        rows.append((name_cell, *row))
        former_section = section
    return table._replace(
        heads=(Head(table.section), *table.heads),
        rows=tuple(rows),
        n_text_columns=table.n_text_columns + 1,
        sections=(),
    )


def frame_of_records(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return records as a DataFrame with one row per record and one column per key.

    A key `interval`, whose value has `low` and `high`, becomes two columns with these names.
    """
    import pandas as pd

    rows = []
    for record in records:
        row = {}
        for key, value in record.items():
            if key == "interval":
                row["low"] = value["low"]
                row["high"] = value["high"]
            else:
                row[key] = value
        rows.append(row)
    return pd.DataFrame(rows)


def to_html(tables: Iterable[Table]) -> str:
    """Return tables as HTML without a page around them, each with its title and its notes."""
    template = text.html_templates("cosmos_eval.results").get_template("tables.html")
    return template.render(tables=[sections_to_column(table) for table in tables])


def to_markdown(table: Table) -> str:
    """Return a table as GitHub's Markdown, with its title above and its notes below.

    The best numbers are bold, the second best ones underlined, and sources are links.
    """
    table = sections_to_column(table)
    titles = []
    for head in table.heads:
        words = [word for word in (head.group, head.title) if word]
        titles.append(text.markdown_text(" ".join(words)))
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    title_line = f"### {text.markdown_text(table.title)}\n"
    table_lines = text.markdown_table(titles, rows, table.n_text_columns)
    note_lines = "".join(f"- {text.markdown_text(note)}\n" for note in table.notes)
    # Blank lines separate the three blocks. There may be no notes.
    blocks = [title_line, table_lines, note_lines]
    return "\n".join(block for block in blocks if block)


def _markdown_cell(cell: Cell) -> str:
    """Return a cell as Markdown: "**67.1** ±1.9", or "[published](<https://...>)" for a link."""
    value = text.markdown_text(cell.text)
    if cell.url:
        return f"[{value}](<{cell.url}>)"
    if cell.best:
        value = f"**{value}**"
    elif cell.second:
        value = f"<ins>{value}</ins>"
    words = [value + cell.mark, text.markdown_text(cell.interval), *cell.details]
    return " ".join(word for word in words if word)

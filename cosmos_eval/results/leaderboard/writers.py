"""Leaderboards as tables for the terminal, CSV, JSON, Markdown, HTML and LaTeX. Equal entries give
equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from textwrap import wrap
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmos_eval.results import text
from cosmos_eval.results.export import csv_of
from cosmos_eval.results.labels import shortened
from cosmos_eval.results.leaderboard.board import MARKS, Board, Column, Shown, boards
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.facts import COLUMNS, ModelTable, facts_of, model_table
from cosmos_eval.results.leaderboard.groups import GroupMean, group_tables
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Rank, Ties, rank_entries

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from cosmos_eval.results.leaderboard.suite import Mean, SuiteScore

_LATEX_MARKS = {"": "", MARKS["paired"]: r"$^\dagger$", MARKS["intervals"]: r"$^\ddagger$"}
_FRAME = 3  # a column's two spaces and its rule
_RANKS = ("rank_low", "rank_high")
_CSV_COLUMNS = (
    *("model", "task", "dataset", "protocol", "metric", "value", "low", "high", "source", "url"),
    *("best", "tie", *_RANKS, "delta"),
)
_SUITE_COLUMNS = ("members", "p_above_next", "p_best")
_GROUP_COLUMNS = ("trainings", "seed_sd", "image_error")
_GROUP_COLUMNS = ("trainings", "seed_sd", "image_error")


class Leaderboard(NamedTuple):
    """What is written: entries, what ties their numbers, whether facts of their models are added,
    a suite's score or None, and means of groups of trainings, None where these are not shown."""

    entries: Sequence[Entry]
    ties: Ties = NO_TIES
    facts: bool = False
    suite: SuiteScore | None = None
    groups: Sequence[GroupMean] | None = None

    @property
    def boards(self) -> list[Board]:
        return boards(self.entries, self.ties)

    @property
    def tables_below(self) -> list[ModelTable]:
        """The tables below the boards."""
        tables = [] if self.suite is None else [self.suite.table()]
        tables += group_tables(self.groups or ())
        return tables + ([model_table(self.entries)] if self.facts else [])


def to_csv(shown: Leaderboard) -> str:
    """Write one line per entry and metric, as a fraction. `best` is `yes` or empty, `tie` what ties
    a number with the best (`paired`, `intervals`), and `delta` is in percentage points above what
    its authors published. Means of groups follow, which have `trainings`, then those of a suite, of
    the task `suite`. Columns of `facts` come last."""
    import pandas as pd

    records = [*_entry_rows(shown), *map(_group_row, shown.groups or ()), *_suite_rows(shown.suite)]
    columns = [*_CSV_COLUMNS, *(_SUITE_COLUMNS if shown.suite else ())]
    columns += _GROUP_COLUMNS if shown.groups is not None else ()
    columns += COLUMNS if shown.facts else ()
    counts = [name for name in (*_RANKS, "trainings") if name in columns]
    table = pd.DataFrame(records, columns=columns).astype(dict.fromkeys(counts, "Int64"))
    return csv_of(table, signed=["delta"])[0]


def _entry_rows(shown: Leaderboard) -> Iterator[dict[str, Any]]:
    listed = sorted(shown.entries, key=lambda entry: entry.key)
    found = rank_entries(listed, shown.ties)
    for entry, metric in ((e, m) for e in listed for m in sorted(e.metrics)):
        rank = found.get((entry.key, metric), Rank())
        own = facts_of(entry) if shown.facts else {}
        yield {
            **entry._asdict(),
            **{"metric": metric, "value": entry.metrics[metric]},
            **entry.intervals.get(metric, {}),
            **{"best": "yes" if rank.best else "", "tie": rank.tie, **_ends(rank.ranks)},
            "delta": entry.delta(metric),
            **{name: _exact(own.get(name)) for name in COLUMNS},
        }


def _group_row(mean: GroupMean) -> dict[str, Any]:
    record = mean.record()
    return {**record, "model": mean.group, "value": record["mean"], "source": "measured"}


def _ends(ranks: tuple[int, int] | None) -> dict[str, int | None]:
    return dict(zip(_RANKS, ranks or (None, None), strict=True))


def _suite_rows(suite: SuiteScore | None) -> Iterator[dict[str, Any]]:
    """Yield the lines of a suite: the means, then those over common members."""
    if suite is None:
        return
    families = ", ".join(dict.fromkeys(member.family for member in suite.suite.members))
    where = {"task": "suite", "dataset": suite.suite.name, "protocol": families}
    for row in suite.rows:
        present = suite.suite.present(row.present)
        ranks = {**_ends(row.ranks), "members": present, "p_above_next": row.above_next}
        yield {**row._asdict(), **where, "metric": "mean", **_mean_cells(row.mean), **ranks}
    common = suite.suite.present(len(suite.common))
    for row in (row for row in suite.rows if suite.common and row.source == "measured"):
        cells = {"metric": "mean_of_common", **_mean_cells(row.common), "members": common}
        yield {"model": row.model, "source": row.source, "url": row.url, **where, **cells}


def _mean_cells(mean: Mean | None) -> dict[str, Any]:
    interval = mean.interval._asdict() if mean and mean.interval else {}
    return {"value": mean and mean.value, **interval}


def _exact(fact: Any) -> str:
    return "x".join(map(str, fact)) if isinstance(fact, list) else "" if fact is None else str(fact)


def to_json(shown: Leaderboard) -> str:
    """Write a list of records as fractions, with `published` numbers and `standings` by metric, and
    with `facts` if requested. With a suite or groups it is `results` of an object with them."""
    listed = sorted(shown.entries, key=lambda entry: entry.key)
    found = rank_entries(listed, shown.ties)
    names = ("model", "task", "dataset", "protocol", "metrics", "intervals", "source")
    records = []
    for entry in listed:
        ranks = {m: found[entry.key, m]._asdict() for m in entry.metrics if (entry.key, m) in found}
        known = {"url": entry.url, "published": dict(entry.published), "standings": ranks}
        fixed = {name: getattr(entry, name) for name in names}
        facts = {"facts": facts_of(entry)} if shown.facts else {}
        records.append({**fixed, **{key: value for key, value in known.items() if value}, **facts})
    more: dict[str, Any] = {"suite": shown.suite.record()} if shown.suite else {}
    if shown.groups is not None:
        more["groups"] = [mean.record() for mean in shown.groups]
    content = {"results": records, **more} if more else records
    return text.json_text(content, indent=2, sort_keys=True) + "\n"


def to_markdown(shown: Leaderboard) -> str:
    """Write tables as GitHub's Markdown, best in bold, with links to published numbers."""
    parts = [*map(_markdown_board, shown.boards), *map(_markdown_models, shown.tables_below)]
    return "\n".join(parts)


def _markdown_models(models: ModelTable) -> str:
    rows = [map(text.markdown_text, row) for row in models.rows]
    table = text.markdown_table(models.titles, rows, models.texts)
    notes = "".join(f"- {text.markdown_text(note)}\n" for note in models.notes)
    return "\n".join([f"### {text.markdown_text(models.title)}", "", table, notes])


def _markdown_board(board: Board) -> str:
    names = ((text.markdown_text(c.dataset), text.markdown_text(c.title)) for c in board.columns)
    rows = []
    for row in board.rows:
        source = f"[{row.source}](<{row.url}>)" if row.url else row.source
        texts = [text.markdown_text(row.model), source][: len(board.texts)]
        rows.append([*texts, *map(_markdown_cell, row.cells)])
    titles = [*board.texts, *map(" ".join, names)]
    table = text.markdown_table(titles, rows, len(board.texts))
    notes = "".join(f"- {text.markdown_text(note)}\n" for note in board.notes)
    title = f"### Protocol {text.markdown_code(board.protocol)} (%)"
    return "\n".join([title, "", table, *filter(None, [notes])])


def _markdown_cell(cell: Shown) -> str:
    value = f"**{cell.value}**" if cell.best else f"{cell.value}{cell.mark}"
    details = ", ".join(filter(None, [cell.ranks and f"rank {cell.ranks}", cell.delta]))
    numbers = f"{value} {cell.interval}".strip()
    return f"{numbers}<br>{details}" if details else numbers


def to_html(shown: Leaderboard) -> str:
    """Write one page that needs no other file, with a table per protocol, best in bold."""
    with_sets = [(board, _datasets(board)) for board in shown.boards]
    page = text.html_templates("cosmos_eval.results.leaderboard").get_template("page.html")
    return page.render(boards=with_sets, tables=shown.tables_below)


def _datasets(board: Board) -> list[tuple[str, int]]:
    """Return the data sets of consecutive columns, and how many columns each has."""
    groups = groupby(board.columns, key=lambda column: column.dataset)
    return [(dataset, len(list(columns))) for dataset, columns in groups]


def to_latex(shown: Leaderboard) -> str:
    r"""Write a `table` per board, best in bold; the document needs `\usepackage{booktabs}`."""
    tables = [*map(_latex_board, shown.boards), *map(_latex_models, shown.tables_below)]
    return "% needs \\usepackage{booktabs} in the preamble\n" + "\n".join(tables)


def _latex_models(models: ModelTable) -> str:
    rows = (map(text.latex_text, row) for row in models.rows)
    columns = "l" * models.texts + "r" * (len(models.titles) - models.texts)
    header = [f"{' & '.join(map(text.latex_text, models.titles))} \\\\"]
    title, notes = text.latex_text(models.title), map(text.latex_text, models.notes)
    return _latex_table(title, columns, header, rows, notes)


def _latex_board(board: Board) -> str:
    notes = [text.latex_text(note) for note in board.notes]
    # An address may be broken after its slashes.
    urls = [text.latex_text(url).replace("/", r"/\allowbreak{}") for url in board.urls]
    notes += [f"[{number}] {url}" for number, url in enumerate(urls, start=1)]
    rows = (
        [*board.head(row, text.latex_text(row.model)), *map(_latex_cell, row.cells)]
        for row in board.rows
    )
    caption = rf"Protocol {text.latex_text(board.protocol)} (\%)"
    columns = "l" * len(board.texts) + "r" * len(board.columns)
    return _latex_table(caption, columns, _latex_header(board), rows, notes)


def _latex_table(
    caption: str,
    columns: str,
    header: Iterable[str],
    rows: Iterable[Iterable[str]],
    notes: Iterable[str],
) -> str:
    """Return a table of cells of LaTeX, with notes below."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        r"\small",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *header,
        r"\midrule",
        *(f"{' & '.join(row)} \\\\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip{{\footnotesize {note}\par}}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_header(board: Board) -> Iterator[str]:
    names, rules, start = [""] * len(board.texts), "", len(board.texts) + 1
    for dataset, width in _datasets(board):
        names.append(rf"\multicolumn{{{width}}}{{c}}{{{text.latex_text(dataset)}}}")
        rules += rf"\cmidrule(lr){{{start}-{start + width - 1}}}"
        start += width
    # The last word of a metric's name is below the others: numbers are narrow.
    words = ([text.latex_text(part) for part in c.title.rsplit(" ", 1)] for c in board.columns)
    titles = [*board.texts, *(_stacked("b", lines) for lines in words)]
    yield f"{' & '.join(names)} \\\\"
    yield rules
    yield f"{' & '.join(titles)} \\\\"


def _latex_cell(cell: Shown) -> str:
    value = rf"\textbf{{{cell.value}}}" if cell.best else cell.value + _LATEX_MARKS[cell.mark]
    ranks = f"rank {cell.ranks.replace('-', '--')}" if cell.ranks else ""
    delta = f"${cell.delta}$" if cell.delta else ""
    details = (rf"\scriptsize {one}" for one in (cell.interval, ranks, delta) if one)
    return _stacked("t", [value, *details])


def _stacked(position: str, lines: Sequence[str]) -> str:
    """Stack lines flush right; the first (t) or last (b) is level with the table's."""
    if len(lines) == 1:
        return lines[0]
    return rf"\begin{{tabular}}[{position}]{{@{{}}r@{{}}}}" + r" \\ ".join(lines) + r"\end{tabular}"


WRITERS: Mapping[str, Callable[[Leaderboard], str]] = MappingProxyType(
    {"md": to_markdown, "csv": to_csv, "tex": to_latex, "html": to_html, "json": to_json}
)
"""The writers of every form except the terminal's."""


def to_tables(shown: Leaderboard, width: int) -> list[Table]:
    """Return tables at most `width` characters wide, best in bold, long model names shortened."""
    tables = []
    for board in shown.boards:
        names = shortened(row.model for row in board.rows)
        tables += grid_tables(
            f"Protocol {board.protocol} (%)",
            width,
            texts=board.texts,
            columns=board.columns,
            heads=[board.head(row, names[row.model]) for row in board.rows],
            cells=[[_terminal_cell(cell) for cell in row.cells] for row in board.rows],
            notes=[*board.notes, *(f"[{n}] {url}" for n, url in enumerate(board.urls, start=1))],
        )
    return tables + [grid for table in shown.tables_below for grid in _model_grids(table, width)]


def _model_grids(models: ModelTable, width: int) -> list[Table]:
    from rich.text import Text

    names, first = shortened(row[0] for row in models.rows), max(1, models.texts - 1)
    titles = models.titles[first:]
    return grid_tables(
        models.title,
        width,
        texts=models.titles[:first],
        columns=[Column(0, "", index, "", title) for index, title in enumerate(titles)],
        heads=[(names[row[0]], *row[1:first]) for row in models.rows],
        cells=[[*map(Text, row[first:])] for row in models.rows],
        notes=models.notes,
    )


def _terminal_cell(cell: Shown) -> Text:
    from rich.text import Text

    ranks = f" ({cell.ranks})" if cell.ranks else ""
    first = Text.assemble((cell.value, "bold green" if cell.best else ""), cell.mark, ranks)
    return Text("\n").join([first, *map(Text, filter(None, [cell.interval, cell.delta]))])


def grid_tables(
    title: str,
    width: int,
    *,
    texts: Sequence[str],
    columns: Sequence[Column],
    heads: Sequence[Sequence[str]],
    cells: Sequence[Sequence[Text]],
    notes: Sequence[str],
) -> list[Table]:
    """Return tables at most `width` characters wide, each with all rows' `heads` under `texts`,
    then the cells of some columns, never broken; `notes` stand below the last."""
    from rich.text import Text

    # Neither cells nor words of titles are broken.
    titles = [[text.one_line(c.dataset), text.one_line(c.title)] for c in columns]
    widths = [
        max(_widest(" ".join(words).split()), _widest(cell.plain for cell in column))
        for words, column in zip(titles, zip(*cells, strict=True), strict=True)
    ]
    flat = [list(map(text.one_line, head)) for head in heads]
    fixed = sum(_FRAME + _widest(column) for column in zip(texts, *flat, strict=True))
    parts = list(_parts(widths, width - 1 - fixed))
    tables = []
    for number, part in enumerate(parts, start=1):
        table = _table(texts, [(titles[index], widths[index]) for index in part])
        for head, row in zip(flat, cells, strict=True):
            table.add_row(*map(Text, head), *(row[index] for index in part))
        of_parts = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
        table.title = Text(text.one_line(title) + of_parts)
        tables.append(table)
    tables[-1].caption = Text("\n".join(map(text.one_line, notes))) if notes else None
    return tables


def _parts(widths: list[int], available: int) -> Iterator[range]:
    """Split columns into consecutive ones that fit, at least one at a time."""
    start, used = 0, 0
    for index, width in enumerate(widths):
        if index > start and used + _FRAME + width > available:
            yield range(start, index)
            start, used = index, 0
        used += _FRAME + width
    yield range(start, len(widths))


def _widest(texts: Iterable[str]) -> int:
    from rich.cells import cell_len

    return max(cell_len(line) for one in texts for line in one.split("\n"))


def _table(texts: Sequence[str], columns: Iterable[tuple[list[str], int]]) -> Table:
    """Build a header; columns of numbers have widths and line breaks, which rich finds slowly."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title_justify="left", caption_justify="left")
    for name in texts:
        table.add_column(name, overflow="fold")
    for title, width in columns:
        lines = (line for part in title for line in wrap(part, width, break_on_hyphens=False))
        header = Text("\n".join(lines))
        table.add_column(header, justify="right", width=width, min_width=width, no_wrap=True)
    return table

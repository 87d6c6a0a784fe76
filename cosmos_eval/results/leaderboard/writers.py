"""Leaderboards as tables for the terminal, CSV, JSON, Markdown, HTML and LaTeX. Equal entries give
equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmos_eval.results import text
from cosmos_eval.results.export import csv_of
from cosmos_eval.results.labels import shortened
from cosmos_eval.results.latex import PREAMBLE, to_latex
from cosmos_eval.results.leaderboard.board import boards
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.facts import COLUMNS, facts_of, model_table
from cosmos_eval.results.leaderboard.groups import GroupMean, group_table
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Rank, Ties, rank_entries
from cosmos_eval.results.leaderboard.view import tables_of as view_tables
from cosmos_eval.results.table import Table, View, flat, numbered
from cosmos_eval.results.table import to_markdown as markdown
from cosmos_eval.results.terminal import notes_text, to_terminal

if TYPE_CHECKING:
    from rich.text import Text

    from cosmos_eval.results.leaderboard.suite import Mean, SuiteScore

_RANKS = ("rank_low", "rank_high")
_CSV_COLUMNS = (
    *("model", "task", "dataset", "protocol", "metric", "value", "low", "high", "source", "url"),
    *("best", "tie", *_RANKS, "delta"),
)
_RANK = ("best", "tie", "ranks")
_SUITE_COLUMNS = ("members", "p_next")
_GROUP_COLUMNS = ("trainings", "seed_sd", "image_error")


class Leaderboard(NamedTuple):
    """What is written: entries, what ties their numbers, whether facts of their models are added,
    a suite's score or None, means of groups of trainings, None where these are not shown, and what
    of all that is shown, and how."""

    entries: Sequence[Entry]
    ties: Ties = NO_TIES
    facts: bool = False
    suite: SuiteScore | None = None
    groups: Sequence[GroupMean] | None = None
    view: View = View()


def to_csv(shown: Leaderboard) -> str:
    """Write one line per entry and metric, as a fraction. `best` is `yes` or empty, `tie` what ties
    a number with the best (`paired`, `intervals`), and `delta` is in percentage points above what
    its authors published. Means of groups follow, which have `trainings`, then those of a suite, of
    the task `suite`. Columns of `facts` come last."""
    import pandas as pd

    groups = [
        {**mean.record(), "model": mean.group, "value": mean.found.a, "source": "measured"}
        for mean in shown.groups or ()
    ]
    records = [*_entry_rows(shown), *groups, *_suite_rows(shown.suite)]
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
        ranks = {**_ends(row.ranks), "members": present}
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
        ranks = {
            metric: {name: getattr(found[entry.key, metric], name) for name in _RANK}
            for metric in entry.metrics
            if (entry.key, metric) in found
        }
        known = {"url": entry.url, "published": dict(entry.published), "standings": ranks}
        fixed = {name: getattr(entry, name) for name in names}
        facts = {"facts": facts_of(entry)} if shown.facts else {}
        records.append({**fixed, **{key: value for key, value in known.items() if value}, **facts})
    more: dict[str, Any] = {"suite": shown.suite.record()} if shown.suite else {}
    if shown.groups is not None:
        more["groups"] = [mean.record() for mean in shown.groups]
    content = {"results": records, **more} if more else records
    return text.json_text(content, indent=2, sort_keys=True) + "\n"


def tables_of(shown: Leaderboard) -> list[Table]:
    """Return the tables: a suite's, then one per task, of groups of trainings, and of models."""
    view, suite = shown.view, shown.suite
    found = [] if suite is None else [suite.table(view)]
    if suite is None or view.members:
        found += view_tables(boards(shown.entries, shown.ties, view.decimals), view)
    if shown.groups:
        found.append(group_table(shown.groups, view, ("data set", "protocol")))
    return found + ([model_table(shown.entries)] if shown.facts else [])


def to_markdown(shown: Leaderboard) -> str:
    """Write tables as GitHub's Markdown, best in bold, with links to published numbers, and the
    notes of all tables below the last."""
    tables = tables_of(shown)
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    parts = [markdown(table._replace(notes=())) for table in tables]
    return "\n".join(parts) + "".join(
        ["\n", *(f"- {text.markdown_text(n)}\n" for n in notes)] if notes else ""
    )


def to_html(shown: Leaderboard) -> str:
    """Write one page that needs no other file, best in bold."""
    page = text.html_templates("cosmos_eval.results.leaderboard").get_template("page.html")
    return page.render(tables=list(map(flat, tables_of(shown))))


def to_tex(shown: Leaderboard) -> str:
    r"""Write floats, best in bold; the document needs `\usepackage{booktabs}`."""
    return PREAMBLE + "\n".join(map(to_latex, tables_of(shown)))


WRITERS: Mapping[str, Callable[[Leaderboard], str]] = MappingProxyType(
    {"md": to_markdown, "csv": to_csv, "tex": to_tex, "html": to_html, "json": to_json}
)
"""The writers of every form except the terminal's."""


def to_texts(shown: Leaderboard, width: int) -> Iterator[Text]:
    """Yield the tables at most `width` characters wide, best in bold, then the notes of all."""
    tables = numbered(tables_of(shown))
    for table in tables:
        names = shortened(row[0].text for row in table.rows if row)
        rows = ((first._replace(text=names[first.text]), *rest) for first, *rest in table.rows)
        yield from to_terminal(table._replace(rows=tuple(rows)), width)
    yield notes_text((note for table in tables for note in table.notes), width)

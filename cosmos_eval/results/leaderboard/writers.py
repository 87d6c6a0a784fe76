"""Write leaderboards for the terminal, and as CSV, JSON, Markdown, HTML and LaTeX.

Equal entries give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmos_eval.results import text
from cosmos_eval.results.captions import measured_sentence, sizes_sentence
from cosmos_eval.results.exchange.record import ImportedResult
from cosmos_eval.results.export import csv_of
from cosmos_eval.results.labels import StoredResult, shorten_names
from cosmos_eval.results.latex import PREAMBLE, to_latex
from cosmos_eval.results.leaderboard.board import BEST_BY_MARK, MEANINGS, make_boards
from cosmos_eval.results.leaderboard.entries import (
    Entry,
    entries_of,
    imported_entries,
    published_beside,
)
from cosmos_eval.results.leaderboard.facts import COLUMNS, facts_of, model_table
from cosmos_eval.results.leaderboard.groups import GroupMean, group_means, group_table
from cosmos_eval.results.leaderboard.labs import LabNumber, compare_labs, lab_table
from cosmos_eval.results.leaderboard.languages import language_tables, without_languages
from cosmos_eval.results.leaderboard.ranking import (
    NO_TIES,
    Rank,
    RankedNumber,
    TieRule,
    Ties,
    find_ties,
    rank_entries,
)
from cosmos_eval.results.leaderboard.task_tables import headline_entries, select_entries
from cosmos_eval.results.leaderboard.task_tables import tables_of as task_tables
from cosmos_eval.results.pages import TABLE_SCRIPTS, join_scripts, read_static, security_policy
from cosmos_eval.results.table import Table, TableOptions, number_links, sections_to_column
from cosmos_eval.results.table import to_html as tables_to_html
from cosmos_eval.results.table import to_markdown as markdown
from cosmos_eval.results.terminal import notes_text, to_terminal
from cosmos_eval.types import Suite

if TYPE_CHECKING:
    import pandas as pd
    from rich.text import Text

    from cosmos_eval.results.leaderboard.suite import Row, SuiteScore
    from cosmos_eval.results.leaderboard.suite_means import Mean

_RANKS = ("rank_low", "rank_high")
_CSV_COLUMNS = (
    *("model", "task", "dataset", "protocol", "metric", "value", "low", "high", "source", "url"),
    *("best", "tie", *_RANKS, "delta"),
)
_SUITE_COLUMNS = ("members", "p_next")
_GROUP_COLUMNS = ("trainings", "seed_sd", "image_error")


class Leaderboard(NamedTuple):
    """The contents of a leaderboard, and how tables show them."""

    # The results, and the numbers that others published.
    entries: Sequence[Entry]
    # The p-values of paired tests, which decide on ties with the best numbers.
    ties: Ties = NO_TIES
    # Whether facts of the models are added, such as their numbers of parameters.
    facts: bool = False
    # The means over a suite; None without a suite.
    suite: SuiteScore | None = None
    # The means of groups of trainings; None if these are not shown.
    groups: Sequence[GroupMean] | None = None
    # The numbers of models that several labs measured; None if these are not compared.
    labs: Sequence[LabNumber] | None = None
    # The rows, columns and marks that tables show.
    options: TableOptions = TableOptions()
    # How many results are left out: variants of protocols, and results with other settings.
    n_left_out: int = 0

    @property
    def frame(self) -> pd.DataFrame:
        """The numbers as a table with one row per entry and metric, see `frame_of`."""
        return frame_of(self)

    def _repr_html_(self) -> str:
        """Return the tables that notebooks show, the same as in `to_html`."""
        return tables_to_html(tables_of(self))


def make_leaderboard(
    results: Sequence[StoredResult],
    options: TableOptions,
    *,
    imported: Sequence[ImportedResult] = (),
    suite: Suite | None = None,
    groups: bool = False,
    labs: bool = False,
    facts: bool = False,
    published: bool = False,
    variants: bool = True,
    other_settings: bool = True,
    ties: TieRule = "auto",
) -> Leaderboard:
    """Return the leaderboard of results.

    Args:
        results: The results, which `label_results` labelled.
        options: The names that are selected, and how tables show them.
        imported: Results that other tools wrote to files.
        suite: A suite of data sets, whose mean is added.
        groups: True if means over the seeds of each group of trainings are added.
        labs: True if the numbers of several labs are compared, which `assign_labs` named.
        facts: True if facts of the models are added.
        published: True if numbers that others published are added.
        variants: False if variants of protocols are left out, unless there is nothing else.
        other_settings: False if results with other settings than their protocol's are left out,
            unless there is nothing else.
        ties: The test of ties with the best result, see `find_ties`.

    Raises:
        UsageError: For names that no result has, for a suite without results, and if two results of
            one model on one data set differ.
    """
    result_entries = [*entries_of(results), *imported_entries(imported)]
    all_entries = list(result_entries)
    if published:
        all_entries += published_beside(result_entries)
    selected_entries = select_entries(all_entries, options.patterns)
    entries = headline_entries(
        selected_entries, with_variants=variants, with_other_settings=other_settings
    )

    score = None
    if suite is not None:
        from cosmos_eval.results.leaderboard.suite import score_models

        score = score_models(
            suite,
            result_entries,
            with_published=published,
            by_group=groups,
            model_patterns=options.patterns.models,
        )
    means = None
    if groups:
        # Published numbers belong to no group of trainings.
        means = group_means([entry for entry in entries if entry.stored is not None])
    return Leaderboard(
        entries,
        find_ties(entries, ties),
        facts=facts,
        suite=score,
        groups=means,
        labs=compare_labs(entries, results) if labs else None,
        options=options,
        n_left_out=_count_results(selected_entries) - _count_results(entries),
    )


def _count_results(entries: Sequence[Entry]) -> int:
    """Return how many entries are results, and not numbers that others published."""
    return sum(entry.stored is not None or entry.source == "imported" for entry in entries)


def frame_of(leaderboard: Leaderboard) -> pd.DataFrame:
    """Return a leaderboard as a table, with one row per entry and metric.

    Metrics are fractions. Some columns are:
    - `best`: `yes` for the best number of a data set and metric, else empty
    - `tie`: why a number is tied with the best: `paired` test or overlapping `intervals`
    - `delta`: the number minus the number that the model's authors published, in percentage points

    The means of groups of trainings follow, and then the means over a suite, whose task is `suite`.
    The columns of facts come last.
    """
    import pandas as pd

    # Collect the rows: entries, groups of trainings, and the suite.
    records = list(_csv_lines_of_entries(leaderboard))
    for mean in leaderboard.groups or ():
        record = mean.record()
        record["model"] = mean.group
        record["value"] = mean.estimate.a
        record["source"] = "measured"
        records.append(record)
    if leaderboard.suite is not None:
        records += _csv_lines_of_suite(leaderboard.suite)

    # Choose the columns.
    columns = list(_CSV_COLUMNS)
    if leaderboard.suite is not None:
        columns += _SUITE_COLUMNS
    if leaderboard.groups is not None:
        columns += _GROUP_COLUMNS
    if leaderboard.facts:
        columns += COLUMNS

    # Columns of integers may have empty cells, which only the type Int64 of pandas allows.
    integer_columns = [name for name in (*_RANKS, "trainings") if name in columns]
    table = pd.DataFrame(records, columns=columns)
    return table.astype(dict.fromkeys(integer_columns, "Int64"))


def to_csv(leaderboard: Leaderboard) -> str:
    """Return a leaderboard as CSV, with the rows and columns of `frame_of`."""
    csv_text, _ = csv_of(frame_of(leaderboard), signed=["delta"])
    return csv_text


def _csv_lines_of_entries(leaderboard: Leaderboard) -> Iterator[dict[str, Any]]:
    """Yield the values of a line of CSV, by column, for each entry and metric.

    There are more values than columns. The writer of CSV ignores the others.
    """
    entries = sorted(leaderboard.entries, key=lambda entry: entry.key)
    ranks = rank_entries(entries, leaderboard.ties)
    for entry in entries:
        facts = facts_of(entry) if leaderboard.facts else {}
        fact_texts = {name: _exact_fact_text(facts.get(name)) for name in COLUMNS}
        for metric, value in sorted(entry.metrics.items()):
            rank = ranks.get((entry.key, metric), Rank())
            line = entry._asdict()
            line["metric"] = metric
            line["value"] = value
            line.update(entry.intervals.get(metric, {}))  # `low` and `high`
            line["best"] = "yes" if rank.best else ""
            line["tie"] = rank.tie
            line.update(_rank_columns(rank.ranks))
            line["delta"] = entry.delta(metric)
            line.update(fact_texts)
            yield line


def _rank_columns(ranks: tuple[int, int] | None) -> dict[str, int | None]:
    """Return the columns with the first and last rank that a number can have, or None for both."""
    first_rank, last_rank = (None, None) if ranks is None else ranks
    return {"rank_low": first_rank, "rank_high": last_rank}


def _csv_lines_of_suite(score: SuiteScore) -> Iterator[dict[str, Any]]:
    """Yield the values of each line of CSV for the means over a suite, by column.

    There is one line per model with the mean over all members. If some models lack members, there
    is another line per measured model, with the mean over the members that all models have.
    """
    suite = score.suite
    for row in score.rows:
        line = row._asdict()
        line.update(_suite_columns(score, row))
        line["metric"] = "mean"
        line.update(_mean_columns(row.mean))
        line.update(_rank_columns(row.ranks))
        line["members"] = suite.present(row.present)
        yield line

    has_incomplete_models = len(score.common) > 0
    if not has_incomplete_models:
        return
    for row in score.rows:
        if row.source == "measured":
            line = _suite_columns(score, row)
            line["metric"] = "mean_of_common"
            line.update(_mean_columns(row.common))
            line["members"] = suite.present(len(score.common))
            yield line


def _suite_columns(score: SuiteScore, row: Row) -> dict[str, Any]:
    """Return the columns that name the model of a row and the suite.

    The suite is in the column of the data set, and the task is "suite".

    Args:
        score: The means of all models over the suite.
        row: The means of one model.
    """
    protocols = ", ".join(dict.fromkeys(member.protocol for member in score.suite.members))
    return {
        "model": row.model,
        "source": row.source,
        "url": row.url,
        "task": "suite",
        "dataset": score.suite.name,
        "protocol": protocols,
    }


def _mean_columns(mean: Mean | None) -> dict[str, Any]:
    """Return the columns of a mean and the ends of its interval."""
    if mean is None:
        return {"value": None}
    columns: dict[str, Any] = {"value": mean.value}
    if mean.interval:
        columns |= mean.interval._asdict()
    return columns


def _exact_fact_text(fact: Any) -> str:
    """Return a fact as text with all digits: [224, 224] -> "224x224".

    The text is empty if the fact is unknown.
    """
    if isinstance(fact, list):
        return "x".join(str(side) for side in fact)
    return "" if fact is None else str(fact)


def to_json(leaderboard: Leaderboard) -> str:
    """Return a leaderboard as JSON: a list of records, one per entry, with metrics as fractions.

    With a suite, groups of trainings or labs, it is an object instead, which has this list as
    `results`, and `suite`, `groups` or `labs` beside it.
    """
    entries = sorted(leaderboard.entries, key=lambda entry: entry.key)
    ranks = rank_entries(entries, leaderboard.ties)
    records = []
    for entry in entries:
        record = _entry_record(entry, ranks)
        if leaderboard.facts:
            record["facts"] = facts_of(entry)
        records.append(record)

    additions: dict[str, Any] = {}
    if leaderboard.suite is not None:
        additions["suite"] = leaderboard.suite.record()
    if leaderboard.groups is not None:
        additions["groups"] = [mean.record() for mean in leaderboard.groups]
    if leaderboard.labs is not None:
        additions["labs"] = [number.record() for number in leaderboard.labs]
    content: Any = records
    if additions:
        content = {"results": records} | additions
    return text.json_text(content, indent=2, sort_keys=True) + "\n"


def _entry_record(entry: Entry, ranks: Mapping[RankedNumber, Rank]) -> dict[str, Any]:
    """Return an entry as a record for JSON.

    The ranks of its metrics are `standings`. Fields that are empty are left out.

    Args:
        entry: The entry.
        ranks: The ranks of all numbers, by the key of the entry and the metric.
    """
    record: dict[str, Any] = {
        "model": entry.model,
        "task": entry.task,
        "dataset": entry.dataset,
        "protocol": entry.protocol,
        "metrics": entry.metrics,
        "intervals": entry.intervals,
        "source": entry.source,
    }
    standings = {}
    for metric in entry.metrics:
        if (entry.key, metric) in ranks:
            rank = ranks[entry.key, metric]
            standings[metric] = {"best": rank.best, "tie": rank.tie, "ranks": rank.ranks}
    if entry.url:
        record["url"] = entry.url
    if entry.published:
        record["published"] = dict(entry.published)
    if standings:
        record["standings"] = standings
    return record


def tables_of(leaderboard: Leaderboard) -> list[Table]:
    """Return the tables of a leaderboard.

    They are the table of a suite, one table per task, one per data set in several languages, and
    the tables of groups of trainings, of labs, and of facts of models. With a suite, tasks and
    languages have tables only if the options ask for them.
    """
    options, suite = leaderboard.options, leaderboard.suite
    tables = []
    if suite is not None:
        suite_table = suite.table(options)
        if options.caption:
            notes = (*suite_table.notes, *_caption_notes_of_suite(suite, leaderboard.entries))
            suite_table = suite_table._replace(notes=notes)
        tables.append(suite_table)
    if suite is None or options.members:
        tables_of_languages = language_tables(leaderboard.entries)
        other_entries = without_languages(leaderboard.entries, tables_of_languages)
        task_boards = make_boards(other_entries, leaderboard.ties, options.decimals)
        tables += task_tables(task_boards, options)
        tables += [table.table(options) for table in tables_of_languages]
    if leaderboard.groups:
        tables.append(group_table(leaderboard.groups, options, ("data set", "protocol")))
    if leaderboard.labs:
        tables.append(lab_table(leaderboard.labs, options))
    if leaderboard.facts:
        tables.append(model_table(leaderboard.entries))
    return tables


def _caption_notes_of_suite(score: SuiteScore, entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the sentences of a paper on a suite: the samples of its members, and versions.

    Args:
        score: The means over the suite, whose other notes state how intervals are computed.
        entries: The entries of all data sets.
    """
    members = {(member.dataset, member.protocol) for member in score.suite.members}
    sizes, versions = [], []
    for entry in entries:
        if entry.stored is not None and (entry.dataset_name, entry.protocol) in members:
            sizes.append((entry.dataset, entry.stored.row.n_samples))
            versions.append(entry.stored.row.provenance["version"])
    if sizes:
        protocols = sorted(protocol for _, protocol in members)
        yield sizes_sentence(sizes)
        coverage = "seeds and test images" if score.has_groups else "test images, not seeds"
        yield measured_sentence(versions, protocols, coverage)


def to_markdown(leaderboard: Leaderboard) -> str:
    """Return the tables of a leaderboard as GitHub's Markdown, with links to published numbers.

    The best numbers are bold. The notes of all tables follow the last table.
    """
    tables = tables_of(leaderboard)
    content = "\n".join(markdown(table._replace(notes=())) for table in tables)
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    if not notes:
        return content
    lines = [f"- {text.markdown_text(note)}\n" for note in notes]
    return f"{content}\n{''.join(lines)}"


def to_html(leaderboard: Leaderboard) -> str:
    """Return the tables of a leaderboard as an HTML page that needs no other file.

    Its tables are sorted and copied by the scripts that the page of `report` uses.
    """
    page = text.html_templates("cosmos_eval.results").get_template("leaderboard/page.html")
    style = read_static("cosmos_eval.results", "leaderboard.css")
    scripts = [read_static("cosmos_eval.results", f"{name}.js") for name in TABLE_SCRIPTS]
    script = join_scripts(scripts)
    return page.render(
        tables=[sections_to_column(table) for table in tables_of(leaderboard)],
        style=style,
        script=script,
        policy=security_policy(style, script),
    )


def to_tex(leaderboard: Leaderboard) -> str:
    r"""Return the tables of a leaderboard as floats for a LaTeX document.

    The document needs `\usepackage{booktabs}`. The best numbers are bold.
    """
    paper_columns = leaderboard.options.paper_columns
    return PREAMBLE + "\n".join(to_latex(t, paper_columns) for t in tables_of(leaderboard))


WRITERS: Mapping[str, Callable[[Leaderboard], str]] = MappingProxyType(
    {"md": to_markdown, "csv": to_csv, "tex": to_tex, "html": to_html, "json": to_json}
)
"""The functions that write a leaderboard to a file, by the suffix of the file."""


def to_texts(leaderboard: Leaderboard, width: int, *, marks_best: bool = False) -> Iterator[Text]:
    """Yield the tables of a leaderboard for a terminal, and then the notes of all tables.

    Long paths in the names of models are shortened.

    Args:
        leaderboard: The leaderboard.
        width: The width in characters that no line exceeds.
        marks_best: True if the best numbers are marked by `*`, for output without bold text.
    """
    tables = number_links(tables_of(leaderboard))
    if marks_best:
        tables = [_with_best_marked(table) for table in tables]
    for table in tables:
        # The first cell of a row is the name of its model.
        short_names = shorten_names(row[0].text for row in table.rows if row)
        rows = []
        for name_cell, *other_cells in table.rows:
            short_name_cell = name_cell._replace(text=short_names[name_cell.text])
            rows.append((short_name_cell, *other_cells))
        yield from to_terminal(table._replace(rows=tuple(rows)), width)
    yield notes_text([note for table in tables for note in table.notes], width)


def _with_best_marked(table: Table) -> Table:
    """Return a table with `*` after the best numbers, and a legend that says so."""
    rows = []
    for row in table.rows:
        cells = [cell._replace(mark=f"*{cell.mark}") if cell.best else cell for cell in row]
        rows.append(tuple(cells))
    notes = []
    for note in table.notes:
        notes.append(BEST_BY_MARK if note == MEANINGS["best"] else note)
    return table._replace(rows=tuple(rows), notes=tuple(notes))

"""The commands that read stored results: tables, comparisons, files."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Exit, Option

from cosmos_eval.cli import options, output
from cosmos_eval.cli.options import flag, option, output_file
from cosmos_eval.results import RESULTS
from cosmos_eval.types import RunOptions, UsageError

if TYPE_CHECKING:
    from cosmos_eval.results.labels import Stored
    from cosmos_eval.results.leaderboard.entries import Entry
    from cosmos_eval.results.leaderboard.suite import SuiteScore


_PATTERNS = "`*` is any text; repeatable."


def _read(path: Path) -> list[Stored]:
    from cosmos_eval.results.store import read_stored, result_paths

    return read_stored(result_paths(path))


def _print_warnings(results: Sequence[Stored]) -> None:
    from cosmos_eval.results.labels import repeats_of, warnings_of

    output.print_notes([*warnings_of(results), *repeats_of(results)])


def leaderboard(
    directory: options.ResultFolder = RESULTS,
    format: Annotated[
        Literal["table", "md", "csv", "tex", "html", "json"], Option(help="Form of the output.")
    ] = "table",
    with_published: options.Published = False,
    ties: Annotated[
        Literal["auto", "paired", "intervals"],
        Option(
            help="How models are compared with the best: by paired differences of their samples, "
            "or by whether intervals overlap. auto: by samples where that is quick."
        ),
    ] = "auto",
    facts: Annotated[
        bool, flag("--facts", "Add what models are: parameters, GFLOPs, sizes, training, speed.")
    ] = False,
    suite: Annotated[
        str | None,
        option("NAME|FILE", "Add a suite's score: means over its members, intervals and ranks."),
    ] = None,
    groups: Annotated[
        bool,
        flag(
            "--groups",
            "Add means of trainings that differ in their seeds alone; --suite is of these, too.",
        ),
    ] = False,
    models: Annotated[
        list[str] | None, option("NAME,...", f"Only these models; {_PATTERNS}")
    ] = None,
    datasets: Annotated[list[str] | None, option("NAME,...", "Only these data sets.")] = None,
    protocols: Annotated[list[str] | None, option("NAME,...", "Only these protocols.")] = None,
    metrics: Annotated[
        list[str] | None,
        option("NAME,...", "These metrics, as `--format json` names them. Default: the headlines."),
    ] = None,
    decimals: Annotated[
        int | None, Option(min=0, max=6, help="Digits after the point. Default: 1, of ratios 2.")
    ] = None,
    intervals: Annotated[
        bool | None,
        flag("--intervals/--no-intervals", "Show 95% intervals. Default: all but tex has them."),
    ] = None,
    ranks: Annotated[bool, flag("--ranks", "Show the ranks that a result can have.")] = False,
    second: Annotated[bool, flag("--second", "Underline the second best.")] = False,
    sort: Annotated[
        str, option("model|rank|METRIC", "Order of the rows: by name, by mean rank, by a metric.")
    ] = "",
    transpose: Annotated[
        bool, flag("--transpose", "One table of all tasks, with a column per model.")
    ] = False,
    members: Annotated[
        bool, flag("--members", "With --suite: also the tables of single data sets.")
    ] = False,
    out: Annotated[
        Path | None, output_file("FILE", "Write a file, not standard output.", "--output")
    ] = None,
) -> None:
    """Print results side by side, one table per task.

    A table that is too wide for the terminal is transposed, or else split.
    """
    if format == "html" and out is None and sys.stdout.isatty():
        raise UsageError("--format html is a page for a browser: add --output board.html")
    if members and suite is None:
        raise UsageError("--members needs --suite: without it, these tables are shown anyway")
    from cosmos_eval.results.labels import repeats_of, warnings_of
    from cosmos_eval.results.leaderboard.entries import entries_of, published_beside
    from cosmos_eval.results.leaderboard.groups import group_means
    from cosmos_eval.results.leaderboard.ranking import find_ties
    from cosmos_eval.results.leaderboard.view import View, patterns, select
    from cosmos_eval.results.leaderboard.writers import WRITERS, Leaderboard, to_texts

    results = _read(directory)
    all_own, others = entries_of(results), published_beside(results) if with_published else []
    view = View(
        models=patterns(models or ()),
        datasets=patterns(datasets or ()),
        protocols=patterns(protocols or ()),
        metrics=patterns(metrics or ()),
        decimals=decimals,
        intervals=format != "tex" if intervals is None else intervals,
        ranks=ranks,
        second=second,
        sort=sort,
        transpose=transpose,
        members=members,
    )
    entries = select([*all_own, *others], view)
    own = [entry for entry in entries if entry.stored is not None]
    score = None if suite is None else _score(suite, all_own, with_published, groups, view.models)
    means = group_means(own) if groups else None
    shown = Leaderboard(entries, find_ties(entries, ties), facts, score, means, view)
    if format == "table":
        output.print_tables(partial(to_texts, shown), out)
    else:
        output.write_text(WRITERS[format](shown), out)
    # The other forms have the warnings below their tables.
    output.print_notes(warnings_of(results) if format in ("csv", "json") else ())
    output.print_notes(repeats_of(results))


def _score(
    suite: str,
    entries: Sequence[Entry],
    with_published: bool,
    by_group: bool,
    models: Sequence[str],
) -> SuiteScore:
    from cosmos_eval.results.leaderboard.entries import published
    from cosmos_eval.results.leaderboard.suite import suite_score
    from cosmos_eval.results.leaderboard.view import View, select
    from cosmos_eval.runner.suites import read_score

    found = [*entries, *(published() if with_published else ())]
    return suite_score(read_score(suite), select(found, View(models)), by_group=by_group)


def reproduce(
    directory: Annotated[
        Path | None, Argument(metavar="[DIR]", help=f"A folder of results. [default: {RESULTS}]")
    ] = None,
    format: Annotated[Literal["table", "md", "json"], Option(help="Form of the output.")] = "table",
) -> None:
    """Print published numbers beside those measured here.

    The numbers are those of the released checkpoints. What was not measured is `unverified`;
    without any results that is everything.
    """
    from cosmos_eval.results.leaderboard import reproduce as reproduction
    from cosmos_eval.results.leaderboard.entries import entries_of

    has_results = directory or (RESULTS.exists() and any(RESULTS.iterdir()))
    results = _read(directory or RESULTS) if has_results else []
    numbers = reproduction.reproductions(entries_of(results))
    if format == "table":
        output.print_tables(partial(reproduction.to_texts, numbers))
    else:
        write = reproduction.to_json if format == "json" else reproduction.to_markdown
        output.write_text(write(numbers))
    _print_warnings(results)


def report(
    out: Annotated[Path, output_file("FILE.html", "The page to write.")],
    directory: options.ResultFolder = RESULTS,
    with_published: Annotated[
        bool,
        flag(
            "--published/--no-published",
            "Add numbers that others published for the same data sets and protocols.",
        ),
    ] = True,
    pictures: Annotated[
        bool,
        flag(
            "--pictures/--no-pictures",
            "Add examples; models on this machine compute what results do not store.",
        ),
    ] = True,
    data_root: options.DataRoot = None,
    dataset: Annotated[
        list[str] | None, option("FILE", "YAML file that describes your data set; repeatable.")
    ] = None,
    predictions: Annotated[
        Path | None, option("DIR", "Label maps that `run --save-predictions` wrote.")
    ] = None,
    suite: Annotated[
        str | None,
        option(
            "NAME|FILE",
            "Rank models by a suite's score. Default: by the mean over the data sets they share.",
        ),
    ] = None,
    device: options.Device = "auto",
) -> None:
    """Write all results as one web page that works offline."""
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.embedding.cache import embeddings_folder
    from cosmos_eval.report import write_file
    from cosmos_eval.report.content import content_of
    from cosmos_eval.report.gallery import collect
    from cosmos_eval.report.gallery.records import Gallery
    from cosmos_eval.report.gallery.source import require_inputs
    from cosmos_eval.report.page import require_page_name, room_for_pictures, to_page
    from cosmos_eval.results.leaderboard.entries import published
    from cosmos_eval.results.store import read_samples, read_stored, result_paths
    from cosmos_eval.runner.suites import read_score

    require_page_name(out)
    score = None if suite is None else read_score(suite)
    paths = result_paths(directory)
    results = read_stored(paths)
    require_inputs((one.row for one in results), data_root, dataset or (), predictions)
    gallery = Gallery()
    with Progress() as progress:
        others, watch = published() if with_published else (), partial(progress.step, "report")
        content = content_of(results, read_samples, others, watch, score)
        if pictures:
            cache = str(embeddings_folder())
            gallery = collect(
                paths,
                RunOptions(data_root=data_root, cache=cache, device=device),
                datasets=dataset or (),
                predictions=predictions,
                budget=room_for_pictures(content),
                watch=progress.step,
            )
    page = to_page(content, gallery)
    write_file(out, page.content)
    output.print_written(out, f", {len(page.content) / 1e6:.1f} MB")
    output.print_notes(f"not shown: {note}" for note in page.notes)
    _print_warnings(results)


def compare(
    a: Annotated[Path, Argument(metavar="A", help="A result, or a folder of them.")],
    b: Annotated[
        Path | None, Argument(metavar="B", help="Another; may be the same. Not with --group.")
    ] = None,
    model: Annotated[
        list[str] | None,
        option(
            "SPEC", "The model to compare, for a folder of several; given twice: A's, then B's."
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        option("NAME", "All trainings of a method in folder A; given twice: A's, then B's."),
    ] = None,
    same_seeds: Annotated[
        bool, flag("--same-seeds", "Pair the trainings of two groups by seed.")
    ] = False,
    plan: Annotated[
        bool, flag("--plan", "Print what other numbers of trainings of both groups would find.")
    ] = False,
    difference: Annotated[
        float, option("POINTS", "Of --plan: the true difference.", min=0.001)
    ] = 1.0,
    power: Annotated[
        float, option("P", "Of --plan: the probability of finding it.", min=0.5, max=0.99)
    ] = 0.8,
    json: options.Json = False,
) -> None:
    """Compare two models on the same samples, or two methods by groups of trainings."""
    from cosmos_eval.results import compare as results
    from cosmos_eval.results import groups
    from cosmos_eval.results.labels import warnings_of
    from cosmos_eval.results.store import read_samples, read_stored, result_paths

    if group and (model or b is not None or len(group) != 2):
        raise UsageError("methods are compared by one folder and --group twice, without --model")
    if not group and (b is None or plan or same_seeds):
        wrong = "Missing argument 'B'" if b is None else "--plan and --same-seeds need --group"
        raise UsageError(f"{wrong}; methods are compared by --group, given twice")
    places = [a] if b is None else [a, b]
    stored = [read_stored(result_paths(p) if os.path.isdir(p) else [p]) for p in places]
    unpaired: tuple[str, ...] = ()
    if group:
        of_a, of_b = (groups.choose(stored[0], name) for name in group)
        comparison = groups.compare(of_a, of_b, read_samples, by_seed=same_seeds)
    else:
        names: list[str | None] = [*model] if model else [None]
        if len(names) > 2:
            raise UsageError("--model is given at most twice: A's model, then B's")
        chosen = map(results.choose, stored, (names[0], names[-1]), map(str, places))
        pairs, unpaired = results.pair(*chosen)
        comparison = results.compare(pairs, read_samples)
    warned = dict.fromkeys(note for one in stored for note in warnings_of(one))
    notes = [*unpaired, *warned, *comparison.notes]
    planned = groups.plan(comparison, difference, power) if plan else None
    if json:
        content = results.to_records(comparison)
        output.print_json({**content, "notes": notes, **({"plan": planned} if plan else {})})
        return
    for side, name, members in zip_longest("AB", comparison[:2], comparison.trainings):
        output.print_line(f"{side}: {name}" + (f" ({'; '.join(members)})" if members else ""))
    if planned is None:
        rows = [*map(results.to_cells, comparison.tests)]
        output.print_records(rows, section=("data set", "protocol"), texts=2)
    else:
        output.print_records([*map(_rounded, planned)], section=("dataset", "protocol"), texts=2)
    output.print_notes(notes)


def _rounded(record: Mapping[str, Any]) -> dict[str, str]:
    return {n: f"{v:.2f}" if isinstance(v, float) else str(v) for n, v in record.items()}


def verify(
    results: Annotated[
        list[Path] | None,
        Argument(
            metavar="[RESULT]...", help=f"Result files, or folders of them. Default: {RESULTS}."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Recompute results from their stored samples.

    Every figure must be exactly the stored one. Exit status: 0 all are verified, 1 something
    differs, 2 something cannot be read.
    """
    from cosmos_eval.results.verify import verify_all

    verdicts = list(verify_all(results or [RESULTS]))
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    if json:
        output.print_json([{**one._asdict(), "outcome": one.outcome} for one in verdicts])
    else:
        for verdict in verdicts:
            if verdict.outcome == "verified":
                output.print_line(
                    f"{verdict.path}: verified, {verdict.figures} figures of {verdict.model}"
                )
            for line in verdict.differences or filter(None, [verdict.obstacle]):
                output.print_line(f"{verdict.path}: {line}")
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        output.print_line(f"{len(verdicts)} results: {counts}")
    if set(outcomes) != {"verified"}:
        raise Exit(1 if "differs" in outcomes else 2)


def export(
    out: Annotated[Path, output_file("FILE", "The .csv or .parquet file to write.")],
    directory: options.ResultFolder = RESULTS,
) -> None:
    """Write all results as one table, one row per metric."""
    from cosmos_eval.results import export as tables

    results = _read(directory)
    changed = tables.export(tables.table_of(results), out)
    output.print_written(out)
    if changed:
        note = f"{changed} texts would be formulas or several lines in CSV, and are escaped"
        output.print_notes([note])
    _print_warnings(results)

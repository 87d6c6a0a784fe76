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

from typer import Argument, Exit

from cosmos_eval.cli import options
from cosmos_eval.cli.options import (
    CONTENT,
    DATA,
    LAYOUT,
    File,
    Texts,
    flag,
    option,
    output_file,
    table_view,
)
from cosmos_eval.cli.output import (
    print_json,
    print_line,
    print_notes,
    print_records,
    print_tables,
    print_written,
    write_text,
)
from cosmos_eval.results import RESULTS
from cosmos_eval.results.table import View, of_metrics, patterns
from cosmos_eval.types import RunOptions, UsageError

if TYPE_CHECKING:
    from cosmos_eval.results.compare import Comparison
    from cosmos_eval.results.labels import Stored
    from cosmos_eval.results.leaderboard.entries import Entry
    from cosmos_eval.results.leaderboard.suite import SuiteScore


METHODS = "Methods, by groups of trainings"
_ALL = ("csv", "json")  # forms that have the results beside a suite


def _read(path: Path) -> list[Stored]:
    from cosmos_eval.results.checked import read_checked
    from cosmos_eval.results.store import result_paths

    return read_checked(result_paths(path))


def _print_warnings(results: Sequence[Stored]) -> None:
    from cosmos_eval.results.labels import repeats_of, warnings_of

    print_notes([*warnings_of(results), *repeats_of(results)])


def leaderboard(
    directory: options.ResultFolder = RESULTS,
    format: Annotated[
        Literal["table", "md", "csv", "tex", "html", "json"],
        option("NAME", "table, md, csv, tex, html, or json, for which --json is short."),
    ] = "table",
    output: Annotated[File, output_file("FILE", "A file in place of the terminal.")] = None,
    suite: options.Suite = None,
    members: Annotated[
        bool, flag("--members", "With --suite: also the tables of single data sets.", CONTENT)
    ] = False,
    groups: Annotated[
        bool, flag("--groups", "Add means over the seeds of a training; --suite, too.", CONTENT)
    ] = False,
    facts: Annotated[
        bool, flag("--facts", "Add parameters, GFLOPs, image size, training, speed.", CONTENT)
    ] = False,
    with_published: options.Published = False,
    models: Annotated[Texts, option("NAME,...", "Only these; `*` is any text.", CONTENT)] = None,
    datasets: Annotated[Texts, option("NAME,...", "Only these data sets.", CONTENT)] = None,
    protocols: Annotated[Texts, option("NAME,...", "Only these protocols.", CONTENT)] = None,
    metrics: options.Metrics = None,
    ties: Annotated[
        Literal["auto", "paired", "intervals"],
        option(
            "NAME",
            "Test of ties with the best: paired (of samples), intervals (overlap), or auto.",
            CONTENT,
        ),
    ] = "auto",
    ranks: Annotated[bool, flag("--ranks", "Show the ranks a result can have.", CONTENT)] = False,
    decimals: options.Decimals = None,
    intervals: options.Intervals = None,
    second: Annotated[bool, flag("--second", "Underline the second best.", LAYOUT)] = False,
    sort: options.Sort = "",
    transpose: Annotated[
        bool, flag("--transpose", "One table of all tasks, a column per model.", LAYOUT)
    ] = False,
) -> None:
    """Print results side by side, one table per task.

    A table that is too wide for the terminal is transposed, or else split.
    """
    if format == "html" and output is None and sys.stdout.isatty():
        raise UsageError("--format html is a page for a browser: add --output board.html")
    if members and suite is None:
        raise UsageError("--members needs --suite: without it, these tables are shown anyway")
    if suite and (datasets or protocols or metrics) and not (members or groups or format in _ALL):
        raise UsageError("--datasets, --protocols and --metrics need --members with --suite")
    from cosmos_eval.results.labels import repeats_of, warnings_of
    from cosmos_eval.results.leaderboard.entries import entries_of, published_beside
    from cosmos_eval.results.leaderboard.groups import group_means
    from cosmos_eval.results.leaderboard.ranking import find_ties
    from cosmos_eval.results.leaderboard.view import select
    from cosmos_eval.results.leaderboard.writers import WRITERS, Leaderboard, to_texts

    results = _read(directory)
    all_own, others = entries_of(results), published_beside(results) if with_published else []
    view = View(
        models=patterns(models),
        datasets=patterns(datasets),
        protocols=patterns(protocols),
        metrics=patterns(metrics),
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
        print_tables(partial(to_texts, shown), output)
    else:
        write_text(WRITERS[format](shown), output)
    # The other forms have the warnings below their tables.
    print_notes(warnings_of(results) if format in ("csv", "json") else ())
    print_notes(repeats_of(results))


def _score(
    suite: str,
    entries: Sequence[Entry],
    with_published: bool,
    by_group: bool,
    models: Sequence[str],
) -> SuiteScore:
    from cosmos_eval.results.leaderboard.entries import published
    from cosmos_eval.results.leaderboard.suite import suite_score
    from cosmos_eval.results.leaderboard.view import select
    from cosmos_eval.runner.suites import read_score

    found = [*entries, *(published() if with_published else ())]
    return suite_score(read_score(suite), select(found, View(models)), by_group=by_group)


def reproduce(
    directory: Annotated[
        File, Argument(metavar="[DIR]", help=f"A folder of results. Default: {RESULTS}.")
    ] = None,
    format: Annotated[
        Literal["table", "md", "json"], option("NAME", "table, md, or json (short: --json).")
    ] = "table",
    metrics: options.Metrics = None,
    decimals: options.Decimals = None,
    intervals: options.Intervals = None,
    sort: options.Sort = "",
    strict: Annotated[
        bool, flag("--strict", "Exit with 1 or 2 unless every number shown is reproduced.")
    ] = False,
) -> None:
    """Print published numbers beside those measured here.

    The numbers are those of the released checkpoints. What was not measured is `unverified`;
    without any results that is everything.

    Exit status with --strict: 0 all are reproduced, 1 one differs or is only near, 2 one was not
    measured.
    """
    from cosmos_eval.results.leaderboard import reproduce as reproduction
    from cosmos_eval.results.leaderboard.entries import entries_of

    has_results = directory or (RESULTS.exists() and any(RESULTS.iterdir()))
    results = _read(directory or RESULTS) if has_results else []
    view = table_view(metrics, decimals, intervals, sort)
    numbers = reproduction.reproductions(entries_of(results))
    numbers = [*of_metrics(numbers, view.metrics, lambda number: number.column.metric)]
    if format == "table":
        print_tables(partial(reproduction.to_texts, numbers, view=view))
    elif format == "md":
        write_text(reproduction.to_markdown(numbers, view))
    else:
        write_text(reproduction.to_json(numbers))
    _print_warnings(results)
    if strict:
        raise Exit(reproduction.exit_status(numbers))


def report(
    output: Annotated[Path, output_file("FILE", "The .html page to write.")],
    directory: options.ResultFolder = RESULTS,
    suite: options.Suite = None,
    with_published: options.Published = True,
    pictures: Annotated[
        bool, flag("--pictures/--no-pictures", "Show examples; models may compute them.", CONTENT)
    ] = True,
    dataset: options.Datasets = None,
    predictions: Annotated[
        File, option("DIR", "Label maps that `run --save-predictions` wrote.", DATA)
    ] = None,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
) -> None:
    """Write all results as one web page that works offline."""
    # Threads of models that wait actively take the cores from each other and from other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.embedding.cache import embeddings_folder
    from cosmos_eval.report import write_file
    from cosmos_eval.report.content import content_of
    from cosmos_eval.report.gallery import collect
    from cosmos_eval.report.gallery.records import Gallery
    from cosmos_eval.report.gallery.source import require_inputs
    from cosmos_eval.report.page import require_page_name, room_for_pictures, to_page
    from cosmos_eval.results.checked import read_checked
    from cosmos_eval.results.leaderboard.entries import published
    from cosmos_eval.results.store import read_samples, result_paths
    from cosmos_eval.runner.suites import read_score

    require_page_name(output)
    score = None if suite is None else read_score(suite)
    paths = result_paths(directory)
    results = read_checked(paths)
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
    write_file(output, page.content)
    print_written(output, f", {len(page.content) / 1e6:.1f} MB")
    print_notes(f"not shown: {note}" for note in page.notes)
    _print_warnings(results)


def compare(
    a: Annotated[Path, Argument(metavar="A", help="A result, or a folder of them.")],
    b: Annotated[File, Argument(metavar="B", help="Another one. Default: the folder A.")] = None,
    model: Annotated[Texts, option("SPEC", "Model of a folder; twice: A's, then B's.")] = None,
    format: options.Format = "table",
    group: Annotated[Texts, option("NAME", "Twice: the trainings of A, and of B.", METHODS)] = None,
    same_seeds: Annotated[bool, flag("--same-seeds", "Pair trainings by seed.", METHODS)] = False,
    plan: Annotated[bool, flag("--plan", "Show what more trainings find.", METHODS)] = False,
    difference: Annotated[
        float, option("POINTS", "Of --plan: the true difference.", METHODS, min=0.001)
    ] = 1.0,
    power: Annotated[
        float, option("P", "Of --plan: probability to find it.", METHODS, min=0.5, max=0.99)
    ] = 0.8,
    metrics: options.Metrics = None,
    decimals: options.Decimals = None,
    intervals: options.Intervals = None,
    sort: options.Sort = "",
) -> None:
    """Compare two models on the same samples, or two methods by groups of trainings."""
    from cosmos_eval.results import compare as results
    from cosmos_eval.results import groups
    from cosmos_eval.results.labels import warnings_of
    from cosmos_eval.results.store import read_stored, result_paths

    if group and (model or b is not None or len(group) != 2):
        raise UsageError("methods are compared by one folder and --group twice, without --model")
    if not group and (plan or same_seeds):
        raise UsageError("--plan and --same-seeds need --group, given twice")
    if b is None and len(group or model or ()) != 2:
        raise UsageError("Missing argument 'B': name it, or give --model or --group twice")
    read = {p: read_stored(result_paths(p) if os.path.isdir(p) else [p]) for p in (a, b or a)}
    comparison = _by_groups(read[a], group, same_seeds) if group else _by_models(read, a, b, model)
    view = table_view(metrics, decimals, intervals, sort)
    shown = of_metrics(comparison.tests, view.metrics, lambda test: test.metric)
    comparison = comparison._replace(tests=shown)
    warned = dict.fromkeys(note for one in read.values() for note in warnings_of(one))
    notes = [*warned, *comparison.notes]
    planned = groups.plan(comparison, difference, power) if plan else None
    if format == "json":
        content = results.to_records(comparison)
        print_json({**content, "notes": notes, **({"plan": planned} if plan else {})})
        return
    for side, name, trained in zip_longest("AB", comparison[:2], comparison.trainings):
        print_line(f"{side}: {name}" + (f" ({'; '.join(trained)})" if trained else ""))
    rows = [results.to_cells(test, view) for test in shown]
    section = ("data set", "protocol")
    if planned is not None:
        rows = [{n: _rounded(value, view) for n, value in one.items()} for one in planned]
        section = ("dataset", "protocol")
    print_records(rows, section=section, texts=2, sort=sort)
    print_notes(notes)


def _by_groups(stored: Sequence[Stored], group: Sequence[str], same_seeds: bool) -> Comparison:
    from cosmos_eval.results import groups
    from cosmos_eval.results.store import read_samples

    of_a, of_b = (groups.choose(stored, name) for name in group)
    return groups.compare(of_a, of_b, read_samples, by_seed=same_seeds)


def _by_models(
    read: Mapping[Path, Sequence[Stored]], a: Path, b: Path | None, model: Texts
) -> Comparison:
    from cosmos_eval.results import compare as results
    from cosmos_eval.results.store import read_samples

    names: Sequence[str | None] = model or [None]
    if len(names) > 2:
        raise UsageError("--model is given at most twice: A's model, then B's")
    sides = (a, names[0]), (b or a, names[-1])
    pairs, unpaired = results.pair(*(results.choose(read[p], m, str(p)) for p, m in sides))
    comparison = results.compare(pairs, read_samples)
    return comparison._replace(notes=(*unpaired, *comparison.notes))


def _rounded(value: Any, view: View) -> str:
    return view.fixed(value) if isinstance(value, float) else str(value)


def verify(
    results: Annotated[
        list[Path] | None,
        Argument(
            metavar="[RESULT]...", help=f"Result files, or folders of them. Default: {RESULTS}."
        ),
    ] = None,
    format: options.Format = "table",
) -> None:
    """Recompute results from their stored samples.

    Every figure must be exactly the stored one. Exit status: 0 all are verified, 1 something
    differs, 2 something cannot be read.
    """
    from cosmos_eval.results.verify import verify_all

    verdicts = list(verify_all(results or [RESULTS]))
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    if format == "json":
        print_json([{**one._asdict(), "outcome": one.outcome} for one in verdicts])
    else:
        for verdict in verdicts:
            if verdict.outcome == "verified":
                print_line(
                    f"{verdict.path}: verified, {verdict.figures} figures of {verdict.model}"
                )
            for line in verdict.differences or filter(None, [verdict.obstacle]):
                print_line(f"{verdict.path}: {line}")
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        print_line(f"{len(verdicts)} results: {counts}")
    if set(outcomes) != {"verified"}:
        raise Exit(1 if "differs" in outcomes else 2)


def export(
    output: Annotated[Path, output_file("FILE", "The .csv or .parquet file to write.")],
    directory: options.ResultFolder = RESULTS,
) -> None:
    """Write all results as one table, one row per metric."""
    from cosmos_eval.results import export as tables

    results = _read(directory)
    changed = tables.export(tables.table_of(results), output)
    print_written(output)
    if changed:
        note = f"{changed} texts would be formulas or several lines in CSV, and are escaped"
        print_notes([note])
    _print_warnings(results)

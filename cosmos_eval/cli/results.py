"""The commands that read stored results: tables, comparisons, files."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Exit

from cosmos_eval.cli import options
from cosmos_eval.cli.completion import model_names
from cosmos_eval.cli.options import (
    CONTENT,
    DATA,
    LAYOUT,
    METHODS,
    File,
    Texts,
    flag,
    make_table_options,
    option,
    output_file,
)
from cosmos_eval.cli.output import (
    print_json,
    print_left_out,
    print_line,
    print_notes,
    print_records,
    print_tables,
    print_written,
    shows_styles,
    write_text,
)
from cosmos_eval.results import RESULTS
from cosmos_eval.results.table import TableOptions, select_metrics, split_patterns
from cosmos_eval.types import RunOptions, UsageError

if TYPE_CHECKING:
    from cosmos_eval.results.compare import Comparison
    from cosmos_eval.results.labels import StoredResult
    from cosmos_eval.results.leaderboard.writers import Leaderboard
    from cosmos_eval.results.verify import Verdict


_FORMATS_WITH_ALL = ("csv", "json")  # beside the score of a suite, they have all results


def read_results(path: Path) -> list[StoredResult]:
    """Read a result file, or all results in a folder, and check that they were not edited."""
    from cosmos_eval.results.checked import read_checked
    from cosmos_eval.results.store import result_paths

    return read_checked(result_paths(path))


def _print_warnings(results: Sequence[StoredResult]) -> None:
    """Print warnings on results, and on results that repeat other ones, on standard error."""
    from cosmos_eval.results.labels import repeat_notes, result_warnings

    print_notes([*result_warnings(results), *repeat_notes(results)])


def leaderboard(
    places: Annotated[
        list[Path] | None,
        Argument(
            metavar="[DIR]...",
            help=f"Folders of results, or files, also of other tools. Default: {RESULTS}.",
        ),
    ] = None,
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
    all_results: Annotated[
        bool, flag("--all", "Show variants of protocols and other settings, too.", CONTENT)
    ] = False,
    ranks: Annotated[bool, flag("--ranks", "Show the ranks a result can have.", CONTENT)] = False,
    decimals: options.Decimals = None,
    intervals: options.Intervals = None,
    second: Annotated[bool, flag("--second", "Underline the second best.", LAYOUT)] = False,
    columns: options.PaperColumns = None,
    caption: options.Caption = False,
    sort: options.Sort = "",
    transpose: Annotated[
        bool, flag("--transpose", "One table of all tasks, a column per model.", LAYOUT)
    ] = False,
) -> None:
    """Print results side by side, one table per task, also of other tools' files.

    Tables leave out localisation by one kind of map, scores of pairs, and results with other
    settings than their protocol's; csv and json have them. A table that is too wide for the
    terminal is transposed, or else split.
    """
    if format == "html" and output is None and sys.stdout.isatty():
        raise UsageError("--format html is a page for a browser: add --output board.html")
    _require_tex(format, columns, caption)
    if members and suite is None:
        raise UsageError("--members needs --suite: without it, these tables are shown anyway")
    shows_only_score = suite and not (members or groups or format in _FORMATS_WITH_ALL)
    if shows_only_score and (datasets or protocols or metrics):
        raise UsageError("--datasets, --protocols and --metrics need --members with --suite")
    from cosmos_eval.results.checked import read_checked
    from cosmos_eval.results.exchange.places import find_results
    from cosmos_eval.results.leaderboard.entries import (
        entries_of,
        imported_entries,
        published_beside,
    )
    from cosmos_eval.results.leaderboard.groups import group_means
    from cosmos_eval.results.leaderboard.ranking import find_ties
    from cosmos_eval.results.leaderboard.task_tables import headline_entries, select_entries
    from cosmos_eval.results.leaderboard.writers import Leaderboard

    files = find_results(places or [RESULTS])
    results = read_checked(files.paths)
    shows_intervals = (format != "tex" or caption) if intervals is None else intervals
    table_options = TableOptions(
        models=split_patterns(models),
        datasets=split_patterns(datasets),
        protocols=split_patterns(protocols),
        metrics=split_patterns(metrics),
        decimals=decimals,
        intervals=shows_intervals,
        ranks=ranks,
        second=second,
        paper_columns=columns,
        caption=caption,
        sort=sort,
        transpose=transpose,
        members=members,
    )
    result_entries = [*entries_of(results), *imported_entries(files.imported)]
    all_entries = list(result_entries)
    if with_published:
        all_entries += published_beside(result_entries)
    selected_entries = select_entries(all_entries, table_options)
    entries = selected_entries
    if format not in _FORMATS_WITH_ALL:
        # Who names protocols or models wants to see them.
        entries = headline_entries(
            selected_entries,
            with_variants=all_results or protocols is not None,
            with_other_settings=all_results or models is not None,
        )

    score = None
    if suite is not None:
        from cosmos_eval.runner.suites import score_suite

        score = score_suite(
            suite,
            result_entries,
            with_published=with_published,
            by_group=groups,
            model_patterns=table_options.models,
        )
    means = None
    if groups:
        # Published numbers belong to no group of trainings.
        means = group_means([entry for entry in entries if entry.stored is not None])
    board = Leaderboard(
        entries,
        find_ties(entries, ties),
        facts=facts,
        suite=score,
        groups=means,
        options=table_options,
    )
    _write_board(board, results, format, output)
    print_notes(files.notes)
    if not shows_only_score:
        print_left_out(len(selected_entries) - len(entries), "--all")


def _require_tex(format: str, columns: int | None, caption: bool) -> None:
    """Raise UsageError if the options --columns and --caption are given for another format."""
    if format != "tex" and (columns is not None or caption):
        raise UsageError("--columns and --caption are for LaTeX: add --format tex")


def _write_board(
    board: Leaderboard, results: Sequence[StoredResult], format: str, output: Path | None
) -> None:
    """Print a leaderboard or write it to a file; then print notes on its results.

    Args:
        board: The leaderboard.
        results: The results that were read for it.
        format: `table`, or a key of `WRITERS` such as `csv`.
        output: The file to write; None: standard output.
    """
    from cosmos_eval.results.labels import repeat_notes, result_warnings
    from cosmos_eval.results.leaderboard.writers import WRITERS, to_texts

    if format == "table":
        marks_best = not shows_styles(output)
        print_tables(partial(to_texts, board, marks_best=marks_best), output)
    else:
        write_text(WRITERS[format](board), output)
    has_no_room_for_warnings = format in ("csv", "json")  # others have them below their tables
    if has_no_room_for_warnings:
        print_notes(result_warnings(results))
    print_notes(repeat_notes(results))


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
    """Print published numbers beside the numbers that were measured here.

    The published numbers are about the released checkpoints. Numbers that were not measured here
    are `unverified`; without any results, all are.

    Exit status with --strict: 0 all are reproduced, 1 one differs or is only near, 2 one was not
    measured.
    """
    from cosmos_eval.results.leaderboard import reproduce as reproduction
    from cosmos_eval.results.leaderboard.entries import entries_of

    results: list[StoredResult] = []
    has_default_results = RESULTS.exists() and any(RESULTS.iterdir())
    if directory is not None or has_default_results:
        results = read_results(directory or RESULTS)
    table_options = make_table_options(metrics, decimals, intervals, sort)
    all_numbers = reproduction.find_reproductions(entries_of(results))
    chosen_numbers = select_metrics(
        all_numbers, table_options.metrics, lambda number: number.column.metric
    )
    numbers = list(chosen_numbers)

    if format == "table":
        print_tables(partial(reproduction.to_texts, numbers, options=table_options))
    elif format == "md":
        write_text(reproduction.to_markdown(numbers, table_options))
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
    device: options.Device = RunOptions.device,
) -> None:
    """Write all results as one web page that works offline."""
    # Threads of models that wait actively take the cores from each other and from other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.reporting.write import write_report

    with Progress() as progress:
        page, results = write_report(
            directory,
            output,
            suite=suite,
            with_published=with_published,
            pictures=pictures,
            datasets=dataset or (),
            predictions=predictions,
            options=RunOptions(data_root=data_root, device=device),
            show_progress=progress.step,
        )
    print_written(output, f", {len(page.content) / 1e6:.1f} MB")
    print_notes(f"not shown: {note}" for note in page.notes)
    _print_warnings(results)


def compare(
    a: Annotated[
        Path, Argument(metavar="A", help="A result, also of another tool, or a folder of results.")
    ],
    b: Annotated[File, Argument(metavar="B", help="Another one. Default: the folder A.")] = None,
    model: Annotated[
        Texts,
        option("SPEC", "Model of a folder; twice: A's, then B's.", autocompletion=model_names),
    ] = None,
    format: Annotated[
        Literal["table", "tex", "json"],
        option("table|tex|json", "Form of what is printed; or just --json.", show_default=False),
    ] = "table",
    all_metrics: Annotated[
        bool, flag("--all-metrics", "Show all metrics, not only the headlines.", CONTENT)
    ] = False,
    group: Annotated[Texts, option("NAME", "Twice: the trainings of A, and of B.", METHODS)] = None,
    same_seeds: Annotated[bool, flag("--same-seeds", "Pair trainings by seed.", METHODS)] = False,
    plan: Annotated[bool, flag("--plan", "Show what more trainings find.", METHODS)] = False,
    difference: Annotated[
        float, option("POINTS", "With --plan: the true difference.", METHODS, min=0.001)
    ] = 1.0,
    power: Annotated[
        float, option("P", "With --plan: probability to find it.", METHODS, min=0.5, max=0.99)
    ] = 0.8,
    metrics: options.Metrics = None,
    decimals: options.Decimals = None,
    intervals: options.Intervals = None,
    columns: options.PaperColumns = None,
    caption: options.Caption = False,
    sort: options.Sort = "",
) -> None:
    """Compare two models on the same samples, or two methods by groups of trainings.

    The first line says how many headline metrics show A, or B, to be better.
    """
    from cosmos_eval.results import compare as comparisons
    from cosmos_eval.results import groups
    from cosmos_eval.results.sides import read_comparison

    if (plan or same_seeds) and not group:
        raise UsageError("--plan and --same-seeds need --group, given twice")
    _require_tex(format, columns, caption)
    if format == "tex" and (plan or sort):
        raise UsageError("--format tex has neither --plan nor --sort: print a table without it")
    comparison = read_comparison(
        a, b, models=model or (), trainings=group or (), same_seeds=same_seeds
    )
    table_options = make_table_options(metrics, decimals, intervals, sort)
    chosen_comparison = comparisons.with_metrics(comparison, table_options.metrics)
    tests = chosen_comparison.tests
    planned = groups.plan_trainings(chosen_comparison, difference, power) if plan else None
    if format == "json":
        document = comparisons.to_records(chosen_comparison)
        if planned is not None:
            document["plan"] = planned
        print_json(document)
        return

    shows_all = all_metrics or table_options.metrics
    shown_tests = tests if shows_all else comparison.headline_tests
    if format == "tex":
        shown_options = table_options._replace(paper_columns=columns, caption=caption)
        write_text(_comparison_to_tex(comparison._replace(tests=shown_tests), shown_options))
        print_notes(comparison.notes)
        return

    print_line(comparison.verdict)
    print_line(f"A: {side_text(comparison, 0)}")
    print_line(f"B: {side_text(comparison, 1)}")
    if planned is not None:
        planned_cells = [_planned_cells(record, table_options) for record in planned]
        print_records(planned_cells, section=("dataset", "protocol"), texts=2, sort=sort)
        print_notes(comparison.notes)
        return
    rows = []
    for test in shown_tests:
        cells = comparisons.to_cells(test, table_options)
        rows.append(comparisons.join_error_components(cells, test.difference))
    differences = chosen_comparison.untested
    shown_differences = differences if shows_all else comparisons.headlines_of(differences)
    rows += [comparisons.untested_cells(row, table_options) for row in shown_differences]
    n_text_columns = 1 if differences else 2
    print_records(rows, section=("data set", "protocol"), texts=n_text_columns, sort=sort)
    print_notes(comparison.notes)
    n_hidden = len(tests) - len(shown_tests) + len(differences) - len(shown_differences)
    if n_hidden:
        print_notes([f"other metrics not shown: {n_hidden} (--all-metrics shows them)"])


def _comparison_to_tex(comparison: Comparison, table_options: TableOptions) -> str:
    """Return the tests of a comparison as LaTeX. Raises UsageError without any test."""
    from cosmos_eval.results.comparison_table import comparison_table
    from cosmos_eval.results.latex import PREAMBLE, to_latex

    if comparison.untested:
        raise UsageError("--format tex shows tests, and imported results have none: leave it out")
    if not comparison.tests:
        raise UsageError("no headline metric was compared: name metrics with --metrics")
    table = comparison_table(comparison, table_options)
    return PREAMBLE + to_latex(table, table_options.paper_columns)


def side_text(comparison: Comparison, side: int) -> str:
    """Return the name of a model, or of a group with the number and the seeds of its trainings.

    Args:
        comparison: The comparison.
        side: 0 for A, 1 for B.

    Example:
        "scenes-clip", or "clip (5 trainings, seeds 0-4)" for a group.
    """
    name = (comparison.a, comparison.b)[side]
    if not comparison.seeds:
        return name
    return f"{name} ({_trainings_text(comparison.seeds[side])})"


def _trainings_text(seeds: Sequence[int | None]) -> str:
    """Return the number of trainings and their seeds, if all seeds are known.

    Args:
        seeds: The seed of each training, in ascending order; None for an unknown seed.

    Example:
        (0, 1, 2) -> "3 trainings, seeds 0-2"; (0, 2) -> "2 trainings, seeds 0, 2";
        (None,) -> "1 training".
    """
    plural = "s" if len(seeds) > 1 else ""
    count = f"{len(seeds)} training{plural}"
    known_seeds = [seed for seed in seeds if seed is not None]
    if len(known_seeds) < len(seeds):
        return count
    first, last = known_seeds[0], known_seeds[-1]
    if len(known_seeds) > 2 and known_seeds == list(range(first, last + 1)):
        return f"{count}, seeds {first}-{last}"
    return f"{count}, seed{plural} {', '.join(map(str, known_seeds))}"


def _planned_cells(record: Mapping[str, Any], table_options: TableOptions) -> dict[str, str]:
    """Return a row of the plan as texts by column; floats get the decimals of the options."""
    cells = {}
    for column, value in record.items():
        if isinstance(value, float):
            cells[column] = table_options.format_number(value)
        else:
            cells[column] = str(value)
    return cells


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
    count_by_outcome = Counter(verdict.outcome for verdict in verdicts)
    if format == "json":
        print_json([verdict._asdict() | {"outcome": verdict.outcome} for verdict in verdicts])
    else:
        for verdict in verdicts:
            _print_verdict(verdict)
        counts = ", ".join(
            f"{count} {outcome}" for outcome, count in sorted(count_by_outcome.items())
        )
        print_line(f"{len(verdicts)} results: {counts}")
    if set(count_by_outcome) != {"verified"}:
        raise Exit(1 if "differs" in count_by_outcome else 2)


def _print_verdict(verdict: Verdict) -> None:
    """Print that a result is verified, its differences, or why it cannot be verified."""
    if verdict.outcome == "verified":
        print_line(f"{verdict.path}: verified, {verdict.figures} figures of {verdict.model}")
    if verdict.differences:
        for difference in verdict.differences:
            print_line(f"{verdict.path}: {difference}")
    elif verdict.obstacle:
        print_line(f"{verdict.path}: {verdict.obstacle}")


def export(
    output: Annotated[
        Path,
        option(
            "PATH",
            "The .csv or .parquet file; for other tools, the file or folder to write.",
        ),
    ],
    directory: options.ResultFolder = RESULTS,
    format: Annotated[
        Literal[
            "csv",
            "parquet",
            "clip-benchmark",
            "datacomp",
            "openclip",
            "huggingface",
            "every-eval-ever",
        ]
        | None,
        option(
            "NAME",
            "csv, parquet, clip-benchmark, datacomp, openclip, huggingface or every-eval-ever. "
            "Default: the suffix of --output.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write all results as one table, one row per metric, or as files of another tool.

    `cosmos-eval list formats` prints the names of data sets and metrics in other tools.
    """
    from cosmos_eval.results import export as tables
    from cosmos_eval.results.exchange.formats import FORMATS
    from cosmos_eval.results.labels import distinct_results

    if format is not None and format in FORMATS:
        results = read_results(directory)
        written_files = FORMATS[format].write(distinct_results(results), output)
        if len(written_files.paths) == 1:
            print_written(written_files.paths[0])
        else:
            print_written(output, f", {len(written_files.paths)} files")
        print_notes(written_files.notes)
        _print_warnings(results)
        return
    options.require_writable(output)
    results = read_results(directory)
    n_escaped = tables.export(tables.table_of(results), output, format)
    print_written(output)
    if n_escaped:
        note = f"{n_escaped} texts would be formulas or several lines in CSV, and are escaped"
        print_notes([note])
    _print_warnings(results)

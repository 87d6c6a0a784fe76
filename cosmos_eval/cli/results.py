"""The commands that read stored results: tables, comparisons, files."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
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
    table_width,
    write_text,
)
from cosmos_eval.results import RESULTS
from cosmos_eval.results.table import NamePatterns, TableOptions, select_metrics
from cosmos_eval.types import RunOptions, UsageError

if TYPE_CHECKING:
    from cosmos_eval.results.compare import Comparison
    from cosmos_eval.results.exchange.places import ResultFiles
    from cosmos_eval.results.labels import StoredResult
    from cosmos_eval.results.leaderboard.writers import Leaderboard
    from cosmos_eval.results.verify import Verdict
    from cosmos_eval.results.wordings import WordingComparison


_FORMATS_WITH_ALL = ("csv", "json")  # beside the score of a suite, they have all results
# With compare --plan: the true difference in points, and the probability to find it.
_PLANNED_DIFFERENCE, _PLANNED_POWER = 1.0, 0.8


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
    labs: options.Labs = False,
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
    patterns = NamePatterns.split(
        models=models, datasets=datasets, protocols=protocols, metrics=metrics
    )
    shows_results = suite is None or members or groups or format in _FORMATS_WITH_ALL
    _require_shown_results(suite, patterns, members=members, shows_results=shows_results)
    from cosmos_eval.results.leaderboard.writers import make_leaderboard
    from cosmos_eval.runner.suites import read_score

    results, files = _read_places(places or [RESULTS], format, labs=labs)
    # Who names protocols or models wants to see them.
    shows_all_results = all_results or format in _FORMATS_WITH_ALL
    board = make_leaderboard(
        results,
        TableOptions(
            patterns=patterns,
            decimals=decimals,
            intervals=(format != "tex" or caption) if intervals is None else intervals,
            ranks=ranks,
            second=second,
            paper_columns=columns,
            caption=caption,
            sort=sort,
            transpose=transpose,
            members=members,
        ),
        imported=files.imported,
        suite=None if suite is None else read_score(suite),
        groups=groups,
        labs=labs,
        facts=facts,
        published=with_published,
        variants=shows_all_results or len(patterns.protocols) > 0,
        other_settings=shows_all_results or len(patterns.models) > 0,
        ties=ties,
    )
    _write_board(board, results, format, output)
    print_notes(files.notes)
    if shows_results:
        print_left_out(board.n_left_out, "--all")


def _read_places(
    places: Sequence[Path], format: str, *, labs: bool
) -> tuple[Sequence[StoredResult], ResultFiles]:
    """Read results of cosmos-eval in files and folders, and find results of other tools.

    Args:
        places: The files and folders.
        format: The form of what is printed.
        labs: True if the one place is a folder with a folder for each lab.
    """
    from cosmos_eval.results.checked import read_checked
    from cosmos_eval.results.exchange.places import find_results
    from cosmos_eval.results.labels import assign_labs

    if labs and format == "csv":
        raise UsageError("--labs has tables and JSON: choose another --format than csv")
    if labs and len(places) > 1:
        raise UsageError("--labs takes one folder, which has a folder for each lab")
    files = find_results(places)
    results = read_checked(files.paths)
    if labs:
        return assign_labs(results, places[0]), files
    return results, files


def _require_tex(format: str, columns: int | None, caption: bool) -> None:
    """Raise UsageError if the options --columns and --caption are given for another format."""
    if format != "tex" and (columns is not None or caption):
        raise UsageError("--columns and --caption are for LaTeX: add --format tex")


def _require_shown_results(
    suite: str | None, patterns: NamePatterns, *, members: bool, shows_results: bool
) -> None:
    """Raise UsageError for options about the results of single data sets that change nothing.

    Args:
        suite: The suite whose score is shown; None without one.
        patterns: The names that the user selects. Models are selected in the score, too.
        members: True if the tables of single data sets follow the score.
        shows_results: True if the results of single data sets are shown.
    """
    if members and suite is None:
        raise UsageError("--members needs --suite: without it, these tables are shown anyway")
    selects_results = patterns.datasets or patterns.protocols or patterns.metrics
    if selects_results and not shows_results:
        raise UsageError("--datasets, --protocols and --metrics need --members with --suite")


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
        print_tables(to_texts(board, table_width(output), marks_best=marks_best), output)
    else:
        write_text(WRITERS[format](board), output)
    has_no_room_for_warnings = format in ("csv", "json")  # others have them below their tables
    if has_no_room_for_warnings:
        print_notes(result_warnings(results))
    if board.labs is None:  # else the table of labs has the repeated results
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
        all_numbers, table_options.patterns.metrics, lambda number: number.column.metric
    )
    numbers = list(chosen_numbers)

    if format == "table":
        print_tables(reproduction.to_texts(numbers, table_width(), table_options))
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
    labs: options.Labs = False,
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
            labs=labs,
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
        float | None,
        option(
            "POINTS",
            f"With --plan: the true difference. Default: {_PLANNED_DIFFERENCE:g}.",
            METHODS,
            min=0.001,
        ),
    ] = None,
    power: Annotated[
        float | None,
        option(
            "P",
            f"With --plan: probability to find it. Default: {_PLANNED_POWER}.",
            METHODS,
            min=0.5,
            max=0.99,
        ),
    ] = None,
    over: Annotated[
        Literal["wording"] | None,
        option("wording", "Over other wordings (run --wordings).", CONTENT, show_default=False),
    ] = None,
    metrics: options.Metrics = None,
    decimals: options.Decimals = None,
    intervals: options.Intervals = None,
    columns: options.PaperColumns = None,
    caption: options.Caption = False,
    sort: options.Sort = "",
) -> None:
    """Compare two models on the same samples, or two methods by groups of trainings.

    The first line says how many headline metrics show A, or B, to be better. With --over wording,
    it says in how many wordings A is better; one --model then shows how much wording moves it.
    """
    from cosmos_eval.results.compare import only_headlines, to_records, with_metrics
    from cosmos_eval.results.groups import plan_trainings
    from cosmos_eval.results.sides import read_comparison, read_over_wordings

    _require_tex(format, columns, caption)
    _require_plan(plan=plan, difference=difference, power=power)
    models, trainings = model or (), group or ()
    if over is not None:
        if format == "tex" or plan or same_seeds or sort:
            raise UsageError("--over wording takes no --format tex, --plan, --same-seeds or --sort")
        table_options = make_table_options(metrics, decimals, intervals, sort)
        patterns = ["*"] if all_metrics else table_options.patterns.metrics
        wordings = read_over_wordings(a, b, models=models, trainings=trainings, metrics=patterns)
        _print_over_wordings(wordings, table_options, as_json=format == "json")
        return

    _require_comparison_options(format, group, plan=plan, same_seeds=same_seeds, sort=sort)
    comparison = read_comparison(a, b, models=models, trainings=trainings, same_seeds=same_seeds)
    table_options = make_table_options(metrics, decimals, intervals, sort)
    selected_comparison = with_metrics(comparison, table_options.patterns.metrics)
    planned = None
    if plan:
        planned = plan_trainings(
            selected_comparison, difference or _PLANNED_DIFFERENCE, power or _PLANNED_POWER
        )
    if format == "json":
        document = to_records(selected_comparison)
        if planned is not None:
            document["plan"] = planned
        print_json(document)
        return

    shown_comparison = selected_comparison
    if not all_metrics and not table_options.patterns.metrics:
        shown_comparison = only_headlines(comparison)
    if format == "tex":
        shown_options = table_options._replace(paper_columns=columns, caption=caption)
        write_text(_comparison_to_tex(shown_comparison, shown_options))
        print_notes(comparison.notes)
        return

    _print_comparison(comparison.verdict, shown_comparison, planned, table_options)
    print_notes(comparison.notes)
    _print_direction(shown_comparison)
    n_hidden = _count_rows(selected_comparison) - _count_rows(shown_comparison)
    if planned is None and n_hidden > 0:
        print_notes([f"other metrics not shown: {n_hidden} (--all-metrics shows them)"])


def _print_direction(comparison: Comparison) -> None:
    """Print a note with the differences of fractions of which lower ones are better, if any."""
    names: dict[str, None] = {}
    for test in comparison.tests:
        metric = test.metric_record
        if metric.unit == "difference" and not metric.higher_is_better:
            names[test.metric] = None
    if names:
        print_notes([f"lower is better: {', '.join(names)}"])


def _print_over_wordings(
    comparison: WordingComparison, table_options: TableOptions, *, as_json: bool
) -> None:
    """Print a comparison over wordings: the verdict, all wordings, and the variance components."""
    from cosmos_eval.results.wordings import (
        component_cells,
        row_cells,
        summary_cells,
        to_records,
        verdict_text,
    )

    if as_json:
        print_json(to_records(comparison))
        return
    print_line(verdict_text(comparison, table_options))
    print_line(f"A: {comparison.a}")
    if comparison.b is not None:
        print_line(f"B: {comparison.b}")
    if len(comparison.tests) > 1:
        summary = summary_cells(comparison, table_options)
        print_records(summary, section=("data set", "protocol"))
    section = ("data set", "protocol", "metric")
    print_records(row_cells(comparison, table_options), section=section, texts=3)
    print_records(component_cells(comparison, table_options), section=section)
    print_notes(comparison.notes)


def _count_rows(comparison: Comparison) -> int:
    """Return the number of metrics that a comparison has, tested or not."""
    return len(comparison.tests) + len(comparison.untested)


def _require_plan(*, plan: bool, difference: float | None, power: float | None) -> None:
    """Raise UsageError if the difference or the power of a plan is given without a plan."""
    if not plan and (difference is not None or power is not None):
        raise UsageError("--difference and --power go with --plan")


def _require_comparison_options(
    format: str, groups: Sequence[str] | None, *, plan: bool, same_seeds: bool, sort: str
) -> None:
    """Raise UsageError for options of `compare` that have no effect together.

    Args:
        format: The form of what is printed.
        groups: The names of two groups of trainings; None if models are compared.
        plan: True if a plan of more trainings is printed.
        same_seeds: True if trainings are paired by seed.
        sort: The column whose values give the order of the rows; empty: the usual order.
    """
    if (plan or same_seeds) and not groups:
        raise UsageError("--plan and --same-seeds need --group, given twice")
    if format == "tex" and (plan or sort):
        raise UsageError("--format tex has neither --plan nor --sort: print a table without it")


def _print_comparison(
    verdict: str,
    shown_comparison: Comparison,
    planned: Sequence[Mapping[str, Any]] | None,
    table_options: TableOptions,
) -> None:
    """Print the verdict and the sides of a comparison, and the table of its metrics or of its plan.

    Args:
        verdict: The verdict, which counts more metrics than the table may have.
        shown_comparison: The comparison with the metrics in the table.
        planned: The rows of the plan, which is printed in place of metrics; None without one.
        table_options: The form of the numbers, and the order of the rows.
    """
    from cosmos_eval.results.compare import join_error_components, to_cells, untested_cells

    print_line(verdict)
    print_line(f"A: {side_text(shown_comparison, 0)}")
    print_line(f"B: {side_text(shown_comparison, 1)}")
    sort = table_options.sort
    if planned is not None:
        planned_cells = [_planned_cells(record, table_options) for record in planned]
        print_records(planned_cells, section=("dataset", "protocol"), texts=2, sort=sort)
        return
    rows = []
    for test in shown_comparison.tests:
        rows.append(join_error_components(to_cells(test, table_options), test.difference))
    for difference in shown_comparison.untested:
        rows.append(untested_cells(difference, table_options))
    n_text_columns = 1 if shown_comparison.untested else 2
    print_records(rows, section=("data set", "protocol"), texts=n_text_columns, sort=sort)


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
    like: Annotated[
        File,
        option("DIR", "Other results, whose data, revision, precision and settings are demanded."),
    ] = None,
    format: options.Format = "table",
) -> None:
    """Recompute results from their stored samples.

    Every figure must be exactly the stored one. Exit status: 0 all are verified, 1 something
    differs, 2 something cannot be read, or --like has no result of the data set.
    """
    from cosmos_eval.results.accepted import read_accepted
    from cosmos_eval.results.verify import verify_all

    places = results or [RESULTS]
    accepted = None if like is None else read_accepted(like, places)
    verdicts = list(verify_all(places, accepted))
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

    if format is not None and format in FORMATS:
        results = read_results(directory)
        written_results = _results_for_other_tools(results, directory)
        written_files = FORMATS[format].write(written_results, output)
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


def _results_for_other_tools(
    results: Sequence[StoredResult], directory: Path
) -> list[StoredResult]:
    """Return the results that a file of another tool can hold, and print how many are left out.

    Such a file has no place to say that a run stopped early, or that a result was edited.

    Args:
        results: All results of the folder.
        directory: The folder, for messages.

    Raises:
        UsageError: If no result is left, and if a model has results on one data set that differ in
            their data or settings.
    """
    from cosmos_eval.results.compare import require_one_data_version
    from cosmos_eval.results.identity import is_stopped
    from cosmos_eval.results.labels import distinct_results

    whole_results = [result for result in results if not is_stopped(result.row)]
    n_stopped = len(results) - len(whole_results)
    if not whole_results:
        raise UsageError(f"{directory} has only results of runs that stopped early")
    if n_stopped:
        print_notes([f"results not written: {n_stopped}, of runs that stopped early"])

    unedited_results = [result for result in whole_results if not result.is_edited]
    n_edited = len(whole_results) - len(unedited_results)
    if not unedited_results:
        raise UsageError(
            f"nothing to write: all results in {directory} were edited (`cosmos-eval verify` "
            "shows more): measure again"
        )
    if n_edited:
        print_notes([f"results not written: {n_edited}, edited after they were measured"])

    chosen_results = distinct_results(unedited_results)
    for label in dict.fromkeys(result.label for result in chosen_results):
        require_one_data_version(result for result in chosen_results if result.label == label)
    return chosen_results

"""`cosmos-eval check`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit

from cosmos_eval.cli import options
from cosmos_eval.cli.options import File, Text, flag, make_table_options, option
from cosmos_eval.cli.output import print_json, print_line, print_notes, print_records, print_written
from cosmos_eval.results.table import TableOptions
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from cosmos_eval.results.gate.check import Finding, Report

UPDATE = "A new baseline"


def check(
    results: Annotated[list[Path], Argument(metavar="RESULT...", help="Results, or folders.")],
    baseline: Annotated[Path, option("FILE", "The baseline: results to compare with.")],
    format: options.Format = "table",
    decimals: options.Decimals = None,
    intervals: options.Intervals = None,
    sort: options.Sort = "",
    strict: options.Strict = False,
    sequential: Annotated[
        bool, flag("--sequential", "Judge runs that stopped early, too, by sequences.")
    ] = False,
    summary: Annotated[
        File, option("FILE", "Append a report in Markdown.", envvar="GITHUB_STEP_SUMMARY")
    ] = None,
    junit: Annotated[File, option("FILE", "Write a report as JUnit XML.")] = None,
    update: Annotated[
        bool, flag("--update", "Make the results the baseline, and check nothing.", UPDATE)
    ] = False,
    reason: Annotated[Text, option("TEXT", "Why, for later readers.", UPDATE)] = None,
    tolerance: Annotated[
        float | None,
        option("X", "How much worse a metric may be. Default: 0.", UPDATE, min=0, max=0.5),
    ] = None,
    metrics_only: Annotated[
        bool, flag("--metrics-only", "Store no samples: finds large regressions only.", UPDATE)
    ] = False,
    all_metrics: Annotated[
        bool, flag("--all-metrics", "Show all metrics. With --update: gate on all.")
    ] = False,
) -> None:
    """Check results against a baseline, for regressions.

    A headline metric regresses if it is worse by more than chance; other metrics are for
    information, unless the baseline says otherwise. Exit status: 0 no regression is
    shown, 1 one is, 2 it cannot be decided.
    """
    as_json = format == "json"
    if update:
        if sequential:
            raise UsageError(
                "--sequential judges results; --update writes a baseline of whole ones"
            )
        if not (reason or "").strip():
            raise UsageError("--update needs --reason TEXT: why these results are the new baseline")
        _update_baseline(
            results,
            baseline,
            strict=strict,
            reason=str(reason),
            tolerance=tolerance or 0.0,
            keep_samples=not metrics_only,
            all_metrics=all_metrics,
            as_json=as_json,
        )
        return
    has_update_options = reason is not None or tolerance is not None or metrics_only
    if has_update_options:
        raise UsageError("--reason, --tolerance and --metrics-only go with --update")

    report, error = _examine(results, baseline, strict=strict, sequential=sequential)
    table_options = make_table_options(None, decimals, intervals, sort)
    try:
        if as_json or error is None:
            _print_report(report, table_options, as_json=as_json, all_metrics=all_metrics)
    finally:  # the files are written even if standard output cannot be written
        _write_reports(report, summary, junit)
    if error is not None:
        raise UsageError(f"cannot decide: {report.problems[-1].message}") from error
    raise Exit(report.status)


def _update_baseline(
    paths: list[Path],
    baseline: Path,
    *,
    strict: bool,
    reason: str,
    tolerance: float,
    keep_samples: bool,
    all_metrics: bool,
    as_json: bool,
) -> None:
    """Make results the baseline, and print how its metrics change.

    Args:
        paths: Result files, or folders of them.
        baseline: The file that is written.
        strict: True if results of edited code or of an unknown commit are refused.
        reason: Why these results are the new baseline, for later readers.
        tolerance: How much worse a metric may be in later checks, as a fraction.
        keep_samples: True if the samples that the metrics follow from are stored too.
        all_metrics: True if all metrics can regress, and not only the headline metrics of a task.
        as_json: True if JSON is printed in place of a table.
    """
    from cosmos_eval.results.gate.baseline import replace_baseline
    from cosmos_eval.results.gate.check import read_results

    _require_outside(baseline, paths)
    results, problems = read_results(paths)
    changes, notes = replace_baseline(
        baseline,
        results,
        problems,
        strict=strict,
        reason=reason,
        tolerance=tolerance,
        keep_samples=keep_samples,
        all_gated=all_metrics,
    )
    print_records(changes, as_json=as_json)
    print_written(baseline)
    print_notes(notes)


def _require_outside(baseline: Path, places: Sequence[Path]) -> None:
    """Raise UsageError if a baseline would lie in a folder of results, and be read as one of them.

    Args:
        baseline: The file that is to be written. Hidden files and folders are never read.
        places: Result files, and folders of them.
    """
    path = baseline.resolve()
    for place in places:
        folder = place.resolve()
        if not folder.is_dir() or not path.is_relative_to(folder):
            continue
        is_hidden = any(name.startswith(".") for name in path.relative_to(folder).parts)
        if not is_hidden:
            raise UsageError(
                f"{baseline} would lie in the folder of results {place}, and be read as a "
                "result: name a --baseline outside of it"
            )


def _examine(
    paths: list[Path], baseline: Path, *, strict: bool, sequential: bool
) -> tuple[Report, Exception | None]:
    """Check results against a baseline; return the report, and an unexpected error or None.

    An error that is raised would end the command with status 1, which here means a regression. So
    every error becomes a problem of the report, and an unexpected one, which is not a UsageError,
    is returned too.

    Args:
        paths: Result files, or folders of them.
        baseline: The file of the baseline.
        strict: True if results of edited code or of an unknown commit are refused.
        sequential: True if results are judged after each look at the data, so that runs may have
            stopped early.
    """
    from cosmos_eval.results.gate.baseline import Problem
    from cosmos_eval.results.gate.check import Report, check_results, read_results
    from cosmos_eval.results.gate.sequential import check_sequentially

    problems: list[Problem] = []
    try:
        results, problems = read_results(paths)
        check_all = check_sequentially if sequential else check_results
        return check_all(results, baseline, strict=strict, problems=problems), None
    except UsageError as error:
        problem = Problem("check", str(error))
        return Report(baseline, (), (*problems, problem)), None
    except Exception as error:
        problem = Problem("check", f"{type(error).__name__}: {error}")
        return Report(baseline, (), (*problems, problem)), error


def _print_report(
    report: Report, table_options: TableOptions, *, as_json: bool, all_metrics: bool
) -> None:
    """Print the verdict and the metrics, and notes and problems on standard error.

    Args:
        report: The outcome of a check. Its findings are the metrics that were compared.
        table_options: Decimals, intervals and order of the table.
        as_json: True if JSON is printed in place of a table.
        all_metrics: True if the table also has the metrics that are not gated.
    """
    from cosmos_eval.results.gate.reports import to_records

    if as_json:
        print_json(to_records(report))
    else:
        _print_table(
            report, report.findings if all_metrics else report.gated_findings, table_options
        )
    print_notes(report.notes)
    for problem in report.problems:
        print_line(f"cosmos-eval: cannot decide: {problem}", error=True)


def _print_table(report: Report, findings: Sequence[Finding], table_options: TableOptions) -> None:
    """Print the verdict, the table of metrics, the baseline, and the verdict again.

    Args:
        report: The outcome of a check.
        findings: The metrics that the table shows. A note counts the others.
        table_options: Decimals, intervals and order of the table.
    """
    from cosmos_eval.results.compare import join_error_components
    from cosmos_eval.results.gate.reports import to_cells, tolerance_text

    if findings:
        print_line(report.verdict)
        rows = []
        for finding in findings:
            cells = to_cells(finding, table_options)
            rows.append(join_error_components(cells, finding.change))
        section = ("model", "data set", "protocol")
        print_records(rows, section=section, texts=2, sort=table_options.sort)
    print_line(f"baseline: {report.baseline}{tolerance_text(report)}")
    print_line(report.verdict)
    n_hidden = len(report.findings) - len(findings)
    if n_hidden:
        n_worse = sum(finding.status == "worse, not gated" for finding in report.findings)
        counts = f"{n_hidden}, of these worse: {n_worse}"
        print_notes([f"metrics for information not shown: {counts} (--all-metrics shows them)"])


def _write_reports(report: Report, summary: Path | None, junit: Path | None) -> None:
    """Write the reports that are asked for, and annotations if this is a GitHub action.

    A report that cannot be written does not keep the other ones from being written.

    Args:
        report: The outcome of a check.
        summary: The Markdown file that a report is appended to, if it is given.
        junit: The JUnit XML file to write, if it is given.
    """
    from cosmos_core.utils.files import write_atomically
    from cosmos_eval.results.gate.reports import to_annotations, to_junit, to_markdown

    def append_markdown(path: Path) -> None:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(to_markdown(report))

    try:
        # At its end, an ExitStack calls all callbacks, and then raises the last error.
        with ExitStack() as reports:
            if os.environ.get("GITHUB_ACTIONS") == "true":
                # GitHub reads annotations from both streams; standard output may be JSON.
                reports.callback(print, *to_annotations(report), sep="\n", file=sys.stderr)
            if summary is not None:
                reports.callback(append_markdown, summary)
            if junit is not None:
                reports.callback(write_atomically, junit, to_junit(report).encode())
    except OSError as error:
        raise UsageError(f"cannot write the report: {error} ({report.verdict})") from error

"""`cosmos-eval audit`."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from cosmos_eval.cli import options
from cosmos_eval.cli.options import CONTENT, DATA, File, flag, output_file
from cosmos_eval.cli.output import print_json, print_line, print_notes, print_records, write_text
from cosmos_eval.results.text import one_line
from cosmos_eval.types import RunOptions

if TYPE_CHECKING:
    from cosmos_eval.results.audit.document import MetricAudit
    from cosmos_eval.results.labels import StoredResult

_WORKERS = os.cpu_count() or 1
_WIDTH = 80  # columns
_COLUMNS = (
    "by chance: items that a sound set would have in the group; decided: pairs of models that "
    "differ (paired tests, Holm); lost, too few, gained, reversed: pairs decided otherwise without "
    "the group; change: the largest change of a difference of two models"
)
_OWN_ANSWERS = "*: chosen by these models' answers, so that intervals without them are too narrow"


def audit(
    results: Annotated[
        list[Path], Argument(metavar="RESULTS...", help="Results, or folders of them.")
    ],
    format: options.Format = "table",
    output: Annotated[File, output_file("FILE", "A CSV file of all doubtful items.")] = None,
    all_items: Annotated[
        bool, flag("--all", "Show examples of items, and differences of models.", CONTENT)
    ] = False,
    metrics: options.Metrics = None,
    reads_data: Annotated[
        bool, flag("--data/--no-data", "Search images and captions, if they are there.", DATA)
    ] = True,
    dataset: options.Datasets = None,
    data_root: options.DataRoot = None,
    workers: options.Workers = _WORKERS,
) -> None:
    """Is the benchmark sound, and does the ranking survive without doubtful items?

    Finds suspect labels, copies, items that need no image, and items that no or every model solves,
    and ranks the models with and without each group.
    """
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.results.audit.document import items_csv, to_json
    from cosmos_eval.results.labels import repeat_notes, result_warnings
    from cosmos_eval.results.table import NamePatterns
    from cosmos_eval.runner.audit import audit_results

    stored_results = _read_results(results)
    run_options = RunOptions(data_root=data_root, workers=workers)
    with Progress() as progress:
        audits, notes = audit_results(
            stored_results,
            run_options,
            datasets=dataset or (),
            metric_patterns=NamePatterns.split(metrics=metrics).metrics,
            reads_data=reads_data,
            show_progress=progress.steps_of,
        )
    if format == "json":
        print_json([to_json(audit_of_metric) for audit_of_metric in audits])
    else:
        _print_audits(audits, shows_examples=all_items)
    if output is not None:
        write_text(items_csv(audits), output)
    print_notes([*result_warnings(stored_results), *repeat_notes(stored_results), *notes])


def _read_results(places: Sequence[Path]) -> list[StoredResult]:
    """Read the results in files and folders, and mark those that were edited."""
    from cosmos_eval.results.checked import read_checked
    from cosmos_eval.results.store import result_paths

    paths = dict.fromkeys(path for place in places for path in result_paths(place))
    return read_checked(paths)


def _print_audits(audits: Sequence[MetricAudit], *, shows_examples: bool) -> None:
    """Print all verdicts, then the tables of each metric, and then what was not judged.

    Args:
        audits: The audit of each metric.
        shows_examples: True to add the most doubtful items, and the differences of models.
    """
    from cosmos_eval.results.audit import document

    for audit in audits:
        _print_wrapped(audit.verdict)
    for audit in audits:
        _print_metric(audit, shows_examples=shows_examples)
    notes = [_COLUMNS]
    if any(group.by_answers and group.count for audit in audits for group in audit.groups):
        notes.append(_OWN_ANSWERS)
    print_notes([*notes, *document.unknown_lines(audits)])


def _print_metric(audit: MetricAudit, *, shows_examples: bool) -> None:
    """Print the groups of items of one metric, and the ranks of the models.

    Args:
        audit: The audit of the metric.
        shows_examples: True to add the most doubtful items, and the differences of models.
    """
    from cosmos_eval.results.audit import document

    print_line("")
    print_line(audit.metric.name)
    print_records(document.group_records(audit))
    lines = [
        document.empty_groups(audit),
        document.baseline_line(audit),
        document.label_line(audit),
    ]
    if shows_examples:
        lines += document.example_lines(audit)
    for line in lines:
        if line:
            _print_wrapped(line)
    ranks = document.rank_records(audit)
    if len(ranks) > 1:
        print_line("")
        print_records(ranks)
        if shows_examples:
            print_line("")
            print_records(document.difference_records(audit))


def _print_wrapped(text: str) -> None:
    """Print a text in lines of at most 80 columns. All lines but the first are indented."""
    line = one_line(text)
    print(textwrap.fill(line, _WIDTH, subsequent_indent="  ", break_on_hyphens=False))

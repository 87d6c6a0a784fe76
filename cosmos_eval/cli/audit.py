"""`cosmos-eval audit`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from cosmos_eval.cli import options
from cosmos_eval.cli.options import CONTENT, DATA, File, flag, output_file
from cosmos_eval.cli.output import print_json, print_line, print_notes, print_records, write_text
from cosmos_eval.types import RunOptions

if TYPE_CHECKING:
    from cosmos_eval.results.audit.document import MetricAudit
    from cosmos_eval.results.labels import StoredResult

_WORKERS = os.cpu_count() or 1


def audit(
    results: Annotated[
        list[Path], Argument(metavar="RESULTS...", help="Results, or folders of them.")
    ],
    format: options.Format = "table",
    output: Annotated[File, output_file("FILE", "A CSV file of all doubtful items.")] = None,
    all_items: Annotated[
        bool, flag("--all", "Show examples of each group of items.", CONTENT)
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
    from cosmos_eval.results.table import NamePatterns, select_metrics
    from cosmos_eval.runner.audit import audit_results

    stored_results = _read_results(results)
    run_options = RunOptions(data_root=data_root, workers=workers)
    with Progress() as progress:
        audits, notes = audit_results(
            stored_results,
            run_options,
            datasets=dataset or (),
            reads_data=reads_data,
            show_progress=progress.steps_of,
        )
    patterns = NamePatterns.split(metrics=metrics).metrics
    chosen_audits = select_metrics(audits, patterns, lambda audit: audit.metric.metric)
    if format == "json":
        print_json([to_json(chosen) for chosen in chosen_audits])
    else:
        _print_audits(chosen_audits, shows_examples=all_items)
    if output is not None:
        write_text(items_csv(chosen_audits), output)
    print_notes([*result_warnings(stored_results), *repeat_notes(stored_results), *notes])


def _read_results(places: Sequence[Path]) -> list[StoredResult]:
    """Read results in files and folders, and check that they were not edited."""
    from cosmos_eval.results.checked import read_checked
    from cosmos_eval.results.store import result_paths

    paths = dict.fromkeys(path for place in places for path in result_paths(place))
    return read_checked(paths)


def _print_audits(audits: Sequence[MetricAudit], *, shows_examples: bool) -> None:
    """Print the verdicts, then the groups of items, then the ranks, and what is unknown.

    Args:
        audits: The audit of each metric.
        shows_examples: True to list the most doubtful items of each group.
    """
    from cosmos_eval.results.audit.document import (
        example_lines,
        group_records,
        label_line,
        rank_records,
    )

    for audit in audits:
        print_line(audit.verdict)
    for audit in audits:
        print_line("")
        print_records(group_records(audit), section=("set",))
        if label_line(audit):
            print_line(label_line(audit))
        if shows_examples:
            for line in example_lines(audit):
                print_line(f"  {line}")
        ranks = rank_records(audit)
        if len(ranks) > 1:
            print_line("")
            print_records(ranks)
    unknown_lines = []
    for audit in audits:
        for line in audit.unknown:
            unknown_lines.append(f"{audit.metric.name}: unknown: {line}")
    notes = ["* the models' own answers decide: intervals without these items are too narrow"]
    print_notes([*notes, *unknown_lines])

"""`cosmos-eval scaling`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument

from cosmos_eval.cli import options
from cosmos_eval.cli.options import CONTENT, option
from cosmos_eval.cli.output import print_json, print_line, print_notes, print_records
from cosmos_eval.results.text import one_line

_WIDTH = 80  # columns


def scaling(
    results: Annotated[
        list[Path], Argument(metavar="RESULTS...", help="Results, or folders of them.")
    ],
    format: options.Format = "table",
    group: options.ScalingGroups = None,
    x: Annotated[
        Literal["samples", "flops"], option("samples|flops", "What budgets are counted in.")
    ] = "samples",
    hold_out: options.HoldOut = None,
    predict: Annotated[
        float | None, option("BUDGET", "Predict one new training of this budget.", CONTENT, min=1)
    ] = None,
    metrics: options.Metrics = None,
) -> None:
    """How does the error of methods fall with the budget, and where do they cross?

    Fits error = E + A * C^-alpha to trainings of each method at four budgets C or more. Intervals
    are over seeds and images.
    """
    from cosmos_eval.results import scaling as laws_of_scale
    from cosmos_eval.results.checked import read_checked
    from cosmos_eval.results.labels import result_warnings
    from cosmos_eval.results.store import read_samples, result_paths

    paths = dict.fromkeys(path for place in results for path in result_paths(place))
    stored_results = read_checked(paths)
    scaling_options = laws_of_scale.make_options(
        unit=x, methods=group or (), metrics=metrics or (), hold_out=hold_out, predict=predict
    )
    report = laws_of_scale.fit_scaling(stored_results, read_samples, scaling_options)
    if format == "json":
        print_json([laws_of_scale.to_document(laws) for laws in report.laws])
    else:
        for line in report.headlines:
            print(textwrap.fill(one_line(line), _WIDTH, subsequent_indent="  "))
        for laws in report.laws:
            print_line("")
            print_line(f"{laws.dataset}, {laws.protocol}, {laws.metric}")
            print_records(laws_of_scale.law_records(laws))
            print_line("")
            print_records(laws_of_scale.budget_records(laws))
    notes = [*result_warnings(stored_results), *report.notes]
    print_notes([*notes, *laws_of_scale.reading_notes(report.laws)])

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
    from cosmos_eval.results import laws
    from cosmos_eval.results.checked import read_checked
    from cosmos_eval.results.labels import result_warnings
    from cosmos_eval.results.scaling import fit_scaling, make_options
    from cosmos_eval.results.store import read_samples, result_paths

    paths = dict.fromkeys(path for place in results for path in result_paths(place))
    stored_results = read_checked(paths)
    scaling_options = make_options(
        unit=x, methods=group or (), metrics=metrics or (), hold_out=hold_out, predict=predict
    )
    report = fit_scaling(stored_results, read_samples, scaling_options)
    if format == "json":
        print_json([laws.to_document(metric_laws) for metric_laws in report.laws])
    else:
        for line in report.headlines:
            print(textwrap.fill(one_line(line), _WIDTH, subsequent_indent="  "))
        for metric_laws in report.laws:
            print_line("")
            print_line(f"{metric_laws.dataset}, {metric_laws.protocol}, {metric_laws.metric}")
            print_records(laws.law_records(metric_laws))
            print_line("")
            print_records(laws.budget_records(metric_laws))
    notes = [*result_warnings(stored_results), *report.notes]
    print_notes([*notes, *laws.reading_notes(report.laws)])

"""`cosmos-eval compare`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosmos_eval.cli import options
from cosmos_eval.cli.output import print_json, print_line, print_notes, print_records
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from cosmos_eval.results.compare import MetricTest


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A result, or a folder of them.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another; may be the same folder.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="The model to compare, for a folder of several; given twice: A's, then B's.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Compare two models on the same samples, by paired tests."""
    from cosmos_eval.results import compare as results
    from cosmos_eval.results.labels import warnings_of
    from cosmos_eval.results.store import read_samples, read_stored, result_paths

    if len(model or ()) > 2:
        raise UsageError("--model is given at most twice: A's model, then B's")
    names = (model[0], model[-1]) if model else (None, None)
    stored = [read_stored(result_paths(path) if os.path.isdir(path) else [path]) for path in (a, b)]
    chosen = map(results.choose, stored, names, map(str, (a, b)))
    pairs, unpaired = results.pair(*chosen)
    comparison = results.compare(pairs, read_samples)
    notes = [*unpaired, *dict.fromkeys(note for one in stored for note in warnings_of(one))]
    if json:
        content = results.to_records(comparison)
        print_json({**content, "notes": [*notes, *content["notes"]]})
        return
    print_line(f"A: {comparison.a}")
    print_line(f"B: {comparison.b}")
    print_records([_row(test) for test in comparison.tests])
    print_notes((*notes, *comparison.notes))


def _row(test: MetricTest) -> dict[str, str | None]:
    from cosmos_eval.results.text import p_value_text

    difference = test.difference
    factor = test.record.factor
    low, high = difference.interval()[:2]
    least = difference.detectable()
    return {
        "data set": test.dataset,
        "protocol": test.protocol,
        "metric": test.metric,
        "A": f"{factor * difference.a:.2f}",
        "B": f"{factor * difference.b:.2f}",
        "A - B [95%]": f"{factor * difference.difference:+.2f} "
        f"[{factor * low:+.2f}, {factor * high:+.2f}]",
        "p": p_value_text(difference.p_value),
        "p (Holm)": None if test.adjusted is None else p_value_text(test.adjusted),
        "better": test.better,
        "detectable": None if least is None else f"{factor * least:.2f}",
        "test": f"{difference.method}, n = {difference.units}",
    }

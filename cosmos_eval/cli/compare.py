"""`cosmos-eval compare`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosmos_eval.cli import display
from cosmos_eval.cli.options import JsonOption

if TYPE_CHECKING:
    from cosmos_eval.results.labels import Stored


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A result, or a folder of them.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another; may be the same folder.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="The model to look for where a folder has several; given twice: A's, then B's.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare two models on the same samples: differences, intervals, p-values."""
    from cosmos_eval.results.compare import choose, pair
    from cosmos_eval.results.compare import compare as compare_pairs
    from cosmos_eval.results.labels import warnings_of
    from cosmos_eval.results.store import read_samples
    from cosmos_eval.types import UsageError

    if len(model or ()) > 2:
        raise UsageError("--model is given at most twice: A's model, then B's")
    of_a, of_b = (model[0], model[-1]) if model else (None, None)
    in_a, in_b = _read(a), _read(b)
    pairs, unpaired = pair(choose(in_a, of_a, str(a)), choose(in_b, of_b, str(b)))
    comparison = compare_pairs(pairs, read_samples)
    notes = dict.fromkeys([*warnings_of(in_a), *warnings_of(in_b)])
    display.show_comparison(comparison, (*unpaired, *notes), as_json=json)


def _read(path: Path) -> list[Stored]:
    from cosmos_eval.results.store import read_stored, result_paths

    return read_stored(result_paths(path) if os.path.isdir(path) else [path])
